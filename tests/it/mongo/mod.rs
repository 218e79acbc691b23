//! What the MongoDB store does beyond the contract of a store: on a real server, with a client beside it.

use std::{sync::Arc, time::Duration};

use colloquy::{
    domain::{
        Event, EventPosition, EventQuery, Limit, NewEvent, NewSession, Order, Session, SessionKey, Tenant,
        Timestamp,
    },
    store::{
        Append, Store,
        catalog::Catalog,
        mongo::{self, CHUNKS_DEFAULT, MongoOptions, MongoStore},
    },
};
use mongodb::{Client, Database, bson::Document};

use crate::engines;

mod archive;
mod documents;
mod endpoints;
mod faults;
mod filters;
mod idle;
mod leases;
mod processes;
mod profile;
mod setup;
mod speed;
pub mod statements;

pub fn options() -> MongoOptions {
    MongoOptions {
        pool_min: 0,
        // One server has one clock.
        clocks_apart_max: Duration::from_millis(100),
        ..MongoOptions::default()
    }
}

/// A store on a database of its own, and that database.
pub async fn store() -> (Arc<dyn Store>, Database) {
    let url = engines::mongodb().await;
    mongo::init(&url, &options(), CHUNKS_DEFAULT).await.unwrap();
    (connect(&url, options()).await, database(&url).await)
}

pub async fn connect(url: &str, options: MongoOptions) -> Arc<dyn Store> {
    catalog(url, options).await
}

/// As [`connect`], for what the archive asks.
pub async fn catalog(url: &str, options: MongoOptions) -> Arc<dyn Catalog> {
    Arc::new(MongoStore::connect(url, options).await.unwrap())
}

pub async fn database(url: &str) -> Database {
    Client::with_uri_str(url)
        .await
        .unwrap()
        .default_database()
        .unwrap()
}

pub async fn command(database: &Database, command: Document) -> Document {
    database.run_command(command).await.unwrap()
}

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms).unwrap()
}

pub fn key(id: &str) -> SessionKey {
    SessionKey::new(Tenant::default(), id.parse().unwrap())
}

pub async fn open(store: &Arc<dyn Store>, id: &str) -> Session {
    let session = Session::opened(NewSession::default(), id.parse().unwrap(), at(1_000));
    let opened = store.open(&Tenant::default(), session, at(1_001)).await.unwrap();
    assert!(opened.created);
    opened.session
}

/// An event with this `seq`.
pub fn event(session: &str, id: &str, seq: i64) -> Append {
    let json = format!(r#"{{"eventId":"{id}","type":"user_speech","payload":{{"text":"hello","n":1}}}}"#);
    Append {
        key: key(session),
        event: NewEvent::read(json.as_bytes(), "").unwrap(),
        seq,
        reserved: false,
    }
}

pub async fn append(
    store: &Arc<dyn Store>,
    event: Append,
) -> colloquy::domain::Result<colloquy::domain::Appended> {
    store.append(vec![event]).await?.remove(0)
}

pub fn everything(order: Order) -> EventQuery {
    EventQuery {
        filter: Default::default(),
        order,
        after: None,
        limit: Limit::MAX,
        payload_bytes_max: usize::MAX,
    }
}

pub async fn events(store: &Arc<dyn Store>, session: &str) -> Vec<Event> {
    store
        .events(&key(session), &everything(Order::Ascending))
        .await
        .unwrap()
        .items
}

/// All events of a session, whatever their number.
pub async fn walked(store: &Arc<dyn Store>, session: &str) -> Vec<Event> {
    let (mut events, mut after) = (Vec::new(), None);
    loop {
        let query = EventQuery {
            after: after.take(),
            ..everything(Order::Ascending)
        };
        let page = store.events(&key(session), &query).await.unwrap();
        events.extend(page.items);
        match events.last().filter(|_| page.has_more) {
            Some(last) => after = Some(EventPosition::from(last)),
            None => return events,
        }
    }
}

/// Longer than a call may take with `quick`, shorter than anybody would call a hang.
pub const SOON: Duration = Duration::from_secs(8);

/// A store that gives up early.
pub fn quick() -> MongoOptions {
    MongoOptions {
        call_time_max: Duration::from_secs(2),
        server_selection_max: Duration::from_secs(1),
        connect_time_max: Duration::from_secs(1),
        ..options()
    }
}
