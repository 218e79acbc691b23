//! Time and order where clocks are apart, step back or are wrong: what a server stamps reads as it was accepted and
//! contradicts nothing that is stored, and with Redis no two events of a session share a `seq`.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use colloquy::{
    cache::{Cache, MemoryCache, NoCache, RedisCache, RedisOptions},
    domain::{
        Appended, End, Event, EventQuery, Limit, NewEvent, NewSession, Order, Session, SessionKey, Tenant,
        Timestamp,
    },
    service::{Clock, GroupLimits, Limits, PageQuery, Service},
    store::{
        Store,
        mongo::{self, CHUNKS_DEFAULT},
        sqlite::{SqliteOptions, SqliteStore},
    },
};

use crate::{
    engines,
    random::Random,
    shown::{Shown, render},
};

const MS: i64 = 1_000;
const SECOND: i64 = 1_000 * MS;
const MINUTE: i64 = 60 * SECOND;

/// A process of the service, but for the process.
#[derive(Clone)]
struct Replica {
    service: Service,
    store: Arc<dyn Store>,
    /// How far its clock is ahead, in microseconds.
    ahead: Arc<AtomicI64>,
}

impl Replica {
    fn new(store: Arc<dyn Store>, cache: Arc<dyn Cache>, ahead: i64) -> Self {
        let ahead = Arc::new(AtomicI64::new(ahead));
        let (by, right) = (Arc::clone(&ahead), Clock::default());
        let clock = Clock::of(move || right.unix_us() + by.load(Ordering::SeqCst));
        let service = Service::with_clock(Arc::clone(&store), cache, limits(), clock);
        Self {
            service,
            store,
            ahead,
        }
    }

    fn set_ahead(&self, us: i64) {
        self.ahead.store(us, Ordering::SeqCst);
    }

    async fn open(&self, json: &str) -> Session {
        let new = NewSession::read(json.as_bytes(), "").unwrap();
        self.service.open(&Tenant::default(), new).await.unwrap().session
    }

    /// Appends so many events without a timestamp.
    async fn append(&self, id: &str, count: usize) -> Vec<Event> {
        let events = (0..count).map(|n| event(&format!("{id}-{n}"))).collect();
        let outcomes = self.service.append_batch(&key(), events).await.unwrap();
        let event = |outcome: Result<Appended, _>| outcome.unwrap().event;
        outcomes.into_iter().map(event).collect()
    }

    async fn complete(&self) -> Session {
        self.service.complete(&key(), &End::default()).await.unwrap()
    }

    /// All events as the store has them.
    async fn stored(&self) -> Vec<Event> {
        let mut query = EventQuery {
            filter: Default::default(),
            order: Order::Ascending,
            after: None,
            limit: Limit::MAX,
            payload_bytes_max: usize::MAX,
        };
        let mut events = Vec::new();
        loop {
            let page = self.store.events(&key(), &query).await.unwrap();
            events.extend(page.items);
            if !page.has_more {
                return events;
            }
            query.after = events.last().map(Into::into);
        }
    }

    /// The newest event as a caller is shown it.
    async fn newest(&self) -> Vec<u8> {
        let query = PageQuery {
            order: Order::Descending,
            limit: Limit::at_most(1),
            ..PageQuery::default()
        };
        let read = self.service.read_session(&key(), &query, render).await.unwrap();
        Shown::read(&read.body).events.remove(0)
    }
}

fn limits() -> Limits {
    Limits {
        page_payload_bytes_max: 4 << 20,
        tombstone: Duration::from_hours(24),
        cache_fills_max: 32,
        ready_wait_max: Duration::from_secs(2),
        groups: GroupLimits {
            queue_events_max: 20_000,
            queue_bytes_max: 64 << 20,
            group_events_max: 1_000,
            group_bytes_max: 8 << 20,
            flush_slots: 2,
            stalled_after: Duration::from_secs(10),
            stalled_events_max: 1_000,
        },
    }
}

fn key() -> SessionKey {
    SessionKey::new(Tenant::default(), "s".parse().unwrap())
}

fn event(id: &str) -> NewEvent {
    let json = format!(r#"{{"eventId":"{id}","type":"system","payload":{{}}}}"#);
    NewEvent::read(json.as_bytes(), "").unwrap()
}

fn json(event: &Event) -> Vec<u8> {
    let mut json = Vec::new();
    event.write_json(&mut json);
    json
}

/// What every event that a server stamped must agree with.
fn assert_stamped(events: &[Event]) {
    for event in events {
        assert_eq!(event.timestamp, Timestamp::of_unix_us(event.seq));
    }
}

/// Appends by turns, each when the one before was acknowledged; what is read is in the order of acknowledgement.
async fn append_by_turns(replicas: &[Replica], prefix: &str) {
    let mut acknowledged = replicas[0].stored().await;
    for turn in 0..60 {
        let replica = &replicas[turn % replicas.len()];
        // Ids that would sort the other way.
        let id = format!("{prefix}-{:02}", 99 - turn);
        let appended = replica.append(&id, if turn % 7 == 0 { 5 } else { 1 }).await;
        acknowledged.extend(appended);
        let last = json(acknowledged.last().unwrap());
        for reader in replicas {
            assert_eq!(reader.newest().await, last, "turn {turn}");
        }
    }
    assert_stamped(&acknowledged);
    for replica in replicas {
        assert_eq!(replica.stored().await, acknowledged);
    }
    // A replay is the event that is stored, whatever time it is told at.
    let again = replicas[1 % replicas.len()]
        .append(&format!("{prefix}-99"), 5)
        .await;
    let first = acknowledged.iter().find(|event| event.id == again[0].id);
    assert_eq!(first, again.first());
}

fn embedded() -> (Replica, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
    let replica = Replica::new(Arc::new(store), Arc::new(MemoryCache::new(1 << 20)), 0);
    (replica, folder)
}

#[tokio::test]
async fn a_clock_that_steps_back_changes_no_order_in_the_embedded_store() {
    let (replica, _folder) = embedded();
    replica.open(r#"{"sessionId":"s"}"#).await;
    for (n, ahead) in [0, -30 * SECOND, -40 * SECOND, 60 * MINUTE, 0]
        .into_iter()
        .enumerate()
    {
        replica.set_ahead(ahead);
        append_by_turns(std::slice::from_ref(&replica), &format!("part-{n}")).await;
    }
}

/// A clock that shows another time for a moment counts for the sessions alone that were used then.
#[tokio::test]
async fn one_wrong_time_of_a_replicas_clock_stays_in_its_session() {
    let (replica, _folder) = embedded();
    replica.open(r#"{"sessionId":"s"}"#).await;
    replica.open(r#"{"sessionId":"other"}"#).await;
    for ahead in [365 * 24 * 60 * MINUTE, -365 * 24 * 60 * MINUTE] {
        replica.set_ahead(ahead);
        replica.append(&format!("wrong{ahead}"), 3).await;
    }
    replica.set_ahead(0);
    let before = Clock::default().unix_us();
    let other = SessionKey::new(Tenant::default(), "other".parse().unwrap());
    let appended = replica.service.append(&other, event("e")).await.unwrap();
    let seq = appended.event.seq;
    assert!(before <= seq && seq <= Clock::default().unix_us(), "{seq}");
}

#[tokio::test]
async fn a_session_of_the_embedded_store_ends_after_all_that_it_stamped() {
    for (ahead_at_opening, ahead_at_append) in [(0, 0), (30 * SECOND, 0), (0, 30 * SECOND)] {
        let (replica, _folder) = embedded();
        replica.set_ahead(ahead_at_opening);
        let opened = replica.open(r#"{"sessionId":"s"}"#).await;
        replica.set_ahead(ahead_at_append);
        let appended = replica.append("e", 3).await;
        replica.set_ahead(-30 * SECOND);
        let ended_at = replica.complete().await.ended_at.unwrap();
        assert!(opened.started_at <= appended[0].timestamp);
        assert!(appended[2].timestamp <= ended_at);
    }
}

/// The start of a conversation that is planned moves nothing but its end.
#[tokio::test]
async fn a_start_that_a_caller_puts_into_the_future_does_not_move_its_events() {
    let (replica, _folder) = embedded();
    let opened = replica
        .open(r#"{"sessionId":"s","startedAt":"2999-01-01T00:00:00Z"}"#)
        .await;
    let before = Clock::default().unix_us();
    let seq = replica.append("e", 1).await[0].seq;
    assert!(before <= seq && seq <= Clock::default().unix_us());
    assert_eq!(replica.complete().await.ended_at, Some(opened.started_at));
}

/// Replicas on one MongoDB, and on one Redis where `with_redis`; each with its own store, and with its clock so far ahead.
async fn replicas<const N: usize>(with_redis: bool, ahead: [i64; N]) -> ([Replica; N], Option<String>) {
    let url = engines::mongodb().await;
    let redis = match with_redis {
        true => Some(engines::redis().await),
        false => None,
    };
    let options = crate::mongo::options();
    mongo::init(&url, &options, CHUNKS_DEFAULT).await.unwrap();
    let mut replicas = Vec::new();
    for ahead in ahead {
        let store = crate::mongo::connect(&url, options.clone()).await;
        let cache: Arc<dyn Cache> = match &redis {
            Some(redis) => Arc::new(RedisCache::connect(redis.parse().unwrap(), redis_options()).await),
            None => Arc::new(NoCache),
        };
        replicas.push(Replica::new(store, cache, ahead));
    }
    let Ok(replicas) = replicas.try_into() else {
        unreachable!("one for each clock")
    };
    (replicas, redis)
}

/// So patient that a busy machine makes no call too late.
fn redis_options() -> RedisOptions {
    RedisOptions {
        gathering: Duration::ZERO,
        lease: Duration::from_millis(500),
        call_time_max: Duration::from_secs(10),
        ..RedisOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_whose_clocks_are_apart_keep_the_order_without_a_cache() {
    for (n, ahead) in [20 * MS, -20 * MS, 45 * MINUTE].into_iter().enumerate() {
        let (replicas, _) = replicas(false, [0, ahead]).await;
        replicas[n % 2].open(r#"{"sessionId":"s"}"#).await;
        append_by_turns(&replicas, "turn").await;
        assert_ends_last(&replicas).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_whose_clocks_are_apart_keep_the_order_with_redis() {
    // Redis's clock is that of the first. The last are too far from it to follow it.
    for (n, ahead) in [20 * MS, -20 * MS, 45 * MINUTE, -45 * MINUTE]
        .into_iter()
        .enumerate()
    {
        let (replicas, _) = replicas(true, [0, ahead]).await;
        replicas[n % 2].open(r#"{"sessionId":"s"}"#).await;
        append_by_turns(&replicas, "turn").await;
        assert_ends_last(&replicas).await;
    }
}

/// Ends the session by the clock that is furthest behind.
async fn assert_ends_last(replicas: &[Replica]) {
    let behind = replicas
        .iter()
        .min_by_key(|replica| replica.ahead.load(Ordering::SeqCst));
    let ended = behind.unwrap().complete().await;
    let ended_at = ended.ended_at.unwrap();
    let events = replicas[0].stored().await;
    assert!(ended.started_at <= events[0].timestamp, "{ended:?}");
    assert!(events.last().unwrap().timestamp <= ended_at, "{ended:?}");
}

/// Half of the writers send batches, half send single events, all to one session.
async fn write_together<const N: usize>(replicas: &[Replica; N], requests: usize) -> Vec<Vec<Event>> {
    let writers = (0..12).map(|writer| {
        let replica = replicas[writer % N].clone();
        let count = if (writer / N).is_multiple_of(2) { 200 } else { 1 };
        let requests = if count == 1 { requests * 8 } else { requests };
        tokio::spawn(async move {
            let mut events = Vec::new();
            for n in 0..requests {
                events.extend(replica.append(&format!("w{writer}-{n}"), count).await);
            }
            events
        })
    });
    let written = futures_util::future::join_all(writers).await;
    written.into_iter().map(Result::unwrap).collect()
}

fn assert_numbered_once(written: &[Vec<Event>]) {
    for events in written {
        assert!(events.is_sorted_by(|a, b| a.seq < b.seq), "a writer's own order");
    }
    let all: Vec<i64> = written.iter().flatten().map(|event| event.seq).collect();
    let distinct: HashSet<i64> = all.iter().copied().collect();
    assert_eq!(
        all.len() - distinct.len(),
        0,
        "of {} events share a seq",
        all.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_redis_no_two_events_of_a_session_share_a_seq() {
    let (replicas, _) = replicas(true, [0, 20 * MS, -3 * MS]).await;
    replicas[0].open(r#"{"sessionId":"s"}"#).await;
    let written = write_together(&replicas, 8).await;
    assert_numbered_once(&written);
    assert_stamped(&written.concat());
}

/// What Redis reserved is lost with it, again and again, while writes are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbers_are_given_once_while_redis_loses_them() {
    let mut random = Random::seeded();
    let (replicas, redis) = replicas(true, [0, 20 * MS, -3 * MS]).await;
    replicas[0].open(r#"{"sessionId":"s"}"#).await;
    let client = redis::Client::open(redis.unwrap()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let losing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(20 + random.below(60) as u64)).await;
            let mut lose = redis::cmd("FLUSHDB");
            if random.chance(50) {
                lose = redis::cmd("DEL");
                lose.arg("colloquy:{default/s}:numbers");
            }
            lose.exec_async(&mut connection).await.unwrap();
        }
    });
    let written = write_together(&replicas, 8).await;
    losing.abort();
    assert_numbered_once(&written);
}

/// Without Redis numbers are unique for each replica, and no more is promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_cache_no_two_events_of_a_replica_share_a_seq() {
    let (replicas, _) = replicas(false, [0, 20 * MS, -3 * MS]).await;
    replicas[0].open(r#"{"sessionId":"s"}"#).await;
    let written = write_together(&replicas, 3).await;
    for replica in 0..3 {
        let own: Vec<_> = written.iter().skip(replica).step_by(3).cloned().collect();
        assert_numbered_once(&own);
    }
}
