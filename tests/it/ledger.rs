//! What many clients sent and what they were told, and whether the two can be true together.
//!
//! Every answer is checked against what was known when its request left: what was acknowledged by then must show, and
//! nothing may come back that nobody sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Map, Value};

use crate::backends::Store;

/// All clients share one.
#[derive(Default)]
pub struct Ledger(Mutex<BTreeMap<String, Facts>>);

/// What is known of a session.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub opened: bool,
    /// The newest version that was acknowledged.
    version: i64,
    reasons_sent: BTreeSet<String>,
    /// `status`, `endedAt` and `endReason`, as every acknowledgement must have them.
    end: Option<Value>,
    erase_sent: bool,
    pub erased: bool,
    /// By its key: the last value sent and the last one acknowledged.
    metadata: BTreeMap<String, (u64, u64)>,
    pub events: BTreeMap<String, EventFacts>,
}

impl Facts {
    /// Whether its end was acknowledged.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether an append may be told something else than what was stored before: on MongoDB, one that an erasure
    /// overtakes may find the event gone, and store it once more, out of everybody's sight.
    fn may_be_overtaken(&self) -> bool {
        self.erase_sent && Store::chosen() == Store::MongoDb
    }
}

#[derive(Debug, Clone, Default)]
pub struct EventFacts {
    payloads_sent: BTreeSet<String>,
    /// The event, as every acknowledgement must have it.
    pub stored: Option<Value>,
    created: usize,
}

/// How a session ended.
fn end_of(session: &Value) -> Option<Value> {
    let status = session["status"].as_str().expect("a status");
    let ended = ["completed", "failed"].contains(&status);
    let end = ["status", "endedAt", "endReason"].map(|name| (name.to_owned(), session[name].clone()));
    ended.then(|| Value::Object(Map::from_iter(end)))
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Facts>> {
        // A failed check is told by the client that made it; the others go on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sessions(&self) -> BTreeMap<String, Facts> {
        self.lock().clone()
    }

    /// What is known of the session now.
    pub fn known(&self, session: &str) -> Facts {
        self.lock().get(session).cloned().unwrap_or_default()
    }

    fn note(&self, session: &str, note: impl FnOnce(&mut Facts)) {
        note(self.lock().entry(session.to_owned()).or_default());
    }

    pub fn sends_event(&self, session: &str, event: &Value) {
        let id = event["eventId"].as_str().expect("an id").to_owned();
        self.note(session, |facts| {
            let sent = &mut facts.events.entry(id).or_default().payloads_sent;
            sent.insert(event["payload"].to_string());
        });
    }

    pub fn sends_end(&self, session: &str, reason: &str) {
        self.note(session, |facts| {
            facts.reasons_sent.insert(reason.to_owned());
        });
    }

    pub fn sends_erase(&self, session: &str) {
        self.note(session, |facts| facts.erase_sent = true);
    }

    pub fn sends_metadata(&self, session: &str, key: &str, value: u64) {
        self.note(session, |facts| {
            facts.metadata.entry(key.to_owned()).or_default().0 = value
        });
    }

    pub fn metadata_acknowledged(&self, session: &str, key: &str, value: u64) {
        self.note(session, |facts| {
            facts.metadata.entry(key.to_owned()).or_default().1 = value
        });
    }

    pub fn erase_acknowledged(&self, session: &str) {
        self.note(session, |facts| facts.erased = true);
    }

    /// A session was in an answer to a request that left when `before` was known.
    pub fn sees_session(&self, before: &Facts, seen: &Value) {
        let id = seen["sessionId"].as_str().expect("an id");
        assert!(!before.erased, "{id} was erased, and is back: {seen}");
        let version = seen["version"].as_i64().expect("a version");
        assert!(
            version >= before.version,
            "{id} was at {} and is now {seen}",
            before.version
        );
        let end = end_of(seen);
        if before.end.is_some() {
            assert_eq!(before.end, end, "{id} ended otherwise");
        }
        for (key, (_, acknowledged)) in &before.metadata {
            let value = seen["metadata"][key].as_u64().unwrap_or(0);
            assert!(
                value >= *acknowledged,
                "{id}: {key} was {acknowledged}, and is lost: {seen}"
            );
        }
        self.note(id, |facts| {
            facts.opened = true;
            facts.version = facts.version.max(version);
            for (key, value) in seen["metadata"].as_object().expect("metadata") {
                let sent = facts.metadata.get(key).map_or(0, |(sent, _)| *sent);
                assert!(
                    value.as_u64().is_some_and(|value| value <= sent),
                    "{id}: nobody sent {key}: {seen}"
                );
            }
            let Some(end) = end else { return };
            let reason = end["endReason"].as_str().expect("a reason");
            assert!(
                facts.reasons_sent.contains(reason),
                "{id}: nobody sent this end: {end}"
            );
            assert_eq!(
                *facts.end.get_or_insert_with(|| end.clone()),
                end,
                "{id} ended twice"
            );
        });
    }

    /// An event was acknowledged or read: `eventId`, `seq`, `timestamp`, and maybe more.
    pub fn sees_event(&self, before: &Facts, session: &str, seen: &Value, created: bool) {
        let id = seen["eventId"].as_str().expect("an id");
        assert!(!before.erased, "{session} was erased, and {id} is back");
        let known = before.events.get(id).and_then(|facts| facts.stored.as_ref());
        if self.known(session).may_be_overtaken() {
            return;
        }
        assert!(
            !(created && known.is_some()),
            "{session}/{id} was created again: {seen}"
        );
        assert!(
            !(created && before.end.is_some()),
            "{session}/{id} was created after the end"
        );
        self.note(session, |facts| {
            let facts = facts
                .events
                .get_mut(id)
                .unwrap_or_else(|| panic!("nobody sent {session}/{id}"));
            facts.created += usize::from(created);
            assert!(facts.created <= 1, "{session}/{id} was created twice");
            let stored = facts.stored.get_or_insert_with(|| seen.clone());
            for (name, value) in seen.as_object().expect("an object") {
                match stored.get(name) {
                    Some(known) => assert_eq!(known, value, "{session}/{id} changed: {seen}"),
                    None => stored[name] = value.clone(),
                }
            }
            if let Some(payload) = stored.get("payload") {
                let sent = facts.payloads_sent.contains(&payload.to_string());
                assert!(sent, "nobody sent this payload: {seen}");
            }
        });
    }

    /// A request was refused with this code; it left when `before` was known.
    pub fn sees_refusal(&self, before: &Facts, session: &str, event: Option<&Value>, code: &str) {
        let now = self.known(session);
        match code {
            "session-erased" => assert!(now.erase_sent, "{session}: nobody erased it"),
            "session-not-found" => assert!(!before.opened, "{session} was opened, and is gone"),
            "session-ended" => assert!(!now.reasons_sent.is_empty(), "{session}: nobody ended it"),
            // Of a patch; an event is answered from the archive.
            "session-archived" => {
                let ended = !now.reasons_sent.is_empty();
                assert!(ended && event.is_none(), "{session}: {event:?} was told {code}");
            }
            "event-id-reused" => {}
            other => panic!("{session}: {other}"),
        }
        assert!(
            !before.erased || code == "session-erased",
            "{session} was erased, and says {code}"
        );
        // What is stored is a replay for ever.
        if let Some(event) = event
            && matches!(code, "event-id-reused" | "session-ended")
        {
            let id = event["eventId"].as_str().expect("an id");
            let stored = before.events.get(id).and_then(|facts| facts.stored.as_ref());
            let same = stored.is_some_and(|stored| stored.get("payload") == Some(&event["payload"]));
            assert!(
                !same || now.may_be_overtaken(),
                "{session}/{id} is stored, and says {code}"
            );
            if code == "event-id-reused" {
                assert!(
                    now.events[id].payloads_sent.len() > 1,
                    "{session}/{id}: nobody sent another payload"
                );
            }
        }
    }

    /// All events of a session, as a walk begun when `before` was known gave them.
    pub fn sees_all_events(&self, before: &Facts, session: &str, seen: &[Value]) {
        let position = |event: &Value| {
            let [timestamp, id] = ["timestamp", "eventId"].map(|name| event[name].to_string());
            (timestamp, event["seq"].as_i64().expect("a seq"), id)
        };
        let in_order = seen.is_sorted_by(|a, b| position(a) < position(b));
        assert!(in_order, "{session}: out of order, or twice: {seen:?}");
        let ids: BTreeSet<_> = seen
            .iter()
            .map(|event| event["eventId"].as_str().expect("an id"))
            .collect();
        assert_eq!(ids.len(), seen.len(), "{session}: an event twice");
        for event in seen {
            self.sees_event(before, session, event, false);
        }
        for (id, facts) in &before.events {
            assert!(
                facts.stored.is_none() || ids.contains(id.as_str()),
                "{session}/{id} was acknowledged, and is lost: {facts:?}"
            );
        }
    }
}
