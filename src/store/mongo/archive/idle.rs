//! The end of sessions that nobody ended.

use mongodb::bson::{Bson, doc};

use super::super::{
    call::Call,
    documents::{self, Fields, Stored},
    fault::Result,
    inserts::last_sequences,
    keys::{self, Life},
    sessions,
};
use crate::domain::{End, EndStatus, Session, SessionKey, Timestamp};

/// Ends the session if its last `seq`, which is a time in microseconds, and the time of its opening are older than
/// `idle_since`. An append or a patch in this very moment may come before or after the end, as with any end.
pub(super) async fn end_if_idle(
    call: &Call,
    key: &SessionKey,
    idle_since: Timestamp,
    reason: &str,
    now: Timestamp,
) -> Result<Option<Session>> {
    let Some((session, life, opened_at)) = look(call, key).await? else {
        return Ok(None);
    };
    if session.status.has_ended() || opened_at >= idle_since {
        return Ok(None);
    }
    let events = keys::of_events(&keys::of_session(key), life);
    let lasts = last_sequences(call, vec![events.clone()]).await?;
    let is_idle = lasts
        .get(&events)
        .is_none_or(|last| last.div_euclid(1_000) < idle_since.unix_ms());
    if !is_idle {
        return Ok(None);
    }
    let end = End {
        status: EndStatus::Completed,
        reason: Some(reason.to_owned()),
        ended_at: None,
    };
    let mut filter = doc! {
        "_id": keys::of_session(key),
        "status": { "$in": sessions::going_on() },
        "version": session.version,
    };
    sessions::require_life(&mut filter, life);
    match sessions::end_where(call, filter, &end, now).await? {
        (None, true) => {
            let (stored, _) = sessions::load(call, key).await?;
            let is_ours = stored.ended_at == Some(now) && stored.end_reason == end.reason;
            Ok(is_ours.then_some(stored))
        }
        (ended, _) => Ok(ended),
    }
}

/// The session, its life, and when it was opened; by its own word, if an older version of this store opened it.
async fn look(call: &Call, key: &SessionKey) -> Result<Option<(Session, Life, Timestamp)>> {
    let (sessions, k) = (call.sessions(), keys::of_session(key));
    call.read("find sessions", move |attempt| {
        let (sessions, k) = (sessions.clone(), k.clone());
        async move {
            let found = sessions
                .find_one(doc! { "_id": k })
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: session"))
                .await?;
            let Some(document) = found else {
                return Ok(None);
            };
            let Stored::Session(session, life) = documents::read_session(&document)? else {
                return Ok(None);
            };
            let opened_at = Fields(&document).optional_date("openedAt")?;
            let opened_at = opened_at.unwrap_or(session.started_at);
            Ok(Some((session, life, opened_at)))
        }
    })
    .await
}
