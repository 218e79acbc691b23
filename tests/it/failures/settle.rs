//! The reckoning: everything that was acknowledged, through every replica and straight from MongoDB.

use std::collections::BTreeMap;

use colloquy::domain::Timestamp;
use mongodb::{
    Client,
    bson::{Document, doc},
    options::ReadConcern,
};

use super::{
    Replicas,
    load::Stage,
    oracle::{Oracle, Place, Seen, name},
};
use crate::{
    harness::{Server, expect_problem},
    talk,
};

/// Checks all sessions and all their events; gives how many events MongoDB has.
pub async fn settle(stage: &Stage, replicas: &Replicas, mongodb: &str) -> usize {
    let oracle = &stage.oracle;
    for server in replicas.all() {
        for session in oracle.sessions() {
            check_session(server, oracle, session).await;
        }
    }
    let mut stored = stored_events(mongodb).await;
    let events = stored.values().map(Vec::len).sum();
    for session in oracle.sessions() {
        oracle.holds(session, &mut stored.remove(&name(session)).unwrap_or_default());
    }
    assert!(stored.is_empty(), "nobody opened {:?}", stored.keys());
    events
}

async fn check_session(server: &Server, oracle: &Oracle, session: usize) {
    let path = format!("/v1/sessions/{}", name(session));
    let known = oracle.known(session);
    if oracle.is_erased(session) {
        for path in [&path, &format!("{path}/events")] {
            expect_problem(server.get(path), 410, "session-erased").await;
        }
        return;
    }
    // As a page at a time has them, and the newest ones with the session, as a cache would.
    for page in ["limit=70", "limit=500&order=desc"] {
        let descending = page.ends_with("desc");
        let events = talk::walk(server, &format!("{path}/events?{page}"), "events").await;
        oracle.sees_events(
            known,
            &Seen {
                events: &events,
                descending,
                more: false,
            },
        );
    }
    oracle.sees_session(known, &talk::session(server, &name(session)).await);
}

/// Every event that MongoDB has for sure, by its session.
async fn stored_events(mongodb: &str) -> BTreeMap<String, Vec<Place>> {
    let client = Client::with_uri_str(mongodb).await.expect("a client");
    let events = client
        .default_database()
        .expect("a database")
        .collection::<Document>("events");
    let wanted = doc! { "session": 1, "seq": 1, "timestamp": 1 };
    let found = events
        .find(doc! {})
        .projection(wanted)
        .read_concern(ReadConcern::majority());
    let mut found = found.await.expect("the events");
    let mut stored: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    while found.advance().await.expect("the next event") {
        let event = found.deserialize_current().expect("an event");
        // The key of the session, "/", and the event's id.
        let (_, id) = event
            .get_str("_id")
            .expect("an id")
            .rsplit_once('/')
            .expect("a key");
        let (_, session) = event
            .get_str("session")
            .expect("a session")
            .rsplit_once('/')
            .expect("a key");
        let timestamp = event
            .get_datetime("timestamp")
            .expect("a timestamp")
            .timestamp_millis();
        let place = Place {
            timestamp: Timestamp::from_unix_ms(timestamp)
                .expect("a timestamp")
                .to_string(),
            seq: event.get_i64("seq").expect("a seq"),
            id: id.to_owned(),
        };
        stored.entry(session.to_owned()).or_default().push(place);
    }
    stored
}
