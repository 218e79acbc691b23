//! Rows on their way into the files, column by column.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{Int32Builder, Int64Builder, StringBuilder, TimestampMillisecondBuilder},
};

use super::{
    checksum::{self, Head, Place},
    fault, schema,
};
use crate::domain::{Event, Result, Session, Tenant, Timestamp};

/// What a row takes besides its texts, about.
pub(super) const ROW_BYTES: usize = 64;

/// Rows of the events file.
pub(super) struct EventColumns {
    tenant: StringBuilder,
    session_id: StringBuilder,
    event_type: StringBuilder,
    timestamp: TimestampMillisecondBuilder,
    seq: Int64Builder,
    event_id: StringBuilder,
    payload_bytes: Int32Builder,
    payload_checksum: Int32Builder,
    checksum: Int32Builder,
    payload: StringBuilder,
    /// What the rows take in memory, about.
    bytes: usize,
}

impl EventColumns {
    pub fn new() -> Self {
        Self {
            tenant: StringBuilder::new(),
            session_id: StringBuilder::new(),
            event_type: StringBuilder::new(),
            timestamp: instants(),
            seq: Int64Builder::new(),
            event_id: StringBuilder::new(),
            payload_bytes: Int32Builder::new(),
            payload_checksum: Int32Builder::new(),
            checksum: Int32Builder::new(),
            payload: StringBuilder::new(),
            bytes: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn append(&mut self, tenant: &Tenant, event: &Event, place: Place) -> Result<()> {
        let (tenant, session, payload) = (tenant.as_str(), event.session.as_str(), event.payload.as_str());
        let head = Head {
            event_type: event.event_type.as_str(),
            timestamp_ms: event.timestamp.unix_ms(),
            seq: event.seq,
            event_id: event.id.as_str(),
            payload_bytes: i32::try_from(payload.len()).map_err(fault::of_encoding)?,
            payload_checksum: checksum::of_payload(payload),
        };
        self.tenant.append_value(tenant);
        self.session_id.append_value(session);
        self.event_type.append_value(head.event_type);
        self.timestamp.append_value(head.timestamp_ms);
        self.seq.append_value(head.seq);
        self.event_id.append_value(head.event_id);
        self.payload_bytes.append_value(head.payload_bytes);
        self.payload_checksum.append_value(head.payload_checksum);
        self.checksum
            .append_value(checksum::of_event(tenant, session, place, &head));
        self.payload.append_value(payload);
        self.bytes += payload.len() + tenant.len() + session.len() + head.event_id.len() + ROW_BYTES;
        Ok(())
    }

    /// The rows; none are left.
    pub fn take(&mut self) -> Result<RecordBatch> {
        self.bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.tenant.finish()),
            Arc::new(self.session_id.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.event_id.finish()),
            Arc::new(self.payload_bytes.finish()),
            Arc::new(self.payload_checksum.finish()),
            Arc::new(self.checksum.finish()),
            Arc::new(self.payload.finish()),
        ];
        RecordBatch::try_new(schema::events(), columns).map_err(fault::of_encoding)
    }
}

/// Rows of the sessions file.
pub(super) struct SessionColumns {
    tenant: StringBuilder,
    session_id: StringBuilder,
    user_id: StringBuilder,
    status: StringBuilder,
    language: StringBuilder,
    metadata: StringBuilder,
    started_at: TimestampMillisecondBuilder,
    ended_at: TimestampMillisecondBuilder,
    end_reason: StringBuilder,
    version: Int64Builder,
    epoch: Int64Builder,
    first_row: Int64Builder,
    rows: Int64Builder,
    checksum: Int32Builder,
    /// What the rows take in memory, about.
    bytes: usize,
}

impl SessionColumns {
    pub fn new() -> Self {
        Self {
            tenant: StringBuilder::new(),
            session_id: StringBuilder::new(),
            user_id: StringBuilder::new(),
            status: StringBuilder::new(),
            language: StringBuilder::new(),
            metadata: StringBuilder::new(),
            started_at: instants(),
            ended_at: instants(),
            end_reason: StringBuilder::new(),
            version: Int64Builder::new(),
            epoch: Int64Builder::new(),
            first_row: Int64Builder::new(),
            rows: Int64Builder::new(),
            checksum: Int32Builder::new(),
            bytes: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn append(
        &mut self,
        tenant: &Tenant,
        session: &Session,
        epoch: i64,
        first_row: u64,
        rows: u64,
    ) -> Result<()> {
        let reason = session.end_reason.as_deref();
        let ended_at = session.ended_at.map(Timestamp::unix_ms);
        let checksum = checksum::of_session(tenant, session, epoch, first_row, rows);
        self.tenant.append_value(tenant.as_str());
        self.session_id.append_value(session.id.as_str());
        self.user_id
            .append_option(session.user_id.as_ref().map(|id| id.as_str()));
        self.status.append_value(session.status.as_str());
        self.language
            .append_option(session.language.as_ref().map(|language| language.as_str()));
        self.metadata.append_value(session.metadata.as_str());
        self.started_at.append_value(session.started_at.unix_ms());
        self.ended_at.append_option(ended_at);
        self.end_reason.append_option(reason);
        self.version.append_value(session.version);
        self.epoch.append_value(epoch);
        self.first_row
            .append_value(i64::try_from(first_row).map_err(fault::of_encoding)?);
        self.rows
            .append_value(i64::try_from(rows).map_err(fault::of_encoding)?);
        self.checksum.append_value(checksum);
        let texts = session.id.as_str().len() + session.metadata.as_str().len() + reason.map_or(0, str::len);
        self.bytes += texts + 2 * ROW_BYTES;
        Ok(())
    }

    /// The rows; none are left.
    pub fn take(&mut self) -> Result<RecordBatch> {
        self.bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.tenant.finish()),
            Arc::new(self.session_id.finish()),
            Arc::new(self.user_id.finish()),
            Arc::new(self.status.finish()),
            Arc::new(self.language.finish()),
            Arc::new(self.metadata.finish()),
            Arc::new(self.started_at.finish()),
            Arc::new(self.ended_at.finish()),
            Arc::new(self.end_reason.finish()),
            Arc::new(self.version.finish()),
            Arc::new(self.epoch.finish()),
            Arc::new(self.first_row.finish()),
            Arc::new(self.rows.finish()),
            Arc::new(self.checksum.finish()),
        ];
        RecordBatch::try_new(schema::sessions(), columns).map_err(fault::of_encoding)
    }
}

fn instants() -> TimestampMillisecondBuilder {
    TimestampMillisecondBuilder::new().with_timezone(schema::UTC)
}
