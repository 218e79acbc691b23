//! How a session and its events lie in Redis, and how they are read back. `scripts/entry.lua` says what the keys are.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use crate::{
    cache::Page,
    domain::{Event, EventId, EventPosition, Session, SessionKey, Status, Timestamp},
};

/// Digits of a `seq` in a member.
const SEQ_DIGITS: usize = 20;

/// The keys of a session, in the order that the scripts want. The braces make a cluster keep them together.
pub(super) fn keys(prefix: &str, key: &SessionKey) -> Vec<String> {
    let session = format!("{prefix}:{{{}/{}}}:", key.tenant, key.id);
    ["state", "events", "pending", "fill", "numbers"]
        .map(|part| [session.as_str(), part].concat())
        .into()
}

/// What an event's member begins with: the position among events with one timestamp, sorted bytewise as the position is.
/// A space sorts before everything that an id may hold.
pub(super) fn beginning(seq: i64, id: &EventId) -> String {
    format!("{:0digits$} {id} ", sortable(seq), digits = SEQ_DIGITS)
}

/// What the members of all events with this `seq` begin with.
pub(super) fn seq_digits(seq: i64) -> Vec<u8> {
    format!("{:0digits$}", sortable(seq), digits = SEQ_DIGITS).into_bytes()
}

fn sortable(seq: i64) -> u64 {
    seq.cast_unsigned() ^ (1 << 63)
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

/// The seq and the id that a member [begins](beginning) with.
fn place(beginning: &[u8]) -> Option<(i64, EventId)> {
    let text = std::str::from_utf8(beginning).ok()?;
    let (seq, id) = text.split_at_checked(SEQ_DIGITS)?;
    let seq: u64 = seq.parse().ok()?;
    let id = id.strip_prefix(' ')?.strip_suffix(' ')?;
    Some(((seq ^ (1 << 63)).cast_signed(), id.parse().ok()?))
}

/// What `read.lua` gives.
pub(super) enum Answer {
    Same,
    Hit { page: Page, tag: Bytes },
    Pending,
    Miss { granted: bool },
    Beyond,
    Behind,
}

impl Answer {
    /// `None` for what the script never gives.
    pub(super) fn read(value: Value) -> Option<Self> {
        let (word, mut more) = match value {
            Value::Array(items) => {
                let mut items = items.into_iter();
                (items.next()?, items)
            }
            word => (word, Vec::new().into_iter()),
        };
        match bytes(word)?.as_slice() {
            b"same" => Some(Self::Same),
            b"hit" => hit(more),
            b"pending" => Some(Self::Pending),
            b"miss" => Some(Self::Miss {
                granted: integer(more.next()?)? == 1,
            }),
            b"beyond" => Some(Self::Beyond),
            b"behind" => Some(Self::Behind),
            _ => None,
        }
    }
}

/// Where among the arguments of `read.lua` the token is of who wants to fill.
pub(super) const TOKEN_OF_READ: usize = 6;

/// What `read.lua` would have told another who asked the same at the same moment: one reader fills, and that is not this one.
pub(super) fn for_another(answer: &Value) -> Value {
    match answer {
        Value::Array(items) if items.first() == Some(&Value::BulkString(b"miss".into())) => {
            Value::Array(vec![items[0].clone(), Value::Int(0)])
        }
        answer => answer.clone(),
    }
}

fn hit(items: impl Iterator<Item = Value>) -> Option<Answer> {
    let items: Vec<Value> = items.collect();
    let [tag, version, session, events, score, beginning] = items.try_into().ok()?;
    let (score, beginning) = (bytes(score)?, bytes(beginning)?);
    // Nothing where there is no next page.
    let next = match beginning.as_slice() {
        b"" => None,
        beginning => {
            let (seq, id) = place(beginning)?;
            Some(EventPosition {
                timestamp: Timestamp::from_unix_ms(number(&score)?)?,
                seq,
                id,
            })
        }
    };
    let page = Page {
        session: bytes(session)?.into(),
        version: integer(version)?,
        events: bytes(events)?.into(),
        next,
    };
    Some(Answer::Hit {
        page,
        tag: bytes(tag)?.into(),
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

/// What `begin.lua` gives: its first number, if any, and whether there is an entry.
pub(super) fn begun(value: Value) -> Option<(Value, bool)> {
    let Value::Array(items) = value else { return None };
    let [first, cached] = items.try_into().ok()?;
    Some((first, integer(cached)? == 1))
}

/// A session as the scripts take it: JSON, version, whether it is initiated.
pub(super) fn shown(session: &Session) -> [Vec<u8>; 3] {
    [
        session_json(session),
        decimal(session.version),
        flag(session.status == Status::Initiated),
    ]
}

pub(super) fn decimal(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

pub(super) fn ms(duration: Duration) -> Vec<u8> {
    decimal(duration.as_millis())
}

pub(super) fn flag(flag: bool) -> Vec<u8> {
    decimal(u8::from(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_to_fill_is_for_one() {
        let said = |word: &str| Value::BulkString(word.into());
        let miss = |granted| Value::Array(vec![said("miss"), Value::Int(granted)]);
        for granted in [0, 1] {
            assert_eq!(for_another(&miss(granted)), miss(0));
        }
        let hit = Value::Array(vec![said("hit"), said("miss"), Value::Int(1)]);
        for other in [hit, said("same"), said("pending"), said("beyond")] {
            assert_eq!(for_another(&other), other);
        }
    }

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
    fn a_place_is_read_as_it_was_written() {
        for seq in [i64::MIN, -1, 0, 1_700_000_000_000_000, i64::MAX] {
            let id: EventId = "turn-1".parse().unwrap();
            assert_eq!(place(beginning(seq, &id).as_bytes()), Some((seq, id)));
        }
        for bad in ["", "1 a ", "00000000000000000001 ", "x0000000000000000001 a "] {
            assert!(place(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
