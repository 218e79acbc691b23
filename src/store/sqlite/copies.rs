//! Hot events of archived sessions: deleted once their copy counts, brought back to be restored, and looked for until
//! there are none.

use rusqlite::{Connection, params};

use super::{clock::UnixMs, entries, fault::Result, row::parsed};
use crate::{
    domain::{Event, EventId, SessionKey},
    store::catalog::Archived,
};

const DELETE: &str = "DELETE FROM events INDEXED BY events_once WHERE session = ? AND event_id = ?";
const BRING_BACK: &str = "INSERT INTO events (session, event_id, seq, timestamp, type, payload) \
     VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (session, event_id) DO UPDATE SET seq = excluded.seq, \
     timestamp = excluded.timestamp, type = excluded.type, payload = excluded.payload";
const ADVANCE: &str =
    "UPDATE sessions SET last_seq = max(coalesce(last_seq, ?1), ?1), tidy_at = ?2 WHERE id = ?3";
const HAS_EVENTS: &str = "SELECT EXISTS (SELECT 1 FROM events INDEXED BY events_once WHERE session = ?)";
const UNTIDY: &str = "SELECT segment, first_row, rows, tenant, session_id, epoch \
     FROM sessions INDEXED BY sessions_untidy WHERE tidy_at <= ?1 \
     AND (claim_until IS NULL OR claim_until <= ?1) ORDER BY tidy_at LIMIT ?2";
const TIDIED: &str =
    "UPDATE sessions SET tidy_at = ? WHERE tenant = ? AND session_id = ? AND epoch = ? AND archived = 1";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[DELETE, BRING_BACK, ADVANCE, HAS_EVENTS, UNTIDY, TIDIED];

/// Deletes events of a session that is archived under `epoch`, unless somebody claims it: whoever does may be bringing
/// them back. A claim that has ended will never be a restore, so what it brought back are copies again.
pub(super) fn delete(
    connection: &Connection,
    key: &SessionKey,
    epoch: i64,
    events: &[EventId],
    now: UnixMs,
) -> Result<usize> {
    let entry = entries::find(connection, key)?
        .filter(|entry| entry.pointer().is_some() && entry.epoch == epoch && entry.claimed_by(now).is_none());
    let Some(entry) = entry else {
        return Ok(0);
    };
    let mut delete = connection.prepare_cached(DELETE)?;
    let mut deleted = 0;
    for event in events {
        deleted += delete.execute(params![entry.id, event.as_str()])?;
    }
    Ok(deleted)
}

/// Stores events under the claim that gave `epoch`; where that has ended, they would be of no use.
pub(super) fn bring_back(
    connection: &Connection,
    key: &SessionKey,
    epoch: i64,
    events: &[Event],
    now: UnixMs,
) -> Result<()> {
    let entry = entries::find(connection, key)?
        .filter(|entry| entry.pointer().is_some() && entry.epoch == epoch && entry.claimed_by(now).is_some());
    let (Some(entry), Some(last_seq)) = (entry, events.iter().map(|event| event.seq).max()) else {
        return Ok(());
    };
    let mut bring_back = connection.prepare_cached(BRING_BACK)?;
    for event in events {
        bring_back.execute(params![
            entry.id,
            event.id.as_str(),
            event.seq,
            event.timestamp.unix_ms(),
            event.event_type.as_str(),
            event.payload.as_str(),
        ])?;
    }
    let values = params![last_seq, now, entry.id];
    connection.prepare_cached(ADVANCE)?.execute(values)?;
    Ok(())
}

/// Those that are claimed are left to whoever claims them.
pub(super) fn untidy(connection: &Connection, limit: i64, now: UnixMs) -> Result<Vec<Archived>> {
    let mut statement = connection.prepare_cached(UNTIDY)?;
    let mut rows = statement.query(params![now, limit])?;
    let mut untidy = Vec::new();
    while let Some(row) = rows.next()? {
        untidy.push(Archived {
            key: SessionKey::new(parsed(row, 3, "tenant")?, parsed(row, 4, "session_id")?),
            epoch: row.get(5)?,
            pointer: entries::pointer(row)?,
        });
    }
    Ok(untidy)
}

pub(super) fn with_hot_events(connection: &Connection, keys: &[SessionKey]) -> Result<Vec<SessionKey>> {
    let mut has_events = connection.prepare_cached(HAS_EVENTS)?;
    let mut found = Vec::new();
    for key in keys {
        let entry = entries::find(connection, key)?.filter(|entry| entry.pointer().is_some());
        if let Some(entry) = entry
            && has_events.query_row([entry.id], |row| row.get(0))?
        {
            found.push(key.clone());
        }
    }
    Ok(found)
}

/// `None` is never.
pub(super) fn tidied(connection: &Connection, sessions: &[Archived], again_at: Option<UnixMs>) -> Result<()> {
    let mut tidied = connection.prepare_cached(TIDIED)?;
    for Archived { key, epoch, .. } in sessions {
        tidied.execute(params![again_at, key.tenant.as_str(), key.id.as_str(), epoch])?;
    }
    Ok(())
}
