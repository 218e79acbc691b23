//! An event: one thing that was said or done in a session.

use std::{fmt, str::FromStr, sync::Arc};

use super::{
    error::{Error, Kind, Result},
    id::{EventId, SessionId},
    json::{Fields, JsonObject, ObjectWriter, elements, parsed},
    timestamp::Timestamp,
};

/// Largest payload, in bytes of compact JSON.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Most events of one batch.
pub const BATCH_EVENTS_MAX: usize = 500;

/// The rule for [`EventType`], for the API's schema.
pub const EVENT_TYPE_PATTERN: &str = "^[a-z][a-z0-9_.-]{0,63}$";

/// What kind of event: `user_speech`, `bot_speech`, `system`, or a word of the caller's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

impl EventType {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
        match text.as_bytes() {
            [first, others @ ..]
                if first.is_ascii_lowercase()
                    && others.len() < 64
                    && others.iter().all(|&byte| rest(byte)) =>
            {
                Ok(Self(text.into()))
            }
            _ => Err("must be a lower-case letter and up to 63 more of a-z 0-9 _ . -, such as user_speech"),
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event as a caller gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub id: EventId,
    pub event_type: EventType,
    pub payload: JsonObject,
    /// When it happened; see [`timestamp_with`](Self::timestamp_with) for when it is left out.
    pub timestamp: Option<Timestamp>,
}

impl NewEvent {
    /// The timestamp that the event is stored with once it has this `seq`: the caller's, else the `seq` itself, which is
    /// a time in microseconds. So what the server stamps reads in the order of `seq`, whichever clock gave that.
    pub fn timestamp_with(&self, seq: i64) -> Timestamp {
        self.timestamp.unwrap_or_else(|| Timestamp::of_unix_us(seq))
    }

    /// The event as it is stored under this `seq`.
    pub fn accepted(self, session: SessionId, seq: i64) -> Event {
        let timestamp = self.timestamp_with(seq);
        Event {
            id: self.id,
            session,
            seq,
            event_type: self.event_type,
            payload: self.payload,
            timestamp,
        }
    }

    /// Reads `{eventId, type, payload, timestamp?}`; `prefix` stands before field names in errors.
    pub fn read(bytes: &[u8], prefix: &str) -> Result<Self> {
        BatchItem::read(bytes, prefix).event
    }
}

/// One event of a batch: good, or refused on its own.
#[derive(Debug)]
pub struct BatchItem {
    /// Its id, also where something else in it is wrong. `None` where it has none, two, or one that breaks the rule of ids.
    pub id: Option<EventId>,
    pub event: Result<NewEvent>,
}

impl BatchItem {
    fn read(bytes: &[u8], prefix: &str) -> Self {
        let mut fields = match Fields::split(bytes, prefix) {
            Ok(fields) => fields,
            Err(error) => {
                return Self {
                    id: None,
                    event: Err(error),
                };
            }
        };
        let id: Option<EventId> = fields.required("eventId", parsed);
        let named = id.clone().filter(|_| !fields.has("eventId"));
        let event_type = fields.required("type", parsed);
        let payload = fields.required("payload", |text| JsonObject::read(text, PAYLOAD_BYTES_MAX));
        let timestamp = fields.optional("timestamp", parsed);
        let event = fields.finish(|| {
            Some(NewEvent {
                id: id?,
                event_type: event_type?,
                payload: payload?,
                timestamp,
            })
        });
        Self { id: named, event }
    }
}

/// A batch of events as a caller gives it.
#[derive(Debug)]
pub struct EventBatch(pub Vec<BatchItem>);

impl EventBatch {
    /// Reads `{events: [...]}` of 1 to [`BATCH_EVENTS_MAX`] events.
    ///
    /// # Errors
    /// When the batch as a whole can't be read; an event that breaks a rule is refused in its place.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::split(bytes, "")?;
        let events = fields.required("events", |text| match elements(text, BATCH_EVENTS_MAX)? {
            events if events.is_empty() => Err("must have at least one event".into()),
            events => Ok(events),
        });
        let events = fields.finish(|| events)?;
        let read = |(at, text): (usize, &str)| BatchItem::read(text.as_bytes(), &format!("events[{at}]."));
        Ok(Self(events.into_iter().enumerate().map(read).collect()))
    }
}

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    pub session: SessionId,
    /// Given by the server when it accepted the event, with gaps; see [`Store::append`](crate::store::Store::append).
    pub seq: i64,
    pub event_type: EventType,
    pub payload: JsonObject,
    pub timestamp: Timestamp,
}

impl Event {
    /// Appends it as the API shows it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::new(out);
        object.plain("eventId", self.id.as_str());
        object.plain("sessionId", self.session.as_str());
        object.integer("seq", self.seq);
        object.plain("type", self.event_type.as_str());
        object.raw("payload", self.payload.as_str());
        object.timestamp("timestamp", self.timestamp);
        object.end();
    }

    /// The outcome of appending `new` under this event's id.
    ///
    /// # Errors
    /// [`Kind::EventIdReused`].
    pub fn appended_again(self, new: &NewEvent) -> Result<Appended> {
        if self.is_replayed_by(&new.event_type, &new.payload) {
            return Ok(Appended {
                event: self,
                replayed: true,
            });
        }
        Err(Error::new(
            Kind::EventIdReused,
            format!(
                "session {} has an event {} already, with another type or payload",
                self.session, self.id
            ),
        ))
    }

    /// Whether appending `new` again is a replay of this event rather than a clash with it. The timestamp does
    /// not count: a retrying client may have stamped the event anew.
    pub fn is_replayed_by(&self, event_type: &EventType, payload: &JsonObject) -> bool {
        self.event_type == *event_type && self.payload.same_value(payload)
    }
}

/// The outcome of an append that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The event as it is stored.
    pub event: Event,
    /// It was there already.
    pub replayed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_a_short_lower_case_word() {
        for good in ["a", "user_speech", "tool.call-2", &format!("a{}", "b".repeat(63))] {
            assert!(good.parse::<EventType>().is_ok(), "{good}");
        }
        for bad in ["", "A", "1a", "_a", "a b", "é", &format!("a{}", "b".repeat(64))] {
            assert!(bad.parse::<EventType>().is_err(), "{bad}");
        }
    }
}
