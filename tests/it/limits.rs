//! The bounds of the server: the append queue, connections, slow bodies, idle connections.

use colloquy::domain::event::BATCH_EVENTS_MAX;
use rusqlite::Connection as Database;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    harness::{Server, expect, folder, json as body_of, problem},
    talk::{answered, counted},
    wire::{Wire, begin_post},
};

/// As many events as a request may have; `name` makes their ids its own.
fn batch(name: &str) -> Value {
    let event = |at| json!({"eventId": format!("{name}-{at}"), "type": "system", "payload": {}});
    json!({"events": (0..BATCH_EVENTS_MAX).map(event).collect::<Vec<_>>()})
}

/// Takes its embedded store away from the server until dropped: whatever it writes has to wait.
pub fn occupy(server: &Server) -> Database {
    let database = Database::open(server.folder().path().join("data/colloquy.db")).expect("the database");
    database
        .execute_batch("BEGIN IMMEDIATE")
        .expect("the database's lock");
    database
}

#[tokio::test]
async fn a_full_append_queue_refuses_at_once_and_says_when_to_come_back() {
    let flags = [
        "--set=append_queue_events_max=500",
        "--set=append_group_events_max=500",
        "--set=append_flush_slots=1",
    ];
    let server = Server::start_embedded_in(folder(), &flags).await;
    expect(server.post("/v1/sessions", &json!({"sessionId": "s"})), 201).await;
    let occupied = occupy(&server);

    // One batch is on its way to the database, one fills the queue, and one finds it full: whichever comes last.
    let mut requests = JoinSet::new();
    for name in ["a", "b", "c"] {
        let request = server.post("/v1/sessions/s/events/batch", &batch(name));
        requests.spawn(async move { (name, request.send().await.expect("an answer")) });
    }
    let (refused, answer) = requests.join_next().await.expect("an answer").expect("no panic");
    assert_eq!(answer.headers()["retry-after"], "1");
    problem(answer, 503, "overloaded").await;
    expect(server.get("/v1/sessions/s"), 200).await;

    // From now on batches are refused unread, until something has left the queue; their connections stay.
    let mut wire = Wire::to(&server).await;
    let unread = "POST /v1/sessions/s/events/batch HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nnone";
    for _ in 0..5 {
        wire.send(unread).await;
        wire.answer().await.assert_problem(503, "overloaded");
    }

    drop(occupied);
    while let Some(done) = requests.join_next().await {
        let (_, answer) = done.expect("no panic");
        let body = body_of(answer, 200).await;
        let outcomes = body["outcomes"].as_array().expect("outcomes");
        assert_eq!(outcomes.len(), BATCH_EVENTS_MAX);
        assert!(outcomes.iter().all(|outcome| outcome["outcome"] == "created"));
    }
    // What was refused left nothing behind, and is taken now.
    let again = expect(server.post("/v1/sessions/s/events/batch", &batch(refused)), 200).await;
    let outcomes = again["outcomes"].as_array().expect("outcomes");
    assert!(outcomes.iter().all(|outcome| outcome["outcome"] == "created"));
    wire.send(unread).await;
    wire.answer().await.assert_problem(415, "unsupported-media-type");
    assert_eq!(counted(&server, "colloquy_append_refused_total").await, 6);
    let failed = answered(&server, "POST", "/v1/sessions/{sessionId}/events/batch", 503).await;
    assert_eq!(failed, 6, "read or unread, each is a failed request");
}

#[tokio::test]
async fn a_connection_past_the_limit_waits_for_its_turn() {
    let server = Server::start_in(folder(), &["--set=connections_max=2"]).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut first = Wire::to(&server).await;
    let mut second = Wire::to(&server).await;
    for connection in [&mut first, &mut second] {
        connection.send(request).await;
        assert_eq!(connection.answer().await.status, 200);
    }
    let mut third = Wire::to(&server).await;
    third.send(request).await;
    // The server is alive, and had every chance to answer the third.
    for _ in 0..50 {
        first.send(request).await;
        assert_eq!(first.answer().await.status, 200);
    }
    assert!(third.is_silent(), "answered, though two connections are open");
    drop(second);
    assert_eq!(third.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408_and_the_end_of_its_connection() {
    let server = Server::start_in(folder(), &["--set=body_wait_ms_max=100"]).await;
    let mut connection = begin_post(&server, "/v1/sessions", 30).await;
    connection.send(r#"{"sessionId":"#).await;
    let answer = connection.answer().await;
    answer.assert_problem(408, "request-timeout");
    let detail = &answer.json()["detail"];
    assert!(detail.to_string().contains("longer than 100ms"), "{detail}");
    connection.closed().await;

    // Chunks that keep coming don't buy more time than there is for the whole.
    let mut connection = Wire::to(&server).await;
    let head = "POST /v1/sessions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    connection.send(head).await;
    while connection.is_silent() {
        connection.send("1\r\n \r\n").await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(connection.answer().await.status, 408);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let server = Server::start_in(folder(), &["--set=idle_connection_ms=1000"]).await;
    let mut silent = Wire::to(&server).await;
    let mut used = Wire::to(&server).await;
    used.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(used.answer().await.status, 200);
    silent.closed().await;
    used.closed().await;
}

#[tokio::test]
async fn a_request_that_takes_longer_than_a_connection_may_idle_is_answered() {
    let server = Server::start_embedded_in(folder(), &["--set=idle_connection_ms=1000"]).await;
    let occupied = occupy(&server);
    let mut connection = begin_post(&server, "/v1/sessions", 2).await;
    connection.send("{}").await;
    // One that began later is closed.
    Wire::to(&server).await.closed().await;
    drop(occupied);
    assert_eq!(connection.answer().await.status, 201);
}

#[tokio::test]
async fn bodies_under_way_take_bounded_room_and_give_it_back() {
    const KIB: usize = 1024;
    let flags = ["--set=body_bytes_max=1048576", "--set=bodies_bytes_max=1048576"];
    let server = Server::start_in(folder(), &flags).await;
    let padded = |id: &str, bytes: usize| {
        let body = format!(r#"{{"sessionId":"{id}"}}"#);
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    let body = padded("held", 900 * KIB);
    let post = || {
        let request = server.client.post(server.url("/v1/sessions"));
        request
            .header("content-type", "application/json")
            .body(padded("other", 600 * KIB))
    };
    // Whose bytes the server reads first is its own affair: when it is the other's, that one may be answered, and the
    // one that was to hold the room may be refused. Then it is tried again.
    let mut tries = 0;
    let (mut held, answer) = loop {
        let mut held = begin_post(&server, "/v1/sessions", body.len()).await;
        held.send(&body[..700 * KIB]).await;
        expect(server.get("/healthz"), 200).await;
        let answer = post().send().await.expect("an answer");
        expect(server.get("/healthz"), 200).await;
        if answer.status() == 503 && held.is_silent() {
            break (held, answer);
        }
        tries += 1;
        assert!(tries < 200, "a second body is never refused");
    };
    assert_eq!(answer.headers()["retry-after"], "1");
    problem(answer, 503, "overloaded").await;
    expect(server.get("/healthz"), 200).await;

    held.send(&body[700 * KIB..]).await;
    assert_eq!(held.answer().await.status, 201);
    assert!(post().send().await.expect("an answer").status().is_success());
}
