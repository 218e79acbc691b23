//! What the callers of a replica do. Each call is a task of its own, which ends with what it learnt, or never: a replica
//! that dies tells nobody anything.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use colloquy::{
    domain::{
        End, Error, Event, EventId, EventPosition, Expected, Kind, Limit, NewEvent, NewSession, Order,
        SessionKey, SessionPatch, Tenant, Timestamp,
    },
    service::{PageQuery, Service},
};

use super::{
    oracle::{Asked, Oracle, Shown},
    world::World,
};
use crate::{
    random::Random,
    shown::{self, render},
};

/// A caller of a replica.
#[derive(Clone)]
pub struct Client {
    pub world: Arc<World>,
    pub oracle: Arc<Oracle>,
    pub calls: Arc<Calls>,
    pub replica: usize,
    pub service: Service,
}

/// What callers have in common.
#[derive(Default)]
pub struct Calls {
    pub reads: AtomicUsize,
    pub hits: AtomicUsize,
    made: AtomicUsize,
    /// Events whose callers were told that they are stored, also where that binds nobody else.
    told: Mutex<Vec<(SessionKey, EventId, i64)>>,
    /// Appends of which nobody knows what became.
    open_questions: Mutex<Vec<(SessionKey, NewEvent)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    Open,
    Append,
    Patch,
    Complete,
    Erase,
    Read,
}

impl CallKind {
    /// What writes there may be in one schedule: often of one kind, so that they meet, sometimes of all.
    pub fn some_writes(random: &mut Random) -> &'static [Self] {
        use CallKind::{Append, Complete, Erase, Open, Patch};
        const MIXES: [&[CallKind]; 4] = [
            &[Append],
            &[Patch],
            &[Append, Append, Patch],
            &[Append, Append, Append, Patch, Patch, Open, Complete, Erase],
        ];
        MIXES[random.below(MIXES.len())]
    }
}

/// A read to be made.
#[derive(Debug, Clone)]
pub struct Reading {
    pub order: Order,
    pub limit: u16,
    pub pages: usize,
    pub session: bool,
    /// The first page must not be older than an event of which somebody was told.
    pub min_seq: bool,
}

impl Reading {
    pub fn some(random: &mut Random) -> Self {
        Self {
            order: *random.pick(&[Order::Ascending, Order::Descending]),
            limit: *random.pick(&[1, 2, 3, 6, 50]),
            pages: *random.pick(&[1, 1, 1, 100]),
            session: random.chance(70),
            min_seq: random.chance(30),
        }
    }

    /// What an entry of any session suffices for.
    pub fn newest() -> Self {
        Self {
            limit: 2,
            ..Self::all()
        }
    }

    /// All there is.
    pub fn all() -> Self {
        Self {
            order: Order::Descending,
            limit: 500,
            pages: 1,
            session: true,
            min_seq: false,
        }
    }
}

impl Calls {
    fn tell(&self, key: &SessionKey, events: &[Event]) {
        let told = events
            .iter()
            .map(|event| (key.clone(), event.id.clone(), event.seq));
        self.told.lock().unwrap().extend(told);
    }

    fn last_told(&self, key: &SessionKey) -> Option<i64> {
        let told = self.told.lock().unwrap();
        told.iter()
            .filter(|(of, ..)| of == key)
            .map(|(.., seq)| *seq)
            .max()
    }

    /// One of the last events told, another one each time.
    fn some_told(&self, key: &SessionKey) -> Option<(EventId, i64)> {
        let told = self.told.lock().unwrap();
        let of_session: Vec<_> = told.iter().rev().filter(|(of, ..)| of == key).take(4).collect();
        let nth = self.reads.load(Ordering::Relaxed) % of_session.len().max(1);
        of_session.get(nth).map(|(_, id, seq)| (id.clone(), *seq))
    }
}

impl Client {
    /// Makes such a call on this session.
    pub async fn call(self, kind: CallKind, key: SessionKey, mut random: Random) {
        self.world.lock().replicas[self.replica].calls += 1;
        match kind {
            CallKind::Open => self.open(&key, &mut random).await,
            CallKind::Append => self.append(&key, &mut random).await,
            CallKind::Patch => self.patch(&key).await,
            CallKind::Complete => self.complete(&key).await,
            CallKind::Erase => self.erase(&key).await,
            CallKind::Read => self.read(&key, Reading::some(&mut random)).await,
        }
        self.world.lock().replicas[self.replica].calls -= 1;
    }

    fn nth(&self) -> usize {
        self.calls.made.fetch_add(1, Ordering::Relaxed)
    }

    async fn open(&self, key: &SessionKey, random: &mut Random) {
        let status = *random.pick(&["initiated", "active"]);
        let json = format!(r#"{{"sessionId":"{}","status":"{status}"}}"#, key.id);
        let new = NewSession::read(json.as_bytes(), "").unwrap();
        let outcome = self.service.open(&Tenant::default(), new).await;
        // A session that was there already is shown as it is, which is no promise but that it is there.
        let version = outcome.map(|opened| if opened.created { opened.session.version } else { 1 });
        self.learnt("open", key, version).await;
    }

    async fn patch(&self, key: &SessionKey) {
        let json = format!(r#"{{"metadata":{{"n":{}}}}}"#, self.nth());
        let patch = SessionPatch::read(json.as_bytes()).unwrap();
        let outcome = self.service.update(key, &patch, &Expected::Any).await;
        self.learnt("patch", key, outcome.map(|session| session.version))
            .await;
    }

    async fn complete(&self, key: &SessionKey) {
        let outcome = self.service.complete(key, &End::default()).await;
        self.learnt("complete", key, outcome.map(|session| session.version))
            .await;
    }

    async fn learnt(&self, what: &str, key: &SessionKey, outcome: Result<i64, Error>) {
        self.world.living(self.replica).await;
        match outcome {
            Ok(version) => {
                if self.acknowledged(format!("{what} {} v{version}", key.id)) {
                    self.oracle.session_acknowledged(key, version);
                }
            }
            Err(error) => self.failed(what, key, &error),
        }
    }

    async fn erase(&self, key: &SessionKey) {
        let outcome = self.service.erase(key).await;
        self.world.living(self.replica).await;
        match outcome {
            Ok(()) => {
                if self.acknowledged(format!("erase {}", key.id)) {
                    self.oracle.erasure_acknowledged(key);
                }
            }
            Err(error) => self.failed("erase", key, &error),
        }
    }

    async fn append(&self, key: &SessionKey, random: &mut Random) {
        let mut events: Vec<_> = (0..1 + random.below(2)).map(|_| self.new_event(random)).collect();
        if random.chance(30) {
            let questions = self.calls.open_questions.lock().unwrap();
            let ours = questions.iter().filter(|(of, _)| of == key);
            events.extend(ours.map(|(_, event)| event.clone()).take(2));
        }
        let before = self.calls.last_told(key);
        let outcome = self.service.append_batch(key, events.clone()).await;
        self.world.living(self.replica).await;
        let outcomes = match outcome {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.failed("append", key, &error);
                let mut questions = self.calls.open_questions.lock().unwrap();
                questions.extend(events.into_iter().map(|event| (key.clone(), event)));
                return;
            }
        };
        let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
        let new = outcomes.iter().filter(|one| !one.replayed);
        self.check_numbers(key, before, new.map(|one| one.event.seq));
        let appended: Vec<_> = outcomes.into_iter().map(|one| one.event).collect();
        self.calls.tell(key, &appended);
        let ids: Vec<_> = appended.iter().map(|event| event.id.as_str()).collect();
        if self.acknowledged(format!("append {} {ids:?}", key.id)) {
            for event in &appended {
                self.oracle.event_acknowledged(key, event);
            }
        }
    }

    /// Where all numbers of a session come from Redis, which has lost none, no two events share one, and each is above
    /// all that were told before its append began.
    fn check_numbers(&self, key: &SessionKey, before: Option<i64>, new: impl Iterator<Item = i64>) {
        let record = self.world.truth.lock().unwrap().get(key).cloned();
        let Some(record) = record.filter(|record| !record.is_numbered_by_replicas) else {
            return;
        };
        if self.world.lock().numbers_lost {
            return;
        }
        for seq in new {
            let shared = record.events.iter().filter(|event| event.seq == seq).count();
            if shared > 1 || Some(seq) <= before {
                self.world
                    .violated(format!("{} has {seq} {shared} times, after {before:?}", key.id));
            }
        }
    }

    /// With one of few timestamps or none, so that they are often the same, and often older than what is there; small or
    /// large.
    fn new_event(&self, random: &mut Random) -> NewEvent {
        let at = Timestamp::from_unix_ms(1_000 + i64::try_from(random.below(8)).unwrap()).unwrap();
        let stamp = match random.chance(70) {
            true => format!(r#","timestamp":"{at}""#),
            false => String::new(),
        };
        let said = "x".repeat(*random.pick(&[0, 0, 400]));
        let json = format!(
            r#"{{"eventId":"e{}","type":"system","payload":{{"said":"{said}"}}{stamp}}}"#,
            self.nth()
        );
        NewEvent::read(json.as_bytes(), "").unwrap()
    }

    /// Whether the acknowledgement of a write binds those who read.
    fn acknowledged(&self, what: String) -> bool {
        let mut state = self.world.lock();
        let excepted = state.is_excepted(self.replica);
        let but = if excepted { ", excepted" } else { "" };
        state.note(format!("r{} ACK {what}{but}", self.replica));
        !excepted
    }

    fn failed(&self, what: &str, key: &SessionKey, error: &Error) {
        let kind = error.kind();
        self.world
            .note(|| format!("r{} {what} {}: {kind:?}", self.replica, key.id));
        if kind == Kind::Internal {
            self.world.violated(format!("{what}: {error}"));
        }
    }

    pub async fn read(&self, key: &SessionKey, reading: Reading) {
        let (mut cursor, mut after) = (None, None);
        for _ in 0..reading.pages {
            match self.read_page(key, &reading, cursor.take(), after.take()).await {
                Some((next, position)) => (cursor, after) = (Some(next), position),
                None => return,
            }
        }
    }

    /// Reads and checks a page; gives where the next one begins.
    async fn read_page(
        &self,
        key: &SessionKey,
        reading: &Reading,
        cursor: Option<String>,
        after: Option<EventPosition>,
    ) -> Option<(String, Option<EventPosition>)> {
        let mut known = self.oracle.acknowledged(key);
        let wanted = reading.min_seq.then(|| self.calls.some_told(key)).flatten();
        let query = PageQuery {
            order: reading.order,
            limit: Limit::at_most(reading.limit),
            cursor: cursor.as_deref(),
            min_seq: wanted.as_ref().map(|(_, seq)| *seq),
            ..PageQuery::default()
        };
        // To this read it is as good as acknowledged, whoever stored it.
        known.events.extend(wanted.map(|(id, _)| id));
        let hits = self.hits();
        let read = match reading.session {
            true => self
                .service
                .read_session(key, &query, render)
                .await
                .map(|read| (read.version, read.body)),
            false => self
                .service
                .read_events(key, &query, render)
                .await
                .map(|body| (0, body)),
        };
        self.world.living(self.replica).await;
        let (version, body) = match read {
            Ok(read) => read,
            Err(error) => {
                self.judge(key, reading, self.oracle.check_failure(key, &known, error.kind()));
                return None;
            }
        };
        let page = shown::Shown::read(&body);
        let cached = self.hits() > hits;
        self.calls.reads.fetch_add(1, Ordering::Relaxed);
        self.calls.hits.fetch_add(usize::from(cached), Ordering::Relaxed);
        let asked = Asked {
            order: reading.order,
            limit: query.limit.get(),
            after,
        };
        let shown = Shown {
            session: reading.session.then_some((version, page.session)),
            events: page.events,
            has_more: page.next_cursor.is_some(),
        };
        self.world.note(|| {
            let by = if cached { "cache" } else { "store" };
            let version = shown.session.as_ref().map(|(version, _)| version);
            format!(
                "r{} READ {} by {by}: {version:?}, {} events",
                self.replica,
                key.id,
                shown.events.len()
            )
        });
        let position = self.judge(key, reading, self.oracle.check(key, &known, &asked, &shown))?;
        page.next_cursor.map(|cursor| (cursor, position))
    }

    fn hits(&self) -> u64 {
        let outcomes = self.service.cache_outcomes().into_iter();
        let hits = outcomes.filter(|(name, _)| name.starts_with("hit"));
        hits.map(|(_, count)| count).sum()
    }

    fn judge<T>(&self, key: &SessionKey, reading: &Reading, found: Result<T, String>) -> Option<T> {
        found
            .map_err(|wrong| {
                let replica = self.replica;
                self.world
                    .violated(format!("r{replica} {} {reading:?}: {wrong}", key.id));
            })
            .ok()
    }
}
