//! Acknowledgements of events that an entry of before lacks: the cache is told before the caller is.

use std::sync::Mutex;

use async_trait::async_trait;
use colloquy::{
    archive::{Archive, ArchiveOptions, objects::directory::DirectoryObjects},
    cache::{MemoryCache, NoCache},
    domain::{Appended, Error, EventId, EventQuery, Kind, Page, Result, Session, SessionQuery, Timestamp},
    store::{Append, HotEvent, HotEvents, Idle, IdleFound, Opened, Upkeep},
};

use super::*;

/// What is told of an append in place of what became of it.
type Tampering = fn(&mut [Result<Appended>]);

/// A store whose next append is told otherwise.
struct Tampered {
    store: Arc<dyn Store>,
    next: Mutex<Option<Tampering>>,
}

#[async_trait]
impl Store for Tampered {
    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>> {
        let mut outcomes = self.store.append(batch).await?;
        let next = self.next.lock().unwrap().take();
        if let Some(tamper) = next {
            tamper(&mut outcomes);
        }
        Ok(outcomes)
    }

    async fn open(&self, tenant: &Tenant, session: Session, now: Timestamp) -> Result<Opened> {
        self.store.open(tenant, session, now).await
    }

    async fn session(&self, key: &SessionKey) -> Result<Session> {
        self.store.session(key).await
    }

    async fn sessions(&self, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
        self.store.sessions(tenant, query).await
    }

    async fn patch(&self, key: &SessionKey, patch: &SessionPatch, expected: &Expected) -> Result<Session> {
        self.store.patch(key, patch, expected).await
    }

    async fn end(&self, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
        self.store.end(key, end, now).await
    }

    async fn erase(&self, key: &SessionKey, forget_at: Timestamp) -> Result<()> {
        self.store.erase(key, forget_at).await
    }

    async fn last_seqs(&self, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
        self.store.last_seqs(keys).await
    }

    async fn events(&self, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
        self.store.events(key, query).await
    }

    async fn session_with_events(
        &self,
        key: &SessionKey,
        query: &EventQuery,
    ) -> Result<(Session, HotEvents)> {
        self.store.session_with_events(key, query).await
    }

    async fn event(&self, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
        self.store.event(key, id).await
    }

    async fn ping(&self) -> Result<()> {
        self.store.ping().await
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep> {
        self.store.upkeep(now).await
    }

    async fn find_idle(&self, idle_since: Timestamp, now: Timestamp, limit: usize) -> Result<IdleFound> {
        self.store.find_idle(idle_since, now, limit).await
    }

    async fn end_idle(&self, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>> {
        self.store.end_idle(idle, reason, now).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

/// A writer over a store that can be made to lie, and a reader over the same; with an archive in which nothing lies.
struct Stage {
    writer: Service,
    reader: Service,
    tampered: Arc<Tampered>,
    redis: String,
    _folder: TempDir,
}

impl Stage {
    async fn new(in_redis: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
        let store = Arc::new(store);
        let tampered = Arc::new(Tampered {
            store: store.clone(),
            next: Mutex::default(),
        });
        let redis = if in_redis {
            engines::redis().await
        } else {
            String::new()
        };
        let memory: Arc<dyn Cache> = Arc::new(MemoryCache::new(1 << 20));
        let objects = Arc::new(DirectoryObjects::open(folder.path().join("archive")).unwrap());
        let mut services = Vec::new();
        for _ in 0..2 {
            let cache = match in_redis {
                true => Arc::new(RedisCache::connect(redis.parse().unwrap(), options()).await),
                false => Arc::clone(&memory),
            };
            let archive = Archive::new(
                store.clone(),
                Arc::new(NoCache),
                objects.clone(),
                ArchiveOptions::default(),
            );
            let service = Service::new(tampered.clone(), cache, limits()).with_archive(archive);
            services.push(service);
        }
        let (reader, writer) = (services.pop().unwrap(), services.pop().unwrap());
        let new = NewSession::read(br#"{"sessionId":"s","status":"active"}"#, "").unwrap();
        writer.open(&Tenant::default(), new).await.unwrap();
        writer.append(&key("s"), new_event("first", 1)).await.unwrap();
        Self {
            writer,
            reader,
            tampered,
            redis,
            _folder: folder,
        }
    }

    /// Reads until the cache answers; what it shows.
    async fn cached(&self) -> usize {
        let hits = |service: &Service| -> u64 {
            let outcomes = service.cache_outcomes().into_iter();
            let hits = outcomes.filter(|(name, _)| name.starts_with("hit"));
            hits.map(|(_, count)| count).sum()
        };
        let before = hits(&self.reader);
        let mut shown = 0;
        while hits(&self.reader) == before {
            shown = self.read().await.len();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        shown
    }

    async fn read(&self) -> Vec<String> {
        let read = self
            .reader
            .read_session(&key("s"), &PageQuery::default(), render)
            .await;
        let shown = Shown::read(&read.unwrap().body);
        let id = |event: &Vec<u8>| json(event)["eventId"].as_str().unwrap().to_owned();
        shown.events.iter().map(id).collect()
    }

    fn tamper(&self, with: Tampering) {
        *self.tampered.next.lock().unwrap() = Some(with);
    }
}

/// As of an append that took so long that an archiver may have read the session before it: `store/mongo/append.rs` says so
/// where the session was claimed meanwhile, and the claim may come to nothing.
fn late(outcomes: &mut [Result<Appended>]) {
    for outcome in outcomes {
        *outcome = Err(Error::new(Kind::SessionArchived, "as the test says"));
    }
}

#[tokio::test]
async fn a_late_append_that_is_found_hot_is_shown_from_then_on() {
    for in_redis in [true, false] {
        let stage = Stage::new(in_redis).await;
        assert_eq!(stage.cached().await, 1);
        stage.tamper(late);
        let told = stage
            .writer
            .append(&key("s"), new_event("late", 2))
            .await
            .unwrap();
        assert!(told.replayed);
        assert_eq!(stage.read().await, ["first", "late"], "{in_redis}");
        assert_eq!(stage.cached().await, 2);
    }
}

/// The entry goes after the event was found, not before: a reader may fill in between.
#[tokio::test]
async fn what_was_filled_while_the_event_was_looked_for_goes_as_well() {
    let stage = Stage::new(true).await;
    stage.tamper(late);
    let session = key("s");
    let appending = stage.writer.append(&session, new_event("late", 2));
    let reading = async {
        for _ in 0..50 {
            stage.read().await;
            tokio::task::yield_now().await;
        }
    };
    let (told, ()) = tokio::join!(appending, reading);
    told.unwrap();
    assert_eq!(stage.read().await, ["first", "late"]);
}

/// One of a session's events is stored, and of another nobody knows what became.
fn half_known(outcomes: &mut [Result<Appended>]) {
    *outcomes.last_mut().unwrap() = Err(Error::new(Kind::Unavailable, "as the test says"));
}

#[tokio::test]
async fn an_event_beside_one_that_failed_is_shown_once_it_is_acknowledged() {
    for in_redis in [true, false] {
        let stage = Stage::new(in_redis).await;
        assert_eq!(stage.cached().await, 1);
        stage.tamper(half_known);
        let batch = vec![new_event("good", 2), new_event("unknown", 3)];
        let outcomes = stage.writer.append_batch(&key("s"), batch).await.unwrap();
        assert!(outcomes[0].is_ok() && outcomes[1].is_err());
        assert!(stage.read().await.contains(&"good".to_owned()), "{in_redis}");
        if in_redis {
            // Whatever becomes of the mark: the entry is gone before the event is acknowledged.
            let client = redis::Client::open(stage.redis.as_str()).unwrap();
            let mut connection = client.get_connection().unwrap();
            let mut forget = redis::cmd("DEL");
            forget.arg("colloquy:{default/s}:pending");
            forget.exec(&mut connection).unwrap();
            assert!(stage.read().await.contains(&"good".to_owned()));
        }
    }
}
