//! Sixty-four callers at the same moment: one wins, and everyone learns who.

use std::{collections::BTreeSet, sync::Arc};

use reqwest::{RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{sync::Barrier, task::JoinSet};

use crate::harness::{Server, expect, expect_problem};

const CALLERS: usize = 64;

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

/// Sends all requests at the same moment, over connections that are open already; answers in the order of requests.
async fn at_once(server: &Server, requests: Vec<RequestBuilder>) -> Vec<Answer> {
    let barrier = Arc::new(Barrier::new(requests.len()));
    let mut callers = JoinSet::new();
    for (at, request) in requests.into_iter().enumerate() {
        let (barrier, warm_up) = (Arc::clone(&barrier), server.get("/healthz"));
        callers.spawn(async move {
            warm_up.send().await.expect("an answer");
            barrier.wait().await;
            let answer = request.send().await.expect("an answer");
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let text = answer.text().await.expect("a body");
            (
                at,
                Answer {
                    status,
                    headers,
                    text,
                },
            )
        });
    }
    let mut answers = callers.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

async fn open(server: &Server, id: &str) {
    expect(server.post("/v1/sessions", &json!({"sessionId": id})), 201).await;
}

fn event(id: &str, text: &str) -> Value {
    json!({"eventId": id, "type": "user_speech", "payload": {"text": text}})
}

#[tokio::test(flavor = "multi_thread")]
async fn of_identical_opens_one_creates_and_all_get_the_same_session() {
    let server = Server::start().await;
    let body = json!({"sessionId": "s", "metadata": {"k": "v"}});
    let requests = (0..CALLERS).map(|_| server.post("/v1/sessions", &body)).collect();
    let answers = at_once(&server, requests).await;
    assert_eq!((count(&answers, 201), count(&answers, 200)), (1, CALLERS - 1));
    for answer in &answers {
        assert_eq!(answer.text, answers[0].text);
        assert_eq!(answer.headers["etag"], "\"1\"");
        assert_eq!(answer.headers.contains_key("location"), answer.status == 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_different_opens_of_one_id_the_first_decides_for_all() {
    let server = Server::start().await;
    let body = |at| json!({"sessionId": "s", "userId": format!("user-{at}"), "metadata": {"by": at}});
    let requests = (0..CALLERS)
        .map(|at| server.post("/v1/sessions", &body(at)))
        .collect();
    let answers = at_once(&server, requests).await;
    assert_eq!((count(&answers, 201), count(&answers, 200)), (1, CALLERS - 1));
    let winner = answers
        .iter()
        .position(|answer| answer.status == 201)
        .expect("a winner");
    assert_eq!(answers[winner].json()["metadata"]["by"], winner);
    for answer in &answers {
        assert_eq!(answer.text, answers[winner].text);
    }
    let stored = expect(server.get("/v1/sessions/s"), 200).await;
    assert_eq!(stored["session"], answers[winner].json());
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_without_an_id_never_meet() {
    let server = Server::start().await;
    let requests = (0..CALLERS)
        .map(|_| server.post("/v1/sessions", &json!({})))
        .collect();
    let answers = at_once(&server, requests).await;
    assert_eq!(count(&answers, 201), CALLERS);
    let ids: BTreeSet<_> = answers
        .iter()
        .map(|answer| answer.json()["sessionId"].to_string())
        .collect();
    assert_eq!(ids.len(), CALLERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_identical_appends_one_creates_and_the_others_are_replays() {
    let server = Server::start().await;
    open(&server, "s").await;
    let path = "/v1/sessions/s/events";
    let requests = (0..CALLERS)
        .map(|_| server.post(path, &event("e", "hello")))
        .collect();
    let answers = at_once(&server, requests).await;
    assert_eq!((count(&answers, 201), count(&answers, 200)), (1, CALLERS - 1));
    for answer in &answers {
        assert_eq!(answer.text, answers[0].text);
        let replayed = answer
            .headers
            .get("idempotency-replayed")
            .map(|value| value == "true");
        assert_eq!(replayed, (answer.status == 200).then_some(true));
    }
    let page = expect(server.get(path), 200).await;
    assert_eq!(page["events"], json!([answers[0].json()]));
    let session = expect(server.get("/v1/sessions/s"), 200).await;
    assert_eq!(session["session"]["version"], 2, "made active once");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_clashing_appends_exactly_one_wins_and_the_others_learn_of_it() {
    let server = Server::start().await;
    open(&server, "s").await;
    let path = "/v1/sessions/s/events";
    let requests = (0..CALLERS)
        .map(|at| server.post(path, &event("e", &format!("{at}"))))
        .collect();
    let answers = at_once(&server, requests).await;
    assert_eq!((count(&answers, 201), count(&answers, 409)), (1, CALLERS - 1));
    for answer in answers.iter().filter(|answer| answer.status == 409) {
        assert_eq!(answer.json()["code"], "event-id-reused");
    }
    let winner = answers
        .iter()
        .find(|answer| answer.status == 201)
        .expect("a winner");
    assert_eq!(
        expect(server.get("/v1/sessions/s/events/e"), 200).await,
        winner.json()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_batches_store_each_event_once_and_agree_on_it() {
    let server = Server::start().await;
    open(&server, "s").await;
    // Every caller sends the same twenty events, each caller from another one on.
    let batch = |from: usize| {
        let events: Vec<_> = (0..20)
            .map(|at| event(&format!("e-{}", (at + from) % 20), "x"))
            .collect();
        json!({"events": events})
    };
    let path = "/v1/sessions/s/events/batch";
    let requests = (0..CALLERS).map(|from| server.post(path, &batch(from))).collect();
    let answers = at_once(&server, requests).await;
    assert_eq!(count(&answers, 200), CALLERS);
    let page = expect(server.get("/v1/sessions/s/events?limit=500"), 200).await;
    let stored = page["events"].as_array().expect("events");
    assert_eq!(stored.len(), 20);
    let mut created = 0;
    for answer in &answers {
        for outcome in answer.json()["outcomes"].as_array().expect("outcomes") {
            created += usize::from(outcome["outcome"] == "created");
            let event = stored.iter().find(|event| event["eventId"] == outcome["eventId"]);
            assert_eq!(outcome["seq"], event.expect("stored")["seq"], "{outcome}");
        }
    }
    assert_eq!(created, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_different_ends_one_is_the_outcome_for_all() {
    let server = Server::start().await;
    open(&server, "s").await;
    let end =
        |at| json!({"status": if at % 2 == 0 { "completed" } else { "failed" }, "reason": format!("{at}")});
    let path = "/v1/sessions/s/complete";
    let requests = (0..CALLERS).map(|at| server.post(path, &end(at))).collect();
    let answers = at_once(&server, requests).await;
    assert_eq!(count(&answers, 200), CALLERS);
    for answer in &answers {
        assert_eq!(answer.text, answers[0].text);
    }
    let outcome = answers[0].json();
    let winner: usize = outcome["endReason"]
        .as_str()
        .expect("a reason")
        .parse()
        .expect("a number");
    assert_eq!(outcome["status"], end(winner)["status"]);
    assert_eq!(
        expect(server.get("/v1/sessions/s"), 200).await["session"],
        outcome
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_patches_for_the_same_version_exactly_one_is_applied() {
    let server = Server::start().await;
    open(&server, "s").await;
    let patch = |at| json!({"metadata": {"by": at}});
    let requests = (0..CALLERS)
        .map(|at| {
            server
                .patch("/v1/sessions/s", &patch(at))
                .header("If-Match", "\"1\"")
        })
        .collect();
    let answers = at_once(&server, requests).await;
    assert_eq!((count(&answers, 200), count(&answers, 412)), (1, CALLERS - 1));
    let winner = answers
        .iter()
        .position(|answer| answer.status == 200)
        .expect("a winner");
    let stored = expect(server.get("/v1/sessions/s"), 200).await;
    assert_eq!(stored["session"]["metadata"], json!({"by": winner}));
    assert_eq!(stored["session"]["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_patch_of_a_key_of_its_own_is_lost() {
    let server = Server::start().await;
    open(&server, "s").await;
    let patch = |at| json!({"metadata": {format!("key-{at}"): at}});
    let requests = (0..CALLERS)
        .map(|at| server.patch("/v1/sessions/s", &patch(at)))
        .collect();
    let answers = at_once(&server, requests).await;
    assert_eq!(count(&answers, 200), CALLERS);
    let versions: BTreeSet<_> = answers
        .iter()
        .map(|answer| answer.json()["version"].as_u64())
        .collect();
    assert_eq!(versions.len(), CALLERS, "each got a version of its own");
    let stored = expect(server.get("/v1/sessions/s"), 200).await;
    let metadata = stored["session"]["metadata"].as_object().expect("an object");
    assert_eq!(metadata.len(), CALLERS);
    for at in 0..CALLERS {
        assert_eq!(metadata[&format!("key-{at}")], at);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_races_the_end_is_either_stored_or_refused() {
    let server = Server::start().await;
    for round in 0..5 {
        let id = format!("s-{round}");
        open(&server, &id).await;
        let path = format!("/v1/sessions/{id}/events");
        let mut requests: Vec<_> = (0..CALLERS)
            .map(|at| server.post(&path, &event(&format!("e-{at}"), "x")))
            .collect();
        let end = CALLERS / 2;
        requests[end] = server.post(&format!("/v1/sessions/{id}/complete"), &json!({}));
        let mut answers = at_once(&server, requests).await;
        assert_eq!(answers.remove(end).status, 200);
        let mut acknowledged: Vec<_> = Vec::new();
        for answer in &answers {
            match answer.status {
                201 => acknowledged.push(answer.json()),
                409 => assert_eq!(answer.json()["code"], "session-ended"),
                other => panic!("{other}: {}", answer.text),
            }
        }
        acknowledged.sort_by_key(|event| event["seq"].as_i64());
        let page = expect(server.get(&format!("{path}?limit=500")), 200).await;
        let mut stored = page["events"].as_array().expect("events").clone();
        stored.sort_by_key(|event| event["seq"].as_i64());
        assert_eq!(stored, acknowledged, "exactly what was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_nothing_is_readable_whatever_raced_it() {
    let server = Server::start().await;
    for round in 0..5 {
        let id = format!("s-{round}");
        open(&server, &id).await;
        let path = format!("/v1/sessions/{id}/events");
        let mut requests: Vec<_> = (0..CALLERS)
            .map(|at| match at % 8 {
                0 => server.post("/v1/sessions", &json!({"sessionId": id})),
                1 => server.patch(&format!("/v1/sessions/{id}"), &json!({"metadata": {"k": at}})),
                2 => server.post(&format!("/v1/sessions/{id}/complete"), &json!({})),
                3 => server.get(&path),
                _ => server.post(&path, &event(&format!("e-{at}"), "x")),
            })
            .collect();
        let erase = CALLERS / 2;
        requests[erase] = server.delete(&format!("/v1/sessions/{id}"));
        let answers = at_once(&server, requests).await;
        assert_eq!(answers[erase].status, 204);
        for answer in &answers {
            assert!(
                [200, 201, 204, 409, 410].contains(&answer.status),
                "{}",
                answer.text
            );
        }
        for path in [format!("/v1/sessions/{id}"), path.clone(), format!("{path}/e-4")] {
            expect_problem(server.get(&path), 410, "session-erased").await;
        }
        expect_problem(server.post(&path, &event("late", "x")), 410, "session-erased").await;
        expect_problem(
            server.post("/v1/sessions", &json!({"sessionId": id})),
            410,
            "session-erased",
        )
        .await;
        assert_eq!(
            server
                .delete(&format!("/v1/sessions/{id}"))
                .send()
                .await
                .expect("an answer")
                .status(),
            204
        );
    }
    let listed = expect(server.get("/v1/sessions"), 200).await;
    assert_eq!(listed["sessions"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_pages_neither_skips_nor_repeats_while_others_append() {
    let server = Server::start().await;
    open(&server, "s").await;
    let path = "/v1/sessions/s/events";
    let before: Vec<_> = (0..300).map(|at| event(&format!("before-{at}"), "x")).collect();
    expect(
        server.post(&format!("{path}/batch"), &json!({"events": before})),
        200,
    )
    .await;
    for order in ["asc", "desc"] {
        let new = |at| event(&format!("{order}-{at}"), "x");
        let writers = (0..CALLERS).map(|at| server.post(path, &new(at))).collect();
        let walk = async {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = expect(server.get(&format!("{path}?limit=7&order={order}{cursor}")), 200).await;
                seen.extend(page["events"].as_array().expect("events").clone());
                match page["pagination"]["nextCursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => return seen,
                }
            }
        };
        let (seen, answers) = tokio::join!(walk, at_once(&server, writers));
        assert_eq!(count(&answers, 201), CALLERS);
        let ids: BTreeSet<_> = seen.iter().map(|event| event["eventId"].to_string()).collect();
        assert_eq!(ids.len(), seen.len(), "an event twice");
        for at in 0..300 {
            assert!(
                ids.contains(&format!("\"before-{at}\"")),
                "before-{at} is missing"
            );
        }
    }
}
