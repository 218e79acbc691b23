//! Answers through the nginx that is shipped: pages compressed, ETags as strong as they were given, and nothing that is
//! for operators.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::{
    engines::Nginx,
    harness::{Server, expect, http, problem},
    talk::{append_batch, event, open},
};

struct Fronted {
    server: Server,
    nginx: Nginx,
}

impl Fronted {
    async fn start() -> Self {
        let server = Server::start_embedded().await;
        let port = server.address().rsplit(':').next().expect("a port");
        let nginx = Nginx::start(&[port.parse().expect("a number")], &[]).await;
        Self { server, nginx }
    }

    /// As a caller that takes compressed answers.
    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Response {
        let client = http().build().expect("a client");
        let mut request = client
            .request(method, format!("{}{path}", self.nginx.url()))
            .header("accept-encoding", "gzip")
            .json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }
}

fn header(answer: &Response, name: &str) -> Option<String> {
    let value = answer.headers().get(name)?;
    Some(value.to_str().expect("text").to_owned())
}

#[tokio::test]
async fn an_etag_is_as_strong_as_it_was_given_and_fits_if_match() {
    let fronted = Fronted::start().await;
    // Large enough to be worth compressing.
    let session = json!({"sessionId": "s", "metadata": {"text": "x".repeat(16_000)}});
    let opened = fronted.ask(Method::POST, "/v1/sessions", &[], &session).await;
    let again = fronted.ask(Method::POST, "/v1/sessions", &[], &session).await;
    let patched = fronted
        .ask(Method::PATCH, "/v1/sessions/s", &[], &json!({"userId": "u"}))
        .await;
    let alone = fronted
        .ask(Method::GET, "/v1/sessions/s?limit=0", &[], &Value::Null)
        .await;
    let mut etags = Vec::new();
    for answer in [opened, again, patched, alone] {
        assert_eq!(header(&answer, "content-encoding"), None);
        etags.push(header(&answer, "etag").expect("an ETag"));
        assert_eq!(
            answer.text().await.expect("a body").matches("xxxx").count(),
            4_000
        );
    }
    assert_eq!(etags, ["\"1\"", "\"1\"", "\"2\"", "\"2\""]);
    let matched = [("if-match", etags[3].as_str())];
    let patch = json!({"userId": "v"});
    let answer = fronted
        .ask(Method::PATCH, "/v1/sessions/s", &matched, &patch)
        .await;
    assert_eq!(answer.status(), 200);
    let answer = fronted
        .ask(Method::PATCH, "/v1/sessions/s", &matched, &patch)
        .await;
    problem(answer, 412, "version-mismatch").await;
    let answer = fronted
        .ask(Method::POST, "/v1/sessions/s/complete", &[], &json!({}))
        .await;
    assert_eq!(header(&answer, "etag").as_deref(), Some("\"4\""));
    assert_eq!(header(&answer, "content-encoding"), None);
}

#[tokio::test]
async fn pages_are_compressed_and_are_what_the_server_says() {
    let fronted = Fronted::start().await;
    open(&fronted.server, "s").await;
    let events: Vec<Value> = (0..100).map(|at| event(&format!("e{at}"))).collect();
    append_batch(&fronted.server, "s", &events).await;
    let pages = [
        "/v1/sessions/s",
        "/v1/sessions/s?limit=100&order=desc",
        "/v1/sessions/s/events",
        "/v1/sessions/s/events?since=2020-01-01T00%3A00%3A00Z",
    ];
    for path in pages {
        let answer = fronted.ask(Method::GET, path, &[], &Value::Null).await;
        assert_eq!(
            header(&answer, "content-encoding").as_deref(),
            Some("gzip"),
            "{path}"
        );
        assert_eq!(
            header(&answer, "vary").as_deref(),
            Some("Accept-Encoding"),
            "{path}"
        );
        assert_eq!(header(&answer, "etag"), None, "it would be of other bytes");
        let packed = answer.bytes().await.expect("a body");
        let mut text = String::new();
        GzDecoder::new(&packed[..])
            .read_to_string(&mut text)
            .expect("gzip");
        let page: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(page, expect(fronted.server.get(path), 200).await, "{path}");
        assert!(
            packed.len() * 4 < text.len(),
            "{} of {}",
            packed.len(),
            text.len()
        );
    }
}

#[tokio::test]
async fn operators_are_answered_by_a_replica_and_not_by_nginx() {
    let fronted = Fronted::start().await;
    for path in ["/v1/admin/archive/runs", "/metrics"] {
        assert_eq!(
            fronted.server.get(path).send().await.expect("an answer").status(),
            200
        );
        let answer = fronted.ask(Method::GET, path, &[], &Value::Null).await;
        problem(answer, 404, "route-not-found").await;
    }
    let answer = fronted
        .ask(Method::POST, "/v1/admin/archive/runs", &[], &json!({}))
        .await;
    problem(answer, 404, "route-not-found").await;
    let runs = expect(fronted.server.get("/v1/admin/archive/runs"), 200).await;
    assert!(
        runs["runs"]
            .as_array()
            .expect("runs")
            .iter()
            .all(|run| run["trigger"] != "api"),
        "{runs}"
    );
}
