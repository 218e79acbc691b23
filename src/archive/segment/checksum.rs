//! Checksums of rows. A Parquet file has none of its own that its reader would hold it to, and a row may be damaged on
//! a disk, on the way, or by whoever decodes it: so every row carries one, and no row is believed without it.
//!
//! The checksum of an event covers its place in the session too: which row of it, and whether it is the last. So a row
//! that is skipped, repeated or taken for another's shows, and so does a pointer that is wrong. It covers the payload by
//! the payload's own checksum: a row can be checked, and left out by a filter, without its payload being read.
//!
//! What is hashed is a canonical encoding: numbers as eight bytes, little-endian; text as its length in bytes, such a
//! number, and its UTF-8; what is missing as eight bytes of ones in place of the length.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::domain::{Event, Session, Tenant, Timestamp};

/// Where a row stands among the rows of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Counted from zero.
    pub ordinal: u64,
    pub is_last: bool,
}

/// A row of the events file, but for the payload itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub event_type: &'a str,
    pub timestamp_ms: i64,
    pub seq: i64,
    pub event_id: &'a str,
    pub payload_bytes: i32,
    pub payload_checksum: i32,
}

pub(super) fn of_payload(payload: &str) -> i32 {
    low_half(xxh3_64(payload.as_bytes()))
}

pub(super) fn of_event(tenant: &str, session: &str, place: Place, head: &Head<'_>) -> i32 {
    let mut canonical = Canonical::default();
    canonical.text(tenant);
    canonical.text(session);
    canonical.bits(place.ordinal);
    canonical.number(i64::from(place.is_last));
    canonical.text(head.event_id);
    canonical.number(head.seq);
    canonical.number(head.timestamp_ms);
    canonical.text(head.event_type);
    canonical.number(i64::from(head.payload_bytes));
    canonical.number(i64::from(head.payload_checksum));
    low_half(xxh3_64(&canonical.0))
}

/// Of a row of the sessions file.
pub(super) fn of_session(tenant: &Tenant, session: &Session, epoch: i64, first_row: u64, rows: u64) -> i32 {
    let mut canonical = Canonical::default();
    canonical.text(tenant.as_str());
    canonical.session(session, epoch);
    canonical.bits(first_row);
    canonical.bits(rows);
    low_half(xxh3_64(&canonical.0))
}

/// A digest of a session and its events, kept by the one who wrote them and compared with what is read back: it owes
/// nothing to the file.
pub(super) struct Digest(Xxh3);

impl Digest {
    pub fn new(session: &Session, epoch: i64) -> Self {
        let mut canonical = Canonical::default();
        canonical.session(session, epoch);
        let mut hasher = Xxh3::new();
        hasher.update(&canonical.0);
        Self(hasher)
    }

    pub fn add(&mut self, event: &Event) {
        let head = Head {
            event_type: event.event_type.as_str(),
            timestamp_ms: event.timestamp.unix_ms(),
            seq: event.seq,
            event_id: event.id.as_str(),
            // Neither is part of it.
            payload_bytes: 0,
            payload_checksum: 0,
        };
        self.add_row(&head, event.payload.as_str());
    }

    /// Adds an event as it lies in a file, by what it says and not by its checksums.
    pub fn add_row(&mut self, head: &Head<'_>, payload: &str) {
        let mut canonical = Canonical::default();
        canonical.text(head.event_id);
        canonical.number(head.seq);
        canonical.number(head.timestamp_ms);
        canonical.text(head.event_type);
        canonical.bits(payload.len() as u64);
        self.0.update(&canonical.0);
        self.0.update(payload.as_bytes());
    }

    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

struct Canonical(Vec<u8>);

/// Room for what most rows have beside payload and metadata, so that it need not grow step by step.
const CANONICAL_BYTES: usize = 256;

impl Default for Canonical {
    fn default() -> Self {
        Self(Vec::with_capacity(CANONICAL_BYTES))
    }
}

impl Canonical {
    fn bits(&mut self, bits: u64) {
        self.0.extend_from_slice(&bits.to_le_bytes());
    }

    fn number(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.bits(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn optional_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.bits(u64::MAX),
        }
    }

    fn session(&mut self, session: &Session, epoch: i64) {
        self.text(session.id.as_str());
        self.optional_text(session.user_id.as_ref().map(|id| id.as_str()));
        self.text(session.status.as_str());
        self.optional_text(session.language.as_ref().map(|language| language.as_str()));
        self.text(session.metadata.as_str());
        self.number(session.started_at.unix_ms());
        match session.ended_at.map(Timestamp::unix_ms) {
            Some(ended_at) => {
                self.bits(8);
                self.number(ended_at);
            }
            None => self.bits(u64::MAX),
        }
        self.optional_text(session.end_reason.as_deref());
        self.number(session.version);
        self.number(epoch);
    }
}

/// Four of the eight bytes: a row is small, and one damaged row in four thousand million is let through.
#[allow(clippy::cast_possible_truncation)] // What is wanted.
fn low_half(hash: u64) -> i32 {
    hash as i32
}
