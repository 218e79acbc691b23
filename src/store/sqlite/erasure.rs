//! Erasing a session: first the tombstone, which hides everything at once, then the events, a bounded number a
//! commit, so that writers wait for none of it long.
//!
//! The list of what is left to delete is a table of its own, because an erased id may be opened again before the last
//! of its old events is gone.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteOptions,
    clock::UnixMs,
    entries::{self, State},
    fault::Result,
    leftovers,
    sessions::{self, Found},
};
use crate::{
    domain::{SessionKey, Timestamp},
    store::{Upkeep, catalog::Archived},
};

const BURY: &str = "UPDATE sessions SET forget_at = ?, version = 0, archived = 0, last_seq = NULL, status = NULL, \
     started_at = NULL, ended_at = NULL, user_id = NULL, language = NULL, end_reason = NULL, \
     metadata = NULL, epoch = max(epoch + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)), segment = NULL, first_row = NULL, rows = NULL, claim_owner = NULL, \
     claim_until = NULL, opened_at = NULL, restored_at = NULL, tidy_at = NULL, used_at = NULL WHERE id = ?";
const EXPIRING: &str = "SELECT id FROM sessions WHERE tenant = ? AND session_id = ? AND segment = ? \
     AND first_row = ? AND rows = ? AND epoch = ? AND claim_owner IS NULL";
const HAS_EVENTS: &str = "SELECT EXISTS (SELECT 1 FROM events INDEXED BY events_once WHERE session = ?)";
/// A session without events needs no purge, and every purge on the list has something to delete.
const REMEMBER: &str = "INSERT INTO erasures (session) VALUES (?)";
const LISTED: &str = "SELECT EXISTS (SELECT 1 FROM erasures WHERE session = ?)";
const NEXT: &str = "SELECT min(session) FROM erasures";
const DOOMED: &str = "SELECT rowid, octet_length(payload) FROM events INDEXED BY events_once \
     WHERE session = ?";
const DELETE: &str = "DELETE FROM events WHERE rowid = ?";
const DONE: &str = "DELETE FROM erasures WHERE session = ?";
/// One with bytes left in the archive stands past its time.
const DROP_TOMBSTONES: &str = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions INDEXED BY tombstones \
     WHERE forget_at IS NOT NULL AND forget_at <= ? \
     AND NOT EXISTS (SELECT 1 FROM leftovers WHERE session = sessions.id) LIMIT ?)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[
    BURY,
    EXPIRING,
    HAS_EVENTS,
    REMEMBER,
    LISTED,
    NEXT,
    DOOMED,
    DELETE,
    DONE,
    DROP_TOMBSTONES,
];

/// What is left to do after [`bury`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    /// There was nothing to erase, or it is gone already.
    Nothing,
    /// The session had no events; its own content may still be in the log.
    Content,
    /// The events of the row with this id.
    Events(i64),
}

/// Turns the session into a tombstone; one that is there already keeps its time.
pub(super) fn bury(connection: &Connection, key: &SessionKey, forget_at: Timestamp) -> Result<Remains> {
    let id = match sessions::find(connection, key)? {
        None => return Ok(Remains::Nothing),
        Some(Found::Tombstone(id, _)) => {
            let mut listed = connection.prepare_cached(LISTED)?;
            let unfinished: bool = listed.query_row([id], |row| row.get(0))?;
            return Ok(if unfinished {
                Remains::Events(id)
            } else {
                Remains::Nothing
            });
        }
        Some(Found::Session(id, _)) => id,
    };
    if let Some(entry) = entries::find(connection, key)? {
        leftovers::keep_of_erased(connection, &entry)?;
    }
    bury_row(connection, id, forget_at)
}

fn bury_row(connection: &Connection, id: i64, forget_at: Timestamp) -> Result<Remains> {
    connection
        .prepare_cached(BURY)?
        .execute(params![forget_at.unix_ms(), id])?;
    let mut has_events = connection.prepare_cached(HAS_EVENTS)?;
    if !has_events.query_row([id], |row| row.get(0))? {
        return Ok(Remains::Content);
    }
    connection.prepare_cached(REMEMBER)?.execute([id])?;
    Ok(Remains::Events(id))
}

/// As [`bury`], of a session that a caller erases: its erasure marker is owed to the archive if that may hold bytes of it.
pub(super) fn erase(connection: &Connection, key: &SessionKey, forget_at: Timestamp) -> Result<Remains> {
    let remains = bury(connection, key, forget_at)?;
    if remains != Remains::Nothing {
        leftovers::owe_marker(connection, key)?;
    }
    Ok(remains)
}

/// Turns archived sessions into tombstones where they are as they are said to be and nobody claims them. Says of each
/// whether it is one now, and what is left to do.
pub(super) fn expire(
    connection: &Connection,
    archived: &[Archived],
    forget_at: Timestamp,
    now: UnixMs,
) -> Result<Vec<(bool, Remains)>> {
    let expire = |archived: &Archived| {
        let (segment, first_row, rows) = entries::columns(&archived.pointer)?;
        let key = &archived.key;
        let mut expiring = connection.prepare_cached(EXPIRING)?;
        let values = params![
            key.tenant.as_str(),
            key.id.as_str(),
            segment,
            first_row,
            rows,
            archived.epoch
        ];
        if let Some(id) = expiring.query_row(values, |row| row.get(0)).optional()? {
            leftovers::keep_of_expired(connection, id, &segment)?;
            return Ok((true, bury_row(connection, id, forget_at)?));
        }
        let Some(entry) = entries::find(connection, key)? else {
            return Ok((false, Remains::Nothing));
        };
        match &entry.state {
            State::Erased => Ok((true, Remains::Nothing)),
            // Somebody claimed it and never gave that up.
            State::Archived(pointer)
                if *pointer == archived.pointer
                    && entry.epoch == archived.epoch
                    && entry.claimed_by(now).is_none() =>
            {
                leftovers::keep_of_erased(connection, &entry)?;
                Ok((true, bury_row(connection, entry.id, forget_at)?))
            }
            State::Archived(_) | State::Hot { .. } => Ok((false, Remains::Nothing)),
        }
    };
    archived.iter().map(expire).collect()
}

/// What one [`purge`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) events: usize,
    pub(super) finished: bool,
}

/// Deletes a bounded number of the events of an erased session.
pub(super) fn purge(connection: &Connection, session: i64, options: &SqliteOptions) -> Result<Purged> {
    let (doomed, finished) = doomed(connection, session, options)?;
    let mut delete = connection.prepare_cached(DELETE)?;
    for row in &doomed {
        delete.execute([row])?;
    }
    if finished {
        connection.prepare_cached(DONE)?.execute([session])?;
    }
    Ok(Purged {
        events: doomed.len(),
        finished,
    })
}

/// The events to delete next, and whether they are the last. The bound on bytes counts because deleting writes: every
/// page that a payload fills is overwritten with zeros.
fn doomed(connection: &Connection, session: i64, options: &SqliteOptions) -> Result<(Vec<i64>, bool)> {
    let mut statement = connection.prepare_cached(DOOMED)?;
    let mut rows = statement.query([session])?;
    let mut doomed = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if doomed.len() >= options.purge_events_max || bytes >= options.purge_bytes_max {
            return Ok((doomed, false));
        }
        doomed.push(row.get(0)?);
        bytes += usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
    }
    Ok((doomed, true))
}

/// One round of [`Store::upkeep`](crate::store::Store::upkeep), and whether it finished an erasure.
pub(super) fn upkeep(
    connection: &Connection,
    now: Timestamp,
    options: &SqliteOptions,
) -> Result<(Upkeep, bool)> {
    let next: Option<i64> = connection.prepare_cached(NEXT)?.query_row([], |row| row.get(0))?;
    let purged = next
        .map(|session| purge(connection, session, options))
        .transpose()?;
    let tombstones_max = i64::try_from(options.upkeep_tombstones_max).unwrap_or(i64::MAX);
    let tombstones_dropped = connection
        .prepare_cached(DROP_TOMBSTONES)?
        .execute(params![now.unix_ms(), tombstones_max])?;
    let done = Upkeep {
        events_deleted: purged.map_or(0, |purged| purged.events),
        tombstones_dropped,
    };
    Ok((done, purged.is_some_and(|purged| purged.finished)))
}
