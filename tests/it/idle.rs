//! Sessions that nobody ends, ended by the server: with or without an archive, and never one that is in use.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use colloquy::domain::Timestamp;
use serde_json::{Value, json};

use crate::{
    backends::Store,
    harness::{Server, expect, folder},
    random::Random,
    talk::{append, event, events_path, open, session},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn server(store: Store, flags: &[&str]) -> Server {
    let folder = folder();
    let backends = store.flags(folder.path());
    let flags: Vec<&str> = ["--set=archive=none"].iter().chain(flags).copied().collect();
    Server::start_on(folder, &backends, &flags).await
}

async fn ended(server: &Server, id: &str) -> Value {
    let began = Instant::now();
    loop {
        let session = session(server, id).await;
        if session["status"] == "completed" {
            return session;
        }
        assert!(began.elapsed() < PATIENCE, "it is not ended: {session}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whoever named a start in the future, or long ago, is served like all others.
async fn an_idle_session_is_ended_without_an_archive(store: Store) {
    let server = server(store, &["--set=session_idle_timeout=500ms"]).await;
    open(&server, "now").await;
    for (id, started_at) in [
        ("past", "2001-01-01T00:00:00Z"),
        ("future", "2999-01-01T00:00:00Z"),
    ] {
        let body = json!({"sessionId": id, "startedAt": started_at});
        expect(server.post("/v1/sessions", &body), 201).await;
    }
    append(&server, "now", &event("e")).await;
    for id in ["now", "past", "future"] {
        assert_eq!(ended(&server, id).await["endReason"], "idle timeout", "{id}");
    }
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_ended_without_an_archive_embedded() {
    an_idle_session_is_ended_without_an_archive(Store::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_ended_without_an_archive_mongodb() {
    an_idle_session_is_ended_without_an_archive(Store::MongoDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_timeout_no_session_is_ended() {
    let server = server(
        Store::Embedded,
        &["--set=session_idle_timeout=off", "--set=upkeep_every_ms=100"],
    )
    .await;
    open(&server, "s").await;
    let metrics = crate::talk::metrics(&server).await;
    assert!(!metrics.contains("ending idle sessions"), "{metrics}");
    assert_eq!(session(&server, "s").await["status"], "initiated");
}

const TIMEOUT_MS: i64 = 800;

/// The most that an append may take here for its caller to be promised anything: three quarters of `mongo_append_settle_ms`.
const QUICK: Duration = Duration::from_millis(1_500);

/// Appends until the session has ended, with pauses about as long as the timeout; gives the time at which the server accepted
/// the last event, in ms.
async fn use_it(server: &Server, id: &str, mut random: Random) -> Option<i64> {
    let mut last = None;
    for n in 0.. {
        let began = Instant::now();
        let request = server.post(&events_path(id), &event(&format!("e-{n}")));
        let answer = request.send().await.expect("an answer");
        if answer.status() != 201 {
            assert_eq!(answer.status(), 409, "{id}");
            break;
        }
        let stored: Value = answer.json().await.expect("the event");
        let seq = stored["seq"].as_i64().expect("a number");
        last = (began.elapsed() < QUICK).then_some(seq / 1_000);
        // Longer every time, so that every session is idle in the end.
        let pause = TIMEOUT_MS as usize / 2 + random.below(TIMEOUT_MS as usize / 4 * (n + 2));
        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
    }
    last
}

/// 240 callers against the sweep: an event that was acknowledged was accepted at least the timeout before its session's end.
async fn no_session_is_ended_as_idle_that_was_used_within_the_timeout(store: Store) {
    let timeout = format!("--set=session_idle_timeout={TIMEOUT_MS}ms");
    let flags = [timeout.as_str(), "--set=mongo_append_settle_ms=2000"];
    let server = Arc::new(server(store, &flags).await);
    let mut random = Random::seeded();
    let uses: Vec<_> = (0..240)
        .map(|n| {
            let (server, random) = (Arc::clone(&server), random.fork());
            tokio::spawn(async move {
                let id = format!("s-{n}");
                open(&server, &id).await;
                let last = use_it(&server, &id, random).await;
                (id, last)
            })
        })
        .collect();
    for used in uses {
        let (id, last) = used.await.expect("no panic");
        let session = session(&server, &id).await;
        assert_eq!(session["endReason"], "idle timeout", "{session}");
        let ended_at: Timestamp = session["endedAt"]
            .as_str()
            .expect("a time")
            .parse()
            .expect("a time");
        let Some(last) = last else { continue };
        let unused_ms = ended_at.unix_ms() - last;
        assert!(
            unused_ms >= TIMEOUT_MS,
            "ended {unused_ms} ms after an event: {session}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_ended_as_idle_that_was_used_within_the_timeout_embedded() {
    no_session_is_ended_as_idle_that_was_used_within_the_timeout(Store::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_ended_as_idle_that_was_used_within_the_timeout_mongodb() {
    no_session_is_ended_as_idle_that_was_used_within_the_timeout(Store::MongoDb).await;
}
