//! Connections: heads that are no HTTP, peers that stall, and what happens to the requests of others (I7, I9).

use futures_util::future::join_all;
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::{
    harness::{Server, expect},
    refusal::Untouched,
    talk::{append, event, open},
    wire::{Wire, exchange, request},
};

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let untouched = Untouched::start(&[]).await;
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(70_000));
    let many: String = (0..150).map(|at| format!("x-{at}: y\r\n")).collect();
    let many = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let large = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "y".repeat(600_000)
    );
    let heads: [(&[u8], u16); 16] = [
        (b"garbage\r\n\r\n", 400),
        (b"\0\x01\x02\x03\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/3.0\r\n\r\n", 400),
        (b"GET /he althz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /<a> HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"G(T /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nx: a\0b\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nx : y\r\n\r\n", 400),
        (
            b"POST /v1/sessions HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            400,
        ),
        (long_path.as_bytes(), 431),
        (many.as_bytes(), 431),
        (large.as_bytes(), 431),
    ];
    for (head, status) in heads {
        // hyper refuses these before there is a request.
        let mut wire = Wire::to(&untouched.server).await;
        wire.send(head).await;
        let answer = wire.answer().await;
        eprintln!("{:?}", String::from_utf8_lossy(&head[..head.len().min(80)]));
        let code = if status == 431 {
            "head-too-large"
        } else {
            "bad-request"
        };
        answer.assert_problem(status, code);
        wire.closed().await;
        untouched.check(&answer.status).await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn large_heads_within_reason_are_served() {
    let server = Server::start().await;
    let head = format!("x-large: {}\r\n", "y".repeat(60_000));
    let answer = exchange(&server, request("GET", "/healthz", &head, b"")).await;
    assert_eq!(answer.status, 200);
    let head: String = (0..90).map(|at| format!("x-{at}: y\r\n")).collect();
    let answer = exchange(&server, request("GET", "/healthz", &head, b"")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_connection_that_stalls_is_closed_wherever_it_stalls() {
    let limits = [
        "--set",
        "idle_connection_ms=1000",
        "--set",
        "stalled_connection_ms=1000",
        "--set",
        "head_wait_ms_max=1000",
        "--set",
        "body_wait_ms_max=300",
    ];
    let untouched = Untouched::start(&limits).await;
    let server = &untouched.server;
    let stalled = [
        "",
        "G",
        "GET /v1/sessions HTTP/1.1\r\nhost:",
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /v1",
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
    ];
    let waits = stalled.map(|bytes| async move {
        let mut wire = Wire::to(server).await;
        wire.send(bytes).await;
        wire.closed().await;
    });
    join_all(waits).await;
    untouched.finish().await;
}

#[tokio::test]
async fn a_request_sent_byte_by_byte_does_not_hold_its_connection_for_ever() {
    // Its head has a time of its own, far below the others.
    let limits = [
        "--set=idle_connection_ms=3600000",
        "--set=stalled_connection_ms=3600000",
        "--set=head_wait_ms_max=1000",
    ];
    let untouched = Untouched::start(&limits).await;
    let mut wire = Wire::to(&untouched.server).await;
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
    wire.send("GET /healthz HTTP/1.1\r\nx: ").await;
    // Each byte comes well before the connection is idle; the head never ends.
    let drip = async {
        while wire.is_open() {
            pace.tick().await;
            wire.send("x").await;
        }
    };
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, drip)
        .await
        .expect("the server closes the connection");
    untouched.finish().await;
}

#[tokio::test]
async fn a_peer_that_takes_no_answers_is_cut_off() {
    let limits = [
        "--set",
        "idle_connection_ms=1000",
        "--set",
        "stalled_connection_ms=1000",
        "--set",
        "body_wait_ms_max=100",
        "--set",
        "connections_max=1",
    ];
    let server = Server::start_in(crate::harness::folder(), &limits).await;
    {
        let mut wire = Wire::to(&server).await;
        // Answers of some 15 MB in all, none of which is read.
        let many = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(300);
        wire.send(&many).await;
        // There is room for one connection: this waits until the first one is given up.
        expect(server.get("/healthz"), 200).await;
        wire.closed().await;
    }
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_turn() {
    let server = Server::start().await;
    open(&server, "s").await;
    let mut wire = Wire::to(&server).await;
    let body = r#"{"eventId":"e","type":"x","payload":{}}"#;
    let post = format!(
        "POST /v1/sessions/s/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let bad = post.replace("{}", "[]").replace("application/json", "text/plain");
    let get = "GET /v1/sessions/s HTTP/1.1\r\nhost: x\r\n\r\n";
    let head = "HEAD /v1/sessions/s HTTP/1.1\r\nhost: x\r\n\r\n";
    wire.send(format!("{post}{post}{bad}{head}{get}")).await;
    assert_eq!(wire.answer().await.status, 201);
    assert_eq!(wire.answer().await.header("idempotency-replayed"), Some("true"));
    wire.answer().await.assert_problem(415, "unsupported-media-type");
    assert_eq!(wire.answer_to("HEAD").await.status, 200);
    assert_eq!(wire.answer().await.json()["events"][0]["eventId"], "e");
}

#[tokio::test]
async fn http_1_0_is_served() {
    let server = Server::start().await;
    let mut wire = Wire::to(&server).await;
    wire.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    wire.closed().await;
}

#[tokio::test]
async fn a_caller_that_waits_for_leave_to_send_its_body_gets_it() {
    let server = Server::start().await;
    open(&server, "s").await;
    let mut wire = Wire::to(&server).await;
    let body = r#"{"eventId":"e","type":"x","payload":{}}"#;
    let head = format!(
        "content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n",
        body.len()
    );
    wire.send(request("POST", "/v1/sessions/s/events", &head, b""))
        .await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(body).await;
    assert_eq!(wire.answer().await.status, 201);
}

#[tokio::test]
async fn an_append_whose_caller_went_away_is_stored_whole_or_not_at_all() {
    let server = Server::start().await;
    open(&server, "s").await;
    for at in 0..20 {
        let body = format!(r#"{{"eventId":"e{at}","type":"x","payload":{{"at":{at}}}}}"#);
        let head = "content-type: application/json\r\n";
        let mut wire = Wire::to(&server).await;
        wire.send(request("POST", "/v1/sessions/s/events", head, body.as_bytes()))
            .await;
    }
    // Sending each again settles it, whatever became of the first call.
    for at in 0..20 {
        let sent = serde_json::json!({"eventId": format!("e{at}"), "type": "x", "payload": {"at": at}});
        let response = server.post("/v1/sessions/s/events", &sent).send().await.unwrap();
        assert!(response.status().is_success());
    }
    let events = crate::talk::events(&server, "s").await;
    assert_eq!(events.len(), 20);
    append(&server, "s", &event("last")).await;
    let log = server.log();
    assert!(!log.contains("ERROR") && !log.contains("panic"), "{log}");
}

#[tokio::test]
async fn one_connection_of_http_2_carries_many_requests_and_ends_with_the_server() {
    let mut server = Server::start().await;
    open(&server, "s").await;
    let stream = TcpStream::connect(server.address()).await.expect("a connection");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let asked = (0..500).map(|at| {
        let mut sender = sender.clone();
        let path = if at % 2 == 0 {
            "/v1/sessions/s"
        } else {
            "/v1/sessions/other"
        };
        let request = Request::get(server.url(path))
            .body(String::new())
            .expect("a request");
        async move {
            sender.ready().await.expect("a stream");
            sender.send_request(request).await.expect("an answer").status()
        }
    });
    let statuses = join_all(asked).await;
    for (at, status) in statuses.into_iter().enumerate() {
        assert_eq!(status, if at % 2 == 0 { 200 } else { 404 }, "{at}");
    }
    server.ask_to_stop();
    connection.await.expect("no panic").expect("an orderly end");
    assert!(server.wait().await.success());
}
