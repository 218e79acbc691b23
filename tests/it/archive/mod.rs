//! The archive through the API and the command line: sessions go there and come back, and nobody can tell by reading.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    backends::backend_flags,
    harness::{Folder, Server, colloquy, expect},
    talk::{append_batch, event_at, open},
};

mod answers;
mod outage;
mod round;
mod set_back;
pub mod upkeep;

/// A bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Archives all that has ended, and waits for it; gives the record of the run.
pub async fn archive(server: &Server) -> Value {
    let run = expect(
        server.post("/v1/admin/archive/runs", &json!({"olderThan": "0s"})),
        202,
    )
    .await;
    let run = finished(server, run["runId"].as_str().expect("an id")).await;
    assert_eq!(run["status"], "completed", "{run}");
    run
}

/// The record of a run once it is over.
pub async fn finished(server: &Server, run_id: &str) -> Value {
    let began = Instant::now();
    loop {
        let listed = expect(server.get("/v1/admin/archive/runs"), 200).await;
        let runs = listed["runs"].as_array().expect("runs");
        let run = runs.iter().find(|run| run["runId"] == run_id).expect("the run");
        if run["status"] != "running" {
            return run.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{run}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs `colloquy archive …` on the store of a folder that no server has; gives what it printed and whether it exited
/// with 0.
pub fn command(folder: &Folder, words: &[&str]) -> (String, bool) {
    let output = colloquy()
        .arg("archive")
        .args(words)
        .args(backend_flags(folder.path()))
        .output()
        .expect("colloquy runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (format!("{printed}{said}"), output.status.success())
}

/// As [`command`], which must succeed.
pub fn succeed(folder: &Folder, words: &[&str]) -> String {
    let (printed, good) = command(folder, words);
    assert!(good, "archive {words:?}: {printed}");
    printed
}

/// A session with so many events, which has ended.
pub async fn ended(server: &Server, id: &str, events: usize) {
    open(server, id).await;
    let events: Vec<Value> = (0..events).map(|at| turn(id, at)).collect();
    for some in events.chunks(500) {
        append_batch(server, id, some).await;
    }
    expect(
        server.post(&format!("/v1/sessions/{id}/complete"), &json!({})),
        200,
    )
    .await;
}

/// Event `at` of a session that [`ended`] made.
pub fn turn(session: &str, at: usize) -> Value {
    let mut event = event_at(
        &format!("e-{at:05}"),
        &format!(
            "2026-09-01T08:{:02}:{:02}.{:03}Z",
            at / 600 % 60,
            at / 10 % 60,
            at % 7
        ),
    );
    event["type"] = ["user_speech", "bot_speech", "system"][at % 3].into();
    event["payload"] = json!({"text": format!("turn {at} of {session} 👩‍👧"), "n": at as i64 - 5});
    event
}
