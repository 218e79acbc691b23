//! Paths, parameters and methods that are not the API's: refused by name, and nothing changes (I7).

use crate::{
    harness::{expect, expect_problem},
    refusal::{OPERATIONS, Untouched},
    talk::{event, events_path},
    wire::request,
};

#[tokio::test]
async fn an_id_in_the_path_is_held_to_the_rule_however_it_is_written() {
    let untouched = Untouched::start(&[]).await;
    let long = "x".repeat(129);
    let very_long = "x".repeat(60_000);
    let bad = [
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "a%2Fb",
        "%2F",
        "a%20b",
        "a+b%20",
        "%00",
        "a%00",
        "%zz",
        "%",
        "%2",
        "a%25b",
        "%C3%A9",
        "a,b",
        "a;b",
        "a!b",
        "a*b",
        "a'b",
        "a(b)",
        "a$b",
        "a&b",
        "a%5Cb",
        "%22",
        "%3Ca%3E",
        "a%0d%0ab",
        "%7F",
        "é",
        long.as_str(),
        very_long.as_str(),
    ];
    for id in bad {
        for (method, path, field) in [
            ("GET", format!("/v1/sessions/{id}"), "sessionId"),
            ("PATCH", format!("/v1/sessions/{id}"), "sessionId"),
            ("DELETE", format!("/v1/sessions/{id}"), "sessionId"),
            ("POST", format!("/v1/sessions/{id}/complete"), "sessionId"),
            ("GET", format!("/v1/sessions/{id}/events"), "sessionId"),
            ("POST", format!("/v1/sessions/{id}/events"), "sessionId"),
            ("POST", format!("/v1/sessions/{id}/events/batch"), "sessionId"),
            ("GET", format!("/v1/sessions/{id}/events/e1"), "sessionId"),
            ("GET", format!("/v1/sessions/s/events/{id}"), "eventId"),
        ] {
            let json = "content-type: application/json\r\n";
            let bytes = request(method, &path, json, b"{}");
            let answer = untouched.refuses_bytes(bytes, 400, "invalid-parameter").await;
            assert_eq!(answer.json()["errors"][0]["field"], field, "{method} {path}");
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_path_that_does_not_decode_is_refused() {
    let untouched = Untouched::start(&[]).await;
    for path in [
        "/v1/sessions/%ff",
        "/v1/sessions/%C3",
        "/v1/sessions/%ED%A0%80/events",
        "/v1/sessions/s/events/%c0%af",
        "/%ff",
    ] {
        let bytes = request("GET", path, "", b"");
        untouched.refuses_bytes(bytes, 400, "invalid-parameter").await;
        let bytes = request("DELETE", "/v1/sessions/%ff", "", b"");
        untouched.refuses_bytes(bytes, 400, "invalid-parameter").await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn there_is_nothing_at_any_other_path() {
    let untouched = Untouched::start(&[]).await;
    let long = format!("/{}", "x".repeat(60_000));
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/sessions",
        "/V1/sessions",
        "/v1/Sessions",
        "/sessions",
        "/v1/session",
        "//",
        "//v1/sessions",
        "/v1//sessions",
        "/v1/sessions/",
        "/v1/sessions/s/",
        "/v1/sessions/s/events/",
        "/v1/sessions/s/complete/",
        "/v1/sessions/s/events/e1/",
        "/v1/sessions/s/events/e1/x",
        "/v1/sessions/s/events/batch/",
        "/v1/sessions/s/nope",
        "/healthz/",
        "/healthz/x",
        "/docs/",
        "/docs/index.html",
        "/openapi.yaml",
        "/openapi.json/",
        "/favicon.ico",
        "/v1/../healthz",
        "/./healthz",
        "/v1/%73essions",
        "/%2Fhealthz",
        "/healthz%00",
        "/*",
        "*",
        "/:x",
        "/--poem-rest",
        "/v1/sessions?/",
        "http://colloquy",
        "http://colloquy/nope",
        "http://colloquy?x=1",
        long.as_str(),
    ] {
        // A question mark begins the query, so this one path is there.
        if path == "/v1/sessions?/" {
            let bytes = request("GET", path, "", b"");
            untouched.refuses_bytes(bytes, 400, "invalid-parameter").await;
            continue;
        }
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let bytes = request(method, path, "", b"");
            untouched.refuses_bytes(bytes, 404, "route-not-found").await;
        }
    }
    // Between two slashes there is an id, and no id is empty.
    for path in ["/v1/sessions//events", "/v1/sessions//complete"] {
        let method = if path.ends_with('s') { "GET" } else { "POST" };
        let bytes = request(method, path, "", b"");
        untouched.refuses_bytes(bytes, 400, "invalid-parameter").await;
    }
    untouched.finish().await;
}

/// Every path with the methods it takes.
const PATHS: [(&str, &str); 13] = [
    ("/v1/sessions", "GET, HEAD, POST"),
    ("/v1/sessions/s", "DELETE, GET, HEAD, PATCH"),
    ("/v1/sessions/none", "DELETE, GET, HEAD, PATCH"),
    ("/v1/sessions/s/complete", "POST"),
    ("/v1/sessions/s/events", "GET, HEAD, POST"),
    ("/v1/sessions/s/events/e1", "GET, HEAD"),
    ("/v1/sessions/s/events/batch", "GET, HEAD, POST"),
    ("/v1/sessions/s/events/none", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/docs", "GET, HEAD"),
    ("/openapi.json", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
];

#[tokio::test]
async fn a_path_refuses_other_methods_and_says_which_it_takes() {
    let untouched = Untouched::start(&[]).await;
    let methods = [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "BREW",
    ];
    for (path, allowed) in PATHS {
        let taken: Vec<&str> = allowed.split(", ").collect();
        for method in methods.iter().filter(|method| !taken.contains(method)) {
            let answer = untouched
                .refuses_bytes(request(method, path, "", b""), 405, "method-not-allowed")
                .await;
            assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn head_answers_as_get_does_but_without_a_body() {
    let untouched = Untouched::start(&[]).await;
    for (path, _) in PATHS.iter().filter(|(_, allowed)| allowed.contains("HEAD")) {
        let get = untouched.server.get(path).send().await.unwrap();
        let head = untouched.server.client.head(untouched.server.url(path));
        let head = head.send().await.unwrap();
        assert_eq!(head.status(), get.status(), "{path}");
        for name in ["content-type", "etag"] {
            assert_eq!(head.headers().get(name), get.headers().get(name), "{path}");
        }
        assert!(head.headers().contains_key("x-request-id"));
        let body = get.bytes().await.unwrap();
        assert!(!body.is_empty());
        if let Some(length) = head.headers().get("content-length") {
            // Problems name their request, so only their length can be the same.
            assert_eq!(length.to_str().unwrap(), body.len().to_string(), "{path}");
        }
        assert!(head.bytes().await.unwrap().is_empty());
    }
    let head = untouched.server.client.head(untouched.server.url("/nope"));
    assert_eq!(head.send().await.unwrap().status().as_u16(), 404);
    untouched.finish().await;
}

#[tokio::test]
async fn a_request_in_absolute_form_is_served() {
    let untouched = Untouched::start(&[]).await;
    let bytes = request("GET", "http://colloquy.example/v1/sessions/s?limit=1", "", b"");
    let answer = crate::wire::exchange(&untouched.server, bytes).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["session"]["sessionId"], "s");
    for (method, target) in [
        ("CONNECT", "colloquy.example:80"),
        ("CONNECT", "colloquy.example"),
        ("GET", "healthz"),
    ] {
        let bytes = request(method, target, "", b"");
        untouched.refuses_bytes(bytes, 404, "route-not-found").await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_query_parameter_is_held_to_its_rule() {
    let untouched = Untouched::start(&[]).await;
    let limits = [
        "0",
        "501",
        "-1",
        "abc",
        "",
        "1.0",
        "1e2",
        "+5",
        "%2B5",
        " 5",
        "5%20",
        "0x10",
        "99999999999999999999",
        "%00",
        "%ff",
        "٣",
        "null",
        "65536",
        "65537",
    ];
    let times = [
        "",
        "now",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "1767225600",
        "0000-01-01T00:00:00%2B01:00",
        "2026-11-01512:00:00Z",
        "2026-11-01%0012:00:00Z",
        "2026-11-01%2012:00:00Z",
        "2026-11-01+12:00:00Z",
        "2026-11-01_12:00:00Z",
        "2026-11-01T12:00:00%2B24:00",
        "2026-11-01T12:00:00%2B00:60",
        // A plus sign that is not encoded is a space.
        "2026-01-01T00:00:00+01:00",
    ];
    let orders = ["", "ASC", "up", "asc,desc", "1"];
    let types = ["", "A", "user speech", "1x", "%00", "a,b"];
    let long = "%C3%A9".repeat(129);
    let users = [
        "",
        "%00",
        "a%0A",
        "%7F",
        "%C2%85",
        "%ff",
        "a%C3",
        "%ED%A0%BD",
        &long,
    ];
    let statuses = ["", "Active", "open", "active,failed"];
    let seqs = ["", "x", "1.5", "9223372036854775808", "-9223372036854775809"];
    let session: &[(&str, &[&str])] = &[("limit", &limits[1..]), ("order", &orders), ("minSeq", &seqs)];
    let sessions: &[(&str, &[&str])] = &[
        ("limit", &limits),
        ("status", &statuses),
        ("userId", &users),
        ("startedAfter", &times),
        ("startedBefore", &times),
    ];
    let events: &[(&str, &[&str])] = &[
        ("limit", &limits),
        ("order", &orders),
        ("type", &types),
        ("since", &times),
        ("until", &times),
    ];
    for (path, parameters) in [
        ("/v1/sessions", sessions),
        ("/v1/sessions/s", session),
        ("/v1/sessions/s/events", events),
    ] {
        for (name, values) in parameters {
            for value in *values {
                let request = untouched.server.get(&format!("{path}?{name}={value}"));
                untouched.refuses_fields(request, 400, &[name]).await;
            }
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_query_parameter_that_an_operation_does_not_take_is_refused_by_name() {
    let untouched = Untouched::start(&[]).await;
    let server = &untouched.server;
    let reads = [
        ("/v1/sessions", "order"),
        ("/v1/sessions", "minSeq"),
        ("/v1/sessions", "type"),
        ("/v1/sessions/s", "type"),
        ("/v1/sessions/s", "since"),
        ("/v1/sessions/s/events", "minSeq"),
        ("/v1/sessions/s/events", "status"),
        ("/v1/sessions/s/events/e1", "limit"),
        ("/v1/sessions/s/events/batch", "limit"),
        ("/healthz", "x"),
        ("/readyz", "x"),
        ("/docs", "x"),
        ("/openapi.json", "x"),
    ];
    for (path, name) in reads {
        for query in [format!("{name}=1"), name.to_owned(), format!("{name}=")] {
            let request = server.get(&format!("{path}?{query}"));
            untouched.refuses_fields(request, 400, &[name]).await;
        }
    }
    for (method, path, good) in OPERATIONS {
        let request = untouched.request(method, &format!("{path}?dryRun=true"), good);
        untouched.refuses_fields(request, 400, &["dryRun"]).await;
    }
    untouched
        .refuses_fields(server.delete("/v1/sessions/s?force=1"), 400, &["force"])
        .await;
    for (query, names) in [
        ("Limit=1", vec!["Limit"]),
        ("%6cimit=1&LIMIT=1", vec!["LIMIT"]),
        ("=1", vec![""]),
        ("a&b=1", vec!["a", "b"]),
        ("limit=1&limit=1", vec!["limit"]),
        ("limit=1&limi%74=2", vec!["limit"]),
        ("status=active&limit=1&status=failed", vec!["status"]),
    ] {
        let request = server.get(&format!("/v1/sessions?{query}"));
        untouched.refuses_fields(request, 400, &names).await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_query_of_nothing_but_faults_gets_an_answer_of_bounded_size() {
    let untouched = Untouched::start(&[]).await;
    let many: Vec<String> = (0..8000).map(|at| format!("p{at}")).collect();
    for query in [many.join("&"), "limit&".repeat(8000), "x".repeat(60_000)] {
        let request = untouched.server.get(&format!("/v1/sessions?{query}"));
        let problem = untouched.refuses(request, 400, "invalid-parameter").await;
        assert!(problem.to_string().len() < 4000);
    }
    untouched.finish().await;
}

#[tokio::test]
async fn empty_parts_of_a_query_mean_nothing() {
    let untouched = Untouched::start(&[]).await;
    for query in ["", "&", "&&limit=2&", "limit=2&&"] {
        expect(untouched.server.get(&format!("/v1/sessions?{query}")), 200).await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_refusal_says_nothing_of_the_inside() {
    let untouched = Untouched::start(&[]).await;
    let server = &untouched.server;
    let ended = server.post(&events_path("ended"), &event("new"));
    for (request, status, code) in [
        (server.get("/v1/sessions/none"), 404, "session-not-found"),
        (server.get("/v1/sessions/s/events/none"), 404, "event-not-found"),
        (ended, 409, "session-ended"),
        (server.get("/v1/sessions?cursor=x"), 400, "invalid-cursor"),
        (server.get("/nope"), 404, "route-not-found"),
    ] {
        let text = expect_problem(request, status, code)
            .await
            .to_string()
            .to_lowercase();
        for inside in [
            "sqlite", "rusqlite", "poem", "src/", ".rs", "panicked", "jiter", "serde",
        ] {
            assert!(!text.contains(inside), "{text}");
        }
    }
    untouched.finish().await;
}
