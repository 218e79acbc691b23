//! The end of sessions that nobody ended. Appends and ends exclude each other here, so the end itself looks once more
//! whether the session was used.
//!
//! `used_at` says which sessions are looked at: the oldest first, out of an index that has only those that go on. One that is
//! found in use is moved on to its last use. So each is looked at about once in a timeout.

use rusqlite::{Connection, params};

use super::{
    fault::Result,
    row::parsed,
    sessions::{self, Found},
};
use crate::{
    domain::{End, Session, SessionKey, Timestamp},
    store::{Idle, IdleFound},
};

/// What it takes to tell when a session was used last.
const IDLE: &str = "SELECT tenant, session_id, id, used_at, last_seq FROM sessions INDEXED BY sessions_idle \
     WHERE ended_at IS NULL AND forget_at IS NULL AND used_at < ? ORDER BY used_at LIMIT ?";
const LAST_USE: &str = "SELECT coalesce(used_at, opened_at, started_at), last_seq FROM sessions WHERE id = ?";
const USED: &str = "UPDATE sessions SET used_at = ? WHERE id = ? AND used_at < ?1";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[IDLE, LAST_USE, USED];

/// The last use of a session, in milliseconds, by the server's clock: a sequence number is that clock at the append, in
/// microseconds.
fn last_use_ms(used_ms: i64, last_seq: Option<i64>) -> i64 {
    used_ms.max(last_seq.map_or(i64::MIN, |seq| seq.div_euclid(1_000)))
}

/// A session that was used, and when: the row's id and the time.
pub(super) type Used = (i64, i64);

/// The sessions that are idle; and those that are not, which are to be [moved on](move_on).
pub(super) fn find(
    connection: &Connection,
    idle_since: Timestamp,
    now: Timestamp,
    limit: usize,
) -> Result<(IdleFound, Vec<Used>)> {
    let rows_max = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(IDLE)?;
    let mut rows = statement.query(params![idle_since.unix_ms(), rows_max])?;
    let (mut sessions, mut used, mut count) = (Vec::new(), Vec::new(), 0);
    while let Some(row) = rows.next()? {
        count += 1;
        let last_use = last_use_ms(row.get(3)?, row.get(4)?);
        if last_use >= idle_since.unix_ms() {
            // A last use in the future is looked at again after one timeout from now.
            used.push((row.get(2)?, last_use.min(now.unix_ms())));
            continue;
        }
        sessions.push(Idle {
            key: SessionKey::new(parsed(row, 0, "tenant")?, parsed(row, 1, "session_id")?),
            idle_since,
            mark: String::new(),
        });
    }
    let has_more = count == rows_max;
    Ok((IdleFound { sessions, has_more }, used))
}

pub(super) fn move_on(connection: &Connection, used: &[Used]) -> Result<()> {
    let mut statement = connection.prepare_cached(USED)?;
    for (id, used_ms) in used {
        statement.execute(params![used_ms, id])?;
    }
    Ok(())
}

/// Ends the session unless it was used since it was found idle; `None` when it was, or can't be ended.
pub(super) fn end(
    connection: &Connection,
    idle: &Idle,
    reason: &str,
    now: Timestamp,
) -> Result<Option<Session>> {
    let id = match sessions::find(connection, &idle.key)? {
        Some(Found::Session(id, session)) if !session.status.has_ended() => id,
        _ => return Ok(None),
    };
    let mut last_use = connection.prepare_cached(LAST_USE)?;
    let last_use = last_use.query_row([id], |row| Ok(last_use_ms(row.get(0)?, row.get(1)?)))?;
    if last_use >= idle.idle_since.unix_ms() {
        return Ok(None);
    }
    let completed = End {
        reason: Some(reason.to_owned()),
        ..End::default()
    };
    sessions::end(connection, &idle.key, &completed, now).map(Some)
}
