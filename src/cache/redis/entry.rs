//! How a session and its events lie in Redis, and how they are read back. `scripts/entry.lua` says what the keys are.

use bytes::Bytes;
use redis::Value;

use crate::{
    cache::Page,
    domain::{Event, EventId, EventPosition, Session, SessionKey, Timestamp},
};

/// Digits of a `seq` in a member.
const SEQ_DIGITS: usize = 20;

/// The keys of a session, in the order that the scripts want. The braces make a cluster keep them together.
pub(super) fn keys(prefix: &str, key: &SessionKey) -> Vec<String> {
    ["state", "events", "pending", "fill", "seq"]
        .map(|part| format!("{prefix}:{{{}/{}}}:{part}", key.tenant, key.id))
        .into()
}

/// What an event's member begins with: the position among events with one timestamp, sorted bytewise as the position is.
/// A space sorts before everything that an id may hold.
pub(super) fn beginning(seq: i64, id: &EventId) -> String {
    format!(
        "{:0digits$} {id} ",
        seq.cast_unsigned() ^ (1 << 63),
        digits = SEQ_DIGITS
    )
}

pub(super) fn member(event: &Event) -> Vec<u8> {
    let mut member = beginning(event.seq, &event.id).into_bytes();
    event.write_json(&mut member);
    member
}

pub(super) fn score(timestamp: Timestamp) -> String {
    timestamp.unix_ms().to_string()
}

pub(super) fn session_json(session: &Session) -> Vec<u8> {
    let mut json = Vec::with_capacity(256 + session.metadata.as_str().len());
    session.write_json(&mut json);
    json
}

/// A member taken apart.
struct Member {
    seq: i64,
    id: EventId,
    json: Bytes,
}

impl Member {
    fn read(bytes: Vec<u8>) -> Option<Self> {
        let bytes = Bytes::from(bytes);
        let id_at = SEQ_DIGITS + 1;
        let id_length = bytes.get(id_at..)?.iter().position(|&byte| byte == b' ')?;
        let text = |range| std::str::from_utf8(bytes.get(range)?).ok();
        let seq: u64 = text(0..SEQ_DIGITS)?.parse().ok()?;
        Some(Self {
            seq: (seq ^ (1 << 63)).cast_signed(),
            id: text(id_at..id_at + id_length)?.parse().ok()?,
            json: bytes.slice(id_at + id_length + 1..),
        })
    }
}

/// What `read.lua` gives.
pub(super) enum Answer {
    Hit(Page),
    Pending,
    Miss { granted: bool },
    Beyond,
    Behind,
}

impl Answer {
    /// `None` for what the script never gives.
    pub(super) fn read(value: Value) -> Option<Self> {
        let Value::Array(items) = value else { return None };
        let mut items = items.into_iter();
        match bytes(items.next()?)?.as_slice() {
            b"hit" => hit(items).map(Self::Hit),
            b"pending" => Some(Self::Pending),
            b"miss" => Some(Self::Miss {
                granted: integer(items.next()?)? == 1,
            }),
            b"beyond" => Some(Self::Beyond),
            b"behind" => Some(Self::Behind),
            _ => None,
        }
    }
}

fn hit(mut items: impl Iterator<Item = Value>) -> Option<Page> {
    let has_more = integer(items.next()?)? == 1;
    let version = integer(items.next()?)?;
    let session = Bytes::from(bytes(items.next()?)?);
    let last_score = bytes(items.next()?)?;
    let members: Vec<Member> = items
        .map(|item| Member::read(bytes(item)?))
        .collect::<Option<_>>()?;
    let next = match members.last().filter(|_| has_more) {
        Some(last) => Some(EventPosition {
            timestamp: Timestamp::from_unix_ms(number(&last_score)?)?,
            seq: last.seq,
            id: last.id.clone(),
        }),
        None => None,
    };
    Some(Page {
        session,
        version,
        events: members.into_iter().map(|member| member.json).collect(),
        next,
    })
}

pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

/// An integer, which a script may give as text: Lua's numbers are doubles.
pub(super) fn integer(value: Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number),
        other => number(&bytes(other)?),
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_sort_as_events_do() {
        let position = |seq: i64, id: &str| beginning(seq, &id.parse().unwrap()) + "{}";
        let sorted = [
            position(i64::MIN, "a"),
            position(-1, "z"),
            position(0, "a"),
            position(7, "a"),
            position(7, "a+"),
            position(7, "a0"),
            position(7, "b"),
            position(1_700_000_000_000_000, "a"),
            position(i64::MAX, "a"),
        ];
        assert!(sorted.is_sorted(), "{sorted:#?}");
    }

    #[test]
    fn a_member_is_read_as_it_was_written() {
        for seq in [i64::MIN, -1, 0, 1_700_000_000_000_000, i64::MAX] {
            let text = beginning(seq, &"turn-1".parse().unwrap()) + r#"{"a b":1}"#;
            let member = Member::read(text.into_bytes()).unwrap();
            assert_eq!((member.seq, member.id.as_str()), (seq, "turn-1"));
            assert_eq!(member.json, r#"{"a b":1}"#);
        }
        for bad in ["", "1 a {}", "00000000000000000001 ", "x0000000000000000001 a {}"] {
            assert!(Member::read(bad.into()).is_none(), "{bad}");
        }
    }
}
