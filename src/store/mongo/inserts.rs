//! The statements of an append that are about events: the insert, and the question for the last numbers.

use std::{collections::HashMap, sync::Arc};

use mongodb::{
    bson::{Bson, RawDocumentBuf, doc},
    error::ErrorKind,
    options::Hint,
};

use super::{
    call::Call,
    documents,
    fault::{Fault, Result},
    setup::schema::IN_ORDER,
};

/// Inserts the documents, and gives the codes of those that were refused by their place, and whether an earlier try
/// may have stored some.
pub(super) async fn insert_many(
    call: &Call,
    documents: Vec<RawDocumentBuf>,
) -> Result<(HashMap<usize, i32>, bool)> {
    let (events, documents) = (call.events(), Arc::new(documents));
    call.run("insert events", move |attempt| {
        let (events, documents) = (events.clone(), Arc::clone(&documents));
        async move {
            let inserted = events
                .insert_many(documents.iter())
                .ordered(false)
                .comment(Bson::from("colloquy: append"))
                .await;
            let error = match inserted {
                Ok(_) => return Ok((HashMap::new(), attempt.again)),
                Err(error) => error,
            };
            let refused = match error.kind.as_ref() {
                ErrorKind::InsertMany(many) if many.write_concern_error.is_none() => &many.write_errors,
                _ => return Err(error.into()),
            };
            let refused: HashMap<_, _> = refused
                .iter()
                .flatten()
                .map(|refused| (refused.index, refused.code))
                .collect();
            match refused
                .values()
                .map(|&code| Fault::of_code(code))
                .find(Fault::is_passing)
            {
                Some(passing) => Err(passing),
                None => Ok((refused, attempt.again)),
            }
        }
    })
    .await
}

/// The greatest number of each of these sessions that has events: the index tells, without a look at an event.
pub(super) async fn last_sequences(call: &Call, sessions: Vec<String>) -> Result<HashMap<String, i64>> {
    let events = call.events();
    call.read("aggregate events", move |attempt| {
        let events = events.clone();
        let pipeline = [
            doc! { "$match": { "session": { "$in": &sessions } } },
            doc! { "$group": { "_id": "$session", "last": { "$max": "$seq" } } },
        ];
        async move {
            let mut found = events
                .aggregate(pipeline)
                .hint(Hint::Name(IN_ORDER.to_owned()))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: last seq"))
                .await?;
            let mut lasts = HashMap::new();
            while found.advance().await? {
                let fields = documents::Fields(found.current());
                let last = fields.optional_integer("last")?.ok_or(Fault::Stored("seq"))?;
                lasts.insert(fields.text("_id")?.to_owned(), last);
            }
            Ok(lasts)
        }
    })
    .await
}
