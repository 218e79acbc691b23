//! Segments that may still hold bytes of a session that no pointer leads to. A session that is erased has its last
//! byte gone when it has none of these left, and its tombstone stands until then.

use rusqlite::{Connection, params};

use super::{
    entries::{self, Entry, State},
    fault::Result,
    row::parsed,
};
use crate::{
    domain::{SegmentName, SessionKey},
    store::catalog::Pending,
};

const KEEP: &str = "INSERT INTO leftovers (session, segment, erased) VALUES (?, ?, ?) \
     ON CONFLICT (session, segment) DO NOTHING";
const ERASE: &str = "UPDATE leftovers SET erased = 1 WHERE session = ?";
const ANY: &str = "SELECT EXISTS (SELECT 1 FROM leftovers WHERE session = ?)";
const ERASED: &str = "SELECT count(DISTINCT session) FROM leftovers INDEXED BY leftovers_of_erased \
     WHERE erased = 1";
const OF_ERASED: &str = "SELECT DISTINCT segment FROM leftovers INDEXED BY leftovers_erased WHERE erased = 1 \
     ORDER BY segment LIMIT ?";
const FORGET: &str = "DELETE FROM leftovers WHERE rowid IN (SELECT rowid FROM leftovers \
     INDEXED BY leftovers_by_segment WHERE segment = ? LIMIT ?)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[KEEP, ERASE, ANY, ERASED, OF_ERASED, FORGET];

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
pub(super) fn keep_of_erased(connection: &Connection, key: &SessionKey) -> Result<()> {
    let Some(entry) = entries::find(connection, key)? else {
        return Ok(());
    };
    let pointed_to = entry.pointer().map(|pointer| &pointer.segment);
    for segment in pointed_to.into_iter().chain(entry.last_claimant()) {
        keep(connection, &entry, segment)?;
    }
    connection.prepare_cached(ERASE)?.execute([entry.id])?;
    Ok(())
}

/// Whether the session was erased and has any.
pub(super) fn is_pending(connection: &Connection, key: &SessionKey) -> Result<bool> {
    match entries::find(connection, key)? {
        Some(entry) if matches!(entry.state, State::Erased) => any(connection, entry.id),
        _ => Ok(false),
    }
}

/// Whether the session with this row's id has any.
pub(super) fn any(connection: &Connection, session: i64) -> Result<bool> {
    let mut any = connection.prepare_cached(ANY)?;
    Ok(any.query_row([session], |row| row.get(0))?)
}

pub(super) fn pending(connection: &Connection, limit: i64) -> Result<Pending> {
    let mut erased = connection.prepare_cached(ERASED)?;
    let sessions: i64 = erased.query_row([], |row| row.get(0))?;
    let mut statement = connection.prepare_cached(OF_ERASED)?;
    let mut rows = statement.query([limit])?;
    let mut segments = Vec::new();
    while let Some(row) = rows.next()? {
        segments.push(parsed(row, 0, "segment")?);
    }
    Ok(Pending {
        sessions: u64::try_from(sessions).unwrap_or_default(),
        segments,
    })
}

/// Takes a bounded number of entries of the segment away; says whether those were the last.
pub(super) fn forget(connection: &Connection, segment: &SegmentName) -> Result<bool> {
    let values = params![segment.to_string(), i64::try_from(FORGET_MAX).unwrap_or(i64::MAX)];
    let forgotten = connection.prepare_cached(FORGET)?.execute(values)?;
    Ok(forgotten < FORGET_MAX)
}
