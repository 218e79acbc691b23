//! Statements about events.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{CachedStatement, Connection, Row, params, params_from_iter, types::Value};

use super::{
    entries,
    fault::{Fault, Result},
    row::{parsed, text, time},
    sessions::Standing,
};
use crate::{
    domain::{
        self, Appended, Error, Event, EventId, EventPosition, EventQuery, JsonObject, Order, SessionId,
        SessionKey, Timestamp,
    },
    store::{Append, HotEvent, HotEvents, refusal},
};

const INSERT: &str = "INSERT INTO events (session, event_id, seq, timestamp, type, payload) \
     VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (session, event_id) DO NOTHING";
const FIND: &str = "SELECT event_id, seq, timestamp, type, payload FROM events INDEXED BY events_once \
     WHERE session = ? AND event_id = ?";
const PAGE: &str = "SELECT event_id, seq, timestamp, type, payload FROM events INDEXED BY events_in_order \
     WHERE session = ?";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[INSERT, FIND];

/// Appends a batch, inside the transaction that the caller holds.
///
/// # Errors
/// As a whole only when that transaction is lost, or a session could not be brought up to date.
pub(super) fn append(connection: &Connection, batch: Vec<Append>) -> Result<Vec<domain::Result<Appended>>> {
    let mut appender = Appender {
        connection,
        insert: connection.prepare_cached(INSERT)?,
        standings: HashMap::new(),
    };
    let mut outcomes = Vec::with_capacity(batch.len());
    for one in batch {
        match appender.append(one) {
            Ok(appended) => outcomes.push(Ok(appended)),
            // SQLite took back the whole transaction: going on would write outside of any.
            Err(fault) if connection.is_autocommit() => return Err(fault),
            // A statement that fails undoes itself, so the neighbours need no savepoint.
            Err(fault) => outcomes.push(Err(Error::from(fault))),
        }
    }
    for standing in appender.standings.values() {
        standing.save(connection)?;
    }
    Ok(outcomes)
}

struct Appender<'a> {
    connection: &'a Connection,
    insert: CachedStatement<'a>,
    /// Each session of the batch is looked up once, and written once.
    standings: HashMap<SessionKey, Standing>,
}

impl Appender<'_> {
    fn append(&mut self, append: Append) -> Result<Appended> {
        let Append {
            key,
            event,
            seq: proposed,
            // One writer numbers all events, so it may raise what others reserved: nobody else gives the next one.
            reserved: _,
        } = append;
        let session = key.id.clone();
        let standing = match self.standings.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let standing = Standing::load(self.connection, unknown.key())?;
                unknown.insert(standing)
            }
        };
        if standing.archived {
            return Err(refusal::session_archived(&session).into());
        }
        let ended = standing.status.has_ended();
        let seq = standing.next_seq(proposed).filter(|_| !ended);
        if let Some(seq) = seq {
            let inserted = self.insert.execute(params![
                standing.id,
                event.id.as_str(),
                seq,
                event.timestamp_with(seq).unix_ms(),
                event.event_type.as_str(),
                event.payload.as_str(),
            ])?;
            if inserted == 1 {
                standing.advance(seq);
                return Ok(Appended {
                    event: event.accepted(session, seq),
                    replayed: false,
                });
            }
        }
        match find(self.connection, standing.id, &session, &event.id)? {
            Some(stored) => Ok(stored.appended_again(&event)?),
            None if ended => Err(refusal::session_ended(&session).into()),
            None if seq.is_none() => Err(refusal::seq_exhausted(&session).into()),
            None => Err(Fault::Stored("event")),
        }
    }
}

fn find(
    connection: &Connection,
    session: i64,
    session_id: &SessionId,
    id: &EventId,
) -> Result<Option<Event>> {
    let mut statement = connection.prepare_cached(FIND)?;
    let mut rows = statement.query(params![session, id.as_str()])?;
    let row = rows.next()?;
    row.map(|row| event(row, session_id, text(row, PAYLOAD, "payload")?))
        .transpose()
}

const PAYLOAD: usize = 4;

fn event(row: &Row<'_>, session: &SessionId, payload: &str) -> Result<Event> {
    Ok(Event {
        id: parsed(row, 0, "event_id")?,
        session: session.clone(),
        seq: row.get(1)?,
        timestamp: time(row, 2, "timestamp")?,
        event_type: parsed(row, 3, "type")?,
        payload: JsonObject::from_stored(payload),
    })
}

pub(super) fn get(connection: &Connection, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
    let (session, archived) = entries::locate(connection, key)?;
    let event = find(connection, session, &key.id, id)?;
    if event.is_none() && archived.is_none() {
        return Err(refusal::event_not_found(&key.id, id).into());
    }
    Ok(HotEvent { event, archived })
}

pub(super) fn page(connection: &Connection, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
    let (session, archived) = entries::locate(connection, key)?;
    let (statement, values) = paging(session, query);
    let mut statement = connection.prepare_cached(&statement)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut items = Vec::new();
    let mut payload_bytes = 0;
    while let Some(row) = rows.next()? {
        let payload = text(row, PAYLOAD, "payload")?;
        payload_bytes += payload.len();
        let full = items.len() == query.limit.get()
            || (!items.is_empty() && payload_bytes > query.payload_bytes_max);
        if full {
            return Ok(HotEvents {
                items,
                has_more: true,
                archived,
            });
        }
        items.push(event(row, &key.id, payload)?);
    }
    Ok(HotEvents {
        items,
        has_more: false,
        archived,
    })
}

/// The statement of a page, and its values: its text follows from which bounds are given, so that the page is one
/// range of the index, at any depth. Rows are stepped as far as the page goes, hence no `LIMIT`.
pub(super) fn paging(session: i64, query: &EventQuery) -> (String, Vec<Value>) {
    let mut statement = PAGE.to_owned();
    let mut values = vec![Value::from(session)];
    let (lower, upper) = range(query);
    match lower {
        Some(Bound::Time(since)) => {
            statement += " AND timestamp >= ?";
            values.push(since.unix_ms().into());
        }
        Some(Bound::Position(after)) => {
            statement += " AND (timestamp, seq, event_id) > (?, ?, ?)";
            values.extend(position(after));
        }
        None => {}
    }
    match upper {
        Some(Bound::Time(until)) => {
            statement += " AND timestamp < ?";
            values.push(until.unix_ms().into());
        }
        Some(Bound::Position(before)) => {
            statement += " AND (timestamp, seq, event_id) < (?, ?, ?)";
            values.extend(position(before));
        }
        None => {}
    }
    if let Some(event_type) = &query.filter.event_type {
        statement += " AND type = ?";
        values.push(event_type.as_str().to_owned().into());
    }
    statement += match query.order {
        Order::Ascending => " ORDER BY timestamp, seq, event_id",
        Order::Descending => " ORDER BY timestamp DESC, seq DESC, event_id DESC",
    };
    (statement, values)
}

enum Bound<'a> {
    /// As a lower bound inclusive, as an upper one exclusive.
    Time(Timestamp),
    /// Exclusive.
    Position(&'a EventPosition),
}

/// The ends of the range: of a filter and a position that bound the same end an index would take one and test the
/// other row by row, so only the narrower is given.
fn range(query: &EventQuery) -> (Option<Bound<'_>>, Option<Bound<'_>>) {
    let (after, before) = match query.order {
        Order::Ascending => (query.after.as_ref(), None),
        Order::Descending => (None, query.after.as_ref()),
    };
    let since = query.filter.since;
    let lower = match after {
        Some(after) if since.is_none_or(|since| after.timestamp >= since) => Some(Bound::Position(after)),
        _ => since.map(Bound::Time),
    };
    let until = query.filter.until;
    let upper = match before {
        Some(before) if until.is_none_or(|until| before.timestamp < until) => Some(Bound::Position(before)),
        _ => until.map(Bound::Time),
    };
    (lower, upper)
}

fn position(position: &EventPosition) -> [Value; 3] {
    [
        position.timestamp.unix_ms().into(),
        position.seq.into(),
        position.id.as_str().to_owned().into(),
    ]
}
