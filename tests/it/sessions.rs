//! Sessions: open, read, end, erase.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::{Server, expect, expect_problem, json as body_of},
    talk::{
        append, batch_path, event, events, events_path, list, open, page, session, texts, walk, with_cursor,
    },
};

fn path(id: &str) -> String {
    format!("/v1/sessions/{id}")
}

fn complete_path(id: &str) -> String {
    format!("/v1/sessions/{id}/complete")
}

/// Milliseconds since 1970 of an RFC 3339 timestamp that must be in UTC with three decimals.
fn ms(timestamp: &Value) -> i128 {
    let text = timestamp.as_str().expect("a timestamp");
    assert_eq!(text.len(), "2026-09-01T08:00:00.000Z".len(), "{text}");
    assert!(text.ends_with('Z'), "{text}");
    let format = &time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(text, format).expect("RFC 3339");
    at.unix_timestamp_nanos() / 1_000_000
}

fn now_ms() -> i128 {
    let since: Duration = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i128::try_from(since.as_millis()).expect("a time of our days")
}

#[tokio::test]
async fn a_new_session_comes_with_201_its_place_and_its_version() {
    let server = Server::start().await;
    let body = json!({
        "sessionId": "call-42", "userId": "user-7", "language": "de-CH-1996", "status": "active",
        "metadata": {"z": 1, "a": {"é": [null, true]}}, "startedAt": "2026-09-01T10:00:00.1239+02:00",
    });
    let response = server.post("/v1/sessions", &body).send().await.unwrap();
    assert_eq!(response.headers()["location"], "/v1/sessions/call-42");
    assert!(!response.headers().contains_key("idempotency-replayed"));
    assert_eq!(response.headers()["etag"], "\"1\"");
    assert_eq!(response.headers()["content-type"], "application/json");
    let opened = body_of(response, 201).await;
    let whole = json!({
        "sessionId": "call-42", "userId": "user-7", "status": "active", "language": "de-CH-1996",
        "metadata": {"z": 1, "a": {"é": [null, true]}}, "startedAt": "2026-09-01T08:00:00.123Z", "version": 1,
        "archived": false,
    });
    assert_eq!(opened, whole);
    assert_eq!(opened["metadata"].to_string(), whole["metadata"].to_string());
    assert_eq!(session(&server, "call-42").await, whole);
}

#[tokio::test]
async fn opening_again_gives_200_and_leaves_the_session_untouched() {
    let server = Server::start().await;
    let opened = open(&server, "s").await;
    let other = json!({
        "sessionId": "s", "userId": "u", "language": "en", "metadata": {"a": 1}, "status": "active",
        "startedAt": "2020-01-01T00:00:00Z",
    });
    let response = server.post("/v1/sessions", &other).send().await.unwrap();
    assert!(!response.headers().contains_key("location"));
    assert_eq!(response.headers()["idempotency-replayed"], "true");
    assert_eq!(response.headers()["etag"], "\"1\"");
    assert_eq!(body_of(response, 200).await, opened);

    // What stands is what is given back, however far the session has come since.
    append(&server, "s", &event("e")).await;
    let ended = expect(server.post(&complete_path("s"), &json!({})), 200).await;
    let response = server.post("/v1/sessions", &other).send().await.unwrap();
    assert_eq!(response.headers()["etag"], "\"3\"");
    assert_eq!(body_of(response, 200).await, ended);
}

#[tokio::test]
async fn of_many_calls_that_open_one_session_exactly_one_opens_it() {
    let server = Server::start().await;
    let calls = (0..20).map(|at| {
        let body = json!({"sessionId": "s", "userId": format!("user-{at}")});
        server.post("/v1/sessions", &body).send()
    });
    let mut statuses = Vec::new();
    let mut bodies = Vec::new();
    for response in join_all(calls).await {
        let response = response.unwrap();
        statuses.push(response.status());
        bodies.push(response.json::<Value>().await.unwrap());
    }
    let created = statuses.iter().filter(|status| **status == StatusCode::CREATED);
    assert_eq!(created.count(), 1);
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(session(&server, "s").await, bodies[0]);
}

#[tokio::test]
async fn a_session_opened_without_an_id_gets_a_uuid_v7_and_the_servers_clock() {
    let server = Server::start().await;
    let before = now_ms();
    let empty = server
        .client
        .post(server.url("/v1/sessions"))
        .send()
        .await
        .unwrap();
    assert!(empty.headers()["location"].to_str().unwrap().len() > 36);
    let first = body_of(empty, 201).await;
    let second = expect(server.post("/v1/sessions", &json!({})), 201).await;
    let after = now_ms();
    for session in [&first, &second] {
        let id = Uuid::parse_str(session["sessionId"].as_str().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(session["status"], "initiated");
        assert_eq!(session["metadata"], json!({}));
        assert!((before..=after).contains(&ms(&session["startedAt"])), "{session}");
        for absent in ["userId", "language", "endedAt", "endReason"] {
            assert!(session.get(absent).is_none(), "{session}");
        }
    }
    assert_ne!(first["sessionId"], second["sessionId"]);
}

#[tokio::test]
async fn a_session_is_read_with_its_events_from_either_end() {
    let server = Server::start().await;
    open(&server, "s").await;
    let mut stored = Vec::new();
    for at in 0..5 {
        stored.push(append(&server, "s", &event(&format!("e{at}"))).await);
    }
    let response = server.get("/v1/sessions/s").send().await.unwrap();
    let mut read = body_of(response, 200).await;
    assert_eq!(read["session"]["version"], 2);
    assert_eq!(read["pagination"], json!({"limit": 50, "hasMore": false}));
    assert_eq!(list(read["events"].take()), stored);
    assert_eq!(walk(&server, "/v1/sessions/s?limit=2", "events").await, stored);
    let newest_first: Vec<Value> = stored.iter().rev().cloned().collect();
    let downwards = walk(&server, "/v1/sessions/s?limit=2&order=desc", "events").await;
    assert_eq!(downwards, newest_first);

    let last_seq = &stored[4]["seq"];
    let path = format!("/v1/sessions/s?minSeq={last_seq}&order=desc&limit=1");
    let read = expect(server.get(&path), 200).await;
    assert_eq!(read["events"], json!([stored[4]]));
    expect_problem(server.get("/v1/sessions/other"), 404, "session-not-found").await;
}

#[tokio::test]
async fn limit_0_gives_the_session_alone() {
    let server = Server::start().await;
    open(&server, "s").await;
    for at in 0..3 {
        append(&server, "s", &event(&format!("e{at}"))).await;
    }
    // Once more, so that a cache would have it; with what makes no difference; as a form would pad it.
    let seq = i64::MAX;
    for query in [
        "limit=0",
        "limit=0",
        "limit=0&order=desc",
        &format!("limit=0&minSeq={seq}"),
        "limit=00",
    ] {
        let whole = session(&server, "s").await;
        let alone = json!({"session": whole, "events": [], "pagination": {"limit": 0, "hasMore": false}});
        let read = expect(server.get(&format!("/v1/sessions/s?{query}")), 200).await;
        assert_eq!(read, alone, "{query}");
    }
    // What was acknowledged is there, whatever an entry of a cache holds.
    for at in 0..5 {
        let patch = json!({"metadata": {"at": at}});
        let patched = expect(server.patch("/v1/sessions/s", &patch), 200).await;
        let read = expect(server.get("/v1/sessions/s?limit=0"), 200).await;
        assert_eq!(read["session"], patched);
    }
    // There is no walk to go on with.
    let (_, cursor) = page(&server, "/v1/sessions/s?limit=1", "events").await;
    for cursor in [cursor.unwrap().as_str(), "", "x"] {
        let request = server.get(&with_cursor("/v1/sessions/s?limit=0", cursor));
        let problem = expect_problem(request, 400, "invalid-parameter").await;
        assert_eq!(problem["errors"][0]["field"], "cursor");
    }
    for elsewhere in ["/v1/sessions", "/v1/sessions/s/events"] {
        let request = server.get(&format!("{elsewhere}?limit=0"));
        expect_problem(request, 400, "invalid-parameter").await;
    }
    let none = server.get("/v1/sessions/none?limit=0");
    expect_problem(none, 404, "session-not-found").await;
    server.delete("/v1/sessions/s").send().await.unwrap();
    expect_problem(server.get("/v1/sessions/s?limit=0"), 410, "session-erased").await;
}

/// The `ETag` of the answer, which must be a success.
async fn etag(request: reqwest::RequestBuilder) -> Option<String> {
    let response = request.send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let etag = response.headers().get("etag");
    etag.map(|etag| etag.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn an_etag_stands_only_on_a_session_alone_and_lets_it_be_changed() {
    let server = Server::start().await;
    let opening = json!({"sessionId": "s"});
    assert_eq!(
        etag(server.post("/v1/sessions", &opening)).await.unwrap(),
        "\"1\""
    );
    append(&server, "s", &event("e")).await;
    let both = |path: &str| [server.get(path), server.client.head(server.url(path))];
    for page in [
        "/v1/sessions/s",
        "/v1/sessions/s",
        "/v1/sessions/s?limit=1&order=desc",
        "/v1/sessions/s/events",
        "/v1/sessions/s/events/e",
        "/v1/sessions",
    ] {
        for request in both(page) {
            assert_eq!(etag(request).await, None, "{page}");
        }
    }
    let ended = server.post(&complete_path("s"), &json!({}));
    let restored = server.client.post(server.url("/v1/sessions/s/restore"));
    let mut tags = vec![
        etag(server.post("/v1/sessions", &opening)).await,
        etag(ended).await,
        etag(restored).await,
        etag(server.patch(&path("s"), &json!({}))).await,
    ];
    assert_eq!(tags.remove(0).unwrap(), "\"2\"");
    for request in both("/v1/sessions/s?limit=0") {
        tags.push(etag(request).await);
    }
    assert_eq!(tags, vec![Some("\"3\"".to_owned()); 5]);
    // Either the tag of an answer or the version of a page is what a change can be meant for.
    let patch = |tag: &str, language: &str| {
        let request = server.patch(&path("s"), &json!({"language": language}));
        request.header("If-Match", tag)
    };
    let moved = etag(patch("\"3\"", "de")).await.unwrap();
    expect_problem(patch("\"3\"", "en"), 412, "version-mismatch").await;
    let version = &session(&server, "s").await["version"];
    assert_eq!(moved, format!("\"{version}\""));
    assert_eq!(
        etag(patch(&format!("\"{version}\""), "en")).await.unwrap(),
        "\"5\""
    );
}

#[tokio::test]
async fn the_first_event_makes_an_initiated_session_active_and_moves_its_version() {
    let server = Server::start().await;
    open(&server, "s").await;
    append(&server, "s", &event("e1")).await;
    let after_one = session(&server, "s").await;
    assert_eq!(
        (&after_one["status"], &after_one["version"]),
        (&json!("active"), &json!(2))
    );
    append(&server, "s", &event("e2")).await;
    expect(server.post(&events_path("s"), &event("e1")), 200).await;
    assert_eq!(session(&server, "s").await, after_one);

    let active = json!({"sessionId": "t", "status": "active"});
    let opened = expect(server.post("/v1/sessions", &active), 201).await;
    append(&server, "t", &event("e1")).await;
    assert_eq!(session(&server, "t").await, opened);
}

#[tokio::test]
async fn the_first_end_decides_and_later_ones_give_it_back() {
    let server = Server::start().await;
    open(&server, "s").await;
    let before = now_ms();
    let end = json!({"status": "failed", "reason": "le réseau a lâché \u{1f4f5}"});
    let response = server.post(&complete_path("s"), &end).send().await.unwrap();
    assert_eq!(response.headers()["etag"], "\"2\"");
    let ended = body_of(response, 200).await;
    assert_eq!(ended["status"], "failed");
    assert_eq!(ended["endReason"], end["reason"]);
    assert_eq!(ended["version"], 2);
    assert!((before..=now_ms()).contains(&ms(&ended["endedAt"])), "{ended}");
    for again in [json!({}), end, json!({"status": "completed", "reason": "no"})] {
        assert_eq!(expect(server.post(&complete_path("s"), &again), 200).await, ended);
    }
    assert_eq!(session(&server, "s").await, ended);
}

#[tokio::test]
async fn a_session_ends_well_by_default_and_without_a_body() {
    let server = Server::start().await;
    for (id, body) in [("none", None), ("empty", Some(json!({})))] {
        open(&server, id).await;
        append(&server, id, &event("e")).await;
        let url = server.url(&complete_path(id));
        let request = match body {
            None => server.client.post(url),
            Some(body) => server.client.post(url).json(&body),
        };
        let ended = expect(request, 200).await;
        assert_eq!(ended["status"], "completed");
        assert!(ended.get("endReason").is_none());
    }
    let reason = "é".repeat(1024);
    open(&server, "long").await;
    let ended = expect(
        server.post(&complete_path("long"), &json!({"reason": reason})),
        200,
    )
    .await;
    assert_eq!(ended["endReason"], reason.as_str());
    expect_problem(
        server.post(&complete_path("other"), &json!({})),
        404,
        "session-not-found",
    )
    .await;
}

#[tokio::test]
async fn of_many_ends_at_once_every_caller_is_told_the_same() {
    let server = Server::start().await;
    open(&server, "s").await;
    let calls = (0..20).map(|at| {
        let status = if at % 2 == 0 { "completed" } else { "failed" };
        let body = json!({"status": status, "reason": format!("caller {at}")});
        expect(server.post(&complete_path("s"), &body), 200)
    });
    let told = join_all(calls).await;
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    assert_eq!(told[0]["version"], 2);
    assert_eq!(session(&server, "s").await, told[0]);
}

/// Every request that names a session, but for the one that erases it.
fn every_call(server: &Server, id: &str) -> Vec<reqwest::RequestBuilder> {
    vec![
        server.post("/v1/sessions", &json!({"sessionId": id})),
        server.get(&path(id)),
        server.patch(&path(id), &json!({"userId": "u"})),
        server.patch(&path(id), &json!({})).header("If-Match", "\"9\""),
        server.post(&complete_path(id), &json!({})),
        server.post(&events_path(id), &event("e1")),
        server.post(&events_path(id), &event("new")),
        server.post(&batch_path(id), &json!({"events": [event("e1"), event("new")]})),
        server.post(&batch_path(id), &json!({"events": [{}]})),
        server.get(&events_path(id)),
        server.get(&format!("{}/e1", events_path(id))),
        server.get(&format!("{}/batch", events_path(id))),
    ]
}

#[tokio::test]
async fn an_erased_session_is_gone_for_every_call_and_its_neighbours_are_not() {
    let server = Server::start().await;
    for id in ["s", "s1", "S"] {
        open(&server, id).await;
        append(&server, id, &event("e1")).await;
    }
    let neighbours = [session(&server, "s1").await, session(&server, "S").await];
    for _ in 0..2 {
        let response = server.delete(&path("s")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.bytes().await.unwrap().len(), 0);
    }
    for call in every_call(&server, "s") {
        expect_problem(call, 410, "session-erased").await;
    }
    let listed = walk(&server, "/v1/sessions", "sessions").await;
    let mut listed = texts(&listed, "sessionId");
    listed.sort();
    assert_eq!(listed, ["S", "s1"]);
    assert_eq!(
        [session(&server, "s1").await, session(&server, "S").await],
        neighbours
    );
    assert_eq!(texts(&events(&server, "s1").await, "eventId"), ["e1"]);
}

#[tokio::test]
async fn erasing_what_never_was_is_fine_and_leaves_no_trace() {
    let server = Server::start().await;
    for _ in 0..2 {
        let response = server.delete(&path("s")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }
    for call in every_call(&server, "s").into_iter().skip(1) {
        expect_problem(call, 404, "session-not-found").await;
    }
    open(&server, "s").await;
}

#[tokio::test]
async fn a_session_of_any_state_can_be_erased() {
    let server = Server::start().await;
    for id in ["initiated", "active", "ended"] {
        open(&server, id).await;
    }
    append(&server, "active", &event("e")).await;
    expect(server.post(&complete_path("ended"), &json!({})), 200).await;
    for id in ["initiated", "active", "ended"] {
        let response = server.delete(&path(id)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        expect_problem(server.get(&path(id)), 410, "session-erased").await;
    }
    assert!(walk(&server, "/v1/sessions", "sessions").await.is_empty());
}

#[tokio::test]
async fn what_was_acknowledged_stands_after_a_kill() {
    let server = Server::start().await;
    open(&server, "kept").await;
    let stored = append(&server, "kept", &event("e")).await;
    open(&server, "ended").await;
    let ended = expect(server.post(&complete_path("ended"), &json!({})), 200).await;
    open(&server, "erased").await;
    server.delete(&path("erased")).send().await.unwrap();
    let kept = session(&server, "kept").await;

    let server = Server::start_in(server.kill(), &[]).await;
    assert_eq!(session(&server, "kept").await, kept);
    assert_eq!(events(&server, "kept").await, [stored]);
    assert_eq!(session(&server, "ended").await, ended);
    for call in every_call(&server, "erased") {
        expect_problem(call, 410, "session-erased").await;
    }
}
