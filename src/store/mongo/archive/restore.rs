//! The way back: events of a session that is restored, and sessions that are found in the archive when the store was
//! lost.

use mongodb::{
    bson::{Bson, Document, doc},
    options::{Hint, ReturnDocument},
};

use super::{left_with, when, while_claimed};
use crate::{
    domain::{Event, SegmentName, Session, SessionKey, Timestamp},
    store::{
        catalog::{Adopted, Archived},
        mongo::{
            EVENTS,
            bulk::Bulk,
            call::Call,
            documents::{self, Bookkeeping, Fields, Stored, date},
            erasure,
            fault::{Fault, Result},
            keys::{self, Life},
        },
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

/// How often a session is adopted anew because it was dropped between two statements.
const ROUNDS_MAX: u32 = 8;

pub(super) async fn adopt(call: &Call, archived: &Archived, session: &Session) -> Result<Adopted> {
    let document = adopted(archived, session)?;
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            call.pause(round.min(3)).await?;
        }
        if insert(call, document.clone()).await? {
            return Ok(Adopted::Created);
        }
        if point_to_newer(call, archived, document.clone()).await? {
            return Ok(Adopted::Moved);
        }
        if leave(call, archived).await? {
            return Ok(Adopted::Kept);
        }
    }
    Err(Fault::Contended)
}

pub(super) async fn adopt_erased(call: &Call, archived: &Archived, forget_at: Timestamp) -> Result<()> {
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            call.pause(round.min(3)).await?;
        }
        if bury(call, archived, forget_at).await? || leave(call, archived).await? {
            return Ok(());
        }
    }
    Err(Fault::Contended)
}

/// Puts a tombstone in place of nothing, or of the session that points to this very copy; says whether it did.
async fn bury(call: &Call, archived: &Archived, forget_at: Timestamp) -> Result<bool> {
    // What an upsert makes has these fields, so that the tombstone takes its epoch and segment from them either way.
    let filter = doc! {
        "_id": keys::of_session(&archived.key),
        "archive.segment": archived.pointer.segment.to_string(),
        "epoch": archived.epoch,
    };
    let (sessions, tombstone) = (call.sessions(), erasure::tombstone(forget_at));
    let buried = call.run("update sessions", move |_| {
        let (sessions, filter) = (sessions.clone(), filter.clone());
        let change = vec![doc! { "$replaceWith": &tombstone }];
        async move {
            sessions
                .update_one(filter, change)
                .upsert(true)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from("colloquy: adopt"))
                .await?;
            Ok(())
        }
    });
    match buried.await {
        Ok(()) => Ok(true),
        Err(fault) if fault.is_duplicate() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// The document of a session that is known from the archive alone.
fn adopted(archived: &Archived, session: &Session) -> Result<Document> {
    let session = Session {
        archived: true,
        ..session.clone()
    };
    let besides = Bookkeeping {
        life: Life::FIRST,
        epoch: archived.epoch,
        opened_at: None,
        sweep_at: None,
    };
    let document = documents::session(&archived.key.tenant, &session, &besides)?;
    let mut document = Document::try_from(document).map_err(|_| Fault::Stored("metadata"))?;
    document.insert("archive", documents::archive(&archived.pointer));
    Ok(document)
}

/// Whether it was not there.
async fn insert(call: &Call, document: Document) -> Result<bool> {
    let sessions = call.sessions().clone_with_type::<Document>();
    let inserted = call.run("insert sessions", move |_| {
        let (sessions, document) = (sessions.clone(), document.clone());
        async move {
            sessions.insert_one(document).comment("colloquy: adopt").await?;
            Ok(())
        }
    });
    match inserted.await {
        Ok(()) => Ok(true),
        Err(fault) if fault.is_duplicate() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Puts the session as this copy has it in place of what an older copy said; says whether that was there.
async fn point_to_newer(call: &Call, archived: &Archived, document: Document) -> Result<bool> {
    let filter = doc! {
        "_id": keys::of_session(&archived.key),
        "archive": { "$exists": true },
        "epoch": { "$not": { "$gte": archived.epoch } },
    };
    let kept = doc! {
        "left": left_with(vec!["$archive.segment".into()]),
        "openedAt": "$openedAt", "life": "$life", "sweepAt": "$sweepAt",
    };
    let newer = doc! { "$mergeObjects": [{ "$literal": document }, kept] };
    change(call, filter, vec![doc! { "$replaceWith": newer }]).await
}

/// Notes that this segment holds a copy that no pointer leads to, unless one does; says whether there is anything under the key.
async fn leave(call: &Call, archived: &Archived) -> Result<bool> {
    let filter = doc! { "_id": keys::of_session(&archived.key) };
    let segment = archived.pointer.segment.to_string();
    let is_pointed_to = doc! { "$eq": ["$archive.segment", { "$literal": &segment }] };
    let left = left_with(vec![when(
        doc! { "$not": [is_pointed_to] },
        doc! { "$literal": segment }.into(),
    )]);
    change(call, filter, vec![doc! { "$set": { "left": left } }]).await
}

async fn change(call: &Call, filter: Document, pipeline: Vec<Document>) -> Result<bool> {
    let sessions = call.sessions();
    call.run("update sessions", move |_| {
        let (sessions, filter, pipeline) = (sessions.clone(), filter.clone(), pipeline.clone());
        async move {
            let changed = sessions
                .update_one(filter, pipeline)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from("colloquy: adopt"))
                .await?;
            Ok(changed.matched_count > 0)
        }
    })
    .await
}
