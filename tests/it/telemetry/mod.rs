//! What a server tells a collector of what it does: traces, metrics and logs over OTLP, switched on by the standard
//! variables, and neither a payload nor a secret in any of them.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use crate::{
    archive::{archive, ended},
    backends::{Store, backend_flags, cache_is_chosen, credentials_file},
    harness::{Server, colloquy, expect, folder},
    talk::{event, events_path, open},
};

mod backends;
mod collector;

use collector::{Collector, Received, hex, texts};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0b1902c7";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// A server that tells a collector.
async fn telling(collector: &Collector, flags: &[&str]) -> Server {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=planted-secret-of-headers",
        ),
        ("OTEL_SERVICE_NAME", "colloquy-under-test"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ];
    Server::start_with(folder(), flags, &variables).await
}

/// What the collector has once the server has stopped, which sends the last of it.
async fn told(server: Server, collector: &Collector) -> Received {
    assert!(server.stop().await.success());
    collector.received()
}

#[tokio::test]
async fn an_append_is_one_trace_from_its_caller_to_the_databases() {
    let collector = Collector::start().await;
    let server = telling(&collector, &[]).await;
    open(&server, "s").await;
    let request = server.post(&events_path("s"), &event("e"));
    let answer = request.header("traceparent", traceparent()).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let back = answer.headers()["traceparent"].to_str().unwrap().to_owned();
    let told = told(server, &collector).await;

    let served = told.span(TRACE, "POST /v1/sessions/{sessionId}/events");
    assert_eq!((served.kind, served.parent.as_str()), (SpanKind::Server, PARENT));
    assert_eq!(
        back,
        format!("00-{TRACE}-{}-01", served.id),
        "the caller is told the span of its request"
    );
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/sessions/{sessionId}/events"),
        ("http.response.status_code", "201"),
        ("url.path", "/v1/sessions/s/events"),
    ] {
        assert_eq!(served.attributes[name], value);
    }
    assert!(!served.is_error);
    let used = told.span(TRACE, "append_batch");
    assert_eq!(used.parent, served.id);

    // The shared write is a trace of its own, with a link to each request that shares it.
    let linked = |span: &&collector::Span| span.name == "append flush" && span.links == [TRACE];
    let flush = told.spans.iter().find(linked).expect("a flush with a link");
    assert_ne!(flush.trace, TRACE);
    assert_eq!(
        (
            flush.parent.as_str(),
            flush.attributes["colloquy.events"].as_str()
        ),
        ("", "1")
    );
    let write = match Store::chosen() {
        Store::Embedded => told.span(&flush.trace, "write"),
        Store::MongoDb => told.span(&flush.trace, "insert events"),
    };
    assert_eq!(
        (write.kind, write.parent.as_str()),
        (SpanKind::Client, flush.id.as_str())
    );
    let system = match Store::chosen() {
        Store::Embedded => "sqlite",
        Store::MongoDb => "mongodb",
    };
    assert_eq!(write.attributes["db.system.name"], system);
    if cache_is_chosen() {
        for script in ["begin", "finish"] {
            let asked = told.span(&flush.trace, script);
            assert_eq!(asked.attributes["db.system.name"], "redis");
            assert_eq!(asked.parent, flush.id, "{script}");
        }
    }
}

#[tokio::test]
async fn a_read_of_an_archived_session_shows_each_request_to_the_archive() {
    let collector = Collector::start().await;
    let server = telling(&collector, &[]).await;
    ended(&server, "s", 3).await;
    archive(&server).await;
    for path in ["/v1/sessions/s", "/v1/sessions/s"] {
        expect(server.get(path).header("traceparent", traceparent()), 200).await;
    }
    let told = told(server, &collector).await;
    let reads = told.spans_of(TRACE, "GET /v1/sessions/{sessionId}");
    assert_eq!(reads.len(), 2);
    for read in reads {
        let gets = told.spans_of(TRACE, "objects get");
        let of_read: Vec<_> = gets.iter().filter(|get| told.is_within(get, read)).collect();
        assert!((1..=6).contains(&of_read.len()), "{:#?}", told.names(TRACE));
        assert!(of_read.iter().all(|get| get.kind == SpanKind::Client));
    }
    let phases = ["claim", "read", "write", "verify", "commit", "delete"];
    for phase in phases {
        let name = format!("archive {phase}");
        assert!(told.spans.iter().any(|span| span.name == name), "{name}");
    }
}

#[tokio::test]
async fn a_refused_request_is_no_error_of_the_service() {
    let collector = Collector::start().await;
    let server = telling(&collector, &[]).await;
    expect(
        server
            .get("/v1/sessions/nobody")
            .header("traceparent", traceparent()),
        404,
    )
    .await;
    expect(server.get("/made/up").header("traceparent", traceparent()), 404).await;
    let told = told(server, &collector).await;
    let served = told.span(TRACE, "GET /v1/sessions/{sessionId}");
    assert!(!served.is_error);
    assert_eq!(served.attributes["http.response.status_code"], "404");
    let stranger = told.span(TRACE, "GET");
    assert!(
        !stranger.attributes.contains_key("url.path"),
        "what a stranger made up is not kept"
    );
}

#[tokio::test]
async fn metrics_and_logs_are_sent_with_who_sends_them() {
    let collector = Collector::start().await;
    let server = telling(&collector, &[]).await;
    let request = server
        .get("/v1/sessions/nobody")
        .header("traceparent", traceparent());
    expect(request.header("X-Request-Id", "my-request"), 404).await;
    let told = told(server, &collector).await;
    for name in [
        "http.server.request.duration",
        "db.client.operation.duration",
        "colloquy.backend.up",
        "colloquy.append.queue_events",
    ] {
        assert!(
            told.metrics.iter().any(|metric| metric == name),
            "{name}: {:?}",
            told.metrics
        );
    }
    assert_eq!(told.resource["service.name"], "colloquy-under-test");
    assert_eq!(told.resource["deployment.environment.name"], "test");
    assert_eq!(told.resource["service.version"], env!("CARGO_PKG_VERSION"));
    let of_request = told
        .logs
        .iter()
        .find(|log| hex(&log.trace_id) == TRACE)
        .expect("its line of the log");
    assert_eq!(texts(of_request.attributes.clone())["request_id"], "my-request");
    assert!(
        told.authorizations
            .iter()
            .all(|sent| sent == "planted-secret-of-headers")
    );
}

/// What nobody is to be told: what was said, the header of the collector, and the secret key of S3 where there is one.
fn planted_words() -> Vec<String> {
    let mut words = vec!["planted-payload".to_owned(), "planted-secret".to_owned()];
    if Store::chosen() == Store::MongoDb {
        let keys = std::fs::read_to_string(credentials_file()).unwrap();
        let secret = keys
            .lines()
            .find_map(|line| line.strip_prefix("aws_secret_access_key="));
        words.push(secret.unwrap().to_owned());
    }
    words
}

#[tokio::test]
async fn neither_payloads_nor_secrets_are_told_to_anyone() {
    let collector = Collector::start().await;
    let server = telling(&collector, &["--set=log_filter=trace"]).await;
    let planted = json!({"eventId": "e", "type": "user_speech", "payload": {"text": "planted-payload"}});
    open(&server, "s").await;
    expect(server.post(&events_path("s"), &planted), 201).await;
    expect(server.post(&events_path("s"), &planted), 200).await;
    let clash = json!({"eventId": "e", "type": "user_speech", "payload": {"text": "planted-payload, again"}});
    expect(server.post(&events_path("s"), &clash), 409).await;
    let patch = json!({"metadata": {"note": "planted-payload"}});
    expect(server.patch("/v1/sessions/s", &patch), 200).await;
    expect(server.get("/v1/sessions/s"), 200).await;
    // A body that can't be read, with the words in it.
    let broken = server.client.post(server.url(&events_path("s")));
    let broken = broken
        .header("content-type", "application/json")
        .body(r#"{"payload": "planted-payload"#);
    assert_eq!(broken.send().await.unwrap().status(), 400);
    expect(
        server.post("/v1/sessions/s/complete", &json!({"reason": "planted-payload"})),
        200,
    )
    .await;
    archive(&server).await;
    expect(server.get("/v1/sessions/s"), 200).await;
    let metrics = crate::talk::metrics(&server).await;
    let folder = server.folder();
    let told = told(server, &collector).await;
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let sent = String::from_utf8_lossy(&told.bytes).into_owned();
    assert!(
        sent.contains("colloquy") && log.contains("/v1/sessions/{sessionId}"),
        "there is something to look into"
    );
    for (place, text) in [("the log", &log), ("/metrics", &metrics), ("what is sent", &sent)] {
        for planted in planted_words() {
            let planted = planted.as_str();
            let found = text.lines().find(|line| line.contains(planted));
            assert_eq!(found, None, "{planted} in {place}");
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_that_was_switched_off() {
    let collector = Collector::start().await;
    let url = collector.url();
    for off in [
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
            ("OTEL_SDK_DISABLED", "true"),
        ],
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "none"),
        ],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
    ] {
        let server = Server::start_with(folder(), &[], &off).await;
        open(&server, "s").await;
        assert!(server.stop().await.success());
        assert!(collector.received().bytes.is_empty(), "{off:?}");
    }
    // One signal alone, to an address of its own.
    let traces = format!("{url}/v1/traces");
    let server = Server::start_with(folder(), &[], &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &traces)]).await;
    open(&server, "s").await;
    let told = told(server, &collector).await;
    assert!(!told.spans.is_empty() && told.logs.is_empty() && told.metrics.is_empty());
}

#[tokio::test]
async fn what_cannot_be_spoken_is_refused_at_start() {
    let folder = folder();
    for (name, value, words) in [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "only http/protobuf is spoken",
        ),
        ("OTEL_TRACES_EXPORTER", "zipkin", "must be otlp or none"),
    ] {
        let output = colloquy()
            .args(backend_flags(folder.path()))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env(name, value)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(name) && said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    // One refuses, the other takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for away in ["http://127.0.0.1:9", &silent] {
        let server = Server::start_with(folder(), &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", away)]).await;
        open(&server, "s").await;
        let working = async {
            for n in 0..50 {
                expect(server.post(&events_path("s"), &event(&format!("e-{n}"))), 201).await;
            }
        };
        // Far less than one export may take, 10 s, would be if requests waited for any.
        let bound = Duration::from_secs(60);
        tokio::time::timeout(bound, working).await.expect("appends go on");
        let stopped = tokio::time::timeout(bound, server.stop()).await;
        assert!(stopped.expect("it stops").success());
    }
}
