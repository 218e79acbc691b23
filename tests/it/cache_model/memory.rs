//! A store in memory: what is true, for the model to compare with. It remembers every version of a session.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use colloquy::{
    domain::{
        Appended, End, Error, Event, EventId, EventPosition, EventQuery, Expected, Kind, Order, Page, Result,
        Session, SessionKey, SessionPatch, SessionPosition, SessionQuery, Status, Tenant, Timestamp,
    },
    store::{Append, HotEvent, HotEvents, Idle, IdleFound, Opened, Store, Upkeep},
};

/// What the store holds; whoever has it can look, past all gates.
pub type Truth = Arc<Mutex<BTreeMap<SessionKey, Record>>>;

/// A session from its opening on.
#[derive(Debug, Clone)]
pub struct Record {
    /// By version, from 1.
    pub versions: Vec<Session>,
    /// In the order of acceptance.
    pub events: Vec<Event>,
    /// Until when its tombstone stands, once it was erased.
    pub erased: Option<Timestamp>,
    /// As [`Session::seq_min`].
    seq_min: Option<i64>,
    /// Not all of its numbers were reserved.
    pub is_numbered_by_replicas: bool,
    /// By the server's clock.
    pub opened_at: Timestamp,
}

impl Record {
    pub fn session(&self) -> &Session {
        self.versions.last().expect("a first version")
    }

    /// Keeps what `change` makes of the session, where that is another version.
    fn change<T>(&mut self, change: impl FnOnce(&mut Session) -> T) -> T {
        let mut session = self.session().clone();
        let outcome = change(&mut session);
        if session.version > self.session().version {
            self.versions.push(session);
        }
        outcome
    }

    /// What the next number must exceed.
    fn last_seq(&self) -> Option<i64> {
        let last = self.events.iter().map(|event| event.seq).max();
        last.max(self.seq_min.map(|least| least - 1))
    }

    fn append(&mut self, append: Append) -> Result<Appended> {
        let new = append.event;
        if let Some(stored) = self.events.iter().find(|event| event.id == new.id) {
            let replayed = stored.is_replayed_by(&new.event_type, &new.payload);
            return match replayed {
                true => Ok(Appended {
                    event: stored.clone(),
                    replayed,
                }),
                false => Err(refused(Kind::EventIdReused)),
            };
        }
        if self.session().status.has_ended() {
            return Err(refused(Kind::SessionEnded));
        }
        let seq = match self.last_seq() {
            Some(last) if last >= append.seq && !append.reserved => {
                last.checked_add(1).ok_or(refused(Kind::Internal))?
            }
            _ => append.seq,
        };
        self.is_numbered_by_replicas |= !append.reserved;
        let event = new.accepted(append.key.id, seq);
        self.events.push(event.clone());
        self.change(|session| {
            if session.status == Status::Initiated {
                session.status = Status::Active;
                session.version += 1;
            }
        });
        Ok(Appended {
            event,
            replayed: false,
        })
    }

    fn is_idle_since(&self, idle_since: Timestamp) -> bool {
        let last_ms = self.events.iter().map(|event| event.seq.div_euclid(1_000)).max();
        let goes_on = self.erased.is_none() && !self.session().status.has_ended();
        let used_ms = self.opened_at.unix_ms().max(last_ms.unwrap_or(i64::MIN));
        goes_on && used_ms < idle_since.unix_ms()
    }

    fn page(&self, query: &EventQuery) -> Page<Event> {
        let filter = &query.filter;
        let passes = |event: &&Event| {
            filter
                .event_type
                .as_ref()
                .is_none_or(|only| event.event_type == *only)
                && filter.since.is_none_or(|since| event.timestamp >= since)
                && filter.until.is_none_or(|until| event.timestamp < until)
        };
        let mut events: Vec<_> = self.events.iter().filter(passes).cloned().collect();
        events.sort_by_key(|event| EventPosition::from(event));
        if let Some(after) = &query.after {
            events.retain(|event| match query.order {
                Order::Ascending => EventPosition::from(event) > *after,
                Order::Descending => EventPosition::from(event) < *after,
            });
        }
        if query.order == Order::Descending {
            events.reverse();
        }
        let mut bytes = 0;
        let fits = |event: &Event| {
            bytes += event.payload.as_str().len();
            bytes <= query.payload_bytes_max
        };
        let fitting = events.iter().map(fits).take_while(|fits| *fits).count();
        let count = fitting.max(1).min(query.limit.get()).min(events.len());
        let has_more = events.len() > count;
        events.truncate(count);
        Page {
            items: events,
            has_more,
        }
    }
}

#[derive(Default)]
pub struct Memory {
    truth: Truth,
    closed: AtomicBool,
}

impl Memory {
    pub fn of(truth: &Truth) -> Self {
        Self {
            truth: Arc::clone(truth),
            closed: AtomicBool::new(false),
        }
    }

    fn open_for_calls(&self) -> Result<MutexGuard<'_, BTreeMap<SessionKey, Record>>> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(refused(Kind::Unavailable)),
            false => Ok(self.truth.lock().unwrap()),
        }
    }

    fn with<T>(&self, key: &SessionKey, work: impl FnOnce(&mut Record) -> Result<T>) -> Result<T> {
        work(live(&mut *self.open_for_calls()?, key)?)
    }
}

fn live<'a>(truth: &'a mut BTreeMap<SessionKey, Record>, key: &SessionKey) -> Result<&'a mut Record> {
    match truth.get_mut(key) {
        None => Err(refused(Kind::SessionNotFound)),
        Some(record) if record.erased.is_some() => Err(refused(Kind::SessionErased)),
        Some(record) => Ok(record),
    }
}

fn refused(kind: Kind) -> Error {
    Error::new(kind, format!("{kind:?}"))
}

#[async_trait]
impl Store for Memory {
    async fn open(&self, tenant: &Tenant, session: Session, now: Timestamp) -> Result<Opened> {
        let mut truth = self.open_for_calls()?;
        let key = SessionKey::new(tenant.clone(), session.id.clone());
        match truth.get(&key) {
            Some(record) if record.erased.is_some_and(|until| until > now) => {
                return Err(refused(Kind::SessionErased));
            }
            Some(record) if record.erased.is_none() => {
                let session = record.session().clone();
                let created = false;
                return Ok(Opened { session, created });
            }
            _ => {}
        }
        let record = Record {
            versions: vec![session.clone()],
            events: Vec::new(),
            erased: None,
            seq_min: Session::seq_min(session.started_at, now),
            is_numbered_by_replicas: false,
            opened_at: now,
        };
        truth.insert(key, record);
        let created = true;
        Ok(Opened { session, created })
    }

    async fn session(&self, key: &SessionKey) -> Result<Session> {
        self.with(key, |record| Ok(record.session().clone()))
    }

    async fn sessions(&self, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
        let truth = self.open_for_calls()?;
        let filter = &query.filter;
        let position = |session: &Session| (session.started_at, session.id.clone());
        let before = |after: &SessionPosition| (after.started_at, after.id.clone());
        let mut sessions: Vec<_> = truth
            .iter()
            .filter(|(key, record)| key.tenant == *tenant && record.erased.is_none())
            .map(|(_, record)| record.session().clone())
            .filter(|session| filter.status.is_none_or(|only| session.status == only))
            .filter(|session| filter.user_id.is_none() || session.user_id == filter.user_id)
            .filter(|session| {
                filter
                    .started_after
                    .is_none_or(|after| session.started_at >= after)
            })
            .filter(|session| {
                filter
                    .started_before
                    .is_none_or(|before| session.started_at < before)
            })
            .filter(|session| {
                query
                    .after
                    .as_ref()
                    .is_none_or(|after| position(session) < before(after))
            })
            .collect();
        sessions.sort_by_key(position);
        sessions.reverse();
        let has_more = sessions.len() > query.limit.get();
        sessions.truncate(query.limit.get());
        Ok(Page {
            items: sessions,
            has_more,
        })
    }

    async fn patch(&self, key: &SessionKey, patch: &SessionPatch, expected: &Expected) -> Result<Session> {
        self.with(key, |record| {
            record.change(|session| session.patch(patch, expected))?;
            Ok(record.session().clone())
        })
    }

    async fn end(&self, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
        self.with(key, |record| {
            let last_seq = record.last_seq();
            record.change(|session| session.end(end, now, last_seq));
            Ok(record.session().clone())
        })
    }

    async fn erase(&self, key: &SessionKey, forget_at: Timestamp) -> Result<()> {
        let mut truth = self.open_for_calls()?;
        if let Some(record) = truth.get_mut(key) {
            record.erased.get_or_insert(forget_at);
        }
        Ok(())
    }

    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>> {
        let mut truth = self.open_for_calls()?;
        let append = |append: Append| live(&mut truth, &append.key.clone())?.append(append);
        Ok(batch.into_iter().map(append).collect())
    }

    async fn last_seqs(&self, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
        let truth = self.open_for_calls()?;
        let living = |key| truth.get(key).filter(|record| record.erased.is_none());
        Ok(keys.iter().map(|key| living(key)?.last_seq()).collect())
    }

    async fn events(&self, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
        self.with(key, |record| Ok(record.page(query).into()))
    }

    async fn session_with_events(
        &self,
        key: &SessionKey,
        query: &EventQuery,
    ) -> Result<(Session, HotEvents)> {
        self.with(key, |record| {
            Ok((record.session().clone(), record.page(query).into()))
        })
    }

    async fn event(&self, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
        self.with(key, |record| {
            let found = record.events.iter().find(|event| event.id == *id);
            found
                .cloned()
                .map(HotEvent::from)
                .ok_or(refused(Kind::EventNotFound))
        })
    }

    async fn ping(&self) -> Result<()> {
        self.open_for_calls().map(drop)
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep> {
        let mut truth = self.open_for_calls()?;
        let before = truth.len();
        truth.retain(|_, record| record.erased.is_none_or(|until| until > now));
        Ok(Upkeep {
            events_deleted: 0,
            tombstones_dropped: before - truth.len(),
        })
    }

    async fn find_idle(&self, idle_since: Timestamp, _: Timestamp, limit: usize) -> Result<IdleFound> {
        let truth = self.open_for_calls()?;
        let mut idle: Vec<_> = truth
            .iter()
            .filter(|(_, record)| record.is_idle_since(idle_since))
            .collect();
        idle.sort_by_key(|(_, record)| record.opened_at);
        let has_more = idle.len() > limit;
        let sessions = idle.into_iter().take(limit).map(|(key, _)| Idle {
            key: key.clone(),
            idle_since,
            mark: String::new(),
        });
        Ok(IdleFound {
            sessions: sessions.collect(),
            has_more,
        })
    }

    async fn end_idle(&self, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>> {
        self.with(&idle.key, |record| {
            if !record.is_idle_since(idle.idle_since) {
                return Ok(None);
            }
            let end = End {
                reason: Some(reason.to_owned()),
                ..End::default()
            };
            let last_seq = record.last_seq();
            record.change(|session| session.end(&end, now, last_seq));
            Ok(Some(record.session().clone()))
        })
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// The store that the model trusts keeps the contract of a store.
mod contract {
    use super::*;
    use crate::conformance::{Subject, store_conformance};

    #[async_trait]
    impl Subject for Truth {
        async fn store(&self) -> Arc<dyn Store> {
            Arc::new(Memory::of(self))
        }
    }

    store_conformance!(Truth::default());
}
