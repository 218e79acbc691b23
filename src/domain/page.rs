//! Pages: order, limits, filters, and the cursors that walk them.
//!
//! A walk is by key, never by offset: the cursor holds the position of the last item given out and the next page
//! starts behind it. So a page costs the same at any depth, and a walk neither skips nor repeats an item that
//! existed when it began (I4).

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    error::{Error, Kind, Result},
    event::{Event, EventType},
    id::{EventId, SessionId, SessionKey, Tenant, UserId},
    session::{Session, Status},
    timestamp::Timestamp,
};

/// Items on a page when the caller names no limit.
pub const LIMIT_DEFAULT: u16 = 50;

/// Most items on a page.
pub const LIMIT_MAX: u16 = 500;

/// How many items a page may have: 1 to [`LIMIT_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit(u16);

impl Limit {
    pub const MAX: Self = Self(LIMIT_MAX);

    /// `count`, or as near to it as a limit can be.
    pub const fn at_most(count: u16) -> Self {
        match count {
            0 => Self(1),
            1..LIMIT_MAX => Self(count),
            _ => Self::MAX,
        }
    }

    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(LIMIT_DEFAULT)
    }
}

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit) && text.starts_with(|c: char| c.is_ascii_digit()))
            .map(Self)
            .ok_or("must be a whole number from 1 to 500")
    }
}

/// Which way events are read: by `(timestamp, seq, eventId)`, up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Order {
    #[default]
    Ascending,
    Descending,
}

impl Order {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ascending => "asc",
            Self::Descending => "desc",
        }
    }
}

impl FromStr for Order {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            _ => Err("must be asc or desc"),
        }
    }
}

/// Some items, and whether there are more behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub has_more: bool,
}

/// The place of an event in its session's order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventPosition {
    pub timestamp: Timestamp,
    pub seq: i64,
    pub id: EventId,
}

impl From<&Event> for EventPosition {
    fn from(event: &Event) -> Self {
        Self {
            timestamp: event.timestamp,
            seq: event.seq,
            id: event.id.clone(),
        }
    }
}

/// Which events of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct EventFilter {
    pub event_type: Option<EventType>,
    /// Inclusive.
    pub since: Option<Timestamp>,
    /// Exclusive.
    pub until: Option<Timestamp>,
}

/// One page of a session's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    pub filter: EventFilter,
    pub order: Order,
    pub after: Option<EventPosition>,
    pub limit: Limit,
    /// The page ends early, with at least one event, before its payloads pass this size.
    pub payload_bytes_max: usize,
}

/// The place of a session in the listing: newest first, then by id from the last to the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPosition {
    pub started_at: Timestamp,
    pub id: SessionId,
}

impl From<&Session> for SessionPosition {
    fn from(session: &Session) -> Self {
        Self {
            started_at: session.started_at,
            id: session.id.clone(),
        }
    }
}

/// Which sessions of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    pub status: Option<Status>,
    pub user_id: Option<UserId>,
    /// Inclusive, so that adjacent windows share no session and leave none out.
    pub started_after: Option<Timestamp>,
    /// Exclusive.
    pub started_before: Option<Timestamp>,
}

/// One page of a tenant's sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionQuery {
    pub filter: SessionFilter,
    pub after: Option<SessionPosition>,
    pub limit: Limit,
}

/// A place in a walk, as opaque text: version, query, position, checksum; base64url without padding.
///
/// A cursor is tied to the query that made it (tenant, session, order, filters), so one of another query is
/// refused rather than answered with nonsense. The checksum catches accidents, not forgers; a forger gains
/// nothing, since the tenant and the session a page is read from never come out of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    query: u64,
}

const CURSOR_VERSION: u8 = 1;
const CURSOR_HEAD_BYTES: usize = 1 + 8 + 8 + 8;
const CURSOR_CHECK_BYTES: usize = 4;

impl Cursor {
    /// Cursors of a walk over a session's events.
    pub fn of_events(key: &SessionKey, order: Order, filter: &EventFilter) -> Self {
        let EventFilter {
            event_type,
            since,
            until,
        } = filter;
        let event_type = event_type.as_ref().map_or("", EventType::as_str);
        let (since, until) = (bound(*since), bound(*until));
        Self::of_query(&format!(
            "events {key} {} {event_type} {since} {until}",
            order.as_str()
        ))
    }

    /// Cursors of a walk over a tenant's sessions.
    pub fn of_sessions(tenant: &Tenant, filter: &SessionFilter) -> Self {
        let SessionFilter {
            status,
            user_id,
            started_after,
            started_before,
        } = filter;
        let status = status.map_or("", Status::as_str);
        let user_id = user_id.as_ref().map_or("", UserId::as_str);
        let (after, before) = (bound(*started_after), bound(*started_before));
        // No other filter has this text: only the user id may hold spaces, and it stands between fields that hold none.
        Self::of_query(&format!("sessions {tenant} {status} {user_id} {after} {before}"))
    }

    fn of_query(description: &str) -> Self {
        Self {
            query: xxh3_64(description.as_bytes()),
        }
    }

    pub fn event(self, position: &EventPosition) -> String {
        self.encode(position.timestamp, position.seq, position.id.as_str())
    }

    pub fn session(self, position: &SessionPosition) -> String {
        self.encode(position.started_at, 0, position.id.as_str())
    }

    /// # Errors
    /// [`Kind::InvalidCursor`].
    pub fn read_event(self, text: &str) -> Result<EventPosition> {
        let (timestamp, seq, id) = self.decode(text)?;
        let id = id.parse().map_err(|_| not_ours())?;
        Ok(EventPosition { timestamp, seq, id })
    }

    /// # Errors
    /// [`Kind::InvalidCursor`].
    pub fn read_session(self, text: &str) -> Result<SessionPosition> {
        let (started_at, _, id) = self.decode(text)?;
        let id = id.parse().map_err(|_| not_ours())?;
        Ok(SessionPosition { started_at, id })
    }

    fn encode(self, timestamp: Timestamp, seq: i64, id: &str) -> String {
        let mut bytes = Vec::with_capacity(CURSOR_HEAD_BYTES + id.len() + CURSOR_CHECK_BYTES);
        bytes.push(CURSOR_VERSION);
        bytes.extend_from_slice(&self.query.to_be_bytes());
        bytes.extend_from_slice(&timestamp.unix_ms().to_be_bytes());
        bytes.extend_from_slice(&seq.to_be_bytes());
        bytes.extend_from_slice(id.as_bytes());
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(self, text: &str) -> Result<(Timestamp, i64, String)> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| not_ours())?;
        let (body, check) = bytes
            .split_last_chunk::<CURSOR_CHECK_BYTES>()
            .ok_or_else(not_ours)?;
        let (head, id) = body
            .split_first_chunk::<CURSOR_HEAD_BYTES>()
            .ok_or_else(not_ours)?;
        if *check != checksum(body) || head[0] != CURSOR_VERSION {
            return Err(not_ours());
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[at..at + 8]);
            word
        };
        if u64::from_be_bytes(word(1)) != self.query {
            return Err(Error::new(
                Kind::InvalidCursor,
                "the cursor belongs to another query: keep the path, order and filters while you page",
            ));
        }
        let timestamp = Timestamp::from_unix_ms(i64::from_be_bytes(word(9))).ok_or_else(not_ours)?;
        let id = String::from_utf8(id.to_vec()).map_err(|_| not_ours())?;
        Ok((timestamp, i64::from_be_bytes(word(17)), id))
    }
}

fn bound(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| at.unix_ms().to_string())
}

fn checksum(bytes: &[u8]) -> [u8; CURSOR_CHECK_BYTES] {
    let [a, b, c, d, ..] = xxh3_64(bytes).to_be_bytes();
    [a, b, c, d]
}

fn not_ours() -> Error {
    Error::new(
        Kind::InvalidCursor,
        "the cursor is not one that this service gave out: pass nextCursor on as it came",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> SessionKey {
        SessionKey::new(Tenant::default(), id.parse().unwrap())
    }

    fn position() -> EventPosition {
        EventPosition {
            timestamp: Timestamp::from_unix_ms(-1).unwrap(),
            seq: i64::MAX,
            id: "turn-1".parse().unwrap(),
        }
    }

    #[test]
    fn a_cursor_comes_back_as_the_position_it_was() {
        let cursor = Cursor::of_events(&key("a"), Order::Ascending, &EventFilter::default());
        assert_eq!(cursor.read_event(&cursor.event(&position())).unwrap(), position());
    }

    #[test]
    fn a_cursor_of_another_query_is_refused() {
        let filter = EventFilter::default();
        let text = Cursor::of_events(&key("a"), Order::Ascending, &filter).event(&position());
        let other_tenant = SessionKey::new("other".parse().unwrap(), "a".parse().unwrap());
        let of_type = EventFilter {
            event_type: Some("system".parse().unwrap()),
            ..filter.clone()
        };
        for other in [
            Cursor::of_events(&key("a"), Order::Descending, &filter),
            Cursor::of_events(&key("b"), Order::Ascending, &filter),
            Cursor::of_events(&other_tenant, Order::Ascending, &filter),
            Cursor::of_events(&key("a"), Order::Ascending, &of_type),
            Cursor::of_sessions(&Tenant::default(), &SessionFilter::default()),
        ] {
            assert_eq!(other.read_event(&text).unwrap_err().kind(), Kind::InvalidCursor);
        }
    }

    #[test]
    fn a_user_id_with_spaces_is_not_taken_for_other_filters() {
        let filter = |user: &str, after: Option<i64>| SessionFilter {
            user_id: Some(user.parse().unwrap()),
            started_after: after.and_then(Timestamp::from_unix_ms),
            ..SessionFilter::default()
        };
        let tenant = Tenant::default();
        let filters = [
            filter("a", None),
            filter("a", Some(5)),
            filter("a 5", None),
            filter("a 5 ", None),
            filter("a ", Some(5)),
            filter(" a", None),
        ];
        for (at, one) in filters.iter().enumerate() {
            for another in &filters[at + 1..] {
                let (a, b) = (
                    Cursor::of_sessions(&tenant, one),
                    Cursor::of_sessions(&tenant, another),
                );
                assert_ne!(a, b, "{one:?} {another:?}");
            }
        }
    }

    #[test]
    fn a_damaged_cursor_is_refused_wherever_the_damage_is() {
        let cursor = Cursor::of_events(&key("a"), Order::Ascending, &EventFilter::default());
        let text = cursor.event(&position());
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(cursor.read_event(&damaged).is_err(), "{at}");
            assert!(cursor.read_event(&text[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_limit_is_a_plain_number_in_range() {
        assert_eq!("1".parse::<Limit>().unwrap().get(), 1);
        assert_eq!("500".parse::<Limit>().unwrap().get(), 500);
        for bad in ["0", "501", "-1", "+1", "1.0", "", "ten", "99999999999999999999"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }
}
