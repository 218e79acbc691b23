//! Segments that may still hold bytes of a session that no pointer leads to. A session that is erased has its last
//! byte gone when it has none of these left, and its tombstone stands until then.
//!
//! The erasure marker that is still to be written to the archive is one more entry, under a name that no segment has: so it
//! keeps the tombstone, counts as pending, and outlives the process that owes it.

use rusqlite::{Connection, params};

use super::{
    entries::{self, Entry, State},
    fault::Result,
    row::{optional_time, parsed, time},
};
use crate::{
    domain::{SegmentName, SessionKey},
    store::catalog::{Affected, Pending, Unmarked},
};

const KEEP: &str = "INSERT INTO leftovers (session, segment, erased) VALUES (?, ?, ?) \
     ON CONFLICT (segment, session) DO NOTHING";
const ERASE: &str = "UPDATE leftovers SET erased = 1 WHERE session = ?";
const ANY: &str = "SELECT EXISTS (SELECT 1 FROM leftovers WHERE session = ?)";
const ERASED: &str = "SELECT count(DISTINCT session) FROM leftovers INDEXED BY leftovers_of_erased \
     WHERE erased = 1";
const OLDEST: &str = "SELECT min(sessions.epoch) FROM leftovers INDEXED BY leftovers_of_erased \
     CROSS JOIN sessions ON sessions.id = leftovers.session WHERE leftovers.erased = 1";
/// The plus keeps to the order of segments: few entries are of sessions that are not erased, and those for a while only.
/// The epoch of a tombstone is the time of its erasure, in milliseconds; it is a small number in those of older versions.
const AFFECTED: &str = "SELECT leftovers.segment, count(*), min(sessions.epoch) \
     FROM leftovers NOT INDEXED CROSS JOIN sessions ON sessions.id = leftovers.session \
     WHERE +leftovers.erased = 1 AND leftovers.segment > ? AND leftovers.segment <> ? \
     GROUP BY leftovers.segment ORDER BY leftovers.segment LIMIT ?";
const HAS: &str = "SELECT EXISTS (SELECT 1 FROM leftovers WHERE session = ? AND segment = ?)";
const OWED: &str = "SELECT tenant, session_id, epoch FROM leftovers NOT INDEXED \
     CROSS JOIN sessions ON sessions.id = leftovers.session \
     WHERE leftovers.erased = 1 AND leftovers.segment = ? LIMIT ?";
const PAID: &str = "DELETE FROM leftovers WHERE session = ? AND segment = ?";
const NEXT: &str = "SELECT min(segment) FROM leftovers NOT INDEXED WHERE segment > ?";
const FORGET: &str = "DELETE FROM leftovers WHERE segment = ?1 AND session <= coalesce(\
     (SELECT session FROM leftovers NOT INDEXED WHERE segment = ?1 ORDER BY session LIMIT 1 OFFSET ?2 - 1), \
     9223372036854775807)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[
    KEEP, ERASE, ANY, ERASED, OLDEST, AFFECTED, HAS, OWED, PAID, NEXT, FORGET,
];

/// Most entries that [`forget`] takes off in one commit.
const FORGET_MAX: usize = 5_000;

/// Notes a segment of the session.
pub(super) fn keep(connection: &Connection, entry: &Entry, segment: &SegmentName) -> Result<()> {
    let erased = matches!(entry.state, State::Erased);
    let values = params![entry.id, segment.to_string(), erased];
    connection.prepare_cached(KEEP)?.execute(values)?;
    Ok(())
}

/// Notes where bytes may be of a session that is about to be erased: the copy that counts, the one that somebody may
/// have been writing, and all earlier ones.
pub(super) fn keep_of_erased(connection: &Connection, entry: &Entry) -> Result<()> {
    let pointed_to = entry.pointer().map(|pointer| &pointer.segment);
    for segment in pointed_to.into_iter().chain(entry.last_claimant()) {
        keep(connection, entry, segment)?;
    }
    connection.prepare_cached(ERASE)?.execute([entry.id])?;
    Ok(())
}

/// As [`keep_of_erased`], of an archived session that nobody claims: `segment` is where its pointer leads.
pub(super) fn keep_of_expired(connection: &Connection, session: i64, segment: &str) -> Result<()> {
    // Few have any. A statement that may change several rows costs as much as all else here.
    if any(connection, session)? {
        connection.prepare_cached(ERASE)?.execute([session])?;
    }
    let values = params![session, segment, true];
    connection.prepare_cached(KEEP)?.execute(values)?;
    Ok(())
}

/// The epoch of the erasure, where the session's marker is owed.
pub(super) fn owed_marker_of(connection: &Connection, key: &SessionKey) -> Result<Option<i64>> {
    let Some(entry) = entries::find(connection, key)? else {
        return Ok(None);
    };
    let is_owed = is_listed(connection, &entry, &SegmentName::owed_marker())?;
    Ok((is_owed && matches!(entry.state, State::Erased)).then_some(entry.epoch))
}

fn is_listed(connection: &Connection, entry: &Entry, segment: &SegmentName) -> Result<bool> {
    let mut has = connection.prepare_cached(HAS)?;
    Ok(has.query_row(params![entry.id, segment.to_string()], |row| row.get(0))?)
}

/// Whether the session with this row's id has any.
pub(super) fn any(connection: &Connection, session: i64) -> Result<bool> {
    let mut any = connection.prepare_cached(ANY)?;
    Ok(any.query_row([session], |row| row.get(0))?)
}

pub(super) fn pending(connection: &Connection) -> Result<Pending> {
    let mut erased = connection.prepare_cached(ERASED)?;
    let sessions: i64 = erased.query_row([], |row| row.get(0))?;
    let mut oldest = connection.prepare_cached(OLDEST)?;
    let mut rows = oldest.query([])?;
    let since = rows.next()?.map(|row| optional_time(row, 0, "epoch"));
    Ok(Pending {
        sessions: u64::try_from(sessions).unwrap_or_default(),
        since: since.transpose()?.flatten(),
    })
}

fn owed_marker() -> String {
    SegmentName::owed_marker().to_string()
}

/// Notes that the marker of an erased session is owed, if the archive may hold bytes of it.
pub(super) fn owe_marker(connection: &Connection, key: &SessionKey) -> Result<()> {
    match entries::find(connection, key)? {
        Some(entry) if matches!(entry.state, State::Erased) && any(connection, entry.id)? => {
            keep(connection, &entry, &SegmentName::owed_marker())
        }
        _ => Ok(()),
    }
}

pub(super) fn unmarked(connection: &Connection, limit: i64) -> Result<Vec<Unmarked>> {
    let mut statement = connection.prepare_cached(OWED)?;
    let mut rows = statement.query(params![owed_marker(), limit])?;
    let mut unmarked = Vec::new();
    while let Some(row) = rows.next()? {
        unmarked.push(Unmarked {
            key: SessionKey::new(parsed(row, 0, "tenant")?, parsed(row, 1, "session_id")?),
            epoch: row.get(2)?,
        });
    }
    Ok(unmarked)
}

pub(super) fn marked(connection: &Connection, keys: &[SessionKey]) -> Result<()> {
    let mut paid = connection.prepare_cached(PAID)?;
    for key in keys {
        if let Some(entry) = entries::find(connection, key)? {
            paid.execute(params![entry.id, owed_marker()])?;
        }
    }
    Ok(())
}

/// Whether the store knows of the copy of this session in a segment.
pub(super) fn is_known(connection: &Connection, entry: &Entry, segment: &SegmentName) -> Result<bool> {
    let leads_there = entry.pointer().is_some_and(|pointer| pointer.segment == *segment);
    if leads_there || entry.last_claimant() == Some(segment) {
        return Ok(true);
    }
    is_listed(connection, entry, segment)
}

pub(super) fn known(
    connection: &Connection,
    segment: &SegmentName,
    keys: &[SessionKey],
) -> Result<Vec<bool>> {
    let is_known = |key| match entries::find(connection, key)? {
        Some(entry) => is_known(connection, &entry, segment),
        None => Ok(false),
    };
    keys.iter().map(is_known).collect()
}

/// The segments that are noted.
pub(super) fn residual(connection: &Connection, limit: usize) -> Result<Vec<SegmentName>> {
    let mut names = entries::names_after(connection, NEXT, None, None, limit)?;
    names.retain(|name| !name.is_owed_marker());
    Ok(names)
}

pub(super) fn affected(
    connection: &Connection,
    after: Option<&SegmentName>,
    limit: i64,
) -> Result<Vec<Affected>> {
    // No name is empty, so all of them come after that.
    let after = after.map(SegmentName::to_string).unwrap_or_default();
    let mut statement = connection.prepare_cached(AFFECTED)?;
    let mut rows = statement.query(params![after, owed_marker(), limit])?;
    let mut affected = Vec::new();
    while let Some(row) = rows.next()? {
        affected.push(Affected {
            segment: parsed(row, 0, "segment")?,
            sessions: u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default(),
            since: time(row, 2, "epoch")?,
        });
    }
    Ok(affected)
}

/// Takes a bounded number of entries of the segment away; says whether those were the last.
pub(super) fn forget(connection: &Connection, segment: &SegmentName) -> Result<bool> {
    let values = params![segment.to_string(), i64::try_from(FORGET_MAX).unwrap_or(i64::MAX)];
    let forgotten = connection.prepare_cached(FORGET)?.execute(values)?;
    Ok(forgotten < FORGET_MAX)
}
