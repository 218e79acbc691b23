//! Stored keys: fixed for ever, since documents are found by nothing else.
//!
//! A session's key is `{hhhh}:{tenant}/{sessionId}`, where `hhhh` is the first four hex digits of a 64-bit hash of
//! the rest. So neighbours in a caller's way of naming sessions are strangers in the key space, writes spread evenly
//! over the chunks of a sharded collection, and `hhhh` is where those chunks are split.
//!
//! An event's key is its session's key, `/` and its own id. The session's key is also the event's shard key, so equal
//! keys always meet on one shard, where `_id` makes them unique.
//!
//! A session that is opened again under the id of an erased one is another [`Life`] of that id, and its events
//! have a key of their own: `{hhhh}:{tenant}/{sessionId}#2`. So nothing that an earlier life left behind, however late it
//! lands, can be read as the new session's. `#` and the `$` that ends the range are no characters of ids and sort
//! before all that are.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::domain::{EventId, SessionKey};

/// How many hex digits of the hash a key begins with.
pub(super) const HASH_DIGITS: u32 = 4;

/// Which session of its id: the first, or one opened after an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Life(i64);

impl Life {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn stored(number: i64) -> Option<Self> {
        (number > 1).then_some(Self(number))
    }

    /// What is stored; the first life stores nothing.
    pub(super) fn number(self) -> Option<i64> {
        (self != Self::FIRST).then_some(self.0)
    }

    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The key of a session.
pub(super) fn of_session(key: &SessionKey) -> String {
    let rest = key.to_string();
    format!("{:04x}:{rest}", xxh3_64(rest.as_bytes()) >> 48)
}

/// The session that has this key.
pub(super) fn session_of(k: &str) -> Option<SessionKey> {
    let (_, rest) = k.split_once(':')?;
    let (tenant, id) = rest.split_once('/')?;
    Some(SessionKey::new(tenant.parse().ok()?, id.parse().ok()?))
}

/// The key that the events of one life of a session share.
pub(super) fn of_events(session: &str, life: Life) -> String {
    match life.number() {
        None => session.to_owned(),
        Some(number) => format!("{session}#{number}"),
    }
}

/// The key of an event, given the one that its session's events share.
pub(super) fn of_event(events: &str, id: &EventId) -> String {
    format!("{events}/{id}")
}

/// The keys that the events of every life of a session lie between.
pub(super) fn of_all_events(session: &str) -> Range<String> {
    session.to_owned()..format!("{session}$")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: &str, id: &str) -> SessionKey {
        SessionKey::new(tenant.parse().unwrap(), id.parse().unwrap())
    }

    /// Golden: stored documents have these keys. A change here loses every one of them.
    #[test]
    fn keys_are_fixed_for_ever() {
        for (tenant, id, golden) in [
            ("default", "s-1", "ebca:default/s-1"),
            (
                "default",
                "0198c0de-7d1a-7000-8000-000000000001",
                "f904:default/0198c0de-7d1a-7000-8000-000000000001",
            ),
            ("a", "b", "48f7:a/b"),
        ] {
            assert_eq!(of_session(&key(tenant, id)), golden);
            assert_eq!(session_of(golden), Some(key(tenant, id)));
        }
        let session = of_session(&key("default", "s-1"));
        let second = Life::FIRST.next();
        assert_eq!(of_events(&session, Life::FIRST), "ebca:default/s-1");
        assert_eq!(of_events(&session, second), "ebca:default/s-1#2");
        let event = of_event(&of_events(&session, second), &"e-1".parse().unwrap());
        assert_eq!(event, "ebca:default/s-1#2/e-1");
    }

    #[test]
    fn the_range_of_a_session_holds_its_lives_and_no_other_session() {
        let session = of_session(&key("default", "s"));
        let range = of_all_events(&session);
        let mut life = Life::FIRST;
        for _ in 0..1_000 {
            assert!(range.contains(&of_events(&session, life)));
            life = life.next();
        }
        for character in (0..128_u8).map(char::from) {
            let longer = format!("s{character}");
            if longer.parse::<crate::domain::SessionId>().is_ok() {
                assert!(!range.contains(&format!("{session}{character}")), "{longer}");
            }
        }
    }

    #[test]
    fn the_hash_spreads_ids_that_differ_little() {
        let mut chunks = [0_u32; 16];
        for n in 0..16_000 {
            let key = of_session(&key("default", &format!("call-{n}")));
            chunks[usize::from_str_radix(&key[..1], 16).unwrap()] += 1;
        }
        assert!(
            chunks.iter().all(|count| (850..1_150).contains(count)),
            "{chunks:?}"
        );
    }
}
