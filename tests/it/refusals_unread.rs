//! A refusal arrives, typed and whole, whatever the caller still has to send (I7): over raw sockets, and behind the nginx
//! that is shipped.

use std::{future::poll_fn, pin::Pin, time::Duration};

use hyper::{
    Request, StatusCode,
    body::{Body, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    engines::Nginx,
    harness::{Server, expect, folder},
    talk::{append, event, open},
    wire::{Answer, Wire, begin_post},
};

const MIB: usize = 1024 * 1024;

/// Below every limit of nginx and of the server, and far above all of them.
const SIZES: [usize; 2] = [3 * MIB, 64 * MIB];

/// Not a measure: a bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    ContentLength,
    Chunked,
}

#[derive(Clone, Copy, Debug)]
enum Caller {
    /// Looks at the answer when it has sent everything, or can send no more.
    WritesFirst,
    ReadsWhileWriting,
}

/// A request that is refused before its body was read, if ever: its first line, its headers, and the answer.
struct Refused(&'static str, &'static str, u16, &'static str);

const JSON: &str = "content-type: application/json\r\n";

const REFUSED: [Refused; 16] = [
    Refused("POST /nothing", JSON, 404, "route-not-found"),
    Refused("POST /v1/sessions/s/nothing", JSON, 404, "route-not-found"),
    Refused("PUT /v1/sessions", JSON, 405, "method-not-allowed"),
    Refused("POST /healthz", JSON, 405, "method-not-allowed"),
    Refused("POST /v1/sessions?x=1", JSON, 400, "invalid-parameter"),
    Refused("GET /v1/sessions?limit=many", JSON, 400, "invalid-parameter"),
    Refused("GET /v1/sessions?cursor=none", JSON, 400, "invalid-cursor"),
    Refused(
        "POST /v1/sessions/s/events",
        "content-type: application/json\r\nif-match: \"1\"\r\n",
        400,
        "invalid-parameter",
    ),
    Refused(
        "PATCH /v1/sessions/s",
        "content-type: application/json\r\nif-match: 1\r\n",
        400,
        "invalid-parameter",
    ),
    Refused(
        "POST /v1/sessions/not%20one/events",
        JSON,
        400,
        "invalid-parameter",
    ),
    Refused("POST /v1/sessions/%ff/events", JSON, 400, "invalid-parameter"),
    Refused(
        "POST /v1/sessions/s/events/batch",
        "content-type: application/json\r\ncontent-encoding: br\r\n",
        415,
        "unsupported-media-type",
    ),
    Refused(
        "POST /v1/sessions/s/events",
        "content-type: a\r\n",
        415,
        "unsupported-media-type",
    ),
    Refused("POST /v1/sessions/s/events", "", 415, "unsupported-media-type"),
    Refused("POST /v1/sessions/s/events", JSON, 400, "malformed-json"),
    Refused("POST /v1/admin/archive/runs?x=1", JSON, 400, "invalid-parameter"),
];

/// Sends a body of spaces, until it is sent or the peer takes no more.
async fn write_body(mut writer: impl AsyncWrite + Unpin, framing: Framing, size: usize) {
    let chunk = match framing {
        Framing::ContentLength => vec![b' '; 64 * 1024],
        Framing::Chunked => {
            let mut chunk = b"10000\r\n".to_vec();
            chunk.extend_from_slice(&[b' '; 64 * 1024]);
            chunk.extend_from_slice(b"\r\n");
            chunk
        }
    };
    for _ in 0..size / (64 * 1024) {
        if writer.write_all(&chunk).await.is_err() {
            return;
        }
    }
    if framing == Framing::Chunked {
        let _ = writer.write_all(b"0\r\n\r\n").await;
    }
}

/// The answer to a request with such a body.
async fn exchange(address: &str, head: &str, framing: Framing, caller: Caller, size: usize) -> Answer {
    let framed = match framing {
        Framing::ContentLength => format!("content-length: {size}\r\n"),
        Framing::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
    };
    let (line, headers) = head.split_once("\r\n").expect("a first line");
    let mut wire = Wire::at(address).await;
    wire.send(format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}{framed}\r\n"))
        .await;
    let writing = write_body(wire.writer(), framing, size);
    let exchanged = async {
        match caller {
            Caller::WritesFirst => {
                writing.await;
                wire.answer().await
            }
            Caller::ReadsWhileWriting => {
                let writing = tokio::spawn(writing);
                let answer = wire.answer().await;
                writing.abort();
                answer
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchanged)
        .await
        .expect("an answer in time")
}

/// Every kind of refusal, however its body is sent.
async fn every_refusal_arrives(
    address: &str,
    expected: impl Fn(&Refused, Framing, usize) -> (u16, &'static str),
) {
    for refused @ Refused(line, headers, ..) in &REFUSED {
        for size in SIZES {
            for framing in [Framing::ContentLength, Framing::Chunked] {
                for caller in [Caller::WritesFirst, Caller::ReadsWhileWriting] {
                    eprintln!("{line} {headers:?} {framing:?} {caller:?} {size}");
                    let head = format!("{line}\r\n{headers}");
                    let answer = exchange(address, &head, framing, caller, size).await;
                    let (status, code) = expected(refused, framing, size);
                    answer.assert_problem(status, code);
                }
            }
        }
    }
}

async fn server() -> Server {
    let server = Server::start_embedded().await;
    open(&server, "s").await;
    append(&server, "s", &event("e")).await;
    server
}

/// What was refused has changed nothing.
async fn untouched(server: &Server) {
    let page = expect(server.get("/v1/sessions/s"), 200).await;
    assert_eq!(page["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["session"]["version"], 2);
    let sessions = expect(server.get("/v1/sessions"), 200).await;
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1));
}

/// Whether the server looks at the body before it finds the fault.
fn reads_first(Refused(line, headers, ..): &Refused) -> bool {
    line.starts_with("POST /v1/sessions/s/events")
        && !headers.contains("-encoding")
        && !headers.contains("if-match")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_arrives_whole_whatever_is_left_to_send() {
    let server = server().await;
    every_refusal_arrives(server.address(), |refused, _, size| {
        match size > 4 * MIB && reads_first(refused) {
            true => (413, "content-too-large"),
            false => (refused.2, refused.3),
        }
    })
    .await;
    untouched(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_arrives_whole_through_nginx() {
    let server = server().await;
    let port = server
        .address()
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number");
    let nginx = Nginx::start(&[port], &[]).await;
    let url = nginx.url();
    every_refusal_arrives(url.trim_start_matches("http://"), |refused, framing, size| {
        // nginx doesn't look at a body that it has no use for.
        let is_admin = refused.0.contains("admin");
        match size > 5 * MIB && !(is_admin && framing == Framing::Chunked) {
            true => (413, "content-too-large"),
            false if is_admin => (404, "route-not-found"),
            false => (refused.2, refused.3),
        }
    })
    .await;
    untouched(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_past_the_limit_is_refused_whole_however_it_is_framed() {
    let server = server().await;
    for path in ["/v1/sessions", "/v1/sessions/s/events/batch"] {
        for size in [4 * MIB + 64 * 1024, 20 * MIB, 64 * MIB, 256 * MIB] {
            for framing in [Framing::ContentLength, Framing::Chunked] {
                for caller in [Caller::WritesFirst, Caller::ReadsWhileWriting] {
                    eprintln!("{path} {size} {framing:?} {caller:?}");
                    let head = format!("POST {path}\r\n{JSON}");
                    let answer = exchange(server.address(), &head, framing, caller, size).await;
                    answer.assert_problem(413, "content-too-large");
                }
            }
        }
    }
    untouched(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_past_the_limit_is_refused_whole_though_more_is_sent() {
    let server = server().await;
    for caller in [Caller::WritesFirst, Caller::ReadsWhileWriting] {
        let mut wire = Wire::to(&server).await;
        wire.send("GET /healthz HTTP/1.1\r\nx: ").await;
        let writing = tokio::spawn(write_body(wire.writer(), Framing::ContentLength, 16 * MIB));
        if matches!(caller, Caller::WritesFirst) {
            writing.await.expect("no panic");
        }
        wire.answer().await.assert_problem(431, "head-too-large");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shed_is_answered_whole_whatever_is_left_to_send() {
    let flags = ["--set=writes_in_flight_max=1", "--set=request_wait_ms_max=60000"];
    let server = Server::start_embedded_in(folder(), &flags).await;
    open(&server, "s").await;
    let bytes = event("held").to_string();
    let mut holder = begin_post(&server, "/v1/sessions/s/events", bytes.len()).await;
    for size in SIZES {
        for framing in [Framing::ContentLength, Framing::Chunked] {
            for caller in [Caller::WritesFirst, Caller::ReadsWhileWriting] {
                let head = format!("POST /v1/sessions/s/events/batch\r\n{JSON}");
                let answer = exchange(server.address(), &head, framing, caller, size).await;
                answer.assert_problem(503, "overloaded");
                assert!(answer.header("retry-after").is_some());
            }
        }
    }
    holder.send(&bytes).await;
    assert_eq!(holder.answer().await.status, 201);
}

#[tokio::test]
async fn a_connection_serves_on_behind_a_refusal_with_a_body() {
    let server = server().await;
    let mut wire = Wire::to(&server).await;
    for Refused(line, headers, status, code) in &REFUSED {
        for framing in [Framing::ContentLength, Framing::Chunked] {
            let framed = match framing {
                Framing::ContentLength => format!("content-length: {}", 3 * MIB),
                Framing::Chunked => "transfer-encoding: chunked".to_owned(),
            };
            wire.send(format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}{framed}\r\n\r\n"))
                .await;
            write_body(wire.writer(), framing, 3 * MIB).await;
            // It was pipelined behind the refused one.
            wire.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
            wire.answer().await.assert_problem(*status, code);
            assert_eq!(wire.answer().await.status, 200, "{line}");
        }
    }
}

#[tokio::test]
async fn a_get_with_a_body_is_answered_and_its_connection_serves_on() {
    let server = server().await;
    let mut wire = Wire::to(&server).await;
    for _ in 0..3 {
        let head = format!(
            "GET /v1/sessions/s HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            3 * MIB
        );
        wire.send(head).await;
        write_body(wire.writer(), Framing::ContentLength, 3 * MIB).await;
        assert_eq!(wire.answer().await.json()["session"]["sessionId"], "s");
    }
}

#[tokio::test]
async fn a_caller_that_asks_first_is_refused_without_being_told_to_send() {
    let server = server().await;
    let asking = [
        ("POST /nothing", 10, 404, "route-not-found"),
        ("POST /v1/sessions?x=1", 10, 400, "invalid-parameter"),
        ("POST /v1/sessions/s/events", 64 * MIB, 413, "content-too-large"),
    ];
    for (line, size, status, code) in asking {
        let mut wire = Wire::to(&server).await;
        wire.send(format!(
            "{line} HTTP/1.1\r\nhost: x\r\n{JSON}expect: 100-continue\r\ncontent-length: {size}\r\n\r\n"
        ))
        .await;
        let answer = wire.answer().await;
        answer.assert_problem(status, code);
        // Nobody can tell whether the body still comes.
        assert_eq!(answer.header("connection"), Some("close"));
        wire.closed().await;
    }
}

/// All of a body.
async fn whole(mut body: Incoming) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let data = frame.expect("the rest of the body").into_data();
        bytes.extend_from_slice(&data.unwrap_or_default());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_arrives_whole_over_http_2() {
    let server = server().await;
    let stream = TcpStream::connect(server.address()).await.expect("a connection");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for size in [3 * MIB, 20 * MIB] {
        for refused @ Refused(line, headers, status, code) in &REFUSED {
            eprintln!("{line} {size}");
            let (method, path) = line.split_once(' ').expect("a method");
            let mut request = Request::builder().method(method).uri(server.url(path));
            for header in headers.split("\r\n").filter(|line| !line.is_empty()) {
                let (name, value) = header.split_once(": ").expect("a header");
                request = request.header(name, value);
            }
            let body = " ".repeat(size);
            sender.ready().await.expect("a stream");
            let answer = sender.send_request(request.body(body).expect("a request"));
            let answer = tokio::time::timeout(PATIENCE, answer)
                .await
                .expect("in time")
                .expect("an answer");
            let too_large = size > 4 * MIB && reads_first(refused);
            let (status, code) = if too_large {
                (413, "content-too-large")
            } else {
                (*status, *code)
            };
            assert_eq!(answer.status(), StatusCode::from_u16(status).expect("a status"));
            let problem: serde_json::Value =
                serde_json::from_slice(&whole(answer.into_body()).await).expect("JSON");
            assert_eq!(problem["code"], code);
        }
    }
    drop(sender);
    connection.await.expect("no panic").expect("an orderly end");
    untouched(&server).await;
}
