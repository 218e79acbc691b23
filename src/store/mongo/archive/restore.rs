//! The way back: events of a session that is restored, or of a copy that is merged with another.

use mongodb::{
    bson::{Bson, Document, doc},
    options::{Hint, ReturnDocument},
};

use super::{left_with, while_claimed};
use crate::{
    domain::{Event, SegmentName, Session, SessionKey, Timestamp},
    store::mongo::{
        EVENTS,
        bulk::Bulk,
        call::Call,
        documents::{self, Fields, Stored, date},
        fault::{Fault, Result},
        keys::{self, Life},
    },
};

/// Most bytes of documents in one command, half of what a message may have; no event is as large.
const COMMAND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Stores each event in place of what has its id, unless a later restore put that there. So a restore whose claim has ended
/// does no harm, however late it goes on.
pub(super) async fn bring_back(
    call: &Call,
    concern: &Document,
    key: &SessionKey,
    epoch: i64,
    events: &[Event],
) -> Result<()> {
    let k = keys::of_session(key);
    let Some(life) = begin(call, &k, epoch).await? else {
        return Ok(());
    };
    let session = keys::of_events(&k, life);
    let (mut statements, mut bytes) = (Vec::new(), 0);
    for event in events {
        let document = documents::event(&session, event, Some(epoch))?;
        let size = document.as_bytes().len();
        if bytes + size > COMMAND_BYTES_MAX && !statements.is_empty() {
            replace(call, concern, std::mem::take(&mut statements)).await?;
            bytes = 0;
        }
        bytes += size;
        let filter = doc! {
            "_id": keys::of_event(&session, &event.id),
            "session": &session,
            "epoch": { "$not": { "$gt": epoch } },
        };
        let document = Document::try_from(document).map_err(|_| Fault::Stored("payload"))?;
        statements.push(doc! { "q": filter, "u": document, "upsert": true, "hint": "_id_" });
    }
    replace(call, concern, statements).await
}

/// Has the session's hot events looked at, in case this is given up; gives its life, if it is archived under this epoch
/// still.
async fn begin(call: &Call, k: &str, epoch: i64) -> Result<Option<Life>> {
    let filter = doc! { "_id": k, "epoch": epoch, "archived": true };
    let sessions = call.sessions();
    call.run("findAndModify sessions", move |attempt| {
        let (sessions, filter) = (sessions.clone(), filter.clone());
        async move {
            let found = sessions
                .find_one_and_update(filter, vec![doc! { "$set": { "tidyAt": "$$NOW" } }])
                .hint(Hint::Name("_id_".to_owned()))
                .projection(doc! { "life": 1 })
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: bring back"))
                .await?;
            found.map(|document| Fields(&document).life()).transpose()
        }
    })
    .await
}

async fn replace(call: &Call, concern: &Document, statements: Vec<Document>) -> Result<()> {
    let bulk = |statements| Bulk {
        collection: EVENTS,
        comment: "colloquy: bring back",
        statements,
    };
    let taken = bulk(statements.clone()).run(call, concern).await?;
    // An id is taken by what a later restore brought back, and that stays; or it was taken in this very moment by an
    // append that is late, and then it is replaced now.
    let again = taken.into_iter().filter_map(|at| {
        let mut statement = statements.get(at)?.clone();
        statement.remove("upsert");
        Some(statement)
    });
    bulk(again.collect()).run(call, concern).await?;
    Ok(())
}

pub(super) async fn restored(
    call: &Call,
    key: &SessionKey,
    epoch: i64,
    owner: &SegmentName,
    now: Timestamp,
) -> Result<Option<Session>> {
    let k = keys::of_session(key);
    let mut filter = while_claimed(k, epoch, owner);
    filter.insert("archive", doc! { "$exists": true });
    let change = vec![
        doc! { "$set": {
            "left": left_with(vec!["$archive.segment".into()]),
            "archived": false,
            "restoredAt": date(now),
        } },
        doc! { "$unset": ["archive", "claim", "tidyAt"] },
    ];
    let sessions = call.sessions();
    let (restored, again) = call
        .run("findAndModify sessions", move |attempt| {
            let (sessions, filter, change) = (sessions.clone(), filter.clone(), change.clone());
            async move {
                let restored = sessions
                    .find_one_and_update(filter, change)
                    .hint(Hint::Name("_id_".to_owned()))
                    .return_document(ReturnDocument::After)
                    .max_time(attempt.time_max)
                    .comment(Bson::from("colloquy: restored"))
                    .await?;
                let restored = restored.map(|document| documents::read_session(&document));
                Ok((restored.transpose()?, attempt.again))
            }
        })
        .await?;
    match restored {
        Some(Stored::Session(session, _)) => Ok(Some(session)),
        // An earlier try of this may have been the one that did it.
        _ if again => is_restored(call, key, epoch, now).await,
        _ => Ok(None),
    }
}

/// The session, if it was restored under this epoch at this time.
async fn is_restored(call: &Call, key: &SessionKey, epoch: i64, now: Timestamp) -> Result<Option<Session>> {
    let filter = doc! {
        "_id": keys::of_session(key), "epoch": epoch, "archived": false, "restoredAt": date(now),
    };
    let sessions = call.sessions();
    let found = call.read("find sessions", move |attempt| {
        let (sessions, filter) = (sessions.clone(), filter.clone());
        async move {
            let found = sessions
                .find_one(filter)
                .hint(Hint::Name("_id_".to_owned()))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: restored"))
                .await?;
            found
                .map(|document| documents::read_session(&document))
                .transpose()
        }
    });
    match found.await? {
        Some(Stored::Session(session, _)) => Ok(Some(session)),
        _ => Ok(None),
    }
}
