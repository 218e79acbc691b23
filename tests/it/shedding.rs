//! More requests than there is room for: those past the limit are refused at once and leave nothing, those before it are
//! served, and the next is as welcome as ever (I9).

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    harness::{Server, folder},
    limits::occupy,
    random::Random,
    talk::{answered, append, counted, event, events, open},
    wire::{Wire, begin_post},
};

/// The requests of a kind that were shed, as the server counts them.
async fn shed(server: &Server, kind: &str) -> u64 {
    let series = format!("colloquy_requests_shed_total{{kind=\"{kind}\"}}");
    counted(server, &series).await
}

/// Sends appends at once while nothing can be stored: `admitted` of them wait, and all others are refused.
async fn surplus_is_refused(server: &Server, ids: Vec<String>, admitted: usize) {
    let surplus = ids.len() - admitted;
    let before = shed(server, "write").await;
    let failed = async || answered(server, "POST", "/v1/sessions/{sessionId}/events", 503).await;
    let failed_before = failed().await;
    let kept = events(server, "s").await.len();
    let occupied = occupy(server);
    let mut requests = JoinSet::new();
    for id in &ids {
        requests.spawn(
            server
                .post("/v1/sessions/s/events", &event(id))
                .header("x-request-id", id)
                .send(),
        );
    }
    let mut refused = Vec::new();
    // Nobody who was admitted has an answer, so the first to have one are all who were not.
    for _ in 0..surplus {
        let answer = requests
            .join_next()
            .await
            .expect("an answer")
            .expect("no panic")
            .expect("an answer");
        assert_eq!(answer.status(), 503);
        let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "application/problem+json");
        assert!(["1", "2", "3"].contains(&header("retry-after").as_str()));
        let id = header("x-request-id");
        let problem: Value = answer.json().await.expect("a problem");
        assert_eq!(
            (&problem["code"], &problem["requestId"]),
            (&json!("overloaded"), &json!(id))
        );
        refused.push(id);
    }
    for path in ["/healthz", "/metrics", "/openapi.json"] {
        assert_eq!(
            server.get(path).send().await.expect("an answer").status(),
            200,
            "{path}"
        );
    }
    // Reads have places of their own.
    assert_eq!(events(server, "s").await.len(), kept);
    drop(occupied);
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.expect("no panic").expect("an answer").status(), 201);
    }
    assert_eq!(shed(server, "write").await - before, surplus as u64);
    assert_eq!(
        failed().await - failed_before,
        surplus as u64,
        "each is a failed request"
    );
    let stored = events(server, "s").await;
    assert_eq!(stored.len(), kept + admitted);
    let stored = |id: &String| stored.iter().any(|event| event["eventId"] == id.as_str());
    assert!(!refused.iter().any(stored));
    assert_eq!(ids.iter().filter(|id| stored(id)).count(), admitted);
}

#[tokio::test]
async fn the_surplus_is_refused_at_once_and_the_rest_is_served() {
    let flags = ["--set=writes_in_flight_max=4", "--set=request_wait_ms_max=60000"];
    let server = Server::start_embedded_in(folder(), &flags).await;
    open(&server, "s").await;
    for round in 0..3 {
        let ids = (0..12).map(|at| format!("e-{round}-{at}")).collect();
        surplus_is_refused(&server, ids, 4).await;
        append(&server, "s", &event(&format!("after-{round}"))).await;
    }
    assert_eq!(shed(&server, "read").await, 0);
    let log = server.log();
    let told = log
        .lines()
        .filter(|line| line.contains("shedding: too many"))
        .count();
    assert!((1..=24).contains(&told), "{log}");
}

#[tokio::test]
async fn whatever_the_numbers_exactly_the_surplus_is_refused() {
    let mut random = Random::seeded();
    for _ in 0..4 {
        let limit = 1 + random.below(20);
        let surplus = 1 + random.below(60);
        let flag = format!("--set=writes_in_flight_max={limit}");
        let server = Server::start_embedded_in(folder(), &[&flag, "--set=request_wait_ms_max=60000"]).await;
        open(&server, "s").await;
        let ids = (0..limit + surplus).map(|at| format!("e-{at}")).collect();
        surplus_is_refused(&server, ids, limit).await;
        append(&server, "s", &event("after")).await;
    }
}

#[tokio::test]
async fn a_connection_outlives_a_refusal_whatever_the_body() {
    let flags = ["--set=writes_in_flight_max=1", "--set=request_wait_ms_max=60000"];
    let server = Server::start_embedded_in(folder(), &flags).await;
    open(&server, "s").await;
    let bytes = event("held").to_string();
    // Its head is there and its body is not: it has the one place.
    let mut holder = begin_post(&server, "/v1/sessions/s/events", bytes.len()).await;
    let mut wire = Wire::to(&server).await;
    let head = "POST /v1/sessions/s/events HTTP/1.1\r\nhost: x\r\n";
    for size in [0, 2, 256 * 1024, 4 * 1024 * 1024] {
        let body = " ".repeat(size);
        wire.send(format!("{head}content-length: {size}\r\n\r\n{body}"))
            .await;
        wire.answer().await.assert_problem(503, "overloaded");
        let chunk = match size {
            0 => String::new(),
            _ => format!("{size:x}\r\n{body}\r\n"),
        };
        wire.send(format!(
            "{head}transfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
        ))
        .await;
        wire.answer().await.assert_problem(503, "overloaded");
        // The same connection is served on.
        wire.send("GET /v1/sessions/s HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(wire.answer().await.status, 200);
    }
    holder.send(&bytes).await;
    assert_eq!(holder.answer().await.status, 201);
    append(&server, "s", &event("after")).await;
}
