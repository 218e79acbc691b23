//! What is around every request: its id, its trace, its line in the log.

use uuid::Uuid;

use crate::{
    backends::has_cache,
    harness::{EVERY_REQUEST, Server, expect, expect_problem, folder},
    talk::{batch_path, open},
};

#[tokio::test]
async fn a_request_keeps_the_id_it_came_with() {
    let server = Server::start_in(folder(), &[EVERY_REQUEST]).await;
    let long = "x".repeat(128);
    for id in [
        "a",
        "my-request/1:2",
        "01992c5e-7d3a-7cc1-a8f0-2b1d4c6e8f00",
        "{}<>;,",
        &long,
    ] {
        for path in [
            "/openapi.json",
            "/v1/sessions",
            "/v1/sessions/none",
            "/nope",
            "/docs",
        ] {
            let response = server.get(path).header("x-request-id", id).send().await.unwrap();
            assert_eq!(response.headers()["x-request-id"], id, "{path}");
            if response.status().is_client_error() {
                let problem: serde_json::Value = response.json().await.unwrap();
                assert_eq!(problem["requestId"], id);
            }
        }
        assert!(server.log().contains(&format!("request_id={id}")), "{id}");
    }
}

#[tokio::test]
async fn a_request_without_a_usable_id_gets_one() {
    let server = Server::start_in(folder(), &[EVERY_REQUEST]).await;
    let long = "x".repeat(129);
    let unusable: [&[u8]; 7] = [
        b"",
        b"two words",
        b"tab\there",
        b"quote\"",
        b"back\\slash",
        b"na\xefve",
        long.as_bytes(),
    ];
    let mut ids = Vec::new();
    for sent in unusable.into_iter().map(Some).chain([None, None]) {
        let request = server.get("/openapi.json");
        let request = match sent {
            Some(bytes) => request.header("x-request-id", bytes),
            None => request,
        };
        let response = request.send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 7);
        assert!(server.log().contains(&format!("request_id={id}")));
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 9);
}

#[tokio::test]
async fn the_problems_within_a_batch_name_its_request() {
    let server = Server::start().await;
    open(&server, "s").await;
    let body = serde_json::json!({"events": [{}]});
    let request = server.post(&batch_path("s"), &body).header("x-request-id", "r-1");
    let answer = expect(request, 200).await;
    assert_eq!(answer["outcomes"][0]["problem"]["requestId"], "r-1");
}

#[tokio::test]
async fn the_log_has_the_callers_trace() {
    let server = Server::start_in(folder(), &[EVERY_REQUEST]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let get = |value: String| server.get("/openapi.json").header("traceparent", value);
    expect(get(format!("00-{trace}-00f0671122334455-01")), 200).await;
    assert!(server.log().contains(trace));
    // A header that is not one is no reason to refuse a request, and is not believed.
    let zeros = "0".repeat(32);
    for bad in [
        "",
        "x",
        "00",
        "00-short-00f0671122334455-01",
        &format!("00-{zeros}-00f0671122334455-01"),
    ] {
        expect(get(bad.to_owned()), 200).await;
    }
    let log = server.log();
    assert!(!log.contains("short") && !log.contains(&zeros), "{log}");
}

#[tokio::test]
async fn every_request_is_one_line_in_the_log_and_what_strangers_make_up_is_not() {
    let server = Server::start_in(folder(), &[EVERY_REQUEST]).await;
    open(&server, "secret-session").await;
    expect(server.get("/v1/sessions/secret-session?limit=7"), 200).await;
    expect_problem(server.get("/made-up-path"), 404, "route-not-found").await;
    let log = server.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("colloquy::http"))
        .collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(
        lines[0].contains("method=POST") && lines[0].contains("status=201"),
        "{log}"
    );
    assert!(lines[1].contains("/v1/sessions/{sessionId}"), "{log}");
    assert!(lines[2].contains("status=404"), "{log}");
    assert!(
        !log.contains("secret-session") && !log.contains("made-up-path"),
        "{log}"
    );
}

#[tokio::test]
async fn health_and_readiness_say_what_they_are_asked() {
    let server = Server::start().await;
    let health = expect(server.get("/healthz"), 200).await;
    assert_eq!(health, serde_json::json!({"status": "ok"}));
    let ready = expect(server.get("/readyz"), 200).await;
    let cache = if has_cache() { "ok" } else { "off" };
    assert_eq!(
        ready,
        serde_json::json!({"status": "ready", "backends": {"store": "ok", "cache": cache, "archive": "ok"}})
    );
}

#[tokio::test]
async fn what_the_cache_does_is_counted() {
    let server = Server::start().await;
    open(&server, "s").await;
    let path = "/v1/sessions/s";
    for _ in 0..3 {
        expect(server.get(path), 200).await;
    }
    let response = server.get("/metrics").send().await.unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = response.text().await.unwrap();
    let reads: u64 = text
        .lines()
        .filter(|line| line.starts_with("colloquy_cache_reads_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    let expected = if has_cache() { (1, 3) } else { (0, 0) };
    assert!(
        text.contains(&format!("\ncolloquy_cache_up {}\n", expected.0)),
        "{text}"
    );
    assert_eq!(reads, expected.1, "{text}");
}
