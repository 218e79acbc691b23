//! The archive out of reach: archived sessions are refused in time and in words, and nothing else notices.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{archive, ended, finished, turn};
use crate::{
    backends::{Store, archive_place},
    failures::proxy::{Proxy, Way},
    harness::{Server, expect, expect_problem, folder},
    talk::{append, event, events, events_path, open, session},
};

const READ_TIME_MAX: Duration = Duration::from_millis(1_500);

/// A server on the embedded store whose archive lies in a bucket behind this way.
async fn server_behind(way: &mut Option<Proxy>) -> Server {
    let folder = folder();
    let place = archive_place(folder.path());
    let proxy = Proxy::before(place.endpoint.trim_start_matches("http://")).await;
    let mut flags = Store::Embedded.flags(folder.path());
    flags.extend([
        format!("--set=archive={}", place.url),
        format!("--set=archive_s3_endpoint=http://{}", proxy.address()),
        format!("--set=archive_s3_region={}", place.region),
        format!("--set=archive_read_ms_max={}", READ_TIME_MAX.as_millis()),
        "--set=archive_call_ms_max=3000".to_owned(),
        "--set=archive_attempt_ms_max=1000".to_owned(),
    ]);
    *way = Some(proxy);
    Server::start_on(folder, &flags, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_s3_only_archived_sessions_are_refused_until_it_is_back() {
    let mut way = None;
    let server = server_behind(&mut way).await;
    let way = way.expect("a way");
    ended(&server, "archived", 30).await;
    let stored = events(&server, "archived").await;
    archive(&server).await;
    ended(&server, "due", 5).await;
    open(&server, "hot").await;

    for outage in [Way::Cut, Way::Stalled] {
        way.set(outage);
        let began = Instant::now();
        for path in ["", "/events", "/events/e-00003"] {
            let path = format!("/v1/sessions/archived{path}");
            let answer = server.get(&path).send().await.expect("an answer");
            assert_eq!(answer.headers()["retry-after"], "1");
            crate::harness::problem(answer, 503, "archive-unavailable").await;
        }
        let replay = server.post(&events_path("archived"), &turn("archived", 3));
        expect_problem(replay, 503, "archive-unavailable").await;
        // No measure of speed: far less than waiting for the call to S3 with all its tries would take.
        assert!(began.elapsed() < READ_TIME_MAX * 8, "{:?}", began.elapsed());

        // What S3 has no part in goes on. The session alone is the store's.
        let alone = expect(server.get("/v1/sessions/archived?limit=0"), 200).await;
        assert_eq!(alone["session"]["archived"], true);
        expect(server.get("/readyz"), 200).await;
        append(&server, "hot", &event(&format!("during-{outage:?}"))).await;
        assert_eq!(session(&server, "due").await["archived"], false);
        let listed = expect(server.get("/v1/sessions"), 200).await;
        assert_eq!(listed["sessions"].as_array().expect("sessions").len(), 3);
        let run = expect(
            server.post("/v1/admin/archive/runs", &json!({"olderThan": "0s"})),
            202,
        )
        .await;
        let run = finished(&server, run["runId"].as_str().expect("an id")).await;
        assert_eq!(run["status"], "failed", "{run}");
        assert!(
            run["error"].as_str().is_some_and(|error| !error.is_empty()),
            "{run}"
        );
        assert_eq!(events(&server, "due").await.len(), 5);
        let gone = format!("gone-{outage:?}");
        ended(&server, &gone, 1).await;
        assert_eq!(
            server
                .delete(&format!("/v1/sessions/{gone}"))
                .send()
                .await
                .unwrap()
                .status(),
            204
        );

        way.set(Way::Open);
        assert_eq!(events(&server, "archived").await, stored);
    }
    let run = archive(&server).await;
    assert_eq!(run["sessions"], 1, "{run}");
    assert_eq!(session(&server, "due").await["archived"], true);
    let metrics = crate::talk::metrics(&server).await;
    assert!(
        metrics.contains("colloquy_archive_read_errors_unavailable_total 8"),
        "{metrics}"
    );
    assert!(
        metrics.contains("colloquy_archive_runs_failed_total 2"),
        "{metrics}"
    );
}
