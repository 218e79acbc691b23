//! Statements about sessions.

use rusqlite::{Connection, Row, params, params_from_iter, types::Value};

use super::{
    fault::{Fault, Result},
    leftovers,
    row::{optional_parsed, optional_text, optional_time, parsed, text, time},
};
use crate::{
    domain::{
        End, Expected, JsonObject, Page, Session, SessionKey, SessionPatch, SessionQuery, Status, Tenant,
        Timestamp,
    },
    store::{Opened, refusal},
};

/// What [`session`] reads, from column 2 on; the first two are `id` and `forget_at`.
macro_rules! select_sessions {
    ($rest:literal) => {
        concat!(
            "SELECT id, forget_at, session_id, user_id, status, language, metadata, started_at, \
             ended_at, end_reason, version, archived FROM sessions ",
            $rest
        )
    };
}

const INSERT: &str = "INSERT INTO sessions (tenant, session_id, user_id, status, language, metadata, started_at, \
     ended_at, end_reason, version, archived, opened_at, used_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?12) \
     ON CONFLICT (tenant, session_id) DO NOTHING";
const FIND: &str = select_sessions!("WHERE tenant = ? AND session_id = ?");
const DROP: &str = "DELETE FROM sessions WHERE id = ?";
const UPDATE: &str = "UPDATE sessions SET user_id = ?, language = ?, metadata = ?, version = ? WHERE id = ?";
const END: &str = "UPDATE sessions SET status = ?, ended_at = ?, end_reason = ?, version = ? WHERE id = ?";
const STANDING: &str = "SELECT id, forget_at, version, last_seq, status, archived, started_at, opened_at FROM sessions \
     WHERE tenant = ? AND session_id = ?";
const LAST_SEQ: &str = "SELECT last_seq FROM sessions WHERE id = ?";
const ADVANCE: &str = "UPDATE sessions SET last_seq = ? WHERE id = ?";
const ACTIVATE: &str = "UPDATE sessions SET last_seq = ?, status = ?, version = ? WHERE id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[
    INSERT, FIND, DROP, UPDATE, END, STANDING, LAST_SEQ, ADVANCE, ACTIVATE,
];

pub(super) fn open(
    connection: &Connection,
    tenant: &Tenant,
    session: Session,
    now: Timestamp,
) -> Result<Opened> {
    if insert(connection, tenant, &session, Some(now))? {
        return Ok(Opened {
            session,
            created: true,
        });
    }
    let key = SessionKey::new(tenant.clone(), session.id.clone());
    match find(connection, &key)? {
        Some(Found::Session(_, session)) => Ok(Opened {
            session,
            created: false,
        }),
        Some(Found::Tombstone(id, forget_at)) if forget_at > now || leftovers::any(connection, id)? => {
            Err(refusal::session_erased(&key.id).into())
        }
        Some(Found::Tombstone(id, _)) => {
            connection.prepare_cached(DROP)?.execute([id])?;
            let created = insert(connection, tenant, &session, Some(now))?;
            Ok(Opened { session, created })
        }
        None => Err(Fault::Stored("session")),
    }
}

/// False when the key is taken.
pub(super) fn insert(
    connection: &Connection,
    tenant: &Tenant,
    session: &Session,
    opened_at: Option<Timestamp>,
) -> Result<bool> {
    let inserted = connection.prepare_cached(INSERT)?.execute(params![
        tenant.as_str(),
        session.id.as_str(),
        session.user_id.as_ref().map(|user| user.as_str()),
        session.status.as_str(),
        session.language.as_ref().map(|language| language.as_str()),
        session.metadata.as_str(),
        session.started_at.unix_ms(),
        session.ended_at.map(Timestamp::unix_ms),
        session.end_reason,
        session.version,
        session.archived,
        opened_at.map(Timestamp::unix_ms),
    ])?;
    Ok(inserted == 1)
}

pub(super) enum Found {
    Session(i64, Session),
    /// The row's id, and until when the key is refused.
    Tombstone(i64, Timestamp),
}

pub(super) fn find(connection: &Connection, key: &SessionKey) -> Result<Option<Found>> {
    let mut statement = connection.prepare_cached(FIND)?;
    let mut rows = statement.query(params![key.tenant.as_str(), key.id.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let id = row.get(0)?;
    Ok(Some(match optional_time(row, 1, "forget_at")? {
        Some(forget_at) => Found::Tombstone(id, forget_at),
        None => Found::Session(id, session(row)?),
    }))
}

/// The session and its row's id.
pub(super) fn load(connection: &Connection, key: &SessionKey) -> Result<(i64, Session)> {
    match find(connection, key)? {
        Some(Found::Session(id, session)) => Ok((id, session)),
        Some(Found::Tombstone(..)) => Err(refusal::session_erased(&key.id).into()),
        None => Err(refusal::session_not_found(&key.id).into()),
    }
}

fn session(row: &Row<'_>) -> Result<Session> {
    Ok(Session {
        id: parsed(row, 2, "session_id")?,
        user_id: optional_parsed(row, 3, "user_id")?,
        status: parsed(row, 4, "status")?,
        language: optional_parsed(row, 5, "language")?,
        metadata: JsonObject::from_stored(text(row, 6, "metadata")?),
        started_at: time(row, 7, "started_at")?,
        ended_at: optional_time(row, 8, "ended_at")?,
        end_reason: optional_text(row, 9, "end_reason")?.map(str::to_owned),
        version: row.get(10)?,
        archived: row.get(11)?,
    })
}

pub(super) fn patch(
    connection: &Connection,
    key: &SessionKey,
    patch: &SessionPatch,
    expected: &Expected,
) -> Result<Session> {
    let (id, mut session) = load(connection, key)?;
    if session.archived {
        return Err(refusal::session_archived(&key.id).into());
    }
    if session.patch(patch, expected)? {
        connection.prepare_cached(UPDATE)?.execute(params![
            session.user_id.as_ref().map(|user| user.as_str()),
            session.language.as_ref().map(|language| language.as_str()),
            session.metadata.as_str(),
            session.version,
            id,
        ])?;
    }
    Ok(session)
}

pub(super) fn end(connection: &Connection, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
    let (id, mut session) = load(connection, key)?;
    let last_seq = connection
        .prepare_cached(LAST_SEQ)?
        .query_row([id], |row| row.get(0))?;
    if session.end(end, now, last_seq) {
        connection.prepare_cached(END)?.execute(params![
            session.status.as_str(),
            session.ended_at.map(Timestamp::unix_ms),
            session.end_reason,
            session.version,
            id,
        ])?;
    }
    Ok(session)
}

/// What an append needs to know of its session.
pub(super) struct Standing {
    pub(super) id: i64,
    pub(super) status: Status,
    pub(super) archived: bool,
    version: i64,
    /// What the next event's must exceed: before the first one, there is something only where the server gave the start.
    pub(super) last_seq: Option<i64>,
    changed: Change,
}

#[derive(PartialEq, Eq)]
enum Change {
    None,
    Advanced,
    Activated,
}

impl Standing {
    pub(super) fn load(connection: &Connection, key: &SessionKey) -> Result<Self> {
        let mut statement = connection.prepare_cached(STANDING)?;
        let mut rows = statement.query(params![key.tenant.as_str(), key.id.as_str()])?;
        let row = rows.next()?;
        let row = row.ok_or_else(|| refusal::session_not_found(&key.id))?;
        if row.get::<_, Option<i64>>(1)?.is_some() {
            return Err(refusal::session_erased(&key.id).into());
        }
        let opened_at = optional_time(row, 7, "opened_at")?;
        let seq_min = opened_at
            .map(|opened_at| Ok::<_, Fault>(Session::seq_min(time(row, 6, "started_at")?, opened_at)))
            .transpose()?
            .flatten();
        Ok(Self {
            id: row.get(0)?,
            version: row.get(2)?,
            last_seq: row.get::<_, Option<i64>>(3)?.or(seq_min.map(|least| least - 1)),
            status: parsed(row, 4, "status")?,
            archived: row.get(5)?,
            changed: Change::None,
        })
    }

    /// The `seq` for the next event; `None` when there is none left.
    pub(super) fn next_seq(&self, proposed: i64) -> Option<i64> {
        match self.last_seq {
            Some(last) if proposed <= last => last.checked_add(1),
            _ => Some(proposed),
        }
    }

    /// Takes note of an event that was stored.
    pub(super) fn advance(&mut self, seq: i64) {
        self.last_seq = Some(seq);
        if self.status == Status::Initiated {
            self.status = Status::Active;
            self.version += 1;
            self.changed = Change::Activated;
        } else if self.changed == Change::None {
            self.changed = Change::Advanced;
        }
    }

    /// Writes what changed; most of the time that touches no index.
    pub(super) fn save(&self, connection: &Connection) -> Result<()> {
        match self.changed {
            Change::None => 0,
            Change::Advanced => connection
                .prepare_cached(ADVANCE)?
                .execute(params![self.last_seq, self.id])?,
            Change::Activated => connection.prepare_cached(ACTIVATE)?.execute(params![
                self.last_seq,
                self.status.as_str(),
                self.version,
                self.id
            ])?,
        };
        Ok(())
    }
}

/// As [`Store::last_seqs`](crate::store::Store::last_seqs).
pub(super) fn last_seqs(connection: &Connection, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
    let last_seq = |key| match Standing::load(connection, key) {
        Ok(standing) => Ok(standing.last_seq),
        Err(Fault::Refused(_)) => Ok(None),
        Err(fault) => Err(fault),
    };
    keys.iter().map(last_seq).collect()
}

pub(super) fn list(connection: &Connection, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
    let (statement, values) = listing(tenant, query);
    let mut statement = connection.prepare_cached(&statement)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        if items.len() == query.limit.get() {
            return Ok(Page {
                items,
                has_more: true,
            });
        }
        items.push(session(row)?);
    }
    Ok(Page {
        items,
        has_more: false,
    })
}

/// The statement of a listing, and its values: its text follows from which filters are given, so that each has the
/// plan made for it. Rows are stepped as far as the page goes, hence no `LIMIT`.
pub(super) fn listing(tenant: &Tenant, query: &SessionQuery) -> (String, Vec<Value>) {
    let filter = &query.filter;
    let mut values = vec![Value::from(tenant.as_str().to_owned())];
    let index = match (&filter.user_id, filter.status) {
        (Some(_), _) => "sessions_by_user",
        (None, Some(_)) => "sessions_by_status",
        (None, None) => "sessions_by_start",
    };
    let mut statement = select_sessions!("INDEXED BY ").to_owned();
    statement += index;
    statement += " WHERE forget_at IS NULL AND tenant = ?";
    if let Some(user_id) = &filter.user_id {
        statement += " AND user_id = ?";
        values.push(user_id.as_str().to_owned().into());
    }
    if let Some(status) = filter.status {
        statement += " AND status = ?";
        values.push(status.as_str().to_owned().into());
    }
    if let Some(started_after) = filter.started_after {
        statement += " AND started_at >= ?";
        values.push(started_after.unix_ms().into());
    }
    // Of two upper bounds an index takes one, so only the lower is given.
    match (&query.after, filter.started_before) {
        (Some(after), before) if before.is_none_or(|before| after.started_at < before) => {
            statement += " AND (started_at, session_id) < (?, ?)";
            values.push(after.started_at.unix_ms().into());
            values.push(after.id.as_str().to_owned().into());
        }
        (_, Some(before)) => {
            statement += " AND started_at < ?";
            values.push(before.unix_ms().into());
        }
        (_, None) => {}
    }
    statement += " ORDER BY started_at DESC, session_id DESC";
    (statement, values)
}
