//! A server that drains: it says so where load balancers look, and serves everybody until it stops.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::{
    harness::{Server, expect},
    shutdown::{PROMPTLY, event, server},
    wire::{Answer, Wire, begin_post, request},
};

/// Longer than any test: who sets this ends the server otherwise.
const FOR_EVER: &str = "--set=shutdown_drain_ms=600000";

const JSON: &str = "content-type: application/json\r\n";

const DRAINING: &str = "draining: serving on";

async fn get(wire: &mut Wire, path: &str) -> Answer {
    wire.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    wire.answer().await
}

async fn append(wire: &mut Wire, id: &str) -> Answer {
    let (body, path) = (event(id), "/v1/sessions/s/events");
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    wire.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len()))
        .await;
    wire.answer().await
}

#[tokio::test]
async fn a_draining_server_is_not_ready_and_serves_old_and_new_connections_once_more() {
    let mut server = server(&[FOR_EVER]).await;
    let (mut old, mut idle) = (Wire::to(&server).await, Wire::to(&server).await);
    for connection in [&mut old, &mut idle] {
        let answer = get(connection, "/readyz").await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    server.ask_to_stop();
    server.logged(DRAINING).await;

    let mut balancer = Wire::to(&server).await;
    let answer = get(&mut balancer, "/readyz").await;
    answer.assert_problem(503, "draining");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.header("retry-after").is_some());
    balancer.closed().await;
    let mut kubelet = Wire::to(&server).await;
    let answer = get(&mut kubelet, "/healthz").await;
    assert_eq!(answer.status, 200, "a process that drains is not to be killed");

    let answer = append(&mut old, "old").await;
    assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
    old.closed().await;
    let mut new = Wire::to(&server).await;
    let answer = append(&mut new, "new").await;
    assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
    new.closed().await;
    // Problems and answers to HTTP/1.0 say so, too.
    let mut wrong = Wire::to(&server).await;
    let answer = get(&mut wrong, "/nowhere").await;
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));

    assert!(idle.is_open(), "its owner may be about to use it");
    let answer = append(&mut idle, "idle").await;
    assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));

    let started = Instant::now();
    server.ask_to_stop();
    assert_eq!(
        server.wait().await.code(),
        Some(130),
        "a second signal ends it at once"
    );
    assert!(started.elapsed() < PROMPTLY, "took {:?}", started.elapsed());
}

#[tokio::test]
async fn after_the_drain_it_takes_no_connection_and_finishes_what_is_in_flight() {
    const DRAIN: Duration = Duration::from_millis(300);
    let mut server = server(&["--set=shutdown_drain_ms=300"]).await;
    let mut before = begin_post(&server, "/v1/sessions/s/events", event("before").len()).await;
    let mut idle = Wire::to(&server).await;
    get(&mut idle, "/healthz").await;
    let started = Instant::now();
    server.ask_to_stop();
    server.logged(DRAINING).await;
    let mut during = begin_post(&server, "/v1/sessions/s/events", event("during").len()).await;
    idle.closed().await;
    assert!(started.elapsed() >= DRAIN, "closed after {:?}", started.elapsed());
    while TcpStream::connect(server.address()).await.is_ok() {
        assert!(started.elapsed() < PROMPTLY, "still taking connections");
    }
    for (id, connection) in [("before", &mut before), ("during", &mut during)] {
        connection.send(&event(id)).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
    }
    assert_eq!(server.wait().await.code(), Some(0));
    assert!(started.elapsed() < PROMPTLY, "took {:?}", started.elapsed());
    let log = server.log();
    assert!(log.contains("nothing was left unfinished"), "{log}");

    let server = Server::start_in(server.folder(), &[]).await;
    for id in ["before", "during"] {
        expect(server.get(&format!("/v1/sessions/s/events/{id}")), 200).await;
    }
}

/// A server that is full leaves connections to the system, which resets them when the socket closes over their heads.
#[tokio::test]
async fn who_waits_to_be_accepted_when_the_socket_closes_is_served() {
    let mut server = server(&["--set=connections_max=1"]).await;
    // The only place, until its body is sent; the client of the line above gives it up.
    server.client = reqwest::Client::new();
    let mut first = begin_post(&server, "/v1/sessions/s/events", event("first").len()).await;
    let mut waiting = Vec::new();
    let _silent = [Wire::to(&server).await, Wire::to(&server).await];
    for id in ["a", "b", "c"] {
        let (mut wire, body) = (Wire::to(&server).await, event(id));
        wire.send(request("POST", "/v1/sessions/s/events", JSON, body.as_bytes()))
            .await;
        waiting.push(wire);
    }
    server.ask_to_stop();
    let started = Instant::now();
    while TcpStream::connect(server.address()).await.is_ok() {
        assert!(started.elapsed() < PROMPTLY, "still taking connections");
    }
    // Longer than a connection gets that has a place and says nothing.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    first.send(&event("first")).await;
    assert_eq!(first.answer().await.status, 201);
    for connection in &mut waiting {
        assert_eq!(connection.answer().await.status, 201);
    }
    assert_eq!(server.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_that_nobody_uses_ends_on_time() {
    let server = server(&["--set=shutdown_drain_ms=300", "--set=shutdown_grace_ms=600000"]).await;
    let started = Instant::now();
    assert_eq!(server.stop().await.code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(started.elapsed() < PROMPTLY, "took {:?}", started.elapsed());
}
