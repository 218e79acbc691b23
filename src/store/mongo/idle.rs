//! The end of sessions that nobody ended.
//!
//! A session and its events are different documents, so no statement can end a session on the condition that it has no new
//! event. A sweep therefore *marks* a session (`idle`), waits until all appends that may not have read the mark are
//! settled, looks at the events, and then ends the session while the mark is there.
//!
//! 1. **The end names the mark**, and each mark is the work of one sweep. Without this: sweep A looks and stands still; an
//!    append removes its mark and is acknowledged; sweep B marks the session anew; A goes on and ends it.
//! 2. **An append that reads a mark removes it and then reads the session again, before it inserts.** Without this: an append
//!    reads the session; the sweep looks and finds nothing new; the append inserts and is acknowledged; the sweep ends
//!    the session.
//! 3. **The sweep looks no earlier than `append_settle` after its mark was confirmed.** Without this: an append reads the
//!    session; the sweep marks it and looks; the append, which has seen no mark, inserts and is acknowledged; the sweep ends
//!    the session.
//! 4. **An append that takes longer than three quarters of `append_settle` reads the session again after its insert and before
//!    it is acknowledged**, and removes a mark then. Without this: the same as in 3, with an append so slow that it inserts
//!    after the look.
//!
//! So when a session is ended as idle, no append to it was acknowledged before that was accepted at or after `idle_since`.
//! Proof: let such an append have been acknowledged before the end. If one of its reads of the session came after the
//! mark, it removed the mark (2, 4), and the end found none (1). If all came before the mark, its event was there before
//! the look: a slow append inserts before its last read (4), and any other inserts within `append_settle` of its first (3).
//! So the sweep saw the event and did not end the session. An append that is still under way at the end is
//! acknowledged after it only if it is slow. It counts as before the end, as with any end that it races.
//!
//! A primary that was cut off and does not know it yet may show an append the session as it was before the mark; see the
//! [store](super) on reads in the seconds of a failover.
//!
//! Appends pay for this only while there is a mark: they read it with what they read of the session anyway.
//!
//! `usedAt` says which sessions are looked at: the oldest first, out of an index that has only those that go on. A
//! sweep that finds a session in use moves it on to the last use. So each is looked at about once in a timeout, and none
//! keeps the others back. A session from before there was `usedAt` has none, and is looked at first.
//!
//! The mark's `until` only keeps sweeps from working on the same sessions. Nothing else hangs on it, nor on the clocks of
//! several processes.

use std::{collections::HashMap, time::Duration};

use mongodb::{
    bson::{Bson, Document, doc},
    options::Hint,
};
use uuid::Uuid;

use super::{
    SESSIONS,
    bulk::Bulk,
    call::{Call, Calls},
    documents::{Fields, Standing, date},
    fault::{Fault, Result},
    inserts::last_sequences,
    keys::{self, Life},
    sessions,
    setup::schema::BY_END,
};
use crate::{
    domain::{self, End, EndStatus, Session, SessionKey, Timestamp},
    store::{Idle, IdleFound},
};

/// How long other sweeps leave a session alone that was found idle: longer than it takes to end a batch.
const MARK_MS: i64 = 60_000;

/// How often an append removes marks that come anew.
const ROUNDS_MAX: u32 = 8;

/// What a sweep knows of a session.
struct Candidate {
    key: SessionKey,
    life: Life,
    /// As far as the session's document tells.
    used_at: Timestamp,
}

/// What a sweep goes by.
pub(super) struct Sweep<'a> {
    pub(super) calls: &'a Calls,
    pub(super) concern: &'a Document,
    /// The option `append_settle`.
    pub(super) settle: Duration,
    pub(super) idle_since: Timestamp,
    pub(super) now: Timestamp,
}

impl Sweep<'_> {
    /// As [`Store::find_idle`](crate::store::Store::find_idle).
    pub(super) async fn find(&self, limit: usize) -> domain::Result<IdleFound> {
        let mark = Uuid::now_v7().to_string();
        let call = self.calls.begin().await?;
        let (candidates, has_more) = candidates(&call, self.idle_since, self.now, limit).await?;
        let unused = self.unused(&call, candidates, None).await?;
        if unused.is_empty() {
            let sessions = Vec::new();
            return Ok(IdleFound { sessions, has_more });
        }
        self.mark(&call, &unused, &mark).await?;
        // A call is bounded in time, and holds a place that others wait for.
        drop(call);
        tokio::time::sleep(self.settle).await;
        let call = self.calls.begin().await?;
        let idle = self.unused(&call, unused, Some(&mark)).await?;
        let sessions = idle.into_iter().map(|candidate| Idle {
            key: candidate.key,
            idle_since: self.idle_since,
            mark: mark.clone(),
        });
        Ok(IdleFound {
            sessions: sessions.collect(),
            has_more,
        })
    }

    /// Those that were not used since. The others are moved on to their last use, and a mark of this sweep is removed.
    async fn unused(
        &self,
        call: &Call,
        candidates: Vec<Candidate>,
        mark: Option<&str>,
    ) -> Result<Vec<Candidate>> {
        let events = |of: &Candidate| keys::of_events(&keys::of_session(&of.key), of.life);
        let wanted: Vec<String> = candidates.iter().map(events).collect();
        let lasts = match wanted.is_empty() {
            true => HashMap::new(),
            false => last_sequences(call, wanted).await?,
        };
        let (mut unused, mut used) = (Vec::new(), Vec::new());
        for candidate in candidates {
            // A number is the time of its event in microseconds.
            let appended_ms = lasts.get(&events(&candidate)).map(|seq| seq.div_euclid(1_000));
            let used_ms = candidate.used_at.unix_ms().max(appended_ms.unwrap_or(i64::MIN));
            if used_ms < self.idle_since.unix_ms() {
                unused.push(candidate);
                continue;
            }
            // A last use in the future is looked at again after one timeout from now.
            let used_at = date(Timestamp::from_unix_ms(used_ms).map_or(self.now, |at| at.min(self.now)));
            let mut filter = going_on(&candidate);
            let mut change = doc! { "$max": { "usedAt": used_at } };
            if let Some(mark) = mark {
                filter.insert("idle.by", mark);
                change.insert("$unset", doc! { "idle": "" });
            }
            used.push(doc! { "q": filter, "u": change, "hint": "_id_" });
        }
        self.update(call, used).await?;
        Ok(unused)
    }

    async fn mark(&self, call: &Call, candidates: &[Candidate], mark: &str) -> Result<()> {
        let settle_ms = i64::try_from(self.settle.as_millis()).unwrap_or(i64::MAX);
        let until = self.now.saturating_add_ms(settle_ms.saturating_add(MARK_MS));
        let statement = |candidate: &Candidate| {
            let mut filter = going_on(candidate);
            filter.insert("idle.until", stands_no_more(self.now));
            let change = doc! { "$set": { "idle": { "by": mark, "until": date(until) } } };
            doc! { "q": filter, "u": change, "hint": "_id_" }
        };
        self.update(call, candidates.iter().map(statement).collect())
            .await
    }

    async fn update(&self, call: &Call, statements: Vec<Document>) -> Result<()> {
        update(call, self.concern, "colloquy: idle", statements).await
    }
}

async fn update(
    call: &Call,
    concern: &Document,
    comment: &'static str,
    statements: Vec<Document>,
) -> Result<()> {
    let bulk = Bulk {
        collection: SESSIONS,
        comment,
        statements,
    };
    bulk.run(call, concern).await.map(|_| ())
}

/// The session, if it has not ended and is in the life that was looked at.
fn going_on(candidate: &Candidate) -> Document {
    let mut filter = doc! {
        "_id": keys::of_session(&candidate.key),
        "status": { "$in": sessions::going_on() },
    };
    sessions::require_life(&mut filter, candidate.life);
    filter
}

/// The condition on a mark's `until` under which another sweep may take the session; so it may where there is no mark.
fn stands_no_more(now: Timestamp) -> Document {
    doc! { "$not": { "$gt": date(now) } }
}

/// The sessions that go on and whose last known use is before `idle_since`, the oldest first, and whether there may be more.
/// It asks every shard.
async fn candidates(
    call: &Call,
    idle_since: Timestamp,
    now: Timestamp,
    limit: usize,
) -> Result<(Vec<Candidate>, bool)> {
    let limit = u32::try_from(limit.max(1)).unwrap_or(u32::MAX);
    let sessions = call.sessions();
    call.read("find sessions", move |attempt| {
        let sessions = sessions.clone();
        async move {
            let mut found = sessions
                .find(doc! { "archived": false, "endedAt": Bson::Null, "idle.until": stands_no_more(now) })
                .projection(doc! {
                    "tenant": 1, "sessionId": 1, "life": 1, "usedAt": 1, "openedAt": 1, "startedAt": 1,
                })
                .hint(Hint::Name(BY_END.to_owned()))
                // From those that have no `usedAt` on.
                .min(doc! { "endedAt": Bson::Null, "usedAt": Bson::MinKey })
                .max(doc! { "endedAt": Bson::Null, "usedAt": date(idle_since) })
                .sort(doc! { "endedAt": 1, "usedAt": 1 })
                .limit(i64::from(limit))
                .batch_size(limit.saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: idle listing"))
                .await?;
            let (mut candidates, mut count) = (Vec::new(), 0);
            while found.advance().await? {
                count += 1;
                match candidate(&Fields(found.current()), now) {
                    Ok(candidate) => candidates.push(candidate),
                    // It must not keep the others from their end.
                    Err(fault) => tracing::error!(%fault, "a session can't be looked at by the idle sweep"),
                }
            }
            Ok((candidates, count == limit))
        }
    })
    .await
}

fn candidate(fields: &Fields<'_>, now: Timestamp) -> Result<Candidate> {
    let used_at = match (fields.optional_date("usedAt")?, fields.optional_date("openedAt")?) {
        (Some(used_at), _) | (None, Some(used_at)) => used_at,
        // All that is known is what its caller said, who may have named a time to come.
        (None, None) => fields.date("startedAt")?.min(now),
    };
    Ok(Candidate {
        key: fields.key()?,
        life: fields.life()?,
        used_at,
    })
}

/// As [`Store::end_idle`](crate::store::Store::end_idle).
pub(super) async fn end(call: &Call, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>> {
    let end = End {
        status: EndStatus::Completed,
        reason: Some(reason.to_owned()),
        ended_at: None,
    };
    let filter = doc! {
        "_id": keys::of_session(&idle.key),
        "status": { "$in": sessions::going_on() },
        "idle.by": &idle.mark,
    };
    match sessions::end_where(call, filter, &end, now).await? {
        // An earlier try of this may have been the one that did it.
        (None, true) => {
            let (stored, _) = sessions::load(call, &idle.key).await?;
            let is_ours =
                stored.ended_at == Some(stored.end_at(now, None)) && stored.end_reason == end.reason;
            Ok(is_ours.then_some(stored))
        }
        (ended, _) => Ok(ended),
    }
}

/// How the sessions with these keys stand, for an append to them. None of those that go on is marked by then (2).
pub(super) async fn unmarked(
    call: &Call,
    concern: &Document,
    ks: Vec<String>,
) -> Result<Vec<(String, Standing)>> {
    for _ in 0..ROUNDS_MAX {
        let standings = sessions::standings(call, ks.clone()).await?;
        let is_marked = |standing: &Standing| matches!(standing, Standing::Session(place) if place.is_marked_idle && !place.status.has_ended());
        let marked = standings.iter().filter(|(_, standing)| is_marked(standing));
        let statement = |k: &String| {
            let filter = doc! { "_id": k, "status": { "$in": sessions::going_on() } };
            doc! { "q": filter, "u": { "$unset": { "idle": "" } }, "hint": "_id_" }
        };
        let statements: Vec<Document> = marked.map(|(k, _)| statement(k)).collect();
        if statements.is_empty() {
            return Ok(standings);
        }
        update(call, concern, "colloquy: in use", statements).await?;
    }
    Err(Fault::Contended)
}
