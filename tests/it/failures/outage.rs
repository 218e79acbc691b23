//! MongoDB is gone altogether: every request is refused as what can be tried again, in time, and when MongoDB is back, so
//! is the service, by itself.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{Replicas, cache_hits};
use crate::{
    engines::{Engine, Redis, ReplicaSet, with_database},
    harness::{Server, expect, expect_problem, problem},
    talk,
};

/// Limits that let a call end within a second and a half, and a wait for its turn within one.
const LIMITS: [&str; 4] = [
    "mongo_call_ms_max=1500",
    "mongo_server_selection_ms_max=1000",
    "mongo_connect_ms_max=1000",
    "request_wait_ms_max=1000",
];

/// Appends share writes, so one may wait for another's call to end before it has its own; a read is two calls.
const IN_TIME: Duration = Duration::from_secs(8);

/// A bound that keeps a service that does not come back from hanging the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of each request that asks the store, on sessions that are not cached.
fn requests(server: &Server) -> Vec<RequestBuilder> {
    let event = talk::event("late");
    vec![
        server.post("/v1/sessions", &json!({"sessionId": "late"})),
        server.post(&talk::events_path("s"), &event),
        server.post(
            &talk::batch_path("s"),
            &json!({"events": [event, talk::event("later")]}),
        ),
        server.get("/v1/sessions/s"),
        server.get(&talk::events_path("s")),
        server.get(&format!("{}/e-1", talk::events_path("s"))),
        server.get("/v1/sessions"),
        server.patch("/v1/sessions/s", &json!({"metadata": {"late": true}})),
        server.post("/v1/sessions/s/complete", &json!({})),
        server.delete("/v1/sessions/other"),
    ]
}

/// Sends each request several times at once; all must be refused in time. Gives the slowest.
async fn assert_unavailable(server: &Server) -> Duration {
    let refused = (0..4).flat_map(|_| requests(server)).map(async |request| {
        let sent = Instant::now();
        let response = request.send().await.expect("an answer");
        let path = response.url().path().to_owned();
        let took = sent.elapsed();
        assert!(took < IN_TIME, "{path} took {took:?}");
        let wait = response
            .headers()
            .get("retry-after")
            .expect("Retry-After")
            .clone();
        assert!(wait.to_str().expect("text").parse::<u64>().expect("seconds") >= 1);
        problem(response, 503, "store-unavailable").await;
        took
    });
    join_all(refused).await.into_iter().max().expect("requests")
}

async fn assert_not_ready(server: &Server) {
    let sent = Instant::now();
    expect_problem(server.get("/readyz"), 503, "store-unavailable").await;
    assert!(sent.elapsed() < IN_TIME);
    expect(server.get("/healthz"), 200).await;
}

/// Waits until the service is ready by itself.
async fn wait_ready(server: &Server) -> Value {
    let begun = Instant::now();
    loop {
        let response = server.get("/readyz").send().await.expect("an answer");
        if response.status() == 200 {
            return response.json().await.expect("JSON");
        }
        assert!(begun.elapsed() < PATIENCE, "the service does not come back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_mongodb_every_request_is_refused_in_time_until_it_is_back() {
    let (mut set, redis) = (ReplicaSet::start(1).await, Redis::start().await);
    let mongodb = with_database(&set.url(), "colloquy");
    let replicas = Replicas::start(&mongodb, &["none", &redis.url()], &LIMITS).await;
    for session in ["s", "other", "cached"] {
        talk::open(replicas.server(0), session).await;
        talk::append(replicas.server(0), session, &talk::event("e-1")).await;
    }
    let cached = "/v1/sessions/cached";
    let stored = expect(replicas.server(0).get(cached), 200).await;

    for signal in [false, true] {
        fill_cache(&replicas, cached).await;
        match signal {
            false => set.member(0).kill9(),
            true => set.member(0).stop_signal(),
        }
        let refused = replicas.all().map(async |server| {
            let slowest = assert_unavailable(server).await;
            assert_not_ready(server).await;
            slowest
        });
        let slowest = join_all(refused).await;
        let how = if signal { "SIGSTOP" } else { "kill -9" };
        eprintln!("{how} of MongoDB: the slowest of 40 requests at once was refused after {slowest:?}");
        // What the cache knows it may tell: nobody can have written.
        let read = replicas.server(1).get(cached).send().await.expect("an answer");
        match read.status().as_u16() {
            200 => assert_eq!(read.json::<Value>().await.expect("JSON"), stored),
            _ => drop(problem(read, 503, "store-unavailable").await),
        }
        match signal {
            false => set.restart(0).await,
            true => set.member(0).continue_signal(),
        }
        let back = Instant::now();
        for (server, cache) in replicas.all().zip(["off", "ok"]) {
            let ready = wait_ready(server).await;
            assert_eq!(
                ready["backends"],
                json!({"store": "ok", "cache": cache, "archive": "off"})
            );
        }
        eprintln!("ready again after {:?}", back.elapsed());
    }
    serves_everything(&replicas).await;
}

/// Reads until the cache has the session.
async fn fill_cache(replicas: &Replicas, path: &str) {
    let (begun, hits) = (Instant::now(), cache_hits(replicas.server(1)).await);
    while cache_hits(replicas.server(1)).await == hits {
        assert!(begun.elapsed() < PATIENCE, "the cache is not in use");
        expect(replicas.server(1).get(path), 200).await;
    }
}

/// What was refused was stored or was not, and a repeat settles it.
async fn serves_everything(replicas: &Replicas) {
    for server in replicas.all() {
        for request in requests(server) {
            let response = request.send().await.expect("an answer");
            let status = response.status().as_u16();
            let told = response.text().await.expect("a body");
            // The first round of these completed the session, or it was completed while MongoDB went away.
            assert!([200, 201, 204, 409].contains(&status), "{status}: {told}");
        }
        let ids = talk::texts(&talk::events(server, "s").await, "eventId");
        assert!(ids.contains(&"e-1".to_owned()), "{ids:?}");
    }
}
