//! Rows as they come out of the files, each held to its checksum.

use std::sync::Arc;

use arrow_array::{
    Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    cast::AsArray,
    types::{Int32Type, Int64Type, TimestampMillisecondType},
};

use super::{
    checksum::{self, Head, Place},
    columns, fault, schema,
};
use crate::domain::{
    Event, JsonObject, Pointer, Result, SegmentName, Session, SessionId, SessionKey, Tenant, Timestamp,
};

/// The rows of one batch that say which events they are; see [`schema::heads`].
pub(super) struct Heads<'a> {
    event_type: &'a StringArray,
    timestamp: &'a TimestampMillisecondArray,
    seq: &'a Int64Array,
    event_id: &'a StringArray,
    payload_bytes: &'a Int32Array,
    payload_checksum: &'a Int32Array,
    checksum: &'a Int32Array,
}

impl<'a> Heads<'a> {
    /// `first` is the place of the column `type` in the batch.
    fn of(batch: &'a RecordBatch, first: usize) -> Option<Self> {
        let at = |column: usize| first + column - schema::event::TYPE;
        Some(Self {
            event_type: texts(batch, at(schema::event::TYPE))?,
            timestamp: instants(batch, at(schema::event::TIMESTAMP))?,
            seq: longs(batch, at(schema::event::SEQ))?,
            event_id: texts(batch, at(schema::event::EVENT_ID))?,
            payload_bytes: integers(batch, at(schema::event::PAYLOAD_BYTES))?,
            payload_checksum: integers(batch, at(schema::event::PAYLOAD_CHECKSUM))?,
            checksum: integers(batch, at(schema::event::CHECKSUM))?,
        })
    }

    fn get(&self, row: usize) -> (Head<'a>, i32) {
        let head = Head {
            event_type: self.event_type.value(row),
            timestamp_ms: self.timestamp.value(row),
            seq: self.seq.value(row),
            event_id: self.event_id.value(row),
            payload_bytes: self.payload_bytes.value(row),
            payload_checksum: self.payload_checksum.value(row),
        };
        (head, self.checksum.value(row))
    }
}

/// Goes through rows of a session that lies where `pointer` says; `ordinals` are those that were asked for.
///
/// # Errors
/// A row is not what was written, or not the one that was asked for; there are more or fewer than that.
pub(super) fn for_each_head(
    batches: &[RecordBatch],
    ordinals: impl IntoIterator<Item = u64>,
    key: &SessionKey,
    pointer: &Pointer,
    mut each: impl FnMut(u64, &Head<'_>) -> Result<()>,
) -> Result<()> {
    let name = &pointer.segment;
    let mut ordinals = ordinals.into_iter();
    for batch in batches {
        let heads = Heads::of(batch, 0).ok_or_else(|| fault::damaged(name, "a column has nulls"))?;
        for row in 0..batch.num_rows() {
            let (head, checksum) = heads.get(row);
            let ordinal = ordinals.next().ok_or_else(|| miscounted(name))?;
            let place = Place {
                ordinal,
                is_last: ordinal + 1 == pointer.rows,
            };
            if checksum::of_event(key.tenant.as_str(), key.id.as_str(), place, &head) != checksum {
                return Err(wrong_row(name));
            }
            each(ordinal, &head)?;
        }
    }
    match ordinals.next() {
        None => Ok(()),
        Some(_) => Err(miscounted(name)),
    }
}

fn miscounted(name: &SegmentName) -> crate::domain::Error {
    fault::damaged(name, "it has other rows than its footer says")
}

fn wrong_row(name: &SegmentName) -> crate::domain::Error {
    fault::damaged(name, "a row is not what was written there")
}

/// An event that is known but for its payload.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub ordinal: u64,
    pub payload_bytes: usize,
    payload_checksum: i32,
    /// Its payload is empty.
    event: Event,
}

impl Found {
    pub fn new(name: &SegmentName, session: &SessionId, ordinal: u64, head: &Head<'_>) -> Result<Self> {
        let event = event(session, head, JsonObject::default());
        Ok(Self {
            ordinal,
            payload_bytes: usize::try_from(head.payload_bytes).map_err(|_| wrong_row(name))?,
            payload_checksum: head.payload_checksum,
            event: event.ok_or_else(|| wrong_row(name))?,
        })
    }

    pub fn id(&self) -> &crate::domain::EventId {
        &self.event.id
    }

    /// # Errors
    /// It is not the payload that was written.
    pub fn with_payload(self, name: &SegmentName, payload: &str) -> Result<Event> {
        if payload.len() != self.payload_bytes || checksum::of_payload(payload) != self.payload_checksum {
            return Err(wrong_row(name));
        }
        Ok(Event {
            payload: JsonObject::from_stored(payload),
            ..self.event
        })
    }
}

fn event(session: &SessionId, head: &Head<'_>, payload: JsonObject) -> Option<Event> {
    Some(Event {
        id: head.event_id.parse().ok()?,
        session: session.clone(),
        seq: head.seq,
        event_type: head.event_type.parse().ok()?,
        timestamp: Timestamp::from_unix_ms(head.timestamp_ms)?,
        payload,
    })
}

/// The payloads of rows of which nothing else was asked for.
///
/// # Errors
/// There are other than `count`.
pub(super) fn payloads(name: &SegmentName, batches: &[RecordBatch], count: usize) -> Result<Vec<Arc<str>>> {
    let mut payloads = Vec::with_capacity(count);
    for batch in batches {
        let column = texts(batch, 0).ok_or_else(|| fault::damaged(name, "a column has nulls"))?;
        payloads.extend((0..batch.num_rows()).map(|row| Arc::from(column.value(row))));
    }
    if payloads.len() == count {
        Ok(payloads)
    } else {
        Err(miscounted(name))
    }
}

/// The rows of a batch of the events file, with all columns.
pub(super) struct WholeRows<'a> {
    tenant: &'a StringArray,
    session: &'a StringArray,
    heads: Heads<'a>,
    payload: &'a StringArray,
}

impl<'a> WholeRows<'a> {
    /// # Errors
    /// A column has nulls.
    pub fn of(name: &SegmentName, batch: &'a RecordBatch) -> Result<Self> {
        let columns = || {
            Some(Self {
                tenant: texts(batch, schema::event::TENANT)?,
                session: texts(batch, schema::event::SESSION_ID)?,
                heads: Heads::of(batch, schema::event::TYPE)?,
                payload: texts(batch, schema::event::PAYLOAD)?,
            })
        };
        columns().ok_or_else(|| fault::damaged(name, "a column has nulls"))
    }

    /// A row, with its payload.
    ///
    /// # Errors
    /// It is not the row of that session that was written there.
    pub fn get(
        &self,
        name: &SegmentName,
        row: usize,
        tenant: &Tenant,
        session: &SessionId,
        place: Place,
    ) -> Result<(Head<'a>, &'a str)> {
        let ((head, checksum), payload) = (self.heads.get(row), self.payload.value(row));
        let (tenant, session) = (tenant.as_str(), session.as_str());
        let is_sound = self.tenant.value(row) == tenant
            && self.session.value(row) == session
            && usize::try_from(head.payload_bytes) == Ok(payload.len())
            && checksum::of_payload(payload) == head.payload_checksum
            && checksum::of_event(tenant, session, place, &head) == checksum;
        match is_sound {
            true => Ok((head, payload)),
            false => Err(wrong_row(name)),
        }
    }

    /// Timestamp, `seq` and id of a row.
    pub fn position(&self, row: usize) -> (i64, i64, &'a str) {
        let Heads {
            timestamp,
            seq,
            event_id,
            ..
        } = &self.heads;
        (timestamp.value(row), seq.value(row), event_id.value(row))
    }

    /// What a row takes in memory, about.
    pub fn bytes(&self, row: usize) -> usize {
        let texts = [self.tenant, self.session, self.heads.event_id, self.payload];
        let texts: usize = texts.iter().map(|texts| texts.value(row).len()).sum();
        texts + columns::ROW_BYTES
    }
}

/// A row of the events file, whole, whose place in its session is not known yet.
pub(super) struct WholeRow {
    pub session: SessionId,
    pub event: Event,
    checksum: i32,
}

impl WholeRow {
    /// All rows of a batch.
    ///
    /// # Errors
    /// A row is of another tenant, or can't be an event.
    pub fn all(name: &SegmentName, batch: &RecordBatch) -> Result<Vec<Self>> {
        let all = WholeRows::of(name, batch)?;
        let row = |row: usize| {
            let (head, checksum) = all.heads.get(row);
            if all.tenant.value(row) != name.tenant().as_str() {
                return Err(wrong_row(name));
            }
            let session: SessionId = all.session.value(row).parse().map_err(|_| wrong_row(name))?;
            let found = Found::new(name, &session, 0, &head)?;
            Ok(Self {
                session,
                event: found.with_payload(name, all.payload.value(row))?,
                checksum,
            })
        };
        (0..batch.num_rows()).map(row).collect()
    }

    /// # Errors
    /// It is not the row that was written there.
    pub fn at(self, name: &SegmentName, place: Place) -> Result<(SessionId, Event)> {
        let payload = self.event.payload.as_str();
        let head = Head {
            event_type: self.event.event_type.as_str(),
            timestamp_ms: self.event.timestamp.unix_ms(),
            seq: self.event.seq,
            event_id: self.event.id.as_str(),
            payload_bytes: i32::try_from(payload.len()).map_err(|_| wrong_row(name))?,
            payload_checksum: checksum::of_payload(payload),
        };
        let (tenant, session) = (name.tenant().as_str(), self.session.as_str());
        if checksum::of_event(tenant, session, place, &head) != self.checksum {
            return Err(wrong_row(name));
        }
        Ok((self.session, self.event))
    }
}

/// A row of the sessions file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// As it was when it was archived, with `archived` true.
    pub session: Session,
    pub epoch: i64,
    pub pointer: Pointer,
}

impl SessionRow {
    /// All rows of a batch.
    ///
    /// # Errors
    /// A row is not what was written.
    pub(super) fn all(name: &SegmentName, batch: &RecordBatch) -> Result<Vec<Self>> {
        let columns = SessionFields::of(batch).ok_or_else(|| fault::damaged(name, "a column has nulls"))?;
        let row = |row| columns.row(name, row).ok_or_else(|| wrong_row(name));
        (0..batch.num_rows()).map(row).collect()
    }
}

struct SessionFields<'a> {
    tenant: &'a StringArray,
    session_id: &'a StringArray,
    user_id: &'a StringArray,
    status: &'a StringArray,
    language: &'a StringArray,
    metadata: &'a StringArray,
    started_at: &'a TimestampMillisecondArray,
    ended_at: &'a TimestampMillisecondArray,
    end_reason: &'a StringArray,
    version: &'a Int64Array,
    epoch: &'a Int64Array,
    first_row: &'a Int64Array,
    rows: &'a Int64Array,
    checksum: &'a Int32Array,
}

impl<'a> SessionFields<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        use schema::session;
        Some(Self {
            tenant: texts(batch, session::TENANT)?,
            session_id: texts(batch, session::SESSION_ID)?,
            user_id: batch.column(session::USER_ID).as_string_opt()?,
            status: texts(batch, session::STATUS)?,
            language: batch.column(session::LANGUAGE).as_string_opt()?,
            metadata: texts(batch, session::METADATA)?,
            started_at: instants(batch, session::STARTED_AT)?,
            ended_at: batch
                .column(session::ENDED_AT)
                .as_primitive_opt::<TimestampMillisecondType>()?,
            end_reason: batch.column(session::END_REASON).as_string_opt()?,
            version: longs(batch, session::VERSION)?,
            epoch: longs(batch, session::EPOCH)?,
            first_row: longs(batch, session::FIRST_ROW)?,
            rows: longs(batch, session::ROWS)?,
            checksum: integers(batch, session::CHECKSUM)?,
        })
    }

    fn row(&self, name: &SegmentName, row: usize) -> Option<SessionRow> {
        let ended_at = self.ended_at.is_valid(row).then(|| self.ended_at.value(row));
        let session = Session {
            id: self.session_id.value(row).parse().ok()?,
            user_id: optional(self.user_id, row).map(str::parse).transpose().ok()?,
            status: self.status.value(row).parse().ok()?,
            language: optional(self.language, row).map(str::parse).transpose().ok()?,
            metadata: JsonObject::from_stored(self.metadata.value(row)),
            started_at: Timestamp::from_unix_ms(self.started_at.value(row))?,
            ended_at: match ended_at {
                Some(ms) => Some(Timestamp::from_unix_ms(ms)?),
                None => None,
            },
            end_reason: optional(self.end_reason, row).map(str::to_owned),
            version: self.version.value(row),
            archived: true,
        };
        let epoch = self.epoch.value(row);
        let first_row = u64::try_from(self.first_row.value(row)).ok()?;
        let rows = u64::try_from(self.rows.value(row)).ok()?;
        let checksum = checksum::of_session(name.tenant(), &session, epoch, first_row, rows);
        let is_sound =
            self.tenant.value(row) == name.tenant().as_str() && self.checksum.value(row) == checksum;
        is_sound.then(|| SessionRow {
            session,
            epoch,
            pointer: Pointer {
                segment: name.clone(),
                first_row,
                rows,
            },
        })
    }
}

fn optional(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn texts(batch: &RecordBatch, column: usize) -> Option<&StringArray> {
    let column = batch.columns().get(column)?.as_string_opt()?;
    (column.null_count() == 0).then_some(column)
}

fn longs(batch: &RecordBatch, column: usize) -> Option<&Int64Array> {
    let column = batch.columns().get(column)?.as_primitive_opt::<Int64Type>()?;
    (column.null_count() == 0).then_some(column)
}

fn integers(batch: &RecordBatch, column: usize) -> Option<&Int32Array> {
    let column = batch.columns().get(column)?.as_primitive_opt::<Int32Type>()?;
    (column.null_count() == 0).then_some(column)
}

fn instants(batch: &RecordBatch, column: usize) -> Option<&TimestampMillisecondArray> {
    let column = batch
        .columns()
        .get(column)?
        .as_primitive_opt::<TimestampMillisecondType>()?;
    (column.null_count() == 0).then_some(column)
}
