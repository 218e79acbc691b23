//! Each backend broken in turn: `/readyz` and `/metrics` name it, and no other, and when it is back they say so.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::collector::{Collector, Span};
use crate::{
    backends::{archive_place, cache_flags},
    engines::{Engine, Redis, ReplicaSet, with_database},
    failures::proxy::{Proxy, Way},
    harness::{Server, colloquy, expect_problem, folder},
    talk::open,
};

/// A bound that keeps a server that never notices from hanging the test.
const PATIENCE: Duration = Duration::from_secs(60);

const BACKENDS: [&str; 3] = ["store", "cache", "archive"];

/// What `/metrics` says of a backend.
async fn shown(server: &Server, backend: &str) -> Option<f64> {
    let metrics = crate::talk::metrics(server).await;
    let line = format!("colloquy_backend_up{{backend=\"{backend}\"}} ");
    let value = metrics.lines().find_map(|text| text.strip_prefix(&line))?;
    Some(value.parse().unwrap())
}

/// Whether `/readyz` names this backend as broken, and no other.
async fn is_named(server: &Server, broken: Option<&str>) -> bool {
    let answer = server.get("/readyz").send().await.unwrap();
    let status = answer.status().as_u16();
    let told: Value = answer.json().await.unwrap();
    match broken {
        Some("store") => {
            status == 503
                && told["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.starts_with("store: "))
        }
        broken => {
            let is_right = |backend: &str| {
                let expected = if Some(backend) == broken { "degraded" } else { "ok" };
                told["backends"][backend] == expected
            };
            status == 200 && BACKENDS.into_iter().all(is_right)
        }
    }
}

/// Waits until the server says so of all backends.
async fn until_named(server: &Server, broken: Option<&str>) {
    let began = Instant::now();
    loop {
        let mut all = is_named(server, broken).await;
        for backend in BACKENDS {
            let expected = if Some(backend) == broken { 0.0 } else { 1.0 };
            all &= shown(server, backend).await == Some(expected);
        }
        if all {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "the server never says that {broken:?} is broken"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_is_named_until_it_is_back() {
    let (mut set, mut redis) = (ReplicaSet::start(1).await, Redis::start().await);
    let folder = folder();
    let place = archive_place(folder.path());
    let way = Proxy::before(place.endpoint.trim_start_matches("http://")).await;
    let mut flags = vec![
        format!("--store={}", with_database(&set.url(), "colloquy")),
        format!("--set=archive={}", place.url),
        format!("--set=archive_s3_endpoint=http://{}", way.address()),
        format!("--set=archive_s3_region={}", place.region),
    ];
    let short = [
        "health_every_ms=100",
        "archive_read_ms_max=1000",
        "mongo_call_ms_max=1500",
        "mongo_server_selection_ms_max=1000",
        "mongo_connect_ms_max=1000",
    ];
    flags.extend(short.map(|limit| format!("--set={limit}")));
    flags.extend(cache_flags(&redis.url()));
    let made = colloquy().arg("init").args(&flags).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let collector = Collector::start().await;
    let mut command = colloquy();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    let server = Server::start_as(command, folder, &flags, &[]).await;
    until_named(&server, None).await;

    way.set(Way::Cut);
    until_named(&server, Some("archive")).await;
    server.logged("the archive does not answer").await;
    open(&server, "while-the-archive-is-away").await;
    way.set(Way::Open);
    until_named(&server, None).await;
    server.logged("the archive answers again").await;

    redis.kill9();
    until_named(&server, Some("cache")).await;
    open(&server, "while-redis-is-away").await;
    redis.restart().await;
    until_named(&server, None).await;

    set.member(0).kill9();
    until_named(&server, Some("store")).await;
    server.logged("the store does not answer").await;
    expect_problem(server.get("/v1/sessions/s"), 503, "store-unavailable").await;
    set.restart(0).await;
    until_named(&server, None).await;
    open(&server, "when-all-is-well").await;

    // A trace shows what failed, and because of whom.
    assert!(server.stop().await.success());
    let told = collector.received();
    let is_failed = |span: &&Span| span.is_error && span.name == "GET /v1/sessions/{sessionId}";
    let failed = told.spans.iter().find(is_failed).expect("a failed request");
    assert_eq!(failed.attributes["http.response.status_code"], "503");
    let calls = told
        .spans
        .iter()
        .filter(|span| told.is_within(span, failed) && span.is_error);
    let error = |span: &Span| span.attributes.get("error.type").cloned();
    assert!(
        calls.filter_map(error).count() > 0,
        "{:#?}",
        told.names(&failed.trace)
    );
}
