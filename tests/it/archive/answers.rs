//! Every answer before, during and after archiving is the same, but for the word `archived`.

use std::{collections::BTreeMap, sync::Arc};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{archive, ended, turn};
use crate::{
    conversations,
    harness::{Server, expect, expect_problem, folder},
    random::Random,
    talk::{
        append, append_batch, batch_path, event, event_at, events, events_path, list, open, session, texts,
        with_cursor,
    },
};

/// What a server says to every question about these sessions, by the question.
async fn answers(server: &Server, sessions: &[String]) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    for id in sessions {
        for query in [
            "limit=1",
            "limit=7",
            "limit=500",
            "limit=7&order=desc",
            "limit=500&order=desc",
        ] {
            walk(server, &format!("/v1/sessions/{id}?{query}"), &mut answers).await;
        }
        for query in [
            "type=bot_speech&limit=3",
            "type=nothing",
            "since=2026-09-01T08:00:05Z&limit=5",
            "until=2026-09-01T08:00:05Z&order=desc&limit=5",
            "type=user_speech&since=2026-09-01T08:00:01Z&until=2026-09-02T00:00:00Z&limit=4",
        ] {
            walk(server, &format!("{}?{query}", events_path(id)), &mut answers).await;
        }
        for event in events(server, id).await.iter().step_by(9) {
            let path = format!(
                "{}/{}",
                events_path(id),
                event["eventId"].as_str().expect("an id")
            );
            answers.insert(path.clone(), text(server, &path).await);
        }
        let path = format!("{}/never", events_path(id));
        answers.insert(path.clone(), text(server, &path).await);
    }
    walk(server, "/v1/sessions?limit=20", &mut answers).await;
    answers
}

/// The pages from this one on, up to a number that tells enough.
async fn walk(server: &Server, path: &str, answers: &mut BTreeMap<String, String>) {
    const PAGES_MAX: usize = 5;
    let mut next = path.to_owned();
    for _ in 0..PAGES_MAX {
        let text = text(server, &next).await;
        let body = text
            .split_once('{')
            .map(|(_, rest)| format!("{{{rest}"))
            .expect("a body");
        let page: Value = serde_json::from_str(&body).expect("JSON");
        answers.insert(next, text);
        let Some(cursor) = page["pagination"]["nextCursor"].as_str() else {
            return;
        };
        next = with_cursor(path, cursor);
    }
}

/// The answer, without what names the request, and as if nothing were archived.
async fn text(server: &Server, path: &str) -> String {
    let response = server.get(path).send().await.expect("an answer");
    let status = response.status();
    let etag = response
        .headers()
        .get("etag")
        .map(|etag| etag.to_str().expect("text").to_owned());
    let text = response.text().await.expect("a body");
    assert!(!status.is_server_error(), "{path}: {status} {text}");
    let text = match status {
        StatusCode::OK => text.replace("\"archived\":true", "\"archived\":false"),
        _ => text.split("\"requestId\"").next().unwrap_or_default().to_owned(),
    };
    format!("{status} {} {text}", etag.as_deref().unwrap_or("-"))
}

fn assert_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for (path, answer) in before {
        assert_eq!(after.get(path), Some(answer), "{path}");
    }
    assert_eq!(before.len(), after.len());
}

/// Imports conversations of every shape, ends those that go on, and gives their ids.
async fn conversations(server: &Server, random: &mut Random, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for line in conversations::mixed(random, count) {
        let conversation: Value = serde_json::from_str(&line.text).expect("a line");
        let id = conversation["session"]["sessionId"]
            .as_str()
            .expect("an id")
            .to_owned();
        expect(server.post("/v1/sessions", &conversation["session"]), 201).await;
        let events = list(conversation["events"].clone());
        for some in events.chunks(10) {
            append_batch(server, &id, some).await;
        }
        expect(
            server.post(&format!("/v1/sessions/{id}/complete"), &json!({})),
            200,
        )
        .await;
        ids.push(id);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_stays_what_it_was() {
    let server = Server::start().await;
    let mut ids = conversations(&server, &mut Random::seeded(), 25).await;
    ended(&server, "long", 1_234).await;
    ids.push("long".to_owned());
    open(&server, "goes-on").await;
    append(&server, "goes-on", &event("e")).await;
    let before = answers(&server, &ids).await;

    let run = archive(&server).await;
    assert_eq!(run["sessions"], ids.len(), "{run}");
    assert_eq!(run["hotEventsDeleted"], run["events"], "{run}");
    for id in &ids {
        assert_eq!(session(&server, id).await["archived"], true, "{id}");
    }
    assert_eq!(session(&server, "goes-on").await["archived"], false);
    assert_same(&before, &answers(&server, &ids).await);

    // What one process wrote, another reads, and one that begins anew.
    let folder = server.folder();
    assert!(server.stop().await.success());
    let server = Server::start_in(folder, &[]).await;
    assert_same(&before, &answers(&server, &ids).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_no_difference_while_sessions_move() {
    // So slowly that there is time to look.
    let flags = [
        "--set=archive_sessions_per_s_max=40",
        "--set=archive_deletes_per_s_max=400",
        "--set=archive_segment_sessions_max=7",
    ];
    let server = Arc::new(Server::start_in(folder(), &flags).await);
    let mut random = Random::seeded();
    let ids: Vec<String> = (0..20).map(|at| format!("s-{at}")).collect();
    for id in &ids {
        ended(&server, id, random.below(60)).await;
    }
    let before = answers(&server, &ids).await;
    let archiving = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { archive(&server).await })
    };
    let mut rounds = 0;
    while !archiving.is_finished() || rounds == 0 {
        assert_same(&before, &answers(&server, &ids).await);
        rounds += 1;
    }
    let run = archiving.await.expect("the run");
    assert_eq!(run["sessions"], ids.len(), "{run}");
    assert_same(&before, &answers(&server, &ids).await);
}

#[tokio::test]
async fn adjacent_windows_share_no_event_and_leave_none_out_wherever_events_are() {
    let server = Server::start().await;
    open(&server, "s").await;
    // Either side of a second, at the millisecond; what is finer is dropped, of events and windows.
    let times = [
        "08:59:59.999",
        "08:59:59.9999",
        "09:00:00.000",
        "09:00:00.0009",
        "09:00:00.001",
    ];
    for (at, time) in times.iter().enumerate() {
        let event = event_at(&format!("e{at}"), &format!("2026-09-01T{time}Z"));
        append(&server, "s", &event).await;
    }
    let window = async |since: &str, until: &str, more: &str| {
        let path = format!("{}?since={since}&until={until}{more}", events_path("s"));
        let mut found = texts(&crate::talk::walk(&server, &path, "events").await, "eventId");
        found.sort();
        found
    };
    let check = async || {
        for more in ["", "&limit=1", "&order=desc&limit=1", "&type=user_speech"] {
            for edge in [
                "2026-09-01T09:00:00Z",
                "2026-09-01T09:00:00.0005Z",
                "2026-09-01T11:00:00%2B02:00",
            ] {
                // Twice: a cache may have it then.
                for _ in 0..2 {
                    let early = window("2026-09-01T08:00:00Z", edge, more).await;
                    assert_eq!(early, ["e0", "e1"], "{edge} {more}");
                    let late = window(edge, "2026-09-01T10:00:00Z", more).await;
                    assert_eq!(late, ["e2", "e3", "e4"], "{edge} {more}");
                    assert!(window(edge, edge, more).await.is_empty());
                }
            }
        }
    };
    check().await;
    expect(server.post("/v1/sessions/s/complete", &json!({})), 200).await;
    archive(&server).await;
    assert_eq!(session(&server, "s").await["archived"], true);
    check().await;
}

#[tokio::test]
async fn an_archived_session_replays_and_takes_nothing_new() {
    let server = Server::start().await;
    ended(&server, "s", 40).await;
    let stored = events(&server, "s").await;
    archive(&server).await;

    let replay = server
        .post(&events_path("s"), &turn("s", 17))
        .send()
        .await
        .expect("an answer");
    assert_eq!(replay.status(), StatusCode::OK);
    assert_eq!(replay.headers()["idempotency-replayed"], "true");
    assert_eq!(
        replay.json::<Value>().await.expect("JSON"),
        stored[find(&stored, "e-00017")]
    );
    let mut clash = turn("s", 17);
    clash["payload"] = json!({"another": 1});
    expect_problem(server.post(&events_path("s"), &clash), 409, "event-id-reused").await;
    expect_problem(
        server.post(&events_path("s"), &event("new")),
        409,
        "session-ended",
    )
    .await;

    let batch = json!({"events": [turn("s", 3), event("new"), clash, turn("s", 39)]});
    let outcomes = expect(server.post(&batch_path("s"), &batch), 200).await;
    let outcomes = list(outcomes["outcomes"].clone());
    let words: Vec<&str> = outcomes
        .iter()
        .filter_map(|outcome| outcome["outcome"].as_str())
        .collect();
    assert_eq!(words, ["replayed", "rejected", "conflict", "replayed"]);
    assert_eq!(outcomes[1]["problem"]["code"], "session-ended");
    assert_eq!(outcomes[0]["seq"], stored[find(&stored, "e-00003")]["seq"]);
    assert_eq!(events(&server, "s").await, stored);

    let again = expect(
        server.post("/v1/sessions", &json!({"sessionId": "s", "userId": "other"})),
        200,
    )
    .await;
    assert_eq!(again["archived"], true);
    let end = json!({"status": "failed", "reason": "too late"});
    let ended = expect(server.post("/v1/sessions/s/complete", &end), 200).await;
    assert_eq!(ended["status"], "completed");
    expect_problem(
        server.patch("/v1/sessions/s", &json!({"language": "de"})),
        409,
        "session-archived",
    )
    .await;
}

fn find(events: &[Value], id: &str) -> usize {
    events
        .iter()
        .position(|event| event["eventId"] == id)
        .expect("the event")
}
