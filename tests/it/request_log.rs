//! The log: a line a request that failed or was slow, or a line for each, which says what happened and nothing of what was
//! said.

use serde_json::{Value, json};

use crate::harness::{EVERY_REQUEST, Server, expect, folder};

/// The lines about requests.
fn request_lines(server: &Server) -> Vec<String> {
    let log = server.log();
    log.lines()
        .filter(|line| line.contains("colloquy::http"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_line_for_a_person_names_method_route_status_duration_and_request_id() {
    let server = Server::start_in(folder(), &[EVERY_REQUEST]).await;
    let request = server.post("/v1/sessions", &json!({"sessionId": "private-name"}));
    expect(request.header("X-Request-Id", "from-the-caller"), 201).await;
    let request = server.get("/v1/sessions/private-name/events/private-event?limit=3");
    expect(request, 400).await;
    expect(server.get("/v1/sessions/private-name/events/private-event"), 404).await;
    expect(server.get("/private-name/../x"), 404).await;
    let lines = request_lines(&server);
    assert_eq!(lines.len(), 4, "{lines:?}");
    let expected = [
        ("POST", "\"/v1/sessions\"", "201"),
        ("GET", "\"/v1/sessions/{sessionId}/events/{eventId}\"", "400"),
        ("GET", "\"/v1/sessions/{sessionId}/events/{eventId}\"", "404"),
        ("GET", "\"-\"", "404"),
    ];
    for (line, (method, route, status)) in lines.iter().zip(expected) {
        let said = format!("method={method} route={route} status={status} duration_us=");
        assert!(line.contains(&said), "{said} is not in {line}");
        assert!(line.contains("request_id="), "{line}");
    }
    assert!(lines[0].contains("request_id=from-the-caller"), "{}", lines[0]);
    assert!(!server.log().contains("private-"), "{}", server.log());
}

#[tokio::test]
async fn what_goes_well_and_quickly_is_no_line_and_what_fails_is() {
    // Longer than any request takes.
    let server = Server::start_in(folder(), &["--set=slow_request_ms=3600000"]).await;
    expect(server.post("/v1/sessions", &json!({"sessionId": "s"})), 201).await;
    expect(server.get("/v1/sessions/s"), 200).await;
    expect(server.get("/v1/sessions/t"), 404).await;
    expect(server.get("/nothing"), 404).await;
    let lines = request_lines(&server);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line.contains("INFO") && line.contains("status=404"))
    );

    let flags = [
        "--set=slow_request_ms=3600000",
        "--log-filter=colloquy::http=debug",
    ];
    let server = Server::start_in(folder(), &flags).await;
    expect(server.get("/healthz"), 200).await;
    expect(server.get("/v1/sessions"), 200).await;
    let lines = request_lines(&server);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("DEBUG")), "{lines:?}");
}

#[tokio::test]
async fn a_line_for_a_collector_has_the_same_as_fields() {
    let server = Server::start_in(folder(), &[EVERY_REQUEST, "--log-format=json"]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = server.post("/v1/sessions", &json!({"sessionId": "private-name"}));
    let request = request
        .header("X-Request-Id", "from-the-caller")
        .header("traceparent", format!("00-{trace}-0011223344556677-01"));
    expect(request, 201).await;
    expect(server.delete("/v1/sessions/private-name/events"), 405).await;
    let lines: Vec<Value> = request_lines(&server)
        .iter()
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect();
    let [opened, refused] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    for (field, value) in [
        ("level", json!("INFO")),
        ("method", json!("POST")),
        ("route", json!("/v1/sessions")),
        ("status", json!(201)),
        ("request_id", json!("from-the-caller")),
        ("trace_id", json!(trace)),
    ] {
        assert_eq!(opened[field], value, "{field}: {opened}");
    }
    assert!(
        opened["duration_us"].as_u64().is_some_and(|us| us > 0),
        "{opened}"
    );
    assert!(
        opened["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')),
        "{opened}"
    );
    assert_eq!(refused["route"], "/v1/sessions/{sessionId}/events");
    assert_eq!(refused["status"], 405);
    for line in server.log().lines() {
        serde_json::from_str::<Value>(line).expect("every line is JSON");
    }
}

#[tokio::test]
async fn nothing_that_was_said_is_ever_logged() {
    const SAID: &str = "my-card-is-4111";
    let server = Server::start_in(folder(), &[EVERY_REQUEST, "--set=body_bytes_max=524288"]).await;
    let session = json!({"sessionId": "s", "userId": SAID, "metadata": {"note": SAID, SAID: 1}});
    expect(server.post("/v1/sessions", &session), 201).await;
    let event = |id: &str, payload: Value| json!({"eventId": id, "type": "user_speech", "payload": payload});
    expect(
        server.post("/v1/sessions/s/events", &event("e", json!({"text": SAID}))),
        201,
    )
    .await;
    expect(
        server.post(
            "/v1/sessions/s/events",
            &event("e", json!({"text": SAID, "more": SAID})),
        ),
        409,
    )
    .await;
    let bad = json!({"events": [event("f", json!(SAID)), event(&format!("{SAID} {SAID}"), json!({})), SAID]});
    expect(server.post("/v1/sessions/s/events/batch", &bad), 200).await;
    expect(
        server.patch("/v1/sessions/s", &json!({"language": SAID.repeat(9), SAID: 1})),
        422,
    )
    .await;
    expect(
        server.post("/v1/sessions", &json!({"metadata": {"x": SAID.repeat(2000)}})),
        413,
    )
    .await;
    expect(
        server.post("/v1/sessions", &json!({"metadata": {"x": SAID.repeat(50_000)}})),
        413,
    )
    .await;
    let malformed = [
        format!("{{\"text\": {SAID}"),
        format!("[\"{SAID}\"]"),
        format!("\"{SAID}\u{0}"),
        format!("{{\"{SAID}\": {{\"{SAID}\": 1e999}}}}"),
    ];
    for body in malformed {
        let request = server.client.post(server.url("/v1/sessions/s/events"));
        let request = request.header("Content-Type", "application/json").body(body);
        let status = request.send().await.expect("an answer").status();
        assert!(status.is_client_error(), "{status}");
    }
    let typed = server
        .client
        .post(server.url("/v1/sessions"))
        .header("Content-Type", SAID)
        .body(SAID);
    assert_eq!(typed.send().await.expect("an answer").status(), 415);
    for path in [
        format!("/v1/sessions?userId={SAID}"),
        format!("/v1/sessions?{SAID}=1"),
        format!("/v1/sessions?cursor={SAID}"),
        format!("/v1/{SAID}"),
        format!("/v1/sessions/{SAID}/events"),
        format!("/v1/sessions/s%20{SAID}/events"),
        format!("/v1/sessions/s/events?type={SAID}&since={SAID}"),
    ] {
        server.get(&path).send().await.expect("an answer");
    }
    expect(
        server.post("/v1/sessions/s/complete", &json!({"reason": SAID})),
        200,
    )
    .await;
    expect(
        server.post("/v1/sessions/s/events", &event("g", json!({"text": SAID}))),
        409,
    )
    .await;
    assert_eq!(
        server
            .delete("/v1/sessions/s")
            .send()
            .await
            .expect("an answer")
            .status(),
        204
    );
    let log = server.log();
    assert!(request_lines(&server).len() > 20, "{log}");
    assert!(!log.contains(SAID), "{log}");
}
