//! A server that fails, hangs or goes away: what is safe is tried again, nothing else is, and no call hangs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use colloquy::{
    domain::{Expected, Kind, SessionPatch},
    store::{
        Store,
        catalog::Catalog,
        mongo::{CHUNKS_DEFAULT, MongoOptions},
    },
};
use mongodb::bson::{Document, doc};

use super::{SOON, append, catalog, command, database, event, events, key, open, options, quick};
use crate::engines::{Engine, ReplicaSet, with_database};

/// A server of one's own, a store on it, and the way to tell the server what to fail.
pub struct Broken {
    set: ReplicaSet,
    pub store: Arc<dyn Store>,
    /// The same.
    pub catalog: Arc<dyn Catalog>,
    admin: mongodb::Database,
    failed: i32,
}

impl Broken {
    pub async fn new() -> Self {
        // Time for several elections of a server, as far as the driver can tell.
        Self::with(options()).await
    }

    pub async fn with(options: MongoOptions) -> Self {
        let set = ReplicaSet::start(1).await;
        let url = with_database(&set.url(), "colloquy");
        colloquy::store::mongo::init(&url, &options, CHUNKS_DEFAULT)
            .await
            .unwrap();
        let catalog = catalog(
            &format!("{url}&appName=under-test&heartbeatFrequencyMS=500"),
            options,
        )
        .await;
        let admin = database(&url).await.client().database("admin");
        Self {
            set,
            store: catalog.clone(),
            catalog,
            admin,
            failed: 0,
        }
    }

    pub fn url(&self) -> String {
        with_database(&self.set.url(), "colloquy")
    }

    /// A store of another process, for which the server works.
    pub async fn elsewhere(&self) -> Arc<dyn Catalog> {
        catalog(&self.url(), options()).await
    }

    /// Has the next of these commands on a collection wait before it runs.
    pub async fn hold(&self, command: &str, collection: &str, time: Duration) {
        let namespace = format!("colloquy.{collection}");
        let ms = i64::try_from(time.as_millis()).unwrap();
        let wait = doc! { "namespace": namespace, "blockConnection": true, "blockTimeMS": ms };
        self.fail(&[command], 1, wait).await;
    }

    /// Waits until a command met what it is to fail by.
    pub async fn met(&self) {
        let entered =
            doc! { "waitForFailPoint": "failCommand", "timesEntered": self.failed + 1, "maxTimeMS": 10_000 };
        command(&self.admin, entered).await;
    }

    /// Has the next `times` of these commands fail.
    pub async fn fail(&self, commands: &[&str], times: i32, how: Document) {
        let mut data = doc! { "failCommands": commands, "appName": "under-test" };
        data.extend(how);
        let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        command(&self.admin, fail).await;
    }

    /// How many commands have failed since this was last asked.
    pub async fn failed(&mut self) -> i32 {
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        let count = command(&self.admin, off).await.get_i32("count").unwrap();
        count - std::mem::replace(&mut self.failed, count)
    }
}

/// The statement runs, and its confirmation is lost.
pub fn unconfirmed() -> Document {
    doc! { "writeConcernError": { "code": 91, "codeName": "ShutdownInProgress", "errmsg": "gone" } }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_was_lost_is_stored_once_and_told_as_new() {
    let mut broken = Broken::new().await;
    let store = &broken.store.clone();
    open(store, "s").await;
    for (n, how) in [
        unconfirmed(),
        doc! { "closeConnection": true },
        doc! { "errorCode": 11602 },
    ]
    .into_iter()
    .enumerate()
    {
        // The driver tries twice by itself; here is work for more.
        broken.fail(&["insert"], 3, how).await;
        let id = format!("e-{n}");
        let appended = append(store, event("s", &id, n as i64)).await.unwrap();
        assert!(!appended.replayed, "{id}");
        assert_eq!(broken.failed().await, 3);
        assert!(append(store, event("s", &id, 99)).await.unwrap().replayed);
    }
    assert_eq!(events(store, "s").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_was_lost_is_made_once() {
    let broken = Broken::new().await;
    let store = &broken.store;
    broken.fail(&["insert"], 3, unconfirmed()).await;
    let session = colloquy::domain::Session::opened(Default::default(), "s".parse().unwrap(), super::at(1));
    let opened = store
        .open(&Default::default(), session.clone(), super::at(1))
        .await
        .unwrap();
    assert_eq!(opened.session, session);
    for (n, how) in [unconfirmed(), doc! { "closeConnection": true }]
        .into_iter()
        .enumerate()
    {
        broken.fail(&["update", "findAndModify"], 3, how.clone()).await;
        let patch = SessionPatch::read(format!(r#"{{"userId":"u-{n}"}}"#).as_bytes()).unwrap();
        let version = n as i64 + 1;
        let patched = store
            .patch(&key("s"), &patch, &Expected::OneOf(vec![version]))
            .await
            .unwrap();
        assert_eq!(patched.version, version + 1);
    }
    broken.fail(&["update"], 3, unconfirmed()).await;
    append(store, event("s", "e", 1)).await.unwrap();
    assert_eq!(
        store.session(&key("s")).await.unwrap().version,
        4,
        "made active once"
    );
    broken.fail(&["findAndModify"], 3, unconfirmed()).await;
    let ended = store
        .end(&key("s"), &Default::default(), super::at(9))
        .await
        .unwrap();
    assert_eq!(ended.version, 5);
    broken.fail(&["findAndModify"], 3, unconfirmed()).await;
    store
        .erase(&key("s"), super::at(i64::from(i32::MAX)))
        .await
        .unwrap();
    assert_eq!(
        store.session(&key("s")).await.unwrap_err().kind(),
        Kind::SessionErased
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_second_try_would_not_change_is_not_tried_again() {
    let mut broken = Broken::new().await;
    let store = &broken.store.clone();
    open(store, "s").await;
    for (code, kind) in [
        (50, Kind::Unavailable),
        (11601, Kind::Unavailable),
        (13, Kind::Internal),
        (2, Kind::Internal),
    ] {
        for name in ["find", "insert"] {
            broken.fail(&[name], 1, doc! { "errorCode": code }).await;
            let appended = append(store, event("s", "e", 1)).await;
            assert_eq!(appended.unwrap_err().kind(), kind, "{name} {code}");
            assert_eq!(broken.failed().await, 1, "{name} {code}");
        }
    }
    assert!(events(store, "s").await.is_empty());
    append(store, event("s", "e", 1)).await.unwrap();
}

/// The server knows best whether a command may be tried again, and a code that nobody knows is none of our failures.
#[tokio::test(flavor = "multi_thread")]
async fn labels_count_before_codes_and_an_unknown_code_is_unavailability() {
    let mut broken = Broken::new().await;
    let store = &broken.store.clone();
    open(store, "s").await;
    for (n, (code, label)) in [
        (50, "RetryableWriteError"),
        (99_999, "RetryableWriteError"),
        (2, "SystemOverloadedError"),
    ]
    .into_iter()
    .enumerate()
    {
        let how = doc! { "errorCode": code, "errorLabels": [label] };
        broken.fail(&["insert"], 3, how).await;
        let id = format!("e-{n}");
        let appended = append(store, event("s", &id, n as i64)).await;
        assert!(!appended.unwrap().replayed, "{code} {label}");
        assert_eq!(broken.failed().await, 3, "{code} {label}");
    }
    for name in ["find", "insert"] {
        broken.fail(&[name], 1, doc! { "errorCode": 99_999 }).await;
        let appended = append(store, event("s", "late", 9)).await;
        assert_eq!(appended.unwrap_err().kind(), Kind::Unavailable, "{name}");
        assert_eq!(broken.failed().await, 1, "{name}");
    }
    append(store, event("s", "late", 9)).await.unwrap();
}

/// The server refuses some documents of an insert: the others are acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn of_an_insert_that_is_refused_in_part_the_rest_is_acknowledged() {
    let broken = Broken::new().await;
    let store = &broken.store;
    open(store, "s").await;
    append(store, event("s", "first", 1)).await.unwrap();
    let ours = database(&broken.url()).await;
    let validator = async |validator| {
        command(&ours, doc! { "collMod": "events", "validator": validator }).await;
    };
    validator(doc! { "eventId": { "$ne": "a" } }).await;
    let ids = ["a", "b", "c"];
    let batch = ids.map(|id| event("s", id, 10)).to_vec();
    let outcomes = store.append(batch.clone()).await.unwrap();
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            outcome
                .as_ref()
                .map(|appended| appended.replayed)
                .map_err(colloquy::domain::Error::kind)
        })
        .collect();
    assert_eq!(told, [Err(Kind::Internal), Ok(false), Ok(false)]);
    validator(doc! {}).await;
    let again = store.append(batch).await.unwrap();
    let replayed: Vec<_> = again
        .iter()
        .map(|outcome| outcome.as_ref().unwrap().replayed)
        .collect();
    assert_eq!(replayed, [false, true, true]);
    assert_eq!(events(store, "s").await.len(), 4);
}

/// What can't be found out of an event once the others are stored is the failure of that one.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_after_the_insert_fails_only_those_that_hang_on_it() {
    let broken = Broken::new().await;
    let store = &broken.store;
    for id in ["s", "t"] {
        open(store, id).await;
    }
    append(store, event("s", "old", 1)).await.unwrap();
    let kinds = |outcomes: Vec<colloquy::domain::Result<_>>| -> Vec<_> {
        let of = |outcome: &colloquy::domain::Result<colloquy::domain::Appended>| {
            outcome.as_ref().err().map(colloquy::domain::Error::kind)
        };
        outcomes.iter().map(of).collect()
    };
    // One by one, since a number of its own is looked up before, where it may have to be raised.
    let mut batch = vec![event("s", "old", 50), event("t", "new", 51)];
    batch.iter_mut().for_each(|append| append.reserved = true);
    let of_events = doc! { "errorCode": 99_999, "namespace": "colloquy.events" };
    broken.fail(&["find"], 1, of_events).await;
    let outcomes = store.append(batch).await.unwrap();
    assert_eq!(kinds(outcomes), [Some(Kind::Unavailable), None]);
    open(store, "u").await;
    let mut batch = vec![event("u", "new", 60), event("s", "newer", 61)];
    batch.iter_mut().for_each(|append| append.reserved = true);
    let of_sessions = doc! { "errorCode": 99_999, "namespace": "colloquy.sessions" };
    broken.fail(&["update"], 1, of_sessions).await;
    let outcomes = store.append(batch).await.unwrap();
    assert_eq!(kinds(outcomes), [Some(Kind::Unavailable), None]);
    // It was stored, and a repeat makes its session active.
    assert!(append(store, event("u", "new", 70)).await.unwrap().replayed);
    let session = store.session(&key("u")).await.unwrap();
    assert_eq!(session.status, colloquy::domain::Status::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_write_that_stays_so_is_unavailable_and_settled_by_a_repeat() {
    let broken = Broken::new().await;
    let store = &broken.store;
    open(store, "s").await;
    let timed_out = doc! { "writeConcernError": { "code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting for replication timed out" } };
    broken.fail(&["insert"], 1, timed_out).await;
    let first = append(store, event("s", "e", 1)).await;
    assert_eq!(first.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(
        append(store, event("s", "e", 1)).await.unwrap().event.id.as_str(),
        "e"
    );
    assert_eq!(events(store, "s").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_or_is_gone_makes_no_call_hang() {
    let mut broken = Broken::with(quick()).await;
    let store = broken.store.clone();
    open(&store, "s").await;
    append(&store, event("s", "before", 1)).await.unwrap();
    let unavailable = async |what: &str| {
        let started = Instant::now();
        let session = key("s");
        let everything = super::everything(Default::default());
        let outcomes = tokio::join!(
            async { store.session(&session).await.map(|_| ()) },
            async { store.events(&session, &everything).await.map(|_| ()) },
            async { append(&store, event("s", "during", 2)).await.map(|_| ()) },
            async {
                store
                    .end(&session, &Default::default(), super::at(1))
                    .await
                    .map(|_| ())
            },
            store.ping(),
        );
        for outcome in <[_; 5]>::from(outcomes) {
            assert_eq!(outcome.unwrap_err().kind(), Kind::Unavailable, "{what}");
        }
        assert!(started.elapsed() < SOON, "{what}: {:?}", started.elapsed());
    };
    broken.set.member(0).stop_signal();
    unavailable("hangs").await;
    broken.set.member(0).continue_signal();
    serves_again(&store).await;

    broken.set.member(0).kill9();
    unavailable("is gone").await;
    broken.set.restart(0).await;
    serves_again(&store).await;
    assert_eq!(events(&store, "s").await[0].id.as_str(), "before");
}

async fn serves_again(store: &Arc<dyn Store>) {
    let started = Instant::now();
    while store.ping().await.is_err() {
        assert!(started.elapsed() < SOON, "it does not come back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_what_was_begun() {
    let broken = Broken::new().await;
    let store = &broken.store;
    open(store, "s").await;
    let slow = doc! { "blockConnection": true, "blockTimeMS": 300 };
    broken.fail(&["insert"], 1, slow).await;
    let (first, ()) = tokio::join!(append(store, event("s", "e", 1)), async {
        tokio::task::yield_now().await;
        store.close().await;
    });
    assert!(!first.unwrap().replayed);
    assert_eq!(
        append(store, event("s", "f", 2)).await.unwrap_err().kind(),
        Kind::Unavailable
    );
}

/// An erasure hides the session before it deletes: who reads its events meanwhile learns that it is gone, and never gets
/// what is left of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_an_erasure_overtakes_says_so() {
    let mut broken = Broken::new().await;
    for (id, lists) in [("s-1", true), ("s-2", false)] {
        let store = broken.store.clone();
        open(&store, id).await;
        append(&store, event(id, "e", 1)).await.unwrap();
        broken.hold("find", "events", Duration::from_secs(1)).await;
        let reading = tokio::spawn(async move {
            if lists {
                let all = super::everything(colloquy::domain::Order::Ascending);
                store.events(&key(id), &all).await.map(|page| page.items)
            } else {
                store
                    .event(&key(id), &"e".parse().unwrap())
                    .await
                    .map(|one| one.event.into_iter().collect())
            }
        });
        broken.met().await;
        broken
            .store
            .erase(&key(id), super::at(i64::from(i32::MAX) * 1_000))
            .await
            .unwrap();
        let read = reading.await.unwrap();
        assert_eq!(read.unwrap_err().kind(), Kind::SessionErased, "{id}");
        assert_eq!(broken.failed().await, 1);
    }
}
