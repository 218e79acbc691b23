//! A server with something in it, and the proof that what it refused has changed nothing (I7).

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{
    harness::{Server, expect, expect_problem},
    talk::{append, event, events, list, open, texts, walk},
    wire::{Answer, exchange},
};

/// The operations that take a body: method, path, a body that would be taken.
pub const OPERATIONS: [(&str, &str, &str); 5] = [
    ("POST", "/v1/sessions", r#"{"sessionId":"new"}"#),
    ("PATCH", "/v1/sessions/s", r#"{"userId":"new"}"#),
    ("POST", "/v1/sessions/s/complete", r#"{"reason":"new"}"#),
    (
        "POST",
        "/v1/sessions/s/events",
        r#"{"eventId":"new","type":"x","payload":{}}"#,
    ),
    (
        "POST",
        "/v1/sessions/s/events/batch",
        r#"{"events":[{"eventId":"new","type":"x","payload":{}}]}"#,
    ),
];

/// A server with the sessions `s` (active, with the events `e1` and `e2`), `idle` and `ended`.
pub struct Untouched {
    pub server: Server,
    before: (Vec<Value>, Vec<Value>),
}

impl Untouched {
    pub async fn start(flags: &[&str]) -> Self {
        let server = Server::start_in(crate::harness::folder(), flags).await;
        for id in ["s", "idle", "ended"] {
            open(&server, id).await;
        }
        for id in ["e1", "e2"] {
            append(&server, "s", &event(id)).await;
        }
        expect(server.post("/v1/sessions/ended/complete", &json!({})), 200).await;
        let before = content(&server).await;
        Self { server, before }
    }

    /// A request of an operation that takes a body, as JSON.
    pub fn request(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.bare(method, path, body)
            .header("content-type", "application/json")
    }

    /// The same without a Content-Type.
    pub fn bare(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let method = method.parse().expect("a method");
        self.server
            .client
            .request(method, self.server.url(path))
            .body(body)
    }

    /// The request is refused with this status and code, and has changed nothing. Gives the problem.
    pub async fn refuses(&self, request: RequestBuilder, status: u16, code: &str) -> Value {
        let problem = expect_problem(request, status, code).await;
        self.check(&problem).await;
        problem
    }

    /// As [`refuses`](Self::refuses); and the fields at fault are these.
    pub async fn refuses_fields(&self, request: RequestBuilder, status: u16, fields: &[&str]) {
        let code = match status {
            400 => "invalid-parameter",
            413 => "content-too-large",
            _ => "validation-failed",
        };
        let problem = self.refuses(request, status, code).await;
        assert_eq!(fields_of(&problem), fields, "{problem}");
    }

    /// The bytes are refused with this status and code, and have changed nothing.
    pub async fn refuses_bytes(&self, bytes: impl AsRef<[u8]>, status: u16, code: &str) -> Answer {
        let answer = exchange(&self.server, bytes).await;
        answer.assert_problem(status, code);
        self.check(&answer.status).await;
        answer
    }

    /// Nothing has changed.
    pub async fn check(&self, after: &impl std::fmt::Debug) {
        assert_eq!(content(&self.server).await, self.before, "after {after:?}");
    }

    /// Nothing has changed, the server answers, and its log tells of no fault of its own.
    pub async fn finish(self) {
        self.check(&"all").await;
        expect(self.server.get("/readyz"), 200).await;
        let log = self.server.log();
        for word in ["ERROR", "panic"] {
            let told: Vec<&str> = log.lines().filter(|line| line.contains(word)).collect();
            assert!(told.is_empty(), "{told:#?}");
        }
        assert_eq!(self.server.stop().await.code(), Some(0));
    }
}

/// The fields that a problem names.
pub fn fields_of(problem: &Value) -> Vec<String> {
    texts(&list(problem["errors"].clone()), "field")
}

/// All sessions, and all events of `s`. Others would show their first event by their status.
async fn content(server: &Server) -> (Vec<Value>, Vec<Value>) {
    let sessions = walk(server, "/v1/sessions?limit=500", "sessions").await;
    (sessions, events(server, "s").await)
}
