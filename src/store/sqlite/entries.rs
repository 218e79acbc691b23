//! What the catalog knows of a session, as its row says it: its epoch, its pointer, and who claims it.

use rusqlite::{Connection, Row, params};

use super::{
    clock::UnixMs,
    fault::{Fault, Result},
    row::{optional_parsed, parsed},
};
use crate::{
    domain::{Pointer, SegmentName, SessionKey},
    store::{
        catalog::{Archived, Standing},
        refusal,
    },
};

const FIND: &str = "SELECT segment, first_row, rows, id, forget_at, ended_at, epoch, claim_owner, claim_until, version \
     FROM sessions WHERE tenant = ? AND session_id = ?";
const SEGMENTS: &str = "SELECT segment, count(*) FROM sessions INDEXED BY sessions_by_segment \
     WHERE segment > ? GROUP BY segment ORDER BY segment LIMIT ?";
const NEXT_SEGMENT: &str =
    "SELECT min(segment) FROM sessions INDEXED BY sessions_by_segment WHERE segment > ?";
const WALK: &str = "SELECT tenant, session_id FROM sessions WHERE (tenant, session_id) > (?, ?) \
     AND forget_at IS NULL ORDER BY tenant, session_id LIMIT ?";

const ARCHIVED_IN: &str = "SELECT segment, first_row, rows, tenant, session_id, epoch \
     FROM sessions INDEXED BY sessions_by_segment WHERE segment = ? LIMIT ?";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[FIND, SEGMENTS, NEXT_SEGMENT, WALK, ARCHIVED_IN];

pub(super) struct Entry {
    /// The row's.
    pub(super) id: i64,
    pub(super) state: State,
    /// The newest that was given.
    pub(super) epoch: i64,
    pub(super) version: i64,
    claim: Option<(SegmentName, UnixMs)>,
}

pub(super) enum State {
    Hot { ended: bool },
    Archived(Pointer),
    Erased,
}

impl Entry {
    pub(super) fn pointer(&self) -> Option<&Pointer> {
        match &self.state {
            State::Archived(pointer) => Some(pointer),
            State::Hot { .. } | State::Erased => None,
        }
    }

    /// Whose claim stands.
    pub(super) fn claimed_by(&self, now: UnixMs) -> Option<&SegmentName> {
        let (owner, until) = self.claim.as_ref()?;
        (*until > now).then_some(owner)
    }

    /// Who claimed it last and has not given it up, whether or not that still stands.
    pub(super) fn last_claimant(&self) -> Option<&SegmentName> {
        self.claim.as_ref().map(|(owner, _)| owner)
    }

    /// Whether the claim that gave `owner` that epoch stands.
    pub(super) fn is_claimed(&self, epoch: i64, owner: &SegmentName, now: UnixMs) -> bool {
        self.epoch == epoch && self.claimed_by(now) == Some(owner)
    }
}

pub(super) fn find(connection: &Connection, key: &SessionKey) -> Result<Option<Entry>> {
    let mut statement = connection.prepare_cached(FIND)?;
    let mut rows = statement.query(params![key.tenant.as_str(), key.id.as_str()])?;
    rows.next()?.map(entry).transpose()
}

fn entry(row: &Row<'_>) -> Result<Entry> {
    let erased = row.get::<_, Option<i64>>(4)?.is_some();
    let state = match optional_pointer(row)? {
        Some(pointer) => State::Archived(pointer),
        None if erased => State::Erased,
        None => State::Hot {
            ended: row.get::<_, Option<i64>>(5)?.is_some(),
        },
    };
    let owner = optional_parsed(row, 7, "claim_owner")?;
    Ok(Entry {
        id: row.get(3)?,
        state,
        epoch: row.get(6)?,
        version: row.get(9)?,
        claim: owner.zip(row.get(8)?),
    })
}

fn optional_pointer(row: &Row<'_>) -> Result<Option<Pointer>> {
    let segment: Option<SegmentName> = optional_parsed(row, 0, "segment")?;
    segment.map(|_| pointer(row)).transpose()
}

/// The pointer in the first three columns.
pub(super) fn pointer(row: &Row<'_>) -> Result<Pointer> {
    let count = |column, what| {
        let count: i64 = row.get(column)?;
        u64::try_from(count).map_err(|_| Fault::Stored(what))
    };
    Ok(Pointer {
        segment: parsed(row, 0, "segment")?,
        first_row: count(1, "first_row")?,
        rows: count(2, "rows")?,
    })
}

/// A pointer as it is stored.
pub(super) fn columns(pointer: &Pointer) -> Result<(String, i64, i64)> {
    let count = |count: u64, what| i64::try_from(count).map_err(|_| Fault::Stored(what));
    Ok((
        pointer.segment.to_string(),
        count(pointer.first_row, "first_row")?,
        count(pointer.rows, "rows")?,
    ))
}

/// The id of the key's row, and where its events are if not here.
pub(super) fn locate(connection: &Connection, key: &SessionKey) -> Result<(i64, Option<Pointer>)> {
    let entry = find(connection, key)?.ok_or_else(|| refusal::session_not_found(&key.id))?;
    match entry.state {
        State::Hot { .. } => Ok((entry.id, None)),
        State::Archived(pointer) => Ok((entry.id, Some(pointer))),
        State::Erased => Err(refusal::session_erased(&key.id).into()),
    }
}

pub(super) fn standings(connection: &Connection, keys: &[SessionKey]) -> Result<Vec<Standing>> {
    let standing = |key: &SessionKey| {
        let Some(entry) = find(connection, key)? else {
            return Ok(Standing::Unknown);
        };
        Ok(match entry.state {
            State::Hot { .. } => Standing::Hot,
            State::Erased => Standing::Erased,
            State::Archived(pointer) => Standing::Archived(Archived {
                key: key.clone(),
                epoch: entry.epoch,
                pointer,
            }),
        })
    };
    keys.iter().map(standing).collect()
}

pub(super) fn segments(
    connection: &Connection,
    after: Option<&SegmentName>,
    limit: i64,
) -> Result<Vec<(SegmentName, u64)>> {
    // No name is empty, so all of them come after that.
    let after = after.map(SegmentName::to_string).unwrap_or_default();
    let mut statement = connection.prepare_cached(SEGMENTS)?;
    let mut rows = statement.query(params![after, limit])?;
    let mut segments = Vec::new();
    while let Some(row) = rows.next()? {
        let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default();
        segments.push((parsed(row, 0, "segment")?, count));
    }
    Ok(segments)
}

/// The names that `next`, which gives the least name after another, finds one by one: a look at the index for each, however
/// many entries a name has.
pub(super) fn names_after(
    connection: &Connection,
    next: &str,
    after: Option<&SegmentName>,
    until: Option<&SegmentName>,
    limit: usize,
) -> Result<Vec<SegmentName>> {
    let mut statement = connection.prepare_cached(next)?;
    // No name is empty, so all of them come after that.
    let mut after = after.map(SegmentName::to_string).unwrap_or_default();
    let until = until.map(SegmentName::to_string);
    let mut names = Vec::new();
    while names.len() < limit {
        let name: Option<String> = statement.query_row([&after], |row| row.get(0))?;
        let Some(name) = name.filter(|name| until.as_ref().is_none_or(|until| name <= until)) else {
            break;
        };
        names.push(name.parse().map_err(|_| Fault::Stored("segment"))?);
        after = name;
    }
    Ok(names)
}

pub(super) fn pointed_to(
    connection: &Connection,
    after: Option<&SegmentName>,
    until: Option<&SegmentName>,
    limit: usize,
) -> Result<Vec<SegmentName>> {
    names_after(connection, NEXT_SEGMENT, after, until, limit)
}

pub(super) fn walk(
    connection: &Connection,
    after: Option<&SessionKey>,
    limit: i64,
) -> Result<Vec<SessionKey>> {
    // No tenant is empty.
    let (tenant, id) = after.map_or(("", ""), |key| (key.tenant.as_str(), key.id.as_str()));
    let mut statement = connection.prepare_cached(WALK)?;
    let mut rows = statement.query(params![tenant, id, limit])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(SessionKey::new(
            parsed(row, 0, "tenant")?,
            parsed(row, 1, "session_id")?,
        ));
    }
    Ok(keys)
}

pub(super) fn archived_in(
    connection: &Connection,
    segment: &SegmentName,
    limit: i64,
) -> Result<Vec<Archived>> {
    let mut statement = connection.prepare_cached(ARCHIVED_IN)?;
    let mut rows = statement.query(params![segment.to_string(), limit])?;
    let mut archived = Vec::new();
    while let Some(row) = rows.next()? {
        archived.push(Archived {
            key: SessionKey::new(parsed(row, 3, "tenant")?, parsed(row, 4, "session_id")?),
            epoch: row.get(5)?,
            pointer: pointer(row)?,
        });
    }
    Ok(archived)
}
