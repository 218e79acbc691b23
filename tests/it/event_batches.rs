//! Appending batches: each event on its own, one outcome an event, in order.

use serde_json::{Value, json};

use crate::{
    harness::{Server, expect, expect_problem},
    talk::{append, append_batch, batch_path, event, event_at, events, open, session, texts},
};

async fn server() -> Server {
    let server = Server::start().await;
    open(&server, "s").await;
    server
}

/// What became of each event.
fn words(outcomes: &[Value]) -> Vec<String> {
    texts(outcomes, "outcome")
}

#[tokio::test]
async fn a_batch_says_of_each_event_what_became_of_it() {
    let server = server().await;
    let stored = append(&server, "s", &event("old")).await;
    let sent = [
        event("a"),
        event("old"),
        json!({"eventId": "old", "type": "x", "payload": {}}),
        json!({"eventId": "bad type", "type": "x", "payload": {}}),
        json!({"eventId": "bad", "type": "X", "payload": [], "more": 1}),
        json!({"type": "x", "payload": {}}),
        json!(7),
        json!(null),
        event("a"),
        json!({"eventId": "a", "type": "x", "payload": {}}),
        event_at("z", "2026-09-01T08:00:00.5+01:00"),
    ];
    let outcomes = append_batch(&server, "s", &sent).await;
    assert_eq!(
        words(&outcomes),
        [
            "created", "replayed", "conflict", "rejected", "rejected", "rejected", "rejected", "rejected",
            "replayed", "conflict", "created"
        ]
    );
    assert_eq!(outcomes[1]["seq"], stored["seq"]);
    assert_eq!(outcomes[1]["timestamp"], stored["timestamp"]);
    assert_eq!(outcomes[8]["seq"], outcomes[0]["seq"]);
    assert_eq!(outcomes[10]["timestamp"], "2026-09-01T07:00:00.500Z");
    for (at, fields) in [
        (3, vec!["events[3].eventId"]),
        (4, vec!["events[4].type", "events[4].payload", "events[4].more"]),
        (5, vec!["events[5].eventId"]),
        (6, vec!["events[6]"]),
        (7, vec!["events[7]"]),
    ] {
        let problem = &outcomes[at]["problem"];
        assert_eq!(problem["code"], "validation-failed", "{problem}");
        let named = texts(problem["errors"].as_array().unwrap(), "field");
        assert_eq!(named, fields);
    }
    for at in [2, 9] {
        assert_eq!(outcomes[at]["problem"]["code"], "event-id-reused");
        assert_eq!(outcomes[at]["eventId"], sent[at]["eventId"]);
        assert!(outcomes[at].get("seq").is_none());
    }
    let ids = ["z", "old", "a"];
    assert_eq!(texts(&events(&server, "s").await, "eventId"), ids);
    assert_eq!(session(&server, "s").await["version"], 2);
}

#[tokio::test]
async fn a_batch_sent_again_changes_nothing() {
    let server = server().await;
    let sent: Vec<Value> = (0..100).map(|at| event(&format!("e{at}"))).collect();
    let first = append_batch(&server, "s", &sent).await;
    assert!(words(&first).iter().all(|word| word == "created"));
    let stored = events(&server, "s").await;
    let again = append_batch(&server, "s", &sent).await;
    assert!(words(&again).iter().all(|word| word == "replayed"));
    for field in ["eventId", "timestamp"] {
        assert_eq!(texts(&again, field), texts(&first, field));
    }
    assert_eq!(events(&server, "s").await, stored);
}

#[tokio::test]
async fn events_without_a_time_of_their_own_keep_the_order_of_their_batches() {
    let server = server().await;
    let mut expected = Vec::new();
    for batch in 0..4 {
        // Ids that fall, so that nothing but the order of the batch can be what is kept.
        let ids: Vec<String> = (0..500).map(|at| format!("{batch}-{:03}", 999 - at)).collect();
        let sent: Vec<Value> = ids.iter().map(|id| event(id)).collect();
        let outcomes = append_batch(&server, "s", &sent).await;
        assert_eq!(texts(&outcomes, "eventId"), ids);
        let seqs: Vec<i64> = outcomes.iter().map(|one| one["seq"].as_i64().unwrap()).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b));
        expected.extend(ids);
    }
    assert_eq!(texts(&events(&server, "s").await, "eventId"), expected);
}

#[tokio::test]
async fn a_batch_into_an_ended_session_replays_and_rejects() {
    let server = server().await;
    append(&server, "s", &event("old")).await;
    expect(server.post("/v1/sessions/s/complete", &json!({})), 200).await;
    let clash = json!({"eventId": "old", "type": "x", "payload": {}});
    let outcomes = append_batch(&server, "s", &[event("new"), event("old"), clash, json!({})]).await;
    assert_eq!(words(&outcomes), ["rejected", "replayed", "conflict", "rejected"]);
    assert_eq!(outcomes[0]["problem"]["code"], "session-ended");
    assert_eq!(outcomes[3]["problem"]["code"], "validation-failed");
    assert_eq!(texts(&events(&server, "s").await, "eventId"), ["old"]);
}

#[tokio::test]
async fn a_batch_needs_a_session_whatever_is_in_it() {
    let server = server().await;
    open(&server, "erased").await;
    server.delete("/v1/sessions/erased").send().await.unwrap();
    for events in [json!([event("e")]), json!([{}]), json!([event("e"), {}])] {
        let body = json!({"events": events});
        expect_problem(server.post(&batch_path("none"), &body), 404, "session-not-found").await;
        expect_problem(server.post(&batch_path("erased"), &body), 410, "session-erased").await;
    }
    assert_eq!(session(&server, "s").await["status"], "initiated");
}

#[tokio::test]
async fn a_batch_that_is_no_batch_is_refused_as_a_whole() {
    let server = server().await;
    let good = event("e");
    let many: Vec<Value> = (0..501).map(|at| event(&format!("e{at}"))).collect();
    for (body, status, code) in [
        (json!({}), 422, "validation-failed"),
        (json!({"events": []}), 422, "validation-failed"),
        (json!({"events": null}), 422, "validation-failed"),
        (json!({"events": {"0": good}}), 422, "validation-failed"),
        (json!({"events": "e"}), 422, "validation-failed"),
        (
            json!({"events": [good], "atomic": true}),
            422,
            "validation-failed",
        ),
        (json!([good]), 422, "validation-failed"),
        (good, 422, "validation-failed"),
        (json!({"events": many}), 413, "content-too-large"),
    ] {
        let problem = expect_problem(server.post(&batch_path("s"), &body), status, code).await;
        assert!(!problem["errors"].as_array().unwrap().is_empty());
    }
    assert!(events(&server, "s").await.is_empty());
    let most: Vec<Value> = many[..500].to_vec();
    assert_eq!(append_batch(&server, "s", &most).await.len(), 500);
}

#[tokio::test]
async fn one_event_too_large_is_rejected_and_its_neighbours_are_kept() {
    let server = server().await;
    let large = json!({"eventId": "large", "type": "x", "payload": {"t": "x".repeat(256 * 1024)}});
    let mut deep = json!(1);
    for _ in 0..65 {
        deep = json!({"a": deep});
    }
    let deep = json!({"eventId": "deep", "type": "x", "payload": deep});
    let outcomes = append_batch(&server, "s", &[event("a"), large, deep, event("b")]).await;
    assert_eq!(words(&outcomes), ["created", "rejected", "rejected", "created"]);
    assert_eq!(outcomes[1]["problem"]["code"], "content-too-large");
    assert_eq!(outcomes[1]["problem"]["errors"][0]["field"], "events[1].payload");
    assert_eq!(outcomes[2]["problem"]["code"], "validation-failed");
    assert_eq!(texts(&events(&server, "s").await, "eventId"), ["a", "b"]);
}

#[tokio::test]
async fn a_batch_of_nothing_but_refusals_leaves_the_session_as_it_was() {
    let server = server().await;
    let before = session(&server, "s").await;
    let outcomes = append_batch(&server, "s", &[json!({}), json!([]), json!("x")]).await;
    assert_eq!(words(&outcomes), ["rejected"; 3]);
    assert_eq!(session(&server, "s").await, before);
}
