//! Erasing a session: first the tombstone, which hides everything at once, then the events.
//!
//! The tombstone takes the place of the session's document, so one write hides all of it: who reads events looks at
//! the session afterwards. It also says when upkeep next looks for events, in `sweepAt`:
//!
//! 1. at once, in case the process that erases dies over it;
//! 2. when that is done, [`STRAGGLERS_AFTER_MS`] later: for events of appends that had read the session before it was
//!    erased, and landed after the events were deleted;
//! 3. when that is done, at `forgetAt`, for good: then the tombstone goes, or the id is used again, and its new
//!    session keeps the date until upkeep has looked a last time.
//!
//! So every event that an append leaves behind is found, unless that append stood still, between its read and its
//! insert, for longer than a tombstone stands. Such an event is never read as another session's if the id was opened
//! again over the tombstone; if it was forgotten first, the first life's keys are used anew, which is why a tombstone
//! stands for a day at least.
//!
//! Of a session that was archived, the tombstone also lists the segments that may hold bytes of it, in `left`, and with them
//! the erasure marker that the archive still has to write. The archive takes them off when that is written and the bytes
//! are removed, and until then the tombstone stands, even past `forgetAt`.

use mongodb::{
    bson::{Bson, Document, doc},
    options::{Hint, ReturnDocument},
};

use super::{
    MongoOptions, archive,
    call::Call,
    documents::{self, Fields, Stored, Tombstone, date},
    fault::{Fault, Result},
    keys::{self, Life},
    sessions,
    setup::schema::BY_SWEEP,
};
use crate::{
    domain::{SessionKey, Timestamp},
    store::Upkeep,
};

/// How long after an erasure upkeep looks for stragglers: longer than any call may take, with its abandoned work.
const STRAGGLERS_AFTER_MS: i64 = 10 * 60 * 1_000;

/// How long a tombstone whose time is over waits for the archive until upkeep looks at it again.
const LEFT_AFTER_MS: i64 = 10 * 60 * 1_000;

/// Hides the session, then deletes its events. What can't be deleted now is left to upkeep.
pub(super) async fn erase(
    call: &Call,
    key: &SessionKey,
    forget_at: Timestamp,
    options: &MongoOptions,
) -> Result<()> {
    let tombstone = match bury(call, key, forget_at).await? {
        Some(tombstone) => tombstone,
        None => match sessions::find(call, key).await? {
            Some(Stored::Tombstone(tombstone)) if tombstone.sweep_at == tombstone.at => tombstone,
            _ => return Ok(()),
        },
    };
    clear(call, &keys::of_session(key), tombstone, options).await;
    Ok(())
}

/// As [`erase`], of the session that the filter names by its `_id` and more, which was erased before: no marker is owed for
/// it. Says whether there was one.
pub(super) async fn erase_again(
    call: &Call,
    filter: Document,
    forget_at: Timestamp,
    options: &MongoOptions,
) -> Result<bool> {
    let k = filter.get_str("_id").map(str::to_owned);
    let k = k.map_err(|_| Fault::Stored("_id"))?;
    let Some(buried) = bury_where(call, filter, tombstone(forget_at)).await? else {
        return Ok(false);
    };
    clear(call, &k, buried, options).await;
    Ok(true)
}

/// Deletes the events of a session that was just buried. What can't be deleted now is left to upkeep.
pub(super) async fn clear(call: &Call, k: &str, tombstone: Tombstone, options: &MongoOptions) {
    if let Err(fault) = sweep_now(call, k, tombstone, options).await {
        tracing::warn!(%fault, "the events of an erased session are left to upkeep");
    }
}

impl Tombstone {
    /// When to look for events of appends that had read the session before it was erased.
    pub(super) fn stragglers_at(&self) -> Timestamp {
        self.at.saturating_add_ms(STRAGGLERS_AFTER_MS).min(self.forget_at)
    }
}

/// A session that was erased.
pub(super) struct Buried {
    pub(super) k: String,
    pub(super) tombstone: Tombstone,
}

/// Those of these sessions that are erased.
pub(super) async fn buried(call: &Call, ks: Vec<String>) -> Result<Vec<Buried>> {
    let sessions = call.sessions();
    call.read("find sessions", move |attempt| {
        let sessions = sessions.clone();
        let count = u32::try_from(ks.len()).unwrap_or(u32::MAX);
        let filter = doc! { "_id": { "$in": &ks }, "erased": { "$exists": true } };
        async move {
            let mut found = sessions
                .find(filter)
                .projection(looked_at())
                .hint(Hint::Name("_id_".to_owned()))
                .batch_size(count.saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: expire"))
                .await?;
            let mut buried = Vec::new();
            while found.advance().await? {
                let fields = Fields(found.current());
                buried.push(Buried {
                    k: fields.text("_id")?.to_owned(),
                    tombstone: fields.tombstone()?.ok_or(Fault::Stored("tombstone"))?,
                });
            }
            Ok(buried)
        }
    })
    .await
}

/// Puts a tombstone in the session's place; `None` when there is no session.
async fn bury(call: &Call, key: &SessionKey, forget_at: Timestamp) -> Result<Option<Tombstone>> {
    let filter = doc! { "_id": keys::of_session(key), "erased": { "$exists": false } };
    let mut tombstone = tombstone(forget_at);
    let left = archive::left_or_marker(vec!["$archive.segment".into(), "$claim.owner".into()]);
    tombstone.insert("left", left);
    bury_where(call, filter, tombstone).await
}

async fn bury_where(call: &Call, filter: Document, tombstone: Document) -> Result<Option<Tombstone>> {
    let sessions = call.sessions();
    let buried = call
        .run("findAndModify sessions", move |attempt| {
            let (sessions, filter) = (sessions.clone(), filter.clone());
            let change = vec![doc! { "$replaceWith": &tombstone }];
            async move {
                let buried = sessions
                    .find_one_and_update(filter, change)
                    .return_document(ReturnDocument::After)
                    .max_time(attempt.time_max)
                    .comment(Bson::from("colloquy: erase"))
                    .await?;
                buried
                    .map(|document| documents::read_session(&document))
                    .transpose()
            }
        })
        .await?;
    match buried {
        None => Ok(None),
        Some(Stored::Tombstone(tombstone)) => Ok(Some(tombstone)),
        Some(Stored::Session(..)) => Err(Fault::Stored("tombstone")),
    }
}

/// What takes the place of a session, in terms of what the session was.
pub(super) fn tombstone(forget_at: Timestamp) -> Document {
    // `$$NOW` is the database's clock, and a field that the session lacks stays away.
    doc! {
        "_id": "$_id",
        "erased": { "at": "$$NOW", "forgetAt": { "$literal": date(forget_at) } },
        "life": "$life",
        "sweepAt": "$$NOW",
        "epoch": archive::next_epoch(),
        "left": archive::left_with(vec!["$archive.segment".into(), "$claim.owner".into()]),
    }
}

async fn sweep_now(call: &Call, k: &str, tombstone: Tombstone, options: &MongoOptions) -> Result<()> {
    while purge(call, k, None, options.purge_events_max).await? > 0 {}
    postpone(call, k, tombstone.sweep_at, Some(tombstone.stragglers_at())).await
}

/// Deletes some of the events under a session's key, those of every life but `but`; gives how many.
async fn purge(call: &Call, k: &str, but: Option<Life>, events_max: u32) -> Result<usize> {
    let range = keys::of_all_events(k);
    let mut of_session = doc! { "$gte": range.start, "$lt": range.end };
    if let Some(life) = but {
        of_session.insert("$ne", keys::of_events(k, life));
    }
    let events = call.events();
    call.run("find events", move |attempt| {
        let (events, of_session) = (events.clone(), of_session.clone());
        async move {
            let mut found = events
                .find(doc! { "session": of_session.clone() })
                .projection(doc! { "_id": 1 })
                .limit(i64::from(events_max))
                .batch_size(events_max.saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: erase"))
                .await?;
            let mut ids = Vec::new();
            while found.advance().await? {
                ids.push(Fields(found.current()).text("_id")?.to_owned());
            }
            if ids.is_empty() {
                return Ok(0);
            }
            let doomed = doc! { "session": of_session, "_id": { "$in": ids } };
            let deleted = events
                .delete_many(doomed)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from("colloquy: erase"))
                .await?;
            Ok(usize::try_from(deleted.deleted_count).unwrap_or(usize::MAX))
        }
    })
    .await
}

/// Moves the date of the next look at a session, unless it was moved meanwhile.
async fn postpone(call: &Call, k: &str, due: Timestamp, next: Option<Timestamp>) -> Result<()> {
    let filter = doc! { "_id": k, "sweepAt": date(due) };
    let change = match next {
        Some(next) => doc! { "$set": { "sweepAt": date(next) } },
        None => doc! { "$unset": { "sweepAt": "" } },
    };
    let sessions = call.sessions();
    call.run("update sessions", move |_| {
        let (sessions, filter, change) = (sessions.clone(), filter.clone(), change.clone());
        async move {
            sessions
                .update_one(filter, change)
                .comment(Bson::from("colloquy: erase"))
                .await?;
            Ok(())
        }
    })
    .await
}

/// One bounded round of [`Store::upkeep`](crate::store::Store::upkeep): it ends when it has done something worth a
/// word, or when nothing is due.
pub(super) async fn upkeep(call: &Call, now: Timestamp, options: &MongoOptions) -> Result<Upkeep> {
    let mut done = Upkeep::default();
    loop {
        let due = due(call, now, options.upkeep_sessions_max).await?;
        let some_left = due.len() == options.upkeep_sessions_max as usize;
        for session in due {
            match sweep(call, &session, now, options, &mut done.tombstones_dropped).await {
                Ok(deleted) => done.events_deleted += deleted,
                // The next round goes on where this one stopped.
                Err(Fault::TimedOut) if done != Upkeep::default() => return Ok(done),
                Err(fault) => return Err(fault),
            }
            if done.events_deleted >= options.upkeep_events_max {
                return Ok(done);
            }
        }
        if !some_left || done != Upkeep::default() {
            return Ok(done);
        }
    }
}

/// The fields that say what there is to look for.
fn looked_at() -> Document {
    doc! { "_id": 1, "erased": 1, "life": 1, "sweepAt": 1, "epoch": 1, "left": 1 }
}

/// A session that upkeep has to look at.
struct Due {
    k: String,
    sweep_at: Timestamp,
    /// Of a live session: the one life whose events stay.
    life: Life,
    tombstone: Option<Tombstone>,
}

/// The sessions whose time has come. One of the few statements that go to every shard.
async fn due(call: &Call, now: Timestamp, sessions_max: u32) -> Result<Vec<Due>> {
    let sessions = call.sessions();
    call.run("find sessions", move |attempt| {
        let sessions = sessions.clone();
        async move {
            let mut found = sessions
                .find(doc! { "sweepAt": { "$lte": date(now) } })
                .projection(looked_at())
                .hint(Hint::Name(BY_SWEEP.to_owned()))
                .sort(doc! { "sweepAt": 1 })
                .limit(i64::from(sessions_max))
                .batch_size(sessions_max.saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: upkeep"))
                .await?;
            let mut due = Vec::new();
            while found.advance().await? {
                let fields = Fields(found.current());
                due.push(Due {
                    k: fields.text("_id")?.to_owned(),
                    sweep_at: fields.date("sweepAt")?,
                    life: fields.life()?,
                    tombstone: fields.tombstone()?,
                });
            }
            Ok(due)
        }
    })
    .await
}

/// Deletes what events there are, up to the limit of a round; then says when to look next, or drops the tombstone.
async fn sweep(
    call: &Call,
    session: &Due,
    now: Timestamp,
    options: &MongoOptions,
    tombstones_dropped: &mut usize,
) -> Result<usize> {
    let but = session.tombstone.is_none().then_some(session.life);
    let mut deleted = 0;
    loop {
        match purge(call, &session.k, but, options.purge_events_max).await? {
            0 => break,
            some => deleted += some,
        }
        if deleted >= options.upkeep_events_max {
            return Ok(deleted);
        }
    }
    match session.tombstone {
        None => postpone(call, &session.k, session.sweep_at, None).await?,
        Some(tombstone) if tombstone.forget_at <= now && tombstone.is_left => {
            let next = now.saturating_add_ms(LEFT_AFTER_MS);
            postpone(call, &session.k, session.sweep_at, Some(next)).await?;
        }
        Some(tombstone) if tombstone.forget_at <= now => {
            *tombstones_dropped += forget(call, &session.k, tombstone).await?;
        }
        Some(tombstone) => {
            let stragglers_at = tombstone.at.saturating_add_ms(STRAGGLERS_AFTER_MS);
            let next = if now < stragglers_at {
                stragglers_at.min(tombstone.forget_at)
            } else {
                tombstone.forget_at
            };
            postpone(call, &session.k, session.sweep_at, Some(next)).await?;
        }
    }
    Ok(deleted)
}

/// Drops a tombstone, unless the id was used again meanwhile.
async fn forget(call: &Call, k: &str, tombstone: Tombstone) -> Result<usize> {
    let filter: Document = doc! {
        "_id": k,
        "erased.at": date(tombstone.at),
        "erased.forgetAt": date(tombstone.forget_at),
        "left": { "$exists": false },
    };
    let sessions = call.sessions();
    call.run("delete sessions", move |_| {
        let (sessions, filter) = (sessions.clone(), filter.clone());
        async move {
            let deleted = sessions
                .delete_one(filter)
                .comment(Bson::from("colloquy: upkeep"))
                .await?;
            Ok(usize::try_from(deleted.deleted_count).unwrap_or(usize::MAX))
        }
    })
    .await
}
