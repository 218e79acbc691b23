//! Appending events one by one, and reading them one by one.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    harness::{Server, expect, expect_problem, json as body_of},
    talk::{append, batch_path, event, event_at, events, events_path, open, session},
};

/// A server with the session `s`.
async fn server() -> Server {
    let server = Server::start().await;
    open(&server, "s").await;
    server
}

fn event_path(id: &str) -> String {
    format!("{}/{id}", events_path("s"))
}

/// Appends `text` as it stands; reqwest's own JSON would put keys and numbers into a form of its own.
fn append_text(server: &Server, text: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
    let request = server.client.post(server.url(&events_path("s")));
    request.header("content-type", "application/json").body(text)
}

#[tokio::test]
async fn a_new_event_comes_with_201_and_its_place() {
    let server = server().await;
    let sent = event_at("turn-001", "2026-09-01T10:00:03.8089+02:00");
    let response = server.post(&events_path("s"), &sent).send().await.unwrap();
    assert_eq!(response.headers()["location"], "/v1/sessions/s/events/turn-001");
    assert!(!response.headers().contains_key("idempotency-replayed"));
    let stored = body_of(response, 201).await;
    let seq = stored["seq"].as_i64().unwrap();
    assert!(seq > 1_700_000_000_000_000, "microseconds since 1970: {seq}");
    let whole = json!({
        "eventId": "turn-001", "sessionId": "s", "seq": seq, "type": "user_speech",
        "payload": {"text": "turn-001"}, "timestamp": "2026-09-01T08:00:03.808Z",
    });
    assert_eq!(stored, whole);
    assert_eq!(expect(server.get(&event_path("turn-001")), 200).await, whole);
    assert_eq!(events(&server, "s").await, [whole]);
}

#[tokio::test]
async fn seq_rises_in_the_order_in_which_events_were_accepted() {
    let server = server().await;
    let mut last = i64::MIN;
    for at in 0..20 {
        // Later and later accepted, earlier and earlier said.
        let sent = event_at(&format!("e{at}"), &format!("2026-09-01T08:00:{:02}Z", 59 - at));
        let seq = append(&server, "s", &sent).await["seq"].as_i64().unwrap();
        assert!(seq > last);
        last = seq;
    }
}

#[tokio::test]
async fn a_replayed_event_returns_what_was_stored() {
    let server = server().await;
    let text = r#"{"eventId":"e","type":"system","payload":{"a":1,"b":{"c":[1.0,null],"d":"x"}}}"#;
    let stored = expect(append_text(&server, text), 201).await;
    for again in [
        text,
        r#"{"payload":{"b":{"d":"x","c":[1,null]},"a":1.0},"type":"system","eventId":"e"}"#,
        r#"{"eventId":"e","type":"system","payload":{"a":1e0,"b":{"c":[1,null],"d":"\u0078"}},
            "timestamp":"2001-01-01T00:00:00Z"}"#,
    ] {
        let response = append_text(&server, again).send().await.unwrap();
        assert_eq!(response.headers()["idempotency-replayed"], "true");
        assert!(!response.headers().contains_key("location"));
        assert_eq!(body_of(response, 200).await, stored, "{again}");
    }
    assert_eq!(events(&server, "s").await, [stored]);
}

#[tokio::test]
async fn an_event_id_is_taken_once_and_for_all() {
    let server = server().await;
    let text = r#"{"eventId":"e","type":"system","payload":{"a":1,"b":[1,2]}}"#;
    let stored = expect(append_text(&server, text), 201).await;
    for other in [
        r#"{"eventId":"e","type":"bot_speech","payload":{"a":1,"b":[1,2]}}"#,
        r#"{"eventId":"e","type":"system","payload":{}}"#,
        r#"{"eventId":"e","type":"system","payload":{"a":"1","b":[1,2]}}"#,
        r#"{"eventId":"e","type":"system","payload":{"a":1,"b":[2,1]}}"#,
        r#"{"eventId":"e","type":"system","payload":{"a":1,"b":[1,2],"c":null}}"#,
        r#"{"eventId":"e","type":"system","payload":{"a":true,"b":[1,2]}}"#,
        r#"{"eventId":"e","type":"system","payload":{"a":1.0000000000000002,"b":[1,2]}}"#,
    ] {
        expect_problem(append_text(&server, other), 409, "event-id-reused").await;
    }
    assert_eq!(events(&server, "s").await, [stored]);

    // Ids of another session, and of another case, are others.
    open(&server, "t").await;
    append(&server, "t", &json!({"eventId": "e", "type": "x", "payload": {}})).await;
    append(&server, "s", &json!({"eventId": "E", "type": "x", "payload": {}})).await;
}

#[tokio::test]
async fn large_integers_are_compared_without_rounding() {
    let server = server().await;
    let text = |n: &str| format!(r#"{{"eventId":"e","type":"x","payload":{{"n":{n}}}}}"#);
    expect(append_text(&server, text("9007199254740993")), 201).await;
    for other in ["9007199254740992", "9007199254740992.0", "9007199254740994.0"] {
        expect_problem(append_text(&server, text(other)), 409, "event-id-reused").await;
    }
}

#[tokio::test]
async fn an_ended_session_takes_no_new_event_but_still_knows_its_old_ones() {
    let server = server().await;
    let stored = append(&server, "s", &event("e")).await;
    expect(server.post("/v1/sessions/s/complete", &json!({})), 200).await;
    let ended = session(&server, "s").await;
    expect_problem(
        server.post(&events_path("s"), &event("new")),
        409,
        "session-ended",
    )
    .await;
    let replay = expect(server.post(&events_path("s"), &event("e")), 200).await;
    assert_eq!(replay, stored);
    let other = json!({"eventId": "e", "type": "x", "payload": {}});
    expect_problem(server.post(&events_path("s"), &other), 409, "event-id-reused").await;
    assert_eq!(session(&server, "s").await, ended);
    assert_eq!(events(&server, "s").await, [stored]);
}

#[tokio::test]
async fn an_event_needs_a_session() {
    let server = server().await;
    expect_problem(
        server.post(&events_path("t"), &event("e")),
        404,
        "session-not-found",
    )
    .await;
    expect_problem(server.get(&events_path("t")), 404, "session-not-found").await;
    expect_problem(server.get("/v1/sessions/t/events/e"), 404, "session-not-found").await;
    expect_problem(server.get(&event_path("e")), 404, "event-not-found").await;
    assert_eq!(session(&server, "s").await["status"], "initiated");
}

#[tokio::test]
async fn of_many_calls_that_append_one_event_exactly_one_stores_it() {
    let server = server().await;
    let calls = (0..30).map(|_| server.post(&events_path("s"), &event("e")).send());
    let mut created = 0;
    let mut bodies: Vec<Value> = Vec::new();
    for response in join_all(calls).await {
        let response = response.unwrap();
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotency-replayed");
        assert_eq!(replayed, status == 200);
        created += usize::from(status == 201);
        bodies.push(response.json().await.unwrap());
    }
    assert_eq!(created, 1);
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(events(&server, "s").await, [bodies[0].clone()]);
}

#[tokio::test]
async fn of_many_clashing_events_with_one_id_exactly_one_is_stored() {
    let server = server().await;
    let calls = (0..30).map(|at| {
        let sent = json!({"eventId": "e", "type": "x", "payload": {"at": at}});
        server.post(&events_path("s"), &sent).send()
    });
    let mut statuses = Vec::new();
    for response in join_all(calls).await {
        statuses.push(response.unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses[0], 201);
    assert_eq!(statuses[1..], [409; 29]);
    assert_eq!(events(&server, "s").await.len(), 1);
}

#[tokio::test]
async fn an_event_named_batch_is_an_event_like_any_other() {
    let server = server().await;
    expect_problem(server.get(&batch_path("s")), 404, "event-not-found").await;
    let stored = append(&server, "s", &event("batch")).await;
    assert_eq!(expect(server.get(&batch_path("s")), 200).await, stored);
    assert_eq!(expect(server.get(&event_path("%62atch")), 200).await, stored);
    let head = server.client.head(server.url(&batch_path("s"))).send().await;
    assert_eq!(head.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn every_legal_character_of_an_id_survives_plain_and_percent_encoded() {
    let server = Server::start().await;
    let long = "x".repeat(128);
    let ids = [
        "-",
        "_",
        "~",
        ":",
        "@",
        "=",
        "+",
        "...",
        ".a",
        "a.",
        "a+b",
        "A~z_0:1=+-@.",
        "user@example.com",
        "urn:uuid:0:1",
        "--",
        "0",
        "batch",
        "null",
        &long,
    ];
    for id in ids {
        let opened = server.post("/v1/sessions", &json!({"sessionId": id, "userId": id}));
        expect(opened, 201).await;
        let stored = append(&server, id, &event(id)).await;
        let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for form in [id, encoded.as_str()] {
            let one = expect(server.get(&format!("/v1/sessions/{form}/events/{form}")), 200).await;
            assert_eq!(one, stored, "{form}");
            let read = expect(server.get(&format!("/v1/sessions/{form}")), 200).await;
            assert_eq!(read["session"]["sessionId"], id);
            assert_eq!(read["events"], json!([stored]));
        }
        // In a query string a plus sign means a space, so there it must be encoded.
        let listed = expect(server.get(&format!("/v1/sessions?userId={encoded}")), 200).await;
        assert_eq!(listed["sessions"][0]["sessionId"], id);
    }
}

#[tokio::test]
async fn every_legal_type_is_kept() {
    let server = server().await;
    let long = format!("a{}", "z".repeat(63));
    for (at, name) in ["user_speech", "bot_speech", "system", "a", "tool.call-2_x", &long]
        .iter()
        .enumerate()
    {
        let sent = json!({"eventId": format!("e{at}"), "type": name, "payload": {}});
        assert_eq!(append(&server, "s", &sent).await["type"], *name);
        let found = expect(server.get(&format!("{}?type={name}", events_path("s"))), 200).await;
        assert_eq!(found["events"].as_array().unwrap().len(), 1);
    }
}
