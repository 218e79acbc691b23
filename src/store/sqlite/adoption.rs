//! Sessions that were found in the archive when the store was lost: the newest copy of each counts, in whatever order
//! they are found.

use rusqlite::{Connection, params};

use super::{
    entries::{self, State},
    erasure,
    fault::Result,
    leftovers, sessions,
};
use crate::{
    domain::{Session, Timestamp},
    store::catalog::{Adopted, Archived},
};

const ADOPT: &str = "UPDATE sessions SET user_id = ?, status = ?, language = ?, metadata = ?, started_at = ?, \
     ended_at = ?, end_reason = ?, version = ?, archived = 1, epoch = ?, segment = ?, first_row = ?, rows = ?, \
     claim_owner = NULL, claim_until = NULL WHERE id = ?";

const ADOPT_ERASED: &str = "INSERT INTO sessions (tenant, session_id, version, archived, epoch, forget_at) \
     VALUES (?, ?, 0, 0, ?, ?)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[ADOPT, ADOPT_ERASED];

pub(super) fn adopt(connection: &Connection, archived: &Archived, session: &Session) -> Result<Adopted> {
    let Some(entry) = entries::find(connection, &archived.key)? else {
        sessions::insert(connection, &archived.key.tenant, session, None)?;
        store(connection, connection.last_insert_rowid(), archived, session)?;
        return Ok(Adopted::Created);
    };
    match &entry.state {
        State::Archived(pointer) if *pointer == archived.pointer => Ok(Adopted::Kept),
        State::Archived(older) if entry.epoch < archived.epoch => {
            leftovers::keep(connection, &entry, &older.segment)?;
            store(connection, entry.id, archived, session)?;
            Ok(Adopted::Moved)
        }
        // Its bytes are there, and no pointer leads to them.
        State::Archived(_) | State::Hot { .. } | State::Erased => {
            leftovers::keep(connection, &entry, &archived.pointer.segment)?;
            Ok(Adopted::Kept)
        }
    }
}

pub(super) fn adopt_erased(connection: &Connection, archived: &Archived, forget_at: Timestamp) -> Result<()> {
    let Archived { key, epoch, pointer } = archived;
    if entries::find(connection, key)?.is_none() {
        let values = params![key.tenant.as_str(), key.id.as_str(), epoch, forget_at.unix_ms()];
        connection.prepare_cached(ADOPT_ERASED)?.execute(values)?;
    }
    match entries::find(connection, key)? {
        // Upkeep deletes the events, should there be any.
        Some(entry) if entry.pointer() == Some(pointer) => {
            erasure::bury(connection, key, forget_at).map(|_| ())
        }
        Some(entry) => leftovers::keep(connection, &entry, &pointer.segment),
        None => Ok(()),
    }
}

fn store(connection: &Connection, id: i64, archived: &Archived, session: &Session) -> Result<()> {
    let (segment, first_row, rows) = entries::columns(&archived.pointer)?;
    connection.prepare_cached(ADOPT)?.execute(params![
        session.user_id.as_ref().map(|user| user.as_str()),
        session.status.as_str(),
        session.language.as_ref().map(|language| language.as_str()),
        session.metadata.as_str(),
        session.started_at.unix_ms(),
        session.ended_at.map(Timestamp::unix_ms),
        session.end_reason,
        session.version,
        archived.epoch,
        segment,
        first_row,
        rows,
        id,
    ])?;
    Ok(())
}
