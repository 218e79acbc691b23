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

/// Sends a batch whose items are these texts; gives the outcomes.
async fn append_texts(server: &Server, items: &[String]) -> Vec<Value> {
    let body = format!(r#"{{"events":[{}]}}"#, items.join(","));
    let request = server
        .client
        .post(server.url(&batch_path("s")))
        .header("content-type", "application/json");
    let answer = expect(request.body(body), 200).await;
    answer["outcomes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn whatever_is_json_and_cannot_be_kept_is_the_fault_of_its_item_alone() {
    let server = server().await;
    let good = |at: usize| event(&format!("e{at}")).to_string();
    let of_payload = |value: &str| format!(r#"{{"eventId":"ID","type":"x","payload":{{"a":{value}}}}}"#);
    let arrays = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(50_000), "}".repeat(50_000));
    let mut bad: Vec<(String, bool, &str)> = [
        r#""\ud83d""#,
        r#""\udc00""#,
        r#""a\ud83d\ud83db""#,
        r#"{"\ud83d":1}"#,
        "9223372036854775808",
        "1e400",
        r#"{"b":1,"b":2}"#,
        r#"{"b\u0000":1}"#,
        &arrays,
        &objects,
        &"9".repeat(50_000),
    ]
    .into_iter()
    .map(|value| (of_payload(value), true, "payload"))
    .collect();
    for (item, named, field) in [
        (r#"{"eventId":"ID","type":"\ud83d","payload":{}}"#, true, "type"),
        (
            r#"{"eventId":"ID","type":"x","payload":{},"timestamp":"\ud83d"}"#,
            true,
            "timestamp",
        ),
        (
            r#"{"eventId":"ID","type":"x","payload":{},"timestamp":"2026-11-01512:00:00Z"}"#,
            true,
            "timestamp",
        ),
        (
            r#"{"eventId":"ID","type":"x","payload":"\ud83d"}"#,
            true,
            "payload",
        ),
        (
            r#"{"\ud83d":1,"eventId":"ID","type":"x","payload":{}}"#,
            true,
            r"\ud83d",
        ),
        (
            r#"{"eventId":"ID","type":"x","payload":{},"type":"x"}"#,
            true,
            "type",
        ),
        (r#"{"eventId":"ID","type":"x"}"#, true, "payload"),
        (
            r#"{"eventId":"\ud83d","type":"x","payload":{}}"#,
            false,
            "eventId",
        ),
        (
            r#"{"eventId":"ID","eventId":"other","type":"x","payload":{}}"#,
            false,
            "eventId",
        ),
        (r#"{"eventId":"a/b","type":"x","payload":{}}"#, false, "eventId"),
        (r#"{"eventId":7,"type":"x","payload":{}}"#, false, "eventId"),
        (r#"{"type":"x","payload":{}}"#, false, "eventId"),
    ] {
        bad.push((item.to_owned(), named, field));
    }
    for item in [r#""\ud83d""#, r#"["\ud83d"]"#, &arrays, &"9".repeat(50_000)] {
        bad.push((item.to_owned(), false, ""));
    }
    let ids: Vec<String> = (0..bad.len()).map(|at| format!("bad-{at}")).collect();
    let mut items = vec![good(0)];
    for (at, (item, ..)) in bad.iter().enumerate() {
        items.push(item.replace("ID", &ids[at]));
        items.push(good(at + 1));
    }
    let outcomes = append_texts(&server, &items).await;
    assert_eq!(outcomes.len(), items.len());
    for (at, outcome) in outcomes.iter().enumerate() {
        if at % 2 == 0 {
            assert_eq!(outcome["outcome"], "created", "{outcome}");
            assert_eq!(outcome["eventId"], format!("e{}", at / 2));
            continue;
        }
        let (item, named, field) = &bad[at / 2];
        let shown = &item[..item.len().min(100)];
        assert_eq!(outcome["outcome"], "rejected", "{shown}: {outcome}");
        let id = named.then(|| json!(ids[at / 2]));
        assert_eq!(outcome.get("eventId"), id.as_ref(), "{shown}: {outcome}");
        let problem = &outcome["problem"];
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&json!(422), &json!("validation-failed"))
        );
        let place = format!("events[{at}].{field}");
        assert_eq!(
            problem["errors"][0]["field"],
            place.trim_end_matches('.'),
            "{shown}: {outcome}"
        );
        assert_eq!(
            problem["errors"].as_array().unwrap().len(),
            1,
            "{shown}: {outcome}"
        );
        assert!(outcome.to_string().len() < 1_000);
    }
    assert_eq!(events(&server, "s").await.len(), bad.len() + 1);
}

#[tokio::test]
async fn one_half_of_a_surrogate_pair_among_five_hundred_events_costs_one_of_them() {
    let server = server().await;
    let mut items: Vec<String> = (0..500).map(|at| event(&format!("e{at}")).to_string()).collect();
    items[321] = r#"{"eventId":"half","type":"x","payload":{"text":"\ud83d"}}"#.to_owned();
    let outcomes = append_texts(&server, &items).await;
    let rejected: Vec<&Value> = outcomes
        .iter()
        .filter(|one| one["outcome"] != "created")
        .collect();
    assert_eq!(rejected.len(), 1);
    assert_eq!(
        (&rejected[0]["outcome"], &rejected[0]["eventId"]),
        (&json!("rejected"), &json!("half"))
    );
    assert_eq!(events(&server, "s").await.len(), 499);
}

#[tokio::test]
async fn a_batch_with_an_item_that_is_no_json_is_refused_as_a_whole() {
    let server = server().await;
    for item in [
        r#"{"eventId":"a","payload":{"b":"\x"}}"#,
        "{a:1}",
        "01",
        "",
        "nul",
        r#""\ud83d\u12""#,
    ] {
        let body = format!(r#"{{"events":[{},{item}]}}"#, event("e"));
        let request = server
            .client
            .post(server.url(&batch_path("s")))
            .header("content-type", "application/json");
        expect_problem(request.body(body), 400, "malformed-json").await;
    }
    assert!(events(&server, "s").await.is_empty());
}

#[tokio::test]
async fn every_outcome_names_its_event_where_it_can_be_read() {
    let server = server().await;
    append(&server, "s", &event("old")).await;
    let sent = [
        json!({"eventId": "old", "type": "x", "payload": {}}),
        json!({"eventId": "old", "type": "X", "payload": {}}),
        json!({"eventId": "a", "type": "X", "payload": [], "more": 1, "timestamp": 7}),
        json!({"more": {"eventId": "b"}, "payload": {}, "eventId": "c"}),
        json!({"eventId": "x".repeat(129), "type": "x", "payload": {}}),
        json!({"eventId": null, "type": "x", "payload": {}}),
    ];
    let outcomes = append_batch(&server, "s", &sent).await;
    assert_eq!(
        words(&outcomes),
        [
            "conflict", "rejected", "rejected", "rejected", "rejected", "rejected"
        ]
    );
    let named: Vec<Option<&str>> = outcomes
        .iter()
        .map(|one| one.get("eventId").and_then(Value::as_str))
        .collect();
    assert_eq!(
        named,
        [Some("old"), Some("old"), Some("a"), Some("c"), None, None]
    );
    expect(server.post("/v1/sessions/s/complete", &json!({})), 200).await;
    let outcomes = append_batch(&server, "s", &[event("late"), json!({"eventId": "bad"})]).await;
    assert_eq!(texts(&outcomes, "eventId"), ["late", "bad"]);
}

#[tokio::test]
async fn a_batch_of_nothing_but_refusals_leaves_the_session_as_it_was() {
    let server = server().await;
    let before = session(&server, "s").await;
    let outcomes = append_batch(&server, "s", &[json!({}), json!([]), json!("x")]).await;
    assert_eq!(words(&outcomes), ["rejected"; 3]);
    assert_eq!(session(&server, "s").await, before);
}
