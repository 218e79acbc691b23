//! What is of SQLite alone; the contract of a store is tested by the conformance suite.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::domain::{EventFilter, JsonObject, Limit, NewEvent, NewSession, Order};

mod archiving;
mod erasing;
mod opening;
mod plans;
mod writing;

/// A folder of its own, with the database in it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("colloquy.db")
    }

    fn open(&self, options: SqliteOptions) -> Result<SqliteStore> {
        SqliteStore::open(&self.path(), options)
    }

    fn store(&self) -> SqliteStore {
        self.open(SqliteOptions::default()).unwrap()
    }

    /// A connection of another program.
    fn stranger(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }

    /// All bytes of the database and of what SQLite keeps beside it.
    fn bytes(&self) -> Vec<u8> {
        let files = fs::read_dir(self.0.path()).unwrap();
        let bytes = files.map(|file| fs::read(file.unwrap().path()).unwrap());
        bytes.collect::<Vec<_>>().concat()
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms).unwrap()
}

fn key(id: &str) -> SessionKey {
    SessionKey::new(Tenant::default(), id.parse().unwrap())
}

fn session(id: &str) -> Session {
    Session::opened(NewSession::default(), id.parse().unwrap(), at(1_000))
}

async fn open(store: &SqliteStore, id: &str) {
    let opened = Store::open(store, &Tenant::default(), session(id), at(1_001)).await;
    assert!(opened.unwrap().created);
}

fn event(session: &str, id: &str, text: &str) -> Append {
    Append {
        key: key(session),
        event: NewEvent {
            id: id.parse().unwrap(),
            event_type: "user_speech".parse().unwrap(),
            payload: JsonObject::read(&format!(r#"{{"text":"{text}"}}"#), 1 << 20).unwrap(),
            timestamp: None,
        },
        seq: 1,
        reserved: false,
    }
}

async fn append(store: &SqliteStore, event: Append) -> Result<Appended> {
    store.append(vec![event]).await?.remove(0)
}

async fn count_events(store: &SqliteStore, session: &str) -> usize {
    let page = store.events(&key(session), &everything()).await;
    page.unwrap().items.len()
}

fn everything() -> EventQuery {
    EventQuery {
        filter: EventFilter::default(),
        order: Order::Ascending,
        after: None,
        limit: Limit::MAX,
        payload_bytes_max: usize::MAX,
    }
}
