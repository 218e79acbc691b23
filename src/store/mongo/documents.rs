//! What lies in the database, as an operator sees it in Compass or the shell.
//!
//! ```text
//! sessions { _id: "7a11:default/call-7", tenant: "default", sessionId: "call-7", userId: "anna",
//!            status: "active", language: "en-US", metadata: { … }, startedAt: ISODate(…), version: 2, archived: false }
//! an erased one
//!          { _id: "7a11:default/call-7", erased: { at: ISODate(…), forgetAt: ISODate(…) }, sweepAt: ISODate(…) }
//! events   { _id: "7a11:default/call-7/e-1", session: "7a11:default/call-7", eventId: "e-1", seq: 1790000000000000,
//!            timestamp: ISODate(…), type: "user_speech", payload: { … } }
//! ```
//!
//! `life` (2 and up) is on a session that was opened again after an erasure; the `session` of its events ends in `#2`.
//! `sweepAt` is when upkeep next looks for events that an erasure left behind; see [`erasure`](super::erasure).
//! `openedAt` is when the session was opened, by the server's clock.
//!
//! What a session has while it goes on; see [`idle`](super::idle):
//!
//! ```text
//! usedAt: ISODate(…)                                          the last use that a sweep knows of; at first the opening
//! idle: { by: "0198…", until: ISODate(…) }                    a sweep is about to end it, and others leave it alone until then
//! ```
//!
//! What the archive keeps on a session; see [`archive`](super::archive):
//!
//! ```text
//! archive: { segment: "default.2026-09-01.0198…", firstRow: 1200, rows: 57 }   it is archived, and `archived` is true
//! epoch: 1790000000000          grows with every claim and erasure, to the database's clock at least; 0 where it is not there
//! claim: { owner: "default.2026-09-01.0198…", until: ISODate(…) }   somebody archives or restores it until then
//! left: ["default.2026-08-30.0197…"]                          segments that may hold bytes of it besides; never empty
//!                               (`default.1970-01-01.000…`: the erasure marker that is still owed to the archive)
//! tidyAt: ISODate(…)                                          when its hot events are looked at next
//! restoredAt: ISODate(…)                                      when it was brought back last
//! ```
//!
//! A tombstone keeps `epoch` and `left`. An event that was brought back has the `epoch` under which it was.
//! What has no value is left out.

use std::str::FromStr;

use mongodb::bson::{DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};

use super::{
    fault::{Fault, Result},
    keys::{self, Life},
    payload::{DocumentWriter, to_object},
};
use crate::domain::{
    Event, JsonObject, Pointer, SegmentName, Session, SessionId, SessionKey, Status, Tenant, Timestamp,
};

/// What a session's key holds.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Session(Session, Life),
    Tombstone(Tombstone),
}

/// What is left of an erased session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tombstone {
    /// By the database's clock.
    pub(super) at: Timestamp,
    pub(super) forget_at: Timestamp,
    pub(super) life: Life,
    pub(super) sweep_at: Timestamp,
    pub(super) epoch: i64,
    /// The archive may still hold bytes of the session.
    pub(super) is_left: bool,
}

/// How a session stands, without what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    Session(Place),
    Erased,
}

/// Where a session is in its course, and its events with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) status: Status,
    pub(super) life: Life,
    pub(super) epoch: i64,
    /// Of an archived session.
    pub(super) pointer: Option<Pointer>,
    /// There is a claim, whether it stands or not.
    pub(super) is_claimed: bool,
    /// As [`Session::seq_min`].
    pub(super) seq_min: Option<i64>,
    /// A sweep of idle sessions has marked it.
    pub(super) is_marked_idle: bool,
}

/// What a session's document holds besides the session.
#[derive(Debug, Clone)]
pub(super) struct Bookkeeping {
    pub(super) life: Life,
    pub(super) epoch: i64,
    pub(super) opened_at: Option<Timestamp>,
    /// Where an earlier life may have left events behind.
    pub(super) sweep_at: Option<Timestamp>,
}

impl Bookkeeping {
    /// Of a session whose id was never used.
    pub(super) fn new(opened_at: Timestamp) -> Self {
        Self {
            life: Life::FIRST,
            epoch: 0,
            opened_at: Some(opened_at),
            sweep_at: None,
        }
    }
}

pub(super) fn date(at: Timestamp) -> DateTime {
    DateTime::from_millis(at.unix_ms())
}

/// The `archive` of an archived session. Rows are counted by an `i64` in a file, so none is out of range.
pub(super) fn archive(pointer: &Pointer) -> Document {
    let row = |row: u64| i64::try_from(row).unwrap_or(i64::MAX);
    doc! {
        "segment": pointer.segment.to_string(),
        "firstRow": row(pointer.first_row),
        "rows": row(pointer.rows),
    }
}

/// The document of a session.
pub(super) fn session(tenant: &Tenant, session: &Session, besides: &Bookkeeping) -> Result<RawDocumentBuf> {
    let key = SessionKey::new(tenant.clone(), session.id.clone());
    let mut document = DocumentWriter::with_capacity(512 + session.metadata.as_str().len() * 2);
    document.text("_id", &keys::of_session(&key));
    document.text("tenant", tenant.as_str());
    document.text("sessionId", session.id.as_str());
    document.optional_text("userId", session.user_id.as_ref().map(|id| id.as_str()));
    document.text("status", session.status.as_str());
    document.optional_text("language", session.language.as_ref().map(|tag| tag.as_str()));
    document.object("metadata", &session.metadata)?;
    document.date("startedAt", session.started_at);
    if let Some(ended_at) = session.ended_at {
        document.date("endedAt", ended_at);
    }
    document.optional_text("endReason", session.end_reason.as_deref());
    document.integer("version", session.version);
    document.boolean("archived", session.archived);
    if let Some(opened_at) = besides.opened_at {
        document.date("openedAt", opened_at);
        document.date("usedAt", opened_at);
    }
    if let Some(number) = besides.life.number() {
        document.integer("life", number);
    }
    if besides.epoch > 0 {
        document.integer("epoch", besides.epoch);
    }
    if let Some(sweep_at) = besides.sweep_at {
        document.date("sweepAt", sweep_at);
    }
    document.finish()
}

/// The document of an event; `events` is the key that the events of its session share, and `epoch` the one under which
/// it was brought back.
pub(super) fn event(events: &str, event: &Event, epoch: Option<i64>) -> Result<RawDocumentBuf> {
    let mut document = DocumentWriter::with_capacity(512 + event.payload.as_str().len() * 2);
    document.text("_id", &keys::of_event(events, &event.id));
    document.text("session", events);
    document.text("eventId", event.id.as_str());
    document.integer("seq", event.seq);
    document.date("timestamp", event.timestamp);
    document.text("type", event.event_type.as_str());
    document.object("payload", &event.payload)?;
    if let Some(epoch) = epoch {
        document.integer("epoch", epoch);
    }
    document.finish()
}

pub(super) fn read_event(document: &RawDocument, session: &SessionId) -> Result<Event> {
    let fields = Fields(document);
    Ok(Event {
        id: fields.parsed("eventId")?,
        session: session.clone(),
        seq: fields.integer("seq")?,
        event_type: fields.parsed("type")?,
        payload: fields.object("payload")?,
        timestamp: fields.date("timestamp")?,
    })
}

pub(super) fn read_session(document: &RawDocument) -> Result<Stored> {
    let fields = Fields(document);
    if let Some(tombstone) = fields.tombstone()? {
        return Ok(Stored::Tombstone(tombstone));
    }
    let session = Session {
        id: fields.parsed("sessionId")?,
        user_id: fields.optional_parsed("userId")?,
        status: fields.parsed("status")?,
        language: fields.optional_parsed("language")?,
        metadata: fields.object("metadata")?,
        started_at: fields.date("startedAt")?,
        ended_at: fields.optional_date("endedAt")?,
        end_reason: fields.optional_text("endReason")?.map(str::to_owned),
        version: fields.integer("version")?,
        archived: fields.boolean("archived")?,
    };
    Ok(Stored::Session(session, fields.life()?))
}

/// Reads what [`STANDING_FIELDS`] names.
pub(super) fn read_standing(document: &RawDocument) -> Result<Standing> {
    let fields = Fields(document);
    if fields.get("erased")?.is_some() {
        return Ok(Standing::Erased);
    }
    let start = fields.optional_date("startedAt")?;
    let opening = start.zip(fields.optional_date("openedAt")?);
    Ok(Standing::Session(Place {
        status: fields.parsed("status")?,
        life: fields.life()?,
        epoch: fields.epoch()?,
        pointer: fields.pointer()?,
        is_claimed: fields.get("claim")?.is_some(),
        is_marked_idle: fields.get("idle")?.is_some(),
        seq_min: opening.and_then(|(started_at, opened_at)| Session::seq_min(started_at, opened_at)),
    }))
}

pub(super) const STANDING_FIELDS: [&str; 9] = [
    "status",
    "life",
    "erased",
    "epoch",
    "archive",
    "claim",
    "idle",
    "startedAt",
    "openedAt",
];

/// The fields of a stored document: what does not read back as what was written is a fault of the store's.
pub(super) struct Fields<'a>(pub(super) &'a RawDocument);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &'static str) -> Result<Option<RawBsonRef<'a>>> {
        let value = self.0.get(name).map_err(|_| Fault::Stored(name))?;
        Ok(value.filter(|value| !matches!(value, RawBsonRef::Null)))
    }

    fn optional_text(&self, name: &'static str) -> Result<Option<&'a str>> {
        let value = self.get(name)?;
        value
            .map(|value| value.as_str().ok_or(Fault::Stored(name)))
            .transpose()
    }

    pub(super) fn text(&self, name: &'static str) -> Result<&'a str> {
        self.optional_text(name)?.ok_or(Fault::Stored(name))
    }

    fn optional_parsed<T: FromStr>(&self, name: &'static str) -> Result<Option<T>> {
        let text = self.optional_text(name)?;
        text.map(|text| text.parse().map_err(|_| Fault::Stored(name)))
            .transpose()
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &'static str) -> Result<T> {
        self.optional_parsed(name)?.ok_or(Fault::Stored(name))
    }

    pub(super) fn optional_integer(&self, name: &'static str) -> Result<Option<i64>> {
        self.get(name)?
            .map(|value| match value {
                RawBsonRef::Int64(integer) => Ok(integer),
                // An edit by hand in the shell or Compass makes these.
                RawBsonRef::Int32(integer) => Ok(i64::from(integer)),
                _ => Err(Fault::Stored(name)),
            })
            .transpose()
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<i64> {
        self.optional_integer(name)?.ok_or(Fault::Stored(name))
    }

    pub(super) fn boolean(&self, name: &'static str) -> Result<bool> {
        self.get(name)?
            .and_then(RawBsonRef::as_bool)
            .ok_or(Fault::Stored(name))
    }

    pub(super) fn optional_date(&self, name: &'static str) -> Result<Option<Timestamp>> {
        let read = |value: RawBsonRef<'_>| {
            value
                .as_datetime()
                .and_then(|at| Timestamp::from_unix_ms(at.timestamp_millis()))
        };
        self.get(name)?
            .map(|value| read(value).ok_or(Fault::Stored(name)))
            .transpose()
    }

    pub(super) fn date(&self, name: &'static str) -> Result<Timestamp> {
        self.optional_date(name)?.ok_or(Fault::Stored(name))
    }

    pub(super) fn object(&self, name: &'static str) -> Result<JsonObject> {
        let document = self.get(name)?.and_then(RawBsonRef::as_document);
        to_object(document.ok_or(Fault::Stored(name))?)
    }

    /// The key of a session.
    pub(super) fn key(&self) -> Result<SessionKey> {
        Ok(SessionKey::new(self.parsed("tenant")?, self.parsed("sessionId")?))
    }

    pub(super) fn epoch(&self) -> Result<i64> {
        Ok(self.optional_integer("epoch")?.unwrap_or_default())
    }

    pub(super) fn segment(&self) -> Result<SegmentName> {
        self.parsed("segment")
    }

    pub(super) fn pointer(&self) -> Result<Option<Pointer>> {
        let Some(archive) = self.get("archive")? else {
            return Ok(None);
        };
        let archive = Fields(archive.as_document().ok_or(Fault::Stored("archive"))?);
        let row = |name| u64::try_from(archive.integer(name)?).map_err(|_| Fault::Stored(name));
        Ok(Some(Pointer {
            segment: archive.segment()?,
            first_row: row("firstRow")?,
            rows: row("rows")?,
        }))
    }

    /// Whether the session's pointer, its `left` or its last claim names the segment.
    pub(super) fn knows(&self, segment: &SegmentName) -> Result<bool> {
        let name = segment.to_string();
        let is_it =
            |value: Option<RawBsonRef<'_>>| value.and_then(|value| value.as_str()) == Some(name.as_str());
        let of = |field: &'static str, part: &'static str| -> Result<bool> {
            let Some(field) = self.get(field)? else {
                return Ok(false);
            };
            let document = field.as_document().ok_or(Fault::Stored(part))?;
            Ok(is_it(Fields(document).get(part)?))
        };
        if of("archive", "segment")? || of("claim", "owner")? {
            return Ok(true);
        }
        let Some(left) = self.get("left")? else {
            return Ok(false);
        };
        let left = left.as_array().ok_or(Fault::Stored("left"))?;
        let mut names = left.into_iter().filter_map(std::result::Result::ok);
        Ok(names.any(|value| is_it(Some(value))))
    }

    pub(super) fn life(&self) -> Result<Life> {
        match self.optional_integer("life")? {
            None => Ok(Life::FIRST),
            Some(number) => Life::stored(number).ok_or(Fault::Stored("life")),
        }
    }

    pub(super) fn tombstone(&self) -> Result<Option<Tombstone>> {
        let Some(erased) = self.get("erased")? else {
            return Ok(None);
        };
        let erased = Fields(erased.as_document().ok_or(Fault::Stored("erased"))?);
        Ok(Some(Tombstone {
            at: erased.date("at")?,
            forget_at: erased.date("forgetAt")?,
            life: self.life()?,
            sweep_at: self.date("sweepAt")?,
            epoch: self.epoch()?,
            is_left: self.get("left")?.is_some(),
        }))
    }
}
