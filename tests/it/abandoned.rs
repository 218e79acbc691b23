//! Callers that send and hang up: what was begun for them stays among what is in flight until it has ended (I9).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    engines::{Engine, ReplicaSet, with_database},
    harness::{EVERY_REQUEST, Server, colloquy, expect, expect_problem, folder},
    limits::occupy,
    talk::{append, counted, event, events, events_path, open, session},
    wire::{Wire, request},
};

/// Not a measure: a bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a request and hangs up once the server works on it; returns when the server has noticed.
async fn abandon(server: &Server, method: &str, path: &str, body: &Value) {
    let before = abandoned(server);
    let body = body.to_string();
    let mut wire = Wire::to(server).await;
    wire.send(request(
        method,
        path,
        "content-type: application/json\r\n",
        body.as_bytes(),
    ))
    .await;
    // This one and the one that asks. More than once, so that it has come to where it waits.
    for _ in 0..3 {
        until(|| async { counted(server, "http_server_active_requests").await == 2 }).await;
    }
    assert!(wire.is_silent(), "{method} {path} waits for the store");
    drop(wire);
    until(|| async { abandoned(server) > before }).await;
}

/// Waits until it is so.
async fn until<T: Future<Output = bool>>(is_so: impl Fn() -> T) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it comes to pass");
}

async fn is_answered(server: &Server, path: &str, status: u16) -> bool {
    server.get(path).send().await.expect("an answer").status() == status
}

/// Requests that the log says were given up by their callers.
fn abandoned(server: &Server) -> usize {
    server.log().matches("status=499").count()
}

#[tokio::test]
async fn writes_whose_callers_went_away_keep_their_places_until_they_end() {
    let flags = [
        "--set=writes_in_flight_max=6",
        "--set=request_wait_ms_max=60000",
        EVERY_REQUEST,
    ];
    let server = Server::start_embedded_in(folder(), &flags).await;
    for id in ["s", "patched", "ended", "erased"] {
        open(&server, id).await;
    }
    let occupied = occupy(&server);
    // One of every kind: through group commit, alone and as a batch, and past it.
    let writes = [
        ("POST", events_path("s"), event("e")),
        (
            "POST",
            format!("{}/batch", events_path("s")),
            json!({"events": [event("f"), event("g")]}),
        ),
        ("POST", "/v1/sessions".to_owned(), json!({"sessionId": "opened"})),
        ("PATCH", "/v1/sessions/patched".to_owned(), json!({"userId": "u"})),
        ("POST", "/v1/sessions/ended/complete".to_owned(), json!({})),
        ("DELETE", "/v1/sessions/erased".to_owned(), json!({})),
    ];
    for (at, (method, path, body)) in writes.iter().enumerate() {
        abandon(&server, method, path, body).await;
        assert_eq!(
            abandoned(&server),
            at + 1,
            "{method} {path} was admitted, and given up"
        );
    }
    for at in 0..20 {
        let newcomer = event(&format!("newcomer-{at}"));
        expect_problem(server.post(&events_path("s"), &newcomer), 503, "overloaded").await;
    }
    // Reads have places of their own.
    expect(server.get("/v1/sessions/s"), 200).await;
    drop(occupied);
    // All of it is done, and then there is room again.
    until(|| async { session(&server, "ended").await["status"] == "completed" }).await;
    until(|| async { session(&server, "patched").await["userId"] == "u" }).await;
    until(|| is_answered(&server, "/v1/sessions/erased", 410)).await;
    until(|| is_answered(&server, "/v1/sessions/opened", 200)).await;
    until(|| async { events(&server, "s").await.len() == 3 }).await;
    for at in 0..6 {
        append(&server, "s", &event(&format!("after-{at}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_whose_callers_went_away_keep_their_places_while_the_database_holds_them() {
    let mut set = ReplicaSet::start(1).await;
    let store = format!("--store={}", with_database(&set.url(), "colloquy"));
    // What `init` records is what the server must have.
    let shared = "--set=cache_write_ms_max=60000";
    let initialised = colloquy().args(["init", &store, shared]).output();
    let initialised = initialised.expect("init runs");
    assert!(initialised.status.success(), "{initialised:?}");
    let flags = [
        EVERY_REQUEST,
        "--set=reads_in_flight_max=3",
        "--set=writes_in_flight_max=3",
        "--set=mongo_call_ms_max=60000",
        shared,
        "--set=health_every_ms=600000",
    ];
    let server = Server::start_on(folder(), &[store, "--set=mongo_pool_min=0".to_owned()], &flags).await;
    open(&server, "s").await;
    append(&server, "s", &event("e")).await;
    set.member(0).stop_signal();
    let reads = ["/v1/sessions/s", "/v1/sessions/s/events/e", "/v1/sessions"];
    for path in reads {
        abandon(&server, "GET", path, &json!({})).await;
    }
    for at in 0..3 {
        abandon(
            &server,
            "POST",
            &events_path("s"),
            &event(&format!("abandoned-{at}")),
        )
        .await;
    }
    for path in reads {
        expect_problem(server.get(path), 503, "overloaded").await;
    }
    expect_problem(server.post(&events_path("s"), &event("late")), 503, "overloaded").await;
    set.member(0).continue_signal();
    until(|| is_answered(&server, "/v1/sessions/s", 200)).await;
    until(|| async { events(&server, "s").await.len() == 4 }).await;
    append(&server, "s", &event("late")).await;
}
