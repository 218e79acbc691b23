//! Callers that take their answers slowly, or not at all, or send nothing but pings: what they may hold is bounded, in bytes
//! and in time, in both protocols (I9).

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    time::{interval, timeout},
};

use crate::{
    harness::{Server, expect, expect_problem, folder},
    talk::{append, counted, open},
    wire::Wire,
};

/// Not a measure: a bound that keeps a broken test from hanging. The callers here answer none of the server's pings, so the
/// server closes their connections after 50 s in any case. A test that waited longer would pass without the limit under test.
const PATIENCE: Duration = Duration::from_secs(40);

/// Often enough that a connection is never silent for as long as it may be.
const PACE: Duration = Duration::from_millis(50);

/// The least that a page with one payload takes.
const PAGE: u64 = 250_000;

const HELD: &str = "colloquy_answers_bytes";

/// As the connections' limits have it: one of them short, the others out of the way.
const STALLED_SHORT: [&str; 3] = [
    "--set=idle_connection_ms=3600000",
    "--set=stalled_connection_ms=1000",
    "--set=head_wait_ms_max=600000",
];
const IDLE_SHORT: [&str; 3] = [
    "--set=idle_connection_ms=1000",
    "--set=stalled_connection_ms=3600000",
    "--set=head_wait_ms_max=600000",
];

/// A server with a session `s` whose page has so many payloads of 250,000 bytes.
async fn server(payloads: usize, flags: &[&str]) -> Server {
    let server = Server::start_embedded_in(folder(), flags).await;
    open(&server, "s").await;
    for at in 0..payloads {
        let payload = json!({"text": "x".repeat(250_000)});
        append(
            &server,
            "s",
            &json!({"eventId": format!("e{at}"), "type": "x", "payload": payload}),
        )
        .await;
    }
    server
}

/// Waits until the server holds answers that this is true of; others than these come and go.
async fn holds(server: &Server, what: impl Fn(u64) -> bool) {
    let waiting = async {
        while !what(counted(server, HELD).await) {
            tokio::time::sleep(PACE).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .expect("it holds as much, or as little");
}

/// The frames of HTTP/2 that a rude caller needs.
struct Rude(Wire);

impl Rude {
    /// A caller whose windows are closed from the beginning.
    async fn to(server: &Server) -> Self {
        let mut rude = Self(Wire::to(server).await);
        rude.0.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        // SETTINGS_INITIAL_WINDOW_SIZE = 0.
        rude.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
        rude
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.send(frame(kind, flags, stream, payload)).await;
    }

    /// GET on stream number `nth`, from 0.
    async fn get(&mut self, nth: u32, path: &str) {
        // Indexed: GET, http; then the path, and an authority.
        let mut head = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).expect("a short path")];
        head.extend_from_slice(path.as_bytes());
        head.extend_from_slice(b"\x01\x01x");
        self.frame(1, 5, 2 * nth + 1, &head).await;
    }

    async fn reset(&mut self, nth: u32) {
        self.frame(3, 0, 2 * nth + 1, &[0, 0, 0, 8]).await;
    }

    /// Reads, and sends `frames` again and again, until the server has closed the connection.
    async fn until_closed(&mut self, frames: Vec<u8>) {
        let mut writer = self.0.writer();
        let sending = tokio::spawn(async move {
            let mut pace = interval(PACE);
            while writer.write_all(&frames).await.is_ok() {
                pace.tick().await;
            }
        });
        let closed = timeout(PATIENCE, async { while self.0.bytes().await.is_some() {} });
        closed.await.expect("the server closes the connection");
        sending.abort();
    }

    async fn pings_until_closed(&mut self) {
        self.until_closed(frame(6, 0, 0, b"pingpong")).await;
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Lets the server send so many bytes more of the answer to number `nth`.
fn window(nth: u32, bytes: u32) -> Vec<u8> {
    let bytes = bytes.to_be_bytes();
    [frame(8, 0, 2 * nth + 1, &bytes), frame(8, 0, 0, &bytes)].concat()
}

#[tokio::test]
async fn pings_do_not_keep_answers_that_are_never_taken() {
    let server = server(4, &STALLED_SHORT).await;
    let mut rude = Rude::to(&server).await;
    for nth in 0..100 {
        rude.get(nth, "/v1/sessions/s").await;
    }
    holds(&server, |bytes| bytes > 90_000_000).await;
    rude.pings_until_closed().await;
    holds(&server, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn an_answer_that_stands_still_is_cut_off_though_another_on_its_connection_flows() {
    let server = server(16, &STALLED_SHORT).await;
    let mut rude = Rude::to(&server).await;
    rude.get(0, "/v1/sessions/s").await;
    rude.get(1, "/v1/sessions/s").await;
    holds(&server, |bytes| bytes > 8_000_000).await;
    // A little of the second answer at a time: more than enough for the whole wait, and never all of it.
    rude.until_closed(window(1, 10_000)).await;
    drop(rude);
    holds(&server, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn a_caller_may_have_so_many_requests_on_a_connection_and_no_more() {
    let server = server(1, &STALLED_SHORT).await;
    let mut rude = Rude::to(&server).await;
    for nth in 0..130 {
        rude.get(nth, "/v1/sessions/s").await;
    }
    // As much as a hundred hold, and never more until it is cut off.
    holds(&server, |bytes| bytes > 99 * PAGE).await;
    let watched = async {
        loop {
            let bytes = counted(&server, HELD).await;
            assert!(bytes < 101 * PAGE, "{bytes}");
            if bytes == 0 {
                return;
            }
        }
    };
    let cut_off = async { tokio::join!(watched, rude.pings_until_closed()) };
    timeout(PATIENCE, cut_off)
        .await
        .expect("the server closes the connection");
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let server = server(1, &STALLED_SHORT).await;
    let mut rude = Rude::to(&server).await;
    let flood = async {
        let mut nth = 0;
        while rude.0.is_open() {
            for _ in 0..200 {
                rude.get(nth, "/v1/sessions/s").await;
                rude.reset(nth).await;
                nth += 1;
            }
        }
    };
    timeout(PATIENCE, flood)
        .await
        .expect("the server closes the connection");
    holds(&server, |bytes| bytes == 0).await;
    expect(server.get("/v1/sessions/s"), 200).await;
}

#[tokio::test]
async fn when_answers_take_all_the_room_requests_are_refused_until_they_are_taken() {
    // A page is a little more than all the room.
    let flags = [
        "--set=answers_bytes_max=1048576",
        STALLED_SHORT[0],
        STALLED_SHORT[2],
    ];
    let server = server(5, &flags).await;
    let mut rude = Rude::to(&server).await;
    // The page is admitted only while no other answer is held. The answer to a request for `/metrics` may be held just then, so
    // the page is asked for until it is admitted.
    for nth in 0.. {
        rude.get(nth, "/v1/sessions/s").await;
        tokio::time::sleep(PACE).await;
        if counted(&server, HELD).await > 1_048_576 {
            break;
        }
        assert!(nth < 50, "the page is never held");
    }
    for path in [
        "/v1/sessions/s",
        "/v1/sessions",
        "/v1/sessions/s/events?limit=1",
        "/openapi.json",
        "/docs",
    ] {
        expect_problem(server.get(path), 503, "overloaded").await;
    }
    let more = json!({"eventId": "more", "type": "x", "payload": {}});
    expect_problem(server.post("/v1/sessions/s/events", &more), 503, "overloaded").await;
    // What tells operators why goes on.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            server.get(path).send().await.expect("an answer").status(),
            200,
            "{path}"
        );
    }
    drop(rude);
    holds(&server, |bytes| bytes == 0).await;
    append(&server, "s", &more).await;
    expect(server.get("/v1/sessions/s"), 200).await;
}

#[tokio::test]
async fn an_answer_that_would_pass_the_room_that_is_left_is_refused_and_small_ones_are_not() {
    let flags = [
        "--set=answers_bytes_max=2097152",
        STALLED_SHORT[0],
        STALLED_SHORT[2],
    ];
    let server = server(5, &flags).await;
    let mut rude = Rude::to(&server).await;
    rude.get(0, "/v1/sessions/s").await;
    holds(&server, |bytes| bytes > 1_000_000).await;
    expect_problem(server.get("/v1/sessions/s"), 503, "overloaded").await;
    expect(server.get("/v1/sessions"), 200).await;
    drop(rude);
    holds(&server, |bytes| bytes == 0).await;
    expect(server.get("/v1/sessions/s"), 200).await;
}

#[tokio::test]
async fn a_slow_taker_of_http_1_is_cut_off_when_it_stalls_and_not_when_it_would_be_idle() {
    let request = "GET /v1/sessions/s HTTP/1.1\r\nhost: x\r\n\r\n".repeat(8);

    let server = server(16, &STALLED_SHORT).await;
    let mut wire = Wire::to(&server).await;
    wire.send(&request).await;
    holds(&server, |bytes| bytes > 1_000_000).await;
    // It takes nothing, and an idle connection would be kept for an hour.
    holds(&server, |bytes| bytes == 0).await;
    drop(wire);
    drop(server);

    let server = self::server(16, &IDLE_SHORT).await;
    let mut wire = Wire::to(&server).await;
    wire.send(&request).await;
    holds(&server, |bytes| bytes > 1_000_000).await;
    // Meanwhile others are closed because they are idle, one after the other.
    for _ in 0..2 {
        Wire::to(&server).await.closed().await;
    }
    for _ in 0..8 {
        let answer = wire.answer().await;
        assert_eq!(answer.json()["events"].as_array().map(Vec::len), Some(16));
    }
    // And now it is.
    wire.closed().await;
}

#[tokio::test]
async fn pings_are_no_requests() {
    let server = server(1, &IDLE_SHORT).await;
    Rude::to(&server).await.pings_until_closed().await;
    // Nor does one that was answered help.
    let mut rude = Rude::to(&server).await;
    rude.get(0, "/healthz").await;
    rude.0.send(window(0, 1_000_000)).await;
    rude.pings_until_closed().await;
}

#[tokio::test]
async fn a_head_has_its_own_time_on_a_connection_that_was_used_before() {
    let flags = [
        "--set=idle_connection_ms=3600000",
        "--set=stalled_connection_ms=3600000",
        "--set=head_wait_ms_max=500",
    ];
    let server = server(1, &flags).await;
    for before in ["", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut wire = Wire::to(&server).await;
        if !before.is_empty() {
            wire.send(before).await;
            assert_eq!(wire.answer().await.status, 200);
        }
        let drip = async {
            let mut pace = interval(PACE);
            wire.send("GET /healthz HTTP/1.1\r\nx: ").await;
            while wire.is_open() {
                wire.send("x").await;
                pace.tick().await;
            }
        };
        timeout(PATIENCE, drip)
            .await
            .expect("the server closes the connection");
    }
    // A preface that never ends is one, too.
    let mut wire = Wire::to(&server).await;
    wire.send("PRI * HTTP/2.0\r\n\r\nS").await;
    wire.closed().await;
}
