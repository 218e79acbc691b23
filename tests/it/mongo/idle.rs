//! The sweep of idle sessions on MongoDB, step by step: what marks do, and what they cost.

use std::{sync::Arc, time::Duration};

use colloquy::{
    domain::Status,
    store::{
        Store,
        mongo::{self, MongoOptions},
    },
};
use mongodb::bson::{DateTime, Document, doc};

use super::{
    append, at, connect, database, event,
    faults::Broken,
    key, open, options,
    statements::{comment, seen, watch},
};
use crate::engines;

/// Shorter than what [`LATE`] appends take.
const SETTLE: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_millis(1_500);

fn settling() -> MongoOptions {
    MongoOptions {
        append_settle: SETTLE,
        ..options()
    }
}

async fn store() -> (Arc<dyn Store>, mongodb::Database) {
    let url = engines::mongodb().await;
    mongo::init(&url, &options(), 1).await.unwrap();
    (connect(&url, settling()).await, database(&url).await)
}

/// An event that was accepted at this time.
fn accepted_at(session: &str, id: &str, ms: i64) -> colloquy::store::Append {
    event(session, id, ms * 1_000)
}

/// The names of the sessions that are idle since 50,000 at 110,000 and are then ended.
async fn sweep(store: &Arc<dyn Store>) -> Vec<String> {
    let mut ended = Vec::new();
    for idle in store
        .find_idle(at(50_000), at(110_000), 500)
        .await
        .unwrap()
        .sessions
    {
        if let Some(session) = store.end_idle(&idle, "idle", at(110_000)).await.unwrap() {
            ended.push(session.id.to_string());
        }
    }
    ended.sort_unstable();
    ended
}

async fn status(store: &Arc<dyn Store>, id: &str) -> Status {
    store.session(&key(id)).await.unwrap().status
}

/// The append has read the session before it was marked, and inserts after the sweep has looked.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_too_slow_for_the_sweep_to_see_prevents_the_end_before_it_is_acknowledged() {
    let broken = Broken::with(settling()).await;
    let store = broken.store.clone();
    open(&store, "s").await;
    append(&store, event("s", "first", 1)).await.unwrap();
    broken.hold("insert", "events", LATE).await;
    let writer = Arc::clone(&store);
    let appending = tokio::spawn(async move { append(&writer, accepted_at("s", "late", 60_000)).await });
    broken.met().await;
    // In the time of the hold: the sweep waits for much less.
    let found = store.find_idle(at(50_000), at(110_000), 10).await.unwrap();
    assert_eq!(found.sessions.len(), 1, "it has seen no event");
    assert!(!appending.is_finished(), "the event is not there yet");
    let appended = appending.await.unwrap().unwrap();
    assert!(!appended.replayed);
    let ended = store.end_idle(&found.sessions[0], "idle", at(110_000)).await;
    assert_eq!(ended.unwrap(), None);
    assert_eq!(status(&store, "s").await, Status::Active);
}

/// A sweep that stood still does not end what another sweep marks later.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_ends_only_what_it_marked_itself() {
    let (store, _) = store().await;
    open(&store, "s").await;
    let stood_still = store.find_idle(at(50_000), at(110_000), 10).await.unwrap();
    append(&store, accepted_at("s", "e", 60_000)).await.unwrap();
    // A day later it is idle once more.
    let later = store.find_idle(at(900_000), at(960_000), 10).await.unwrap();
    assert_eq!((stood_still.sessions.len(), later.sessions.len()), (1, 1));
    let late = store
        .end_idle(&stood_still.sessions[0], "idle", at(960_000))
        .await;
    assert_eq!(late.unwrap(), None);
    let ended = store.end_idle(&later.sessions[0], "idle", at(960_000)).await;
    assert!(ended.unwrap().is_some());
}

/// A process that died between the mark and the end leaves the mark behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_was_left_behind_is_no_hindrance() {
    let (store, database) = store().await;
    for id in ["spoken-in", "idle"] {
        open(&store, id).await;
    }
    assert_eq!(
        store
            .find_idle(at(50_000), at(110_000), 10)
            .await
            .unwrap()
            .sessions
            .len(),
        2
    );
    // While the mark stands, others leave the session alone.
    assert_eq!(
        store
            .find_idle(at(50_000), at(110_000), 10)
            .await
            .unwrap()
            .sessions,
        []
    );
    append(&store, accepted_at("spoken-in", "e", 60_000))
        .await
        .unwrap();
    let again = store
        .find_idle(at(50_000), at(999_000), 10)
        .await
        .unwrap()
        .sessions;
    assert_eq!(again.len(), 1);
    assert!(
        store
            .end_idle(&again[0], "idle", at(999_000))
            .await
            .unwrap()
            .is_some()
    );
    let sessions = database.collection::<Document>("sessions");
    let marked = doc! { "idle": { "$exists": true } };
    assert_eq!(sessions.count_documents(marked).await.unwrap(), 0);
    let known = doc! { "usedAt": { "$exists": true } };
    assert_eq!(
        sessions.count_documents(known).await.unwrap(),
        1,
        "an ended session has no last use"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_asks_no_more_than_before_while_nothing_is_marked() {
    let (store, database) = store().await;
    open(&store, "s").await;
    append(&store, event("s", "first", 1)).await.unwrap();
    watch(&database).await;
    let mut second = event("s", "second", 2);
    second.event.timestamp = Some(at(2_000));
    append(&store, second).await.unwrap();
    let asked: Vec<_> = seen(&database).await.iter().map(comment).collect();
    assert_eq!(asked, ["colloquy: standing", "colloquy: append"]);
}

/// As earlier versions left them, without the time of their last use; and before that without that of their opening.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_earlier_versions_are_found_by_what_is_known_of_them() {
    let (store, database) = store().await;
    let sessions = database.collection::<Document>("sessions");
    for id in [
        "opened-early",
        "opened-late",
        "began-early",
        "begins-in-years",
        "spoken-in",
    ] {
        open(&store, id).await;
    }
    append(&store, accepted_at("spoken-in", "e", 60_000))
        .await
        .unwrap();
    for (id, known) in [
        ("opened-early", doc! { "openedAt": DateTime::from_millis(49_000) }),
        ("opened-late", doc! { "openedAt": DateTime::from_millis(51_000) }),
        ("began-early", doc! { "startedAt": DateTime::from_millis(49_000) }),
        (
            "begins-in-years",
            doc! { "startedAt": DateTime::from_millis(4_000_000_000_000) },
        ),
        ("spoken-in", doc! { "openedAt": DateTime::from_millis(49_000) }),
    ] {
        let mut unknown = doc! { "usedAt": "" };
        if !known.contains_key("openedAt") {
            unknown.insert("openedAt", "");
        }
        let change = doc! { "$set": known, "$unset": unknown };
        sessions
            .update_one(doc! { "sessionId": id }, change)
            .await
            .unwrap();
    }
    assert_eq!(sweep(&store).await, ["began-early", "opened-early"]);
    // The time to come counted as the time of the look: it is idle one timeout later.
    let later = store
        .find_idle(at(111_000), at(171_000), 10)
        .await
        .unwrap()
        .sessions;
    let mut names: Vec<_> = later.iter().map(|idle| idle.key.id.to_string()).collect();
    names.sort_unstable();
    assert_eq!(names, ["begins-in-years", "opened-late", "spoken-in"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_does_not_read_back_keeps_no_other_from_its_end() {
    let (store, database) = store().await;
    for id in ["damaged", "good"] {
        open(&store, id).await;
    }
    let sessions = database.collection::<Document>("sessions");
    let damage = doc! { "$set": { "life": "none" } };
    sessions
        .update_one(doc! { "sessionId": "damaged" }, damage)
        .await
        .unwrap();
    assert_eq!(sweep(&store).await, ["good"]);
}

/// Those in use are looked at once in a timeout, and the rest not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_looks_at_no_session_that_it_knows_to_be_in_use() {
    let (store, database) = store().await;
    for n in 0..40 {
        let id = format!("s-{n}");
        open(&store, &id).await;
        append(&store, accepted_at(&id, "e", 60_000)).await.unwrap();
        if n % 2 == 0 {
            store
                .end(&key(&id), &Default::default(), at(61_000))
                .await
                .unwrap();
        }
    }
    assert_eq!(sweep(&store).await, [""; 0]);
    watch(&database).await;
    assert_eq!(sweep(&store).await, [""; 0]);
    let statements = seen(&database).await;
    let [listing] = statements.as_slice() else {
        panic!("{statements:?}");
    };
    assert_eq!(comment(listing), "colloquy: idle listing");
    let examined = |name| listing.get(name).and_then(|count| count.as_i32());
    assert_eq!(
        (examined("docsExamined"), listing.get("hasSortStage")),
        (Some(0), None)
    );
    assert!(
        examined("keysExamined").is_some_and(|keys| keys <= 1),
        "{listing}"
    );
}
