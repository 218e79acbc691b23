//! The statements of an append that are about events: the insert, and the question for the last numbers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mongodb::{
    bson::{Bson, Document, RawDocumentBuf, doc},
    error::ErrorKind,
    options::Hint,
};

use super::{
    call::Call,
    documents::{self, date},
    fault::{Fault, Result},
    setup::schema::IN_ORDER,
};
use crate::domain::Timestamp;

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

/// How far the clocks of two processes may be apart for an append to see what the other stamped. It bounds how many events
/// are looked at that a caller's clock has put into the future.
pub(super) const CLOCKS_APART_MAX: Duration = Duration::from_hours(24);

/// The greatest number of each of these sessions that has events: the index tells, without a look at an event.
pub(super) async fn last_sequences(call: &Call, sessions: Vec<String>) -> Result<HashMap<String, i64>> {
    let count = sessions.len();
    last_sequences_where(call, count, doc! { "session": { "$in": sessions } }).await
}

/// As [`last_sequences`], of the events alone whose timestamp is `now` or later, by so much at most. Every event is among
/// them that another process stamped by a clock ahead of `now`; most of the time there is none, at the cost of one look at
/// the index.
pub(super) async fn last_sequences_ahead(
    call: &Call,
    sessions: Vec<String>,
    now: Timestamp,
    apart_max: Duration,
) -> Result<HashMap<String, i64>> {
    let apart_ms = i64::try_from(apart_max.as_millis()).unwrap_or(i64::MAX);
    let until = now.saturating_add_ms(apart_ms);
    let (count, ahead) = (sessions.len(), doc! { "$gte": date(now), "$lte": date(until) });
    let which = doc! { "session": { "$in": sessions }, "timestamp": ahead };
    last_sequences_where(call, count, which).await
}

async fn last_sequences_where(call: &Call, sessions: usize, which: Document) -> Result<HashMap<String, i64>> {
    let events = call.events();
    call.read("aggregate events", move |attempt| {
        let events = events.clone();
        // All of them in the first answer.
        let batch_size = u32::try_from(sessions).unwrap_or(u32::MAX).saturating_add(1);
        let pipeline = [
            doc! { "$match": &which },
            doc! { "$group": { "_id": "$session", "last": { "$max": "$seq" } } },
        ];
        async move {
            let mut found = events
                .aggregate(pipeline)
                .batch_size(batch_size)
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
