//! Random histories, checked step by step against a model small enough to be believed.
//!
//! A failure prints its seed; `COLLOQUY_TEST_SEED` runs that history again.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use colloquy::{
    domain::{
        Appended, End, Event, EventFilter, EventPosition, EventQuery, Expected, Kind, NewEvent, Order,
        Session, SessionFilter, SessionId, SessionKey, SessionPatch, Status, Tenant,
    },
    store::{Append, Store, Upkeep},
};

use super::{Subject, at, everything, kind, listing, object, the, walk};

const STEPS: usize = 400;

pub async fn a_random_history_reads_as_the_model_says(subject: &dyn Subject) {
    let store = subject.store().await;
    let mut history = History::new(store.clone(), "alone", seed(), true);
    history.run(STEPS).await;
    store.close().await;
    history.store = subject.store().await;
    history.check_everything().await;
}

/// Each has a tenant of its own, with the same ids, so each is exact while they share the store.
pub async fn random_histories_side_by_side_read_as_their_models_say(subject: &dyn Subject) {
    let (store, seed) = (subject.store().await, seed());
    super::together(6, |n| {
        let tenant = format!("tenant-{n}");
        let mut history = History::new(store.clone(), &tenant, seed + n as u64, false);
        async move {
            history.run(STEPS / 4).await;
            history.check_everything().await;
        }
    })
    .await;
}

pub fn seed() -> u64 {
    let seed = match std::env::var("COLLOQUY_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => {
            let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
            u64::from(since.subsec_nanos()) ^ since.as_secs()
        }
    };
    println!("COLLOQUY_TEST_SEED={seed}");
    seed
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.one_in(2)).then(|| make(self))
    }
}

#[derive(Debug, Clone)]
enum Entry {
    Live(Session, Vec<Event>),
    /// Until when.
    Erased(i64),
}

struct History {
    store: Arc<dyn Store>,
    tenant: Tenant,
    random: Random,
    /// Nobody else is in the store, so upkeep may drop tombstones.
    alone: bool,
    now: i64,
    model: BTreeMap<SessionId, Entry>,
}

impl History {
    fn new(store: Arc<dyn Store>, tenant: &str, seed: u64, alone: bool) -> Self {
        Self {
            store,
            tenant: the(tenant),
            random: Random(seed),
            alone,
            now: 1_000,
            model: BTreeMap::new(),
        }
    }

    async fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now += self.random.below(5) as i64;
            let key = self.some_key();
            match self.random.below(20) {
                0..4 => self.open(&key).await,
                4..10 => self.append().await,
                10..12 => self.patch(&key).await,
                12 => self.end(&key).await,
                13 if self.random.one_in(2) => self.erase(&key).await,
                13 | 14 => self.upkeep().await,
                15 => self.check_listing().await,
                16 => self.check_event(&key).await,
                _ => self.check_page(&key).await,
            }
            self.check_session(&key).await;
        }
    }

    fn some_key(&mut self) -> SessionKey {
        let id = format!("s-{}", self.random.below(5));
        SessionKey::new(self.tenant.clone(), the(&id))
    }

    /// How a call fails that needs the session; one whose time is over may have been forgotten or not.
    fn refusals(&self, key: &SessionKey) -> &'static [Kind] {
        match self.model.get(&key.id) {
            None => &[Kind::SessionNotFound],
            Some(Entry::Erased(until)) if *until <= self.now => &[Kind::SessionErased, Kind::SessionNotFound],
            Some(Entry::Erased(_)) => &[Kind::SessionErased],
            Some(Entry::Live(..)) => &[],
        }
    }

    fn live(&mut self, key: &SessionKey) -> Option<(&mut Session, &mut Vec<Event>)> {
        match self.model.get_mut(&key.id) {
            Some(Entry::Live(session, events)) => Some((session, events)),
            _ => None,
        }
    }

    async fn open(&mut self, key: &SessionKey) {
        let new = Session {
            id: key.id.clone(),
            user_id: self.random.some(|random| the(random.pick(&["u", "v"]))),
            status: self.random.pick(&[Status::Initiated, Status::Active]),
            language: None,
            metadata: object(self.random.pick(&["{}", r#"{"a":1}"#])),
            started_at: at(self.random.below(4) as i64),
            ended_at: None,
            end_reason: None,
            version: 1,
            archived: false,
        };
        let opened = self.store.open(&key.tenant, new.clone(), at(self.now)).await;
        match self.model.get(&key.id) {
            Some(Entry::Live(session, _)) => {
                let opened = opened.unwrap();
                assert_eq!((&opened.session, opened.created), (session, false));
            }
            Some(Entry::Erased(until)) if *until > self.now => {
                assert_eq!(kind(opened), Kind::SessionErased);
            }
            _ => {
                let opened = opened.unwrap();
                assert_eq!((&opened.session, opened.created), (&new, true));
                let fresh = Entry::Live(new, Vec::new());
                self.model.insert(key.id.clone(), fresh);
            }
        }
    }

    async fn append(&mut self) {
        let batch: Vec<_> = (0..1 + self.random.below(4))
            .map(|_| self.some_append())
            .collect();
        let outcomes = self.store.append(batch.clone()).await.unwrap();
        assert_eq!(outcomes.len(), batch.len());
        for (append, outcome) in batch.into_iter().zip(outcomes) {
            let refusals = self.refusals(&append.key);
            let session = append.key.id.clone();
            let Some((head, events)) = self.live(&append.key) else {
                assert!(refusals.contains(&kind(outcome)));
                continue;
            };
            check_append(head, events, append, outcome, session);
        }
    }

    fn some_append(&mut self) -> Append {
        let random = &mut self.random;
        let event = NewEvent {
            id: the(&format!("e-{}", random.below(30))),
            event_type: the(random.pick(&["user_speech", "user_speech", "system"])),
            payload: object(random.pick(&[r#"{"a":1,"b":2}"#, r#"{"b":2.0,"a":1}"#, "{}"])),
            timestamp: random.some(|random| at(random.below(50) as i64)),
        };
        let seq = random.below(100) as i64 - 20;
        let key = self.some_key();
        Append {
            key,
            event,
            seq,
            reserved: false,
        }
    }

    async fn patch(&mut self, key: &SessionKey) {
        let random = &mut self.random;
        let patch = SessionPatch {
            user_id: random.some(|random| random.some(|random| the(random.pick(&["u", "v"])))),
            language: random.some(|random| random.some(|random| the(random.pick(&["en", "de"])))),
            metadata: random.some(|random| {
                random.some(|random| object(random.pick(&[r#"{"a":2}"#, r#"{"a":null,"b":1}"#])))
            }),
        };
        let versions = vec![1 + random.below(3) as i64];
        let expected = random.pick(&[Expected::Any, Expected::OneOf(versions)]);
        let outcome = self.store.patch(key, &patch, &expected).await;
        let refusals = self.refusals(key);
        match self.live(key) {
            None => assert!(refusals.contains(&kind(outcome))),
            Some((session, _)) => match session.patch(&patch, &expected) {
                Ok(_) => assert_eq!(outcome.unwrap(), *session),
                Err(error) => assert_eq!(kind(outcome), error.kind()),
            },
        }
    }

    async fn end(&mut self, key: &SessionKey) {
        let end = End {
            status: the(self.random.pick(&["completed", "failed"])),
            reason: self.random.some(|_| "because".to_owned()),
            ended_at: None,
        };
        let now = at(self.now);
        let outcome = self.store.end(key, &end, now).await;
        let refusals = self.refusals(key);
        match self.live(key) {
            None => assert!(refusals.contains(&kind(outcome))),
            Some((session, events)) => {
                session.end(&end, now, events.iter().map(|event| event.seq).max());
                assert_eq!(outcome.unwrap(), *session);
            }
        }
    }

    async fn erase(&mut self, key: &SessionKey) {
        let until = self.now + self.random.below(60) as i64;
        self.store.erase(key, at(until)).await.unwrap();
        if self.live(key).is_some() {
            self.model.insert(key.id.clone(), Entry::Erased(until));
        }
    }

    async fn upkeep(&mut self) {
        let now = if self.alone { self.now } else { 0 };
        while self.store.upkeep(at(now)).await.unwrap() != Upkeep::default() {}
        let forgotten = |entry: &Entry| matches!(entry, Entry::Erased(until) if *until <= now);
        self.model.retain(|_, entry| !forgotten(entry));
    }

    async fn check_session(&mut self, key: &SessionKey) {
        let outcome = self.store.session(key).await;
        let refusals = self.refusals(key);
        match self.live(key) {
            None => assert!(refusals.contains(&kind(outcome))),
            Some((session, _)) => assert_eq!(outcome.unwrap(), *session),
        }
    }

    async fn check_event(&mut self, key: &SessionKey) {
        let id = the(&format!("e-{}", self.random.below(30)));
        let outcome = self.store.event(key, &id).await;
        let refusals = self.refusals(key);
        match self.live(key) {
            None => assert!(refusals.contains(&kind(outcome))),
            Some((_, events)) => match events.iter().find(|event| event.id == id) {
                Some(event) => assert_eq!(outcome.unwrap().event, Some(event.clone())),
                None => assert_eq!(kind(outcome), Kind::EventNotFound),
            },
        }
    }

    async fn check_page(&mut self, key: &SessionKey) {
        let random = &mut self.random;
        let query = EventQuery {
            filter: EventFilter {
                event_type: random.some(|random| the(random.pick(&["user_speech", "system"]))),
                since: random.some(|random| at(random.below(60) as i64)),
                until: random.some(|random| at(random.below(60) as i64)),
            },
            order: random.pick(&[Order::Ascending, Order::Descending]),
            after: None,
            limit: the(random.pick(&["1", "2", "7", "500"])),
            payload_bytes_max: random.pick(&[1, 30, usize::MAX]),
        };
        let refusals = self.refusals(key);
        let store = self.store.clone();
        match self.live(key) {
            None => {
                assert!(refusals.contains(&kind(store.events(key, &query).await)));
                assert!(refusals.contains(&kind(store.session_with_events(key, &query).await)));
            }
            Some((_, events)) => {
                let expected = selected(events, &query);
                let (session, page) = store.session_with_events(key, &query).await.unwrap();
                assert_eq!(page, store.events(key, &query).await.unwrap());
                assert_eq!(session, store.session(key).await.unwrap());
                assert_eq!(walk(&store, key, query).await, expected);
            }
        }
    }

    async fn check_listing(&mut self) {
        let random = &mut self.random;
        let filter = SessionFilter {
            status: random.some(|random| random.pick(&Status::ALL)),
            user_id: random.some(|random| the(random.pick(&["u", "v", "w"]))),
            started_after: random.some(|random| at(random.below(5) as i64)),
            started_before: random.some(|random| at(random.below(5) as i64)),
        };
        let limit = the(random.pick(&["1", "2", "500"]));
        let live = self.model.values().filter_map(|entry| match entry {
            Entry::Live(session, _) => Some(session.clone()),
            Entry::Erased(_) => None,
        });
        let expected = listing::listed(&live.collect::<Vec<_>>(), &filter);
        let listed = listing::walk(&self.store, &self.tenant, &filter, limit).await;
        assert_eq!(listed, expected);
    }

    async fn check_everything(&mut self) {
        for id in self.model.keys().cloned().collect::<Vec<_>>() {
            let key = SessionKey::new(self.tenant.clone(), id);
            self.check_session(&key).await;
            let store = self.store.clone();
            if let Some((_, events)) = self.live(&key) {
                let expected = selected(events, &everything());
                assert_eq!(walk(&store, &key, everything()).await, expected);
            }
        }
        self.check_listing().await;
    }
}

fn check_append(
    session: &mut Session,
    events: &mut Vec<Event>,
    append: Append,
    outcome: colloquy::domain::Result<Appended>,
    id: SessionId,
) {
    let new = append.event;
    if let Some(stored) = events.iter().find(|event| event.id == new.id) {
        if stored.is_replayed_by(&new.event_type, &new.payload) {
            let replay = outcome.unwrap();
            assert_eq!((&replay.event, replay.replayed), (stored, true));
        } else {
            assert_eq!(kind(outcome), Kind::EventIdReused);
        }
        return;
    }
    if session.status.has_ended() {
        assert_eq!(kind(outcome), Kind::SessionEnded);
        return;
    }
    let appended = outcome.unwrap();
    let seq = appended.event.seq;
    match events.iter().map(|event| event.seq).max() {
        Some(last) if append.seq <= last => assert!(seq > last),
        _ => assert_eq!(seq, append.seq),
    }
    let event = new.accepted(id, seq);
    assert_eq!((&appended.event, appended.replayed), (&event, false));
    events.push(event);
    if session.status == Status::Initiated {
        session.status = Status::Active;
        session.version += 1;
    }
}

/// What a walk of `query` meets, in its order.
fn selected(events: &[Event], query: &EventQuery) -> Vec<Event> {
    let EventFilter {
        event_type,
        since,
        until,
    } = &query.filter;
    let passes = |event: &&Event| {
        event_type.as_ref().is_none_or(|only| event.event_type == *only)
            && since.is_none_or(|since| event.timestamp >= since)
            && until.is_none_or(|until| event.timestamp < until)
    };
    let mut selected: Vec<_> = events.iter().filter(passes).cloned().collect();
    selected.sort_by_key(|event| EventPosition::from(event));
    if query.order == Order::Descending {
        selected.reverse();
    }
    selected
}
