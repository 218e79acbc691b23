//! The cache in front of a store: what it answers, what it leaves to the store, and that it never answers wrong.

use std::{sync::Arc, time::Duration};

use colloquy::{
    cache::{Cache, Health, RedisCache, RedisOptions, Wanted},
    domain::{
        End, Expected, Limit, NewEvent, NewSession, Order, SessionId, SessionKey, SessionPatch, Tenant,
    },
    service::{Clock, GroupLimits, Limits, PageQuery, Service},
    store::{
        Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    engines,
    shown::{Shown, render},
};

mod answers;
mod copies;
mod late;
mod memory;
mod numbers;
mod places;
mod steps;

/// Replicas over one store and one Redis.
struct House {
    store: Arc<dyn Store>,
    redis: String,
    _folder: TempDir,
}

impl House {
    async fn new() -> Self {
        Self::on(engines::redis().await)
    }

    fn on(redis: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
        Self {
            store: Arc::new(store),
            redis,
            _folder: folder,
        }
    }

    async fn replica(&self) -> Replica {
        self.replica_with(options()).await
    }

    async fn replica_with(&self, options: RedisOptions) -> Replica {
        let cache = Arc::new(RedisCache::connect(self.redis.parse().unwrap(), options).await);
        let service = Service::new(Arc::clone(&self.store), cache.clone(), limits());
        Replica { service, cache }
    }
}

/// A process of the service, but for the process.
struct Replica {
    service: Service,
    cache: Arc<RedisCache>,
}

/// Redis is new to every test, and is believed at once.
fn options() -> RedisOptions {
    RedisOptions {
        gathering: Duration::ZERO,
        lease: Duration::from_millis(500),
        call_time_max: Duration::from_secs(5),
        ..RedisOptions::default()
    }
}

fn limits() -> Limits {
    Limits {
        page_payload_bytes_max: 4 * 1024 * 1024,
        tombstone: Duration::from_hours(24),
        cache_fills_max: 32,
        ready_wait_max: std::time::Duration::from_secs(2),
        groups: GroupLimits {
            queue_events_max: 10_000,
            queue_bytes_max: 64 * 1024 * 1024,
            group_events_max: 1_000,
            group_bytes_max: 8 * 1024 * 1024,
            flush_slots: 2,
            stalled_after: Duration::from_secs(10),
            stalled_events_max: 1_000,
        },
    }
}

/// So many sequence numbers, for a replica whose clock is right.
fn wanted(count: usize) -> Wanted {
    Wanted {
        count,
        own_us: Clock::default().unix_us(),
    }
}

fn key(id: &str) -> SessionKey {
    SessionKey::new(Tenant::default(), id.parse().unwrap())
}

fn new_event(id: &str, timestamp_ms: i64) -> NewEvent {
    let at = colloquy::domain::Timestamp::from_unix_ms(timestamp_ms).unwrap();
    let json = format!(
        r#"{{"eventId":"{id}","type":"user_speech","payload":{{"text":"é {id}","n":1.5}},"timestamp":"{at}"}}"#
    );
    NewEvent::read(json.as_bytes(), "").unwrap()
}

/// What a read gave, and whether the cache gave it.
#[derive(Debug, Clone, PartialEq)]
struct Read {
    session: Value,
    events: Vec<Value>,
    cursor: Option<String>,
    cached: bool,
}

impl Read {
    fn ids(&self) -> Vec<&str> {
        self.events
            .iter()
            .map(|event| event["eventId"].as_str().unwrap())
            .collect()
    }
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

impl Replica {
    async fn open(&self, id: &str, json: &str) {
        let new = NewSession {
            id: Some(id.parse::<SessionId>().unwrap()),
            ..NewSession::read(json.as_bytes(), "").unwrap()
        };
        assert!(self.service.open(&Tenant::default(), new).await.unwrap().created);
    }

    async fn append(&self, session: &str, id: &str, timestamp_ms: i64) -> i64 {
        let appended = self
            .service
            .append(&key(session), new_event(id, timestamp_ms))
            .await;
        appended.unwrap().event.seq
    }

    async fn read(&self, session: &str, query: &PageQuery<'_>) -> Read {
        let hits = self.hits();
        let read = self.service.read_session(&key(session), query, render).await;
        let read = read.unwrap();
        let shown = Shown::read(&read.body);
        let session = json(&shown.session);
        assert_eq!(session["version"], read.version);
        Read {
            cached: self.hits() > hits,
            session,
            events: shown.events.iter().map(|event| json(event)).collect(),
            cursor: shown.next_cursor,
        }
    }

    /// Reads until the cache answers, which a fill in the background makes it do.
    async fn read_cached(&self, session: &str, query: &PageQuery<'_>) -> Read {
        for _ in 0..1_000 {
            let read = self.read(session, query).await;
            if read.cached {
                return read;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the cache never answers: {:?}", self.service.cache_outcomes());
    }

    /// Reads that the cache answered, either way.
    fn hits(&self) -> u64 {
        let outcomes = self.service.cache_outcomes().into_iter();
        outcomes
            .filter(|(outcome, _)| outcome.starts_with("hit"))
            .map(|(_, count)| count)
            .sum()
    }

    fn outcome(&self, name: &str) -> u64 {
        let outcomes = self.service.cache_outcomes();
        outcomes.iter().find(|(outcome, _)| *outcome == name).unwrap().1
    }
}

fn newest(limit: &str) -> PageQuery<'static> {
    PageQuery {
        order: Order::Descending,
        limit: limit.parse::<Limit>().unwrap(),
        ..PageQuery::default()
    }
}
