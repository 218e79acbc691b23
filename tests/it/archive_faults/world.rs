//! A store and objects with sessions of every sort in them, and what anybody must read there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use colloquy::{
    archive::{
        Archive, ArchiveOptions,
        objects::{
            Objects,
            directory::DirectoryObjects,
            s3::{S3Objects, S3Options},
        },
    },
    cache::{Cache, NoCache},
    domain::{
        End, Event, EventId, JsonObject, Kind, Limit, NewEvent, NewSession, Order, Session, SessionKey,
        Tenant, Timestamp,
    },
    service::{GroupLimits, Limits, PageQuery, Service},
    store::{
        Append,
        catalog::Catalog,
        mongo::{self, MongoOptions, MongoStore},
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::{catalog::FaultyCatalog, objects::FaultyObjects, plan::Plan};
use crate::engines::{self, Bucket};

/// Of archivers to which something happens; of all others it is longer than any test.
pub const LEASE: Duration = Duration::from_millis(150);
const LONG_LEASE: Duration = Duration::from_secs(600);

/// So little that a session of seven events is read in several pages.
const PAGE_PAYLOAD_BYTES_MAX: usize = 200;

/// A session as everyone must see it.
#[derive(Debug, Clone)]
pub struct Told {
    pub session: Session,
    pub events: Vec<Event>,
    pub is_erased: bool,
}

impl Told {
    /// Whether it goes to the archive.
    pub fn is_due(&self) -> bool {
        !self.is_erased && self.session.status.has_ended()
    }
}

/// All sessions, by their ids.
#[derive(Debug, Clone, Default)]
pub struct Model(pub BTreeMap<String, Told>);

impl Model {
    pub fn event(&self, key: &SessionKey, id: &EventId) -> Option<&Event> {
        self.0
            .get(key.id.as_str())?
            .events
            .iter()
            .find(|event| event.id == *id)
    }

    /// Those that go to the archive.
    pub fn due(&self) -> impl Iterator<Item = &Told> {
        self.0.values().filter(|told| told.is_due())
    }
}

#[derive(Clone)]
pub struct World {
    pub catalog: Arc<dyn Catalog>,
    pub objects: Arc<dyn Objects>,
    pub model: Model,
    pub place: Arc<Place>,
    /// A reader who was there from the beginning, and knows segments that are gone since.
    service: Service,
}

pub enum Place {
    Folder(TempDir),
    Servers,
}

impl Place {
    fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Folder(folder) => Some(folder.path().to_owned()),
            Self::Servers => None,
        }
    }
}

pub fn key(id: &str) -> SessionKey {
    SessionKey::new(Tenant::default(), id.parse().unwrap())
}

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The `nth` event of a session; its payload says whose words they are.
pub fn append(session: &str, nth: usize) -> Append {
    let text =
        format!(r#"{{"n":{nth},"text":"words of {session}, some more than a few, so that pages fill"}}"#);
    Append {
        key: key(session),
        event: NewEvent {
            id: format!("e-{nth}").parse().unwrap(),
            event_type: "user_speech".parse().unwrap(),
            payload: JsonObject::read(&text, 1_000).unwrap(),
            timestamp: Some(time("2024-01-01T08:00:00Z").saturating_add_ms(nth as i64)),
        },
        seq: nth as i64 + 1,
        reserved: false,
    }
}

fn open_store(folder: &Path) -> Arc<dyn Catalog> {
    let options = SqliteOptions {
        readers: 1,
        ..SqliteOptions::default()
    };
    Arc::new(SqliteStore::open(&folder.join("colloquy.db"), options).unwrap())
}

/// Away from the caller's task, which moves between threads as this can't.
async fn new_database() -> Arc<dyn Catalog> {
    let runtime = tokio::runtime::Handle::current();
    let making = tokio::task::spawn_blocking(move || runtime.block_on(make_database()));
    making.await.unwrap()
}

async fn make_database() -> Arc<dyn Catalog> {
    let url = engines::mongodb().await;
    let options = MongoOptions {
        pool_min: 0,
        append_settle: Duration::from_millis(20),
        ..MongoOptions::default()
    };
    mongo::init(&url, &options, 1).await.unwrap();
    Arc::new(MongoStore::connect(&url, options).await.unwrap())
}

fn s3_options(bucket: Bucket) -> S3Options {
    S3Options {
        bucket: bucket.bucket,
        prefix: bucket.prefix,
        endpoint: Some(bucket.endpoint),
        region: Some(bucket.region),
        credentials: Some((bucket.access_key, bucket.secret_key)),
        ..S3Options::default()
    }
}

impl World {
    /// On the embedded store and a directory, with what is in the folder.
    pub fn in_folder(folder: TempDir, model: Model) -> Self {
        let catalog = open_store(folder.path());
        let objects = DirectoryObjects::open(folder.path().join("archive")).unwrap();
        Self::new(catalog, Arc::new(objects), model, Place::Folder(folder))
    }

    fn new(catalog: Arc<dyn Catalog>, objects: Arc<dyn Objects>, model: Model, place: Place) -> Self {
        Self {
            service: service(&catalog, &objects),
            catalog,
            objects,
            model,
            place: Arc::new(place),
        }
    }

    /// On MongoDB and S3, with nothing in them.
    pub async fn on_servers() -> Self {
        let catalog = new_database().await;
        let options = s3_options(engines::s3().await);
        let objects = S3Objects::connect(options).await.unwrap();
        Self::new(catalog, Arc::new(objects), Model::default(), Place::Servers)
    }

    /// The same objects beside a store that knows nothing.
    pub async fn without_store(&self) -> Self {
        let (catalog, place) = if self.place.folder().is_some() {
            let folder = TempDir::new().unwrap();
            (open_store(folder.path()), Place::Folder(folder))
        } else {
            (new_database().await, Place::Servers)
        };
        Self::new(catalog, Arc::clone(&self.objects), self.model.clone(), place)
    }

    /// The store is lost, and a new one takes its place.
    pub fn lose_store(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.catalog.close().await;
            let Some(folder) = self.place.folder() else {
                self.catalog = new_database().await;
                self.service = service(&self.catalog, &self.objects);
                return;
            };
            for file in ["colloquy.db", "colloquy.db-wal", "colloquy.db-shm"] {
                // A store that was closed has left no log.
                let _ = std::fs::remove_file(folder.join(file));
            }
            self.catalog = open_store(&folder);
            self.service = service(&self.catalog, &self.objects);
        })
    }

    /// Sessions of two days: one without events, one of several pages, and one that goes on.
    pub async fn fill(&mut self) {
        let (one, other) = ("2024-01-01T10:00:00Z", "2024-06-01T10:00:00Z");
        let sessions = [
            ("empty", 0, Some(one)),
            ("long", 7, Some(one)),
            ("short", 2, Some(one)),
            ("another-day", 2, Some(other)),
            ("goes-on", 1, None),
        ];
        for (id, events, ended_at) in sessions {
            self.store_session(id, events, ended_at).await;
        }
    }

    async fn store_session(&mut self, id: &str, events: usize, ended_at: Option<&str>) {
        let (key, opened_at) = (key(id), time("2024-01-01T07:00:00Z"));
        let new = NewSession {
            metadata: JsonObject::read(&format!(r#"{{"of":"words of {id}"}}"#), 1_000).unwrap(),
            ..NewSession::default()
        };
        let session = Session::opened(new, key.id.clone(), opened_at);
        self.catalog.open(&key.tenant, session, opened_at).await.unwrap();
        let mut stored = Vec::new();
        for nth in 0..events {
            let appended = self
                .catalog
                .append(vec![append(id, nth)])
                .await
                .unwrap()
                .remove(0);
            stored.push(appended.unwrap().event);
        }
        if let Some(ended_at) = ended_at {
            self.catalog
                .end(&key, &End::default(), time(ended_at))
                .await
                .unwrap();
        }
        let told = Told {
            session: self.catalog.session(&key).await.unwrap(),
            events: stored,
            is_erased: false,
        };
        self.model.0.insert(id.to_owned(), told);
    }

    /// Erases a session as a caller does.
    pub async fn erase(&mut self, id: &str) {
        self.service().erase(&key(id)).await.unwrap();
        self.model.0.get_mut(id).expect("a session").is_erased = true;
    }

    /// An archive to which nothing happens.
    pub fn archive(&self) -> Archive {
        archive(Arc::clone(&self.catalog), Arc::clone(&self.objects), LONG_LEASE)
    }

    /// The archive of a process to which what is planned happens.
    pub fn faulty(&self, plan: &Arc<Plan>, lease: Duration) -> Archive {
        let catalog = FaultyCatalog {
            catalog: Arc::clone(&self.catalog),
            plan: Arc::clone(plan),
            objects: Arc::clone(&self.objects),
            model: self.model.clone(),
        };
        let objects = FaultyObjects {
            objects: Arc::clone(&self.objects),
            plan: Arc::clone(plan),
        };
        archive(Arc::new(catalog), Arc::new(objects), lease)
    }

    /// The archive of a process that reaches the store, and of the objects what is planned.
    pub fn without_objects(&self, plan: &Arc<Plan>) -> Archive {
        let objects = FaultyObjects {
            objects: Arc::clone(&self.objects),
            plan: Arc::clone(plan),
        };
        archive(Arc::clone(&self.catalog), Arc::new(objects), LEASE)
    }

    /// A service with that cache in front, and an archive beside it.
    pub fn with_cache(&self, cache: &Arc<dyn Cache>) -> (Service, Archive) {
        let (catalog, objects) = (Arc::clone(&self.catalog), Arc::clone(&self.objects));
        let archive = Archive::new(catalog, Arc::clone(cache), objects, ArchiveOptions::default());
        let service = service_of(&self.catalog, Arc::clone(cache), archive.clone());
        (service, archive)
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Whether everyone reads what was acknowledged, each event once and as it was; else what is read in its place.
    pub async fn reads(&self) -> Result<(), String> {
        let service = self.service();
        for (id, told) in &self.model.0 {
            let read = read(service, &key(id), told).await;
            let wrong = match read {
                Err(error) if told.is_erased && error.kind() == Kind::SessionErased => None,
                Err(error) => Some(format!("{error:?}")),
                Ok(_) if told.is_erased => Some("it can be read".to_owned()),
                Ok(wrong) => wrong,
            };
            if let Some(wrong) = wrong {
                return Err(format!("session {id}: {wrong}"));
            }
        }
        Ok(())
    }
}

fn service(catalog: &Arc<dyn Catalog>, objects: &Arc<dyn Objects>) -> Service {
    let archive = archive(Arc::clone(catalog), Arc::clone(objects), LONG_LEASE);
    service_of(catalog, Arc::new(NoCache), archive)
}

fn service_of(catalog: &Arc<dyn Catalog>, cache: Arc<dyn Cache>, archive: Archive) -> Service {
    let limits = Limits {
        page_payload_bytes_max: PAGE_PAYLOAD_BYTES_MAX,
        tombstone: Duration::from_hours(24),
        ready_wait_max: Duration::from_secs(1),
        cache_fills_max: 1,
        groups: GroupLimits {
            queue_events_max: 100,
            queue_bytes_max: 1 << 20,
            group_events_max: 10,
            group_bytes_max: 1 << 20,
            flush_slots: 1,
            stalled_after: Duration::from_secs(10),
            stalled_events_max: 1_000,
        },
    };
    let store = Arc::clone(catalog);
    Service::new(store, cache, limits).with_archive(archive)
}

fn archive(catalog: Arc<dyn Catalog>, objects: Arc<dyn Objects>, lease: Duration) -> Archive {
    let options = ArchiveOptions {
        after: Duration::ZERO,
        lease,
        // So that steps come in one order.
        sessions_in_flight: 1,
        page_payload_bytes_max: PAGE_PAYLOAD_BYTES_MAX,
        tidy_again_after: Duration::ZERO,
        sweep_grace: Duration::ZERO,
        ..ArchiveOptions::default()
    };
    Archive::new(catalog, Arc::new(NoCache), objects, options)
}

/// What is not as it was told, of a session that is read in every way.
async fn read(service: &Service, key: &SessionKey, told: &Told) -> colloquy::domain::Result<Option<String>> {
    let session = Session {
        archived: told.session.archived,
        ..service.session(key).await?
    };
    if session != told.session {
        return Ok(Some(format!("{session:?}")));
    }
    for (order, limit) in [
        (Order::Ascending, Limit::at_most(3)),
        (Order::Descending, Limit::MAX),
    ] {
        let mut events = walk(service, key, order, limit).await?;
        if order == Order::Descending {
            events.reverse();
        }
        if events != told.events {
            return Ok(Some(format!("{order:?}: {events:?}, not {:?}", told.events)));
        }
    }
    if let Some(last) = told.events.last()
        && service.event(key, &last.id).await? != *last
    {
        return Ok(Some(format!("{} is another by itself", last.id)));
    }
    match service.event(key, &"never".parse().unwrap()).await {
        Err(error) if error.kind() == Kind::EventNotFound => Ok(None),
        other => Ok(Some(format!("an event that never was: {other:?}"))),
    }
}

async fn walk(
    service: &Service,
    key: &SessionKey,
    order: Order,
    limit: Limit,
) -> colloquy::domain::Result<Vec<Event>> {
    let (mut events, mut cursor) = (Vec::new(), None);
    loop {
        let query = PageQuery {
            order,
            limit,
            cursor: cursor.as_deref(),
            ..PageQuery::default()
        };
        let page = service.events(key, &query).await?;
        events.extend(page.events);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(events),
        }
    }
}

/// A folder with a world in it, of which any number of copies can be had.
pub struct Template {
    folder: TempDir,
    model: Model,
}

impl Template {
    /// Closes the world, and keeps what is there.
    pub async fn of(world: World) -> Self {
        world.catalog.close().await;
        let World { model, place, .. } = world;
        match Arc::into_inner(place) {
            Some(Place::Folder(folder)) => Self { folder, model },
            _ => panic!("a world in a folder, in nobody's hands"),
        }
    }

    pub fn world(&self) -> World {
        let folder = TempDir::new().unwrap();
        copy(self.folder.path(), folder.path());
        World::in_folder(folder, self.model.clone())
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}
