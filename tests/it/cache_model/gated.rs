//! The store and the cache as a replica of the model has them: the store waits for the schedule before and after every
//! call, and the cache is watched for how long it keeps a write.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use colloquy::{
    cache::{
        Begun, Cache, Change, Found, Health, Lease, Lookup, Place, Query, RedisCache, Rendered, Reserve,
        Wanted,
    },
    domain::{
        Appended, End, Error, EventId, EventQuery, Expected, Kind, Limit, Page, Result, Session, SessionKey,
        SessionPatch, SessionQuery, Tenant, Timestamp,
    },
    store::{Append, HotEvent, HotEvents, Idle, IdleFound, Opened, Store, Upkeep},
};
use tokio::time::Instant;

use super::{
    memory::Memory,
    terms::{CALL_TIME_MAX, LEASE},
    world::{Verdict, World},
};

#[derive(Clone)]
pub struct GatedStore {
    pub world: Arc<World>,
    pub replica: usize,
    pub memory: Arc<Memory>,
}

impl GatedStore {
    /// Runs a call of the store: in its time, or not at all, or later than anyone waits for it.
    async fn call<T, W>(&self, what: &'static str, work: impl FnOnce(Arc<Memory>) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.world.living(self.replica).await;
        let work = work(Arc::clone(&self.memory));
        match self.world.gate(self.replica, what, false).await {
            Verdict::Go => {}
            Verdict::Fail => return Err(away()),
            Verdict::Late => {
                let (world, replica) = (Arc::clone(&self.world), self.replica);
                tokio::spawn(async move {
                    if world.gate(replica, what, false).await == Verdict::Go {
                        let _ = work.await;
                    }
                });
                return Err(away());
            }
        }
        let outcome = work.await;
        let verdict = self.world.gate(self.replica, "store answers", false).await;
        self.world.living(self.replica).await;
        match verdict {
            Verdict::Go => outcome,
            _ => Err(away()),
        }
    }
}

fn away() -> Error {
    Error::new(Kind::Unavailable, "the store is away")
}

#[async_trait]
impl Store for GatedStore {
    async fn open(&self, tenant: &Tenant, session: Session, now: Timestamp) -> Result<Opened> {
        let tenant = tenant.clone();
        self.call("store.open", |memory| async move {
            memory.open(&tenant, session, now).await
        })
        .await
    }

    async fn session(&self, key: &SessionKey) -> Result<Session> {
        let key = key.clone();
        self.call(
            "store.session",
            |memory| async move { memory.session(&key).await },
        )
        .await
    }

    async fn sessions(&self, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
        self.memory.sessions(tenant, query).await
    }

    async fn patch(&self, key: &SessionKey, patch: &SessionPatch, expected: &Expected) -> Result<Session> {
        let (key, patch, expected) = (key.clone(), patch.clone(), expected.clone());
        self.call("store.patch", |memory| async move {
            memory.patch(&key, &patch, &expected).await
        })
        .await
    }

    async fn end(&self, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
        let (key, end) = (key.clone(), end.clone());
        self.call(
            "store.end",
            |memory| async move { memory.end(&key, &end, now).await },
        )
        .await
    }

    async fn erase(&self, key: &SessionKey, forget_at: Timestamp) -> Result<()> {
        let key = key.clone();
        self.call("store.erase", |memory| async move {
            memory.erase(&key, forget_at).await
        })
        .await
    }

    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>> {
        self.call("store.append", |memory| async move { memory.append(batch).await })
            .await
    }

    async fn last_seqs(&self, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
        let keys = keys.to_vec();
        self.call("store.last_seqs", |memory| async move {
            memory.last_seqs(&keys).await
        })
        .await
    }

    async fn events(&self, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
        let (key, query) = (key.clone(), query.clone());
        self.call("store.events", |memory| async move {
            memory.events(&key, &query).await
        })
        .await
    }

    async fn session_with_events(
        &self,
        key: &SessionKey,
        query: &EventQuery,
    ) -> Result<(Session, HotEvents)> {
        let (key, query) = (key.clone(), query.clone());
        self.call("store.session_with_events", |memory| async move {
            memory.session_with_events(&key, &query).await
        })
        .await
    }

    async fn event(&self, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
        self.memory.event(key, id).await
    }

    async fn ping(&self) -> Result<()> {
        self.memory.ping().await
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep> {
        self.memory.upkeep(now).await
    }

    async fn find_idle(&self, idle_since: Timestamp, now: Timestamp, limit: usize) -> Result<IdleFound> {
        self.memory.find_idle(idle_since, now, limit).await
    }

    async fn end_idle(&self, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>> {
        self.memory.end_idle(idle, reason, now).await
    }

    async fn close(&self) {}
}

/// Timers come up to a millisecond late, and a write may meet three of them.
const TIMERS: Duration = Duration::from_millis(3);

/// Holds the cache to its word on how long a write waits for it.
pub struct WatchedCache {
    pub world: Arc<World>,
    pub replica: usize,
    pub cache: Arc<RedisCache>,
}

impl WatchedCache {
    async fn within<T>(&self, what: &str, most: Duration, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let outcome = work.await;
        let took = began.elapsed();
        if took > most + TIMERS && self.world.is_alive(self.replica) {
            let replica = self.replica;
            self.world
                .violated(format!("r{replica}: {what} took {took:?}, more than {most:?}"));
        }
        outcome
    }
}

#[async_trait]
impl Cache for WatchedCache {
    async fn begin(&self, key: &SessionKey, wanted: Wanted) -> Begun {
        self.within("to begin a write", CALL_TIME_MAX, self.cache.begin(key, wanted))
            .await
    }

    async fn reserve_all(&self, writes: &[Reserve]) -> Vec<Option<i64>> {
        self.within(
            "to reserve numbers",
            CALL_TIME_MAX,
            self.cache.reserve_all(writes),
        )
        .await
    }

    async fn finish(&self, begun: Begun, change: Change<'_>) {
        let most = 2 * CALL_TIME_MAX + LEASE;
        self.within("to finish a write", most, self.cache.finish(begun, change))
            .await;
    }

    async fn read(&self, key: &SessionKey, query: &Query) -> Lookup {
        self.within("a look-up", CALL_TIME_MAX, self.cache.read(key, query))
            .await
    }

    async fn fill(&self, lease: Lease, found: Found<'_>) {
        self.cache.fill(lease, found).await;
    }

    fn keep(&self, place: Place, rendered: Rendered) {
        self.cache.keep(place, rendered);
    }

    fn wants(&self) -> Option<Limit> {
        self.cache.wants()
    }

    fn outcomes(&self) -> Vec<(&'static str, u64)> {
        self.cache.outcomes()
    }

    fn health(&self) -> Health {
        self.cache.health()
    }

    fn unmarked(&self) -> usize {
        self.cache.unmarked()
    }

    async fn close(&self) {
        self.cache.close().await;
    }
}
