//! How the server stops: what was begun is finished, what was acknowledged stays, and nobody waits for the idle.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    harness::{EVERY_REQUEST, Server, expect, folder},
    wire::{Wire, begin_post},
};

/// Well within the default grace of 10 s, and far more than stopping takes.
pub const PROMPTLY: Duration = Duration::from_secs(5);

/// A bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(30);

const STOPPING: &str = "stopping: finishing the requests in flight";

/// A server with the session `s`.
pub async fn server(flags: &[&str]) -> Server {
    let server = Server::start_in(folder(), flags).await;
    expect(server.post("/v1/sessions", &json!({"sessionId": "s"})), 201).await;
    server
}

pub fn event(id: &str) -> String {
    json!({"eventId": id, "type": "system", "payload": {}}).to_string()
}

/// Begins to append an event: the server waits for the body.
async fn begin_append(server: &Server, id: &str) -> Wire {
    begin_post(server, "/v1/sessions/s/events", event(id).len()).await
}

async fn all_event_ids(server: &Server) -> Vec<String> {
    let page: Value = expect(server.get("/v1/sessions/s/events?limit=500"), 200).await;
    let events = page["events"].as_array().expect("events");
    events
        .iter()
        .map(|event| event["eventId"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn requests_in_flight_get_their_answer_and_stay_stored() {
    for signal in ["TERM", "INT"] {
        let mut server = server(&[]).await;
        let mut appends = Vec::new();
        for at in 0..64 {
            appends.push((format!("e-{at}"), begin_append(&server, &format!("e-{at}")).await));
        }
        let started = Instant::now();
        server.signal(signal);
        server.logged(STOPPING).await;
        for (id, connection) in &mut appends {
            connection.send(&event(id)).await;
        }
        for (_, connection) in &mut appends {
            assert_eq!(connection.answer().await.status, 201);
            connection.closed().await;
        }
        assert_eq!(server.wait().await.code(), Some(0), "SIG{signal}");
        assert!(started.elapsed() < PROMPTLY, "took {:?}", started.elapsed());
        let log = server.log();
        assert!(log.contains("nothing was left unfinished"), "{log}");

        let server = Server::start_in(server.folder(), &[]).await;
        let mut ids = all_event_ids(&server).await;
        ids.sort();
        let mut sent: Vec<_> = appends.into_iter().map(|(id, _)| id).collect();
        sent.sort();
        assert_eq!(ids, sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_under_load_is_there_after_a_stop() {
    let mut server = server(&[EVERY_REQUEST]).await;
    let mut clients = JoinSet::new();
    for client in 0..64 {
        let (http, url) = (server.client.clone(), server.url("/v1/sessions/s/events"));
        clients.spawn(async move {
            let mut acknowledged = Vec::new();
            for at in 0.. {
                let id = format!("c-{client}-{at}");
                let request = http.post(&url).header("Content-Type", "application/json");
                match request.body(event(&id)).send().await {
                    Ok(answer) => assert_eq!(answer.status(), 201),
                    // The server takes no further connection.
                    Err(_) => break,
                }
                acknowledged.push(id);
            }
            acknowledged
        });
    }
    let started = Instant::now();
    while server.log().matches("events\" status=201").count() < 200 {
        assert!(started.elapsed() < PATIENCE, "the clients are not served");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.ask_to_stop();
    assert_eq!(server.wait().await.code(), Some(0));
    let acknowledged: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() >= 200);

    let server = Server::start_in(server.folder(), &[]).await;
    let mut checks = JoinSet::new();
    for id in acknowledged {
        let request = server.get(&format!("/v1/sessions/s/events/{id}"));
        checks.spawn(async move { expect(request, 200).await });
        if checks.len() == 32 {
            checks.join_next().await.expect("one").expect("no panic");
        }
    }
    checks.join_all().await;
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    let mut server = server(&[]).await;
    let mut connections = Vec::new();
    for at in 0..20 {
        let mut connection = Wire::to(&server).await;
        if at % 2 == 0 {
            connection
                .send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
                .await;
            connection.answer().await;
        }
        connections.push(connection);
    }
    let started = Instant::now();
    server.ask_to_stop();
    assert_eq!(server.wait().await.code(), Some(0));
    assert!(started.elapsed() < PROMPTLY, "took {:?}", started.elapsed());
    for connection in &mut connections {
        connection.closed().await;
    }
}

#[tokio::test]
async fn a_stopping_server_takes_no_further_connections() {
    let mut server = server(&[]).await;
    let mut append = begin_append(&server, "e").await;
    server.ask_to_stop();
    server.logged(STOPPING).await;
    // The socket closes a moment after the signal; until then a connection may still be taken.
    let started = Instant::now();
    while server.get("/healthz").send().await.is_ok() {
        assert!(started.elapsed() < PROMPTLY, "still taking connections");
    }
    append.send(&event("e")).await;
    assert_eq!(append.answer().await.status, 201);
    assert_eq!(server.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_is_cut_off_and_the_log_says_so() {
    let mut server = server(&["--set=shutdown_grace_ms=200"]).await;
    let mut append = begin_append(&server, "e").await;
    let started = Instant::now();
    server.ask_to_stop();
    append.closed().await;
    assert_eq!(server.wait().await.code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(started.elapsed() < PROMPTLY, "took {:?}", started.elapsed());
    let log = server.log();
    assert!(
        !log.contains("nothing was left unfinished"),
        "something was: {log}"
    );
    assert!(log.contains("cut off"), "{log}");
    let server = Server::start_in(server.folder(), &[]).await;
    assert!(all_event_ids(&server).await.is_empty());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut server = server(&[]).await;
    expect(
        server.post(
            "/v1/sessions/s/events",
            &json!({"eventId": "e", "type": "system", "payload": {}}),
        ),
        201,
    )
    .await;
    let _unfinished = begin_append(&server, "f").await;
    let started = Instant::now();
    server.ask_to_stop();
    server.logged(STOPPING).await;
    server.ask_to_stop();
    let status = server.wait().await;
    assert!(started.elapsed() < PROMPTLY, "took {:?}", started.elapsed());
    assert_eq!(status.code(), Some(130));
    let server = Server::start_in(server.folder(), &[]).await;
    assert_eq!(all_event_ids(&server).await, ["e"]);
}
