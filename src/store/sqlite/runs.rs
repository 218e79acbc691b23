//! The records of what archivers did, for a while.

use rusqlite::{Connection, params};

use super::{clock::UnixMs, fault::Result, row::text};
use crate::{
    domain::{JsonObject, Timestamp},
    store::catalog::RUN_DAYS_MAX,
};

const RECORD: &str = "INSERT INTO archive_runs (id, started_at, record) VALUES (?, ?, ?) \
     ON CONFLICT (id) DO UPDATE SET started_at = excluded.started_at, record = excluded.record";
const DROP: &str = "DELETE FROM archive_runs WHERE started_at < ?";
const NEWEST: &str = "SELECT record FROM archive_runs INDEXED BY archive_runs_by_start WHERE started_at >= ? \
     ORDER BY started_at DESC LIMIT ?";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[RECORD, DROP, NEWEST];

/// The oldest start that is kept.
fn oldest(now: UnixMs) -> UnixMs {
    const DAY_MS: i64 = 86_400_000;
    now.saturating_sub(RUN_DAYS_MAX * DAY_MS)
}

pub(super) fn record(
    connection: &Connection,
    id: &str,
    started_at: Timestamp,
    record: &JsonObject,
    now: UnixMs,
) -> Result<()> {
    let values = params![id, started_at.unix_ms(), record.as_str()];
    connection.prepare_cached(RECORD)?.execute(values)?;
    connection.prepare_cached(DROP)?.execute([oldest(now)])?;
    Ok(())
}

pub(super) fn newest(connection: &Connection, limit: i64, now: UnixMs) -> Result<Vec<JsonObject>> {
    let mut statement = connection.prepare_cached(NEWEST)?;
    let mut rows = statement.query(params![oldest(now), limit])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(JsonObject::from_stored(text(row, 0, "record")?));
    }
    Ok(records)
}
