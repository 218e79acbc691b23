//! What many clients sent and were told of many events, and whether what somebody reads can be true.
//!
//! The ledger of the crash tests knows more of fewer events, and gives every request a copy of it. Here a request
//! remembers how far the acknowledgements had come when it left, which costs nothing however many there are.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

/// All clients share one. Sessions go by their number.
#[derive(Default)]
pub struct Oracle(Mutex<BTreeMap<usize, Facts>>);

#[derive(Default)]
struct Facts {
    opened: bool,
    /// Payloads by event id.
    sent: HashMap<String, Value>,
    /// In the order in which clients were told.
    acknowledged: Vec<Place>,
    places: HashMap<String, Place>,
    /// The session at each version that anybody saw: it is one thing for all.
    versions: BTreeMap<i64, Value>,
    acknowledged_version: i64,
    end_sent: bool,
    ended: bool,
    erase_sent: bool,
    erased: bool,
}

/// Where an event stands in its session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub timestamp: String,
    pub seq: i64,
    pub id: String,
}

impl Place {
    /// Of an event, or of the outcome of appending one.
    pub fn of(event: &Value) -> Self {
        let text = |name: &str| event[name].as_str().expect("text").to_owned();
        Self {
            timestamp: text("timestamp"),
            seq: event["seq"].as_i64().expect("a seq"),
            id: text("eventId"),
        }
    }
}

/// What had been acknowledged of a session when a request left.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub session: usize,
    events: usize,
    version: i64,
    opened: bool,
    ended: bool,
    erased: bool,
}

/// Events as they were read: one page, or several that follow each other.
pub struct Seen<'a> {
    pub events: &'a [Value],
    pub descending: bool,
    /// There is more behind the last one.
    pub more: bool,
}

pub fn name(session: usize) -> String {
    format!("s-{session}")
}

impl Oracle {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Facts>> {
        // A failed check is told by the client that made it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(&self, session: usize, note: impl FnOnce(&mut Facts) -> T) -> T {
        note(self.lock().entry(session).or_default())
    }

    pub fn sessions(&self) -> Vec<usize> {
        self.lock().keys().copied().collect()
    }

    pub fn known(&self, session: usize) -> Known {
        self.note(session, |facts| Known {
            session,
            events: facts.acknowledged.len(),
            version: facts.acknowledged_version,
            opened: facts.opened,
            ended: facts.ended,
            erased: facts.erased,
        })
    }

    pub fn is_erased(&self, session: usize) -> bool {
        self.known(session).erased
    }

    /// The event that was acknowledged last.
    pub fn newest(&self, session: usize) -> Option<Place> {
        self.note(session, |facts| facts.acknowledged.last().cloned())
    }

    pub fn sends_events(&self, session: usize, events: &[Value]) {
        self.note(session, |facts| {
            for event in events {
                let id = event["eventId"].as_str().expect("an id").to_owned();
                facts.sent.insert(id, event["payload"].clone());
            }
        });
    }

    pub fn sends_end(&self, session: usize) {
        self.note(session, |facts| facts.end_sent = true);
    }

    pub fn sends_erase(&self, session: usize) {
        self.note(session, |facts| facts.erase_sent = true);
    }

    pub fn erase_acknowledged(&self, session: usize) {
        self.note(session, |facts| facts.erased = true);
    }

    /// An append was acknowledged with this event or outcome.
    pub fn event_acknowledged(&self, known: Known, event: &Value, created: bool) {
        let place = Place::of(event);
        assert!(!known.erased, "{known:?} was erased, and took {event}");
        assert!(!(created && known.ended), "{known:?} had ended, and took {event}");
        self.note(known.session, |facts| {
            let (session, id) = (known.session, place.id.clone());
            assert!(facts.sent.contains_key(&id), "{session}: nobody sent {event}");
            // Only one client sends it, and asks again only while it has no answer.
            let earlier = facts.places.insert(id, place.clone());
            assert!(
                earlier.is_none(),
                "{session}: {event} was acknowledged as {earlier:?}"
            );
            facts.acknowledged.push(place);
        });
    }

    /// A session was told in answer to a write: later reads are not older.
    pub fn session_acknowledged(&self, known: Known, session: &Value) {
        self.sees_session(known, session);
        self.note(known.session, |facts| {
            facts.opened = true;
            let version = session["version"].as_i64().expect("a version");
            facts.acknowledged_version = facts.acknowledged_version.max(version);
            facts.ended |= has_ended(session);
        });
    }

    pub fn sees_session(&self, known: Known, session: &Value) {
        assert_eq!(session["sessionId"], name(known.session), "{session}");
        assert!(!known.erased, "stale: {known:?} was erased, and is {session}");
        let version = session["version"].as_i64().expect("a version");
        assert!(version >= known.version, "stale: {known:?} is {session}");
        assert!(
            !known.ended || has_ended(session),
            "stale: {known:?} had ended, and is {session}"
        );
        self.note(known.session, |facts| {
            assert!(!has_ended(session) || facts.end_sent, "nobody ended {session}");
            let same = facts.versions.entry(version).or_insert_with(|| session.clone());
            assert_eq!(same, session, "one version, two sessions");
        });
    }

    /// An event that was asked for by itself, where it was acknowledged.
    pub fn sees_event(&self, known: Known, event: &Value, acknowledged: &Place) {
        assert!(!known.erased, "stale: {known:?} was erased, and has {event}");
        assert_eq!(Place::of(event), *acknowledged, "an acknowledged event changed");
    }

    pub fn sees_events(&self, known: Known, seen: &Seen<'_>) {
        assert!(!known.erased, "stale: {known:?} was erased, and has events");
        let places: Vec<Place> = seen.events.iter().map(Place::of).collect();
        let in_order = places.is_sorted_by(|a, b| if seen.descending { a > b } else { a < b });
        assert!(in_order, "{known:?} out of order: {places:?}");
        let ids: HashSet<&str> = places.iter().map(|place| place.id.as_str()).collect();
        assert_eq!(
            ids.len(),
            places.len(),
            "{known:?} has an event twice: {places:?}"
        );
        self.note(known.session, |facts| {
            for (event, place) in seen.events.iter().zip(&places) {
                assert_eq!(
                    facts.sent.get(&place.id),
                    Some(&event["payload"]),
                    "nobody sent {event}"
                );
                if let Some(told) = facts.places.get(&place.id) {
                    assert_eq!(told, place, "an acknowledged event changed");
                }
            }
            for place in &facts.acknowledged[..known.events] {
                let beyond = |last: &Place| {
                    if seen.descending {
                        place < last
                    } else {
                        place > last
                    }
                };
                assert!(
                    ids.contains(place.id.as_str()) || (seen.more && places.last().is_some_and(beyond)),
                    "stale, or lost: {known:?} has {place:?}, and a read gave {} events without it",
                    places.len()
                );
            }
        });
    }

    /// A request was refused with this code.
    pub fn sees_refusal(&self, known: Known, code: &str) {
        self.note(known.session, |facts| match code {
            "session-erased" => assert!(facts.erase_sent, "{known:?}: nobody erased it"),
            "session-not-found" => assert!(!known.opened, "{known:?} is gone"),
            "session-ended" => assert!(facts.end_sent, "{known:?}: nobody ended it"),
            other => panic!("{known:?}: {other}"),
        });
        assert!(
            !known.erased || code == "session-erased",
            "{known:?} was erased, and says {code}"
        );
    }

    /// All that the store holds of a session, by what the store itself says: the acknowledged events, each once. Where
    /// the session ended, an append that lost the race may have been stored without being told.
    pub fn holds(&self, session: usize, stored: &mut Vec<Place>) {
        stored.sort();
        self.note(session, |facts| {
            if facts.erase_sent {
                return;
            }
            if facts.end_sent {
                stored.retain(|place| {
                    assert!(
                        facts.sent.contains_key(&place.id),
                        "{session}: nobody sent {place:?}"
                    );
                    facts.places.contains_key(&place.id)
                });
            }
            let mut acknowledged = facts.acknowledged.clone();
            acknowledged.sort();
            assert_eq!(*stored, acknowledged, "{session}");
        });
    }
}

fn has_ended(session: &Value) -> bool {
    session["status"] == "completed" || session["status"] == "failed"
}
