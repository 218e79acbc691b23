//! Copies of sessions that were found in the archive, when the store was lost or an older backup of it was restored, in
//! whatever order they are found.

use rusqlite::{Connection, params};

use super::{
    claims::Claimant,
    clock::UnixMs,
    entries::{self, Entry, State},
    erasure::{self, Remains},
    fault::Result,
    leftovers, sessions,
};
use crate::{
    domain::{Pointer, SegmentName, Session, SessionKey, Timestamp},
    store::catalog::{Adopted, Archived, Claimed, reconciled},
};

const ADOPT: &str = "UPDATE sessions SET user_id = ?, status = ?, language = ?, metadata = ?, started_at = ?, \
     ended_at = ?, end_reason = ?, version = ?, archived = 1, epoch = ?, segment = ?, first_row = ?, rows = ?, \
     tidy_at = ?, claim_owner = NULL, claim_until = NULL, restored_at = NULL WHERE id = ?";

const ADOPT_ERASED: &str = "INSERT INTO sessions (tenant, session_id, version, archived, epoch, forget_at) \
     VALUES (?, ?, 0, 0, ?, ?)";
const OPENED_AT: &str = "SELECT opened_at, started_at FROM sessions WHERE id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[ADOPT, ADOPT_ERASED, OPENED_AT];

pub(super) fn adopt(
    connection: &Connection,
    copy: &Archived,
    session: &Session,
    now: UnixMs,
) -> Result<Adopted> {
    let Some(entry) = entries::find(connection, &copy.key)? else {
        sessions::insert(connection, &copy.key.tenant, session, None)?;
        let id = connection.last_insert_rowid();
        store(connection, id, copy.epoch, &copy.pointer, session, None)?;
        return Ok(Adopted::Created);
    };
    if leftovers::is_known(connection, &entry, &copy.pointer.segment)? {
        return Ok(Adopted::Kept);
    }
    match &entry.state {
        State::Archived(pointer) => Ok(Adopted::Apart(Archived {
            key: copy.key.clone(),
            epoch: entry.epoch,
            pointer: pointer.clone(),
        })),
        State::Hot { .. } => {
            if let Some(claimant) = entry.last_claimant() {
                leftovers::keep(connection, &entry, claimant)?;
            }
            let (_, stored) = sessions::load(connection, &copy.key)?;
            let session = reconciled(session, &stored);
            let epoch = copy.epoch.max(entry.epoch.saturating_add(1)).max(now);
            store(connection, entry.id, epoch, &copy.pointer, &session, Some(now))?;
            Ok(Adopted::Moved)
        }
        State::Erased if copy.epoch <= entry.epoch => {
            leftovers::keep(connection, &entry, &copy.pointer.segment)?;
            Ok(Adopted::Kept)
        }
        State::Erased => Ok(Adopted::Refused),
    }
}

pub(super) fn merge(
    connection: &Connection,
    claimant: &Claimant,
    claimed: &Claimed,
    copy: &Archived,
    session: &Session,
    takes_over: bool,
) -> Result<bool> {
    let Some(entry) = claimant.entry(connection, &copy.key, claimed.epoch)? else {
        return Ok(false);
    };
    let Some(pointer) = entry.pointer() else {
        return Ok(false);
    };
    let (winner, loser) = match takes_over {
        true => (&copy.pointer, &pointer.segment),
        false => (pointer, &copy.pointer.segment),
    };
    leftovers::keep(connection, &entry, loser)?;
    let (_, stored) = sessions::load(connection, &copy.key)?;
    let session = reconciled(session, &stored);
    let epoch = entry.epoch.max(copy.epoch);
    store(connection, entry.id, epoch, winner, &session, Some(claimant.now))?;
    Ok(true)
}

pub(super) fn adopt_erased(
    connection: &Connection,
    copy: &Archived,
    erased_at: Timestamp,
    forget_at: Timestamp,
) -> Result<Remains> {
    let Archived { key, epoch, pointer } = copy;
    if entries::find(connection, key)?.is_none() {
        let values = params![key.tenant.as_str(), key.id.as_str(), epoch, forget_at.unix_ms()];
        connection.prepare_cached(ADOPT_ERASED)?.execute(values)?;
    }
    let remains = erase_older(connection, key, erased_at, forget_at)?;
    if let Some(entry) = entries::find(connection, key)?
        && entry.pointer().is_none_or(|to| to.segment != pointer.segment)
    {
        leftovers::keep(connection, &entry, &pointer.segment)?;
    }
    Ok(remains)
}

pub(super) fn erase_older(
    connection: &Connection,
    key: &SessionKey,
    erased_at: Timestamp,
    forget_at: Timestamp,
) -> Result<Remains> {
    match entries::find(connection, key)? {
        Some(entry) if is_older(connection, &entry, erased_at)? => erasure::bury(connection, key, forget_at),
        _ => Ok(Remains::Nothing),
    }
}

/// Whether there is a session, and it was opened before that time as far as the store can tell.
fn is_older(connection: &Connection, entry: &Entry, than: Timestamp) -> Result<bool> {
    if matches!(entry.state, State::Erased) {
        return Ok(false);
    }
    let mut statement = connection.prepare_cached(OPENED_AT)?;
    let times = statement.query_row([entry.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (opened_at, started_at): (Option<UnixMs>, UnixMs) = times;
    let of_segment = |segment: &SegmentName| segment.begun_at().unix_ms();
    let began = opened_at
        .or_else(|| entry.pointer().map(|pointer| of_segment(&pointer.segment)))
        .unwrap_or(started_at);
    Ok(began <= than.unix_ms())
}

/// Makes the row that of an archived session. `tidy_at` is when its hot events are looked at, where there may be some.
fn store(
    connection: &Connection,
    id: i64,
    epoch: i64,
    pointer: &Pointer,
    session: &Session,
    tidy_at: Option<UnixMs>,
) -> Result<()> {
    let (segment, first_row, rows) = entries::columns(pointer)?;
    connection.prepare_cached(ADOPT)?.execute(params![
        session.user_id.as_ref().map(|user| user.as_str()),
        session.status.as_str(),
        session.language.as_ref().map(|language| language.as_str()),
        session.metadata.as_str(),
        session.started_at.unix_ms(),
        session.ended_at.map(Timestamp::unix_ms),
        session.end_reason,
        session.version,
        epoch,
        segment,
        first_row,
        rows,
        tidy_at,
        id,
    ])?;
    Ok(())
}
