//! An archiver that is stopped in the middle, for longer than its lease, and wakes up when others have done its work or
//! undone it: it changes nothing any more.

use std::sync::Arc;

use serde_json::{Value, json};

use super::until;
use crate::{
    archive::{archive, ended, finished},
    backends::Store,
    harness::{Folder, Server, colloquy, expect, folder},
    talk::{events_path, session},
};

const SESSIONS: usize = 4;
const EVENTS: usize = 30;

/// A server that archives when told to.
async fn server(folder: &Arc<Folder>, flags: &[&str]) -> Server {
    let backends = Store::MongoDb.flags(folder.path());
    let flags = [&["--set=archive_every=off"], flags].concat();
    Server::start_on(Arc::clone(folder), &backends, &flags).await
}

/// Runs `colloquy archive …` beside the servers.
fn command(folder: &Folder, words: &[&str]) -> String {
    let output = colloquy()
        .arg("archive")
        .args(words)
        .args(Store::MongoDb.flags(folder.path()))
        .output();
    let output = output.expect("colloquy runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

fn ids() -> Vec<String> {
    (0..SESSIONS).map(|at| format!("s-{at}")).collect()
}

/// The events of all sessions, byte by byte.
async fn texts(server: &Server) -> Vec<String> {
    let mut texts = Vec::new();
    for id in ids() {
        let answer = server
            .get(&format!("{}?limit=500", events_path(&id)))
            .send()
            .await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        texts.push(answer.text().await.expect("a body"));
    }
    texts
}

async fn all_are(server: &Server, archived: bool) -> bool {
    for id in ids() {
        if session(server, &id).await["archived"] != archived {
            return false;
        }
    }
    true
}

async fn begin_run(server: &Server) -> String {
    let all = json!({"olderThan": "0s"});
    let run = expect(server.post("/v1/admin/archive/runs", &all), 202).await;
    run["runId"].as_str().expect("an id").to_owned()
}

/// How many sessions a run would find: none of those that are claimed.
async fn due(server: &Server) -> Value {
    let dry = json!({"olderThan": "0s", "dryRun": true});
    let run = expect(server.post("/v1/admin/archive/runs", &dry), 202).await;
    let run = finished(server, run["runId"].as_str().expect("an id")).await;
    run["sessions"].clone()
}

/// SIGSTOP; when this returns, no thread of it runs: state T in /proc/PID/task/TID/stat, behind the name in parentheses.
async fn pause(server: &Server) {
    server.signal("STOP");
    until("it has stopped", async || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid()));
        threads.expect("it has threads").all(|thread| {
            let stat = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
            // One that is gone says nothing, either.
            stat.map_or(true, |stat| {
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
            })
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_that_wakes_after_its_lease_commits_nothing() {
    let folder = folder();
    let other = server(&folder, &[]).await;
    let slow = [
        "--set=archive_lease_ms=2000",
        "--set=archive_sessions_per_s_max=1",
    ];
    let paused = server(&folder, &slow).await;
    for id in ids() {
        ended(&other, &id, EVENTS).await;
    }
    let before = texts(&other).await;
    let run = begin_run(&paused).await;
    until("it has claimed all", async || due(&other).await == 0).await;
    pause(&paused).await;
    assert!(all_are(&other, false).await, "it was stopped before it committed");
    until("the other has archived all", async || {
        archive(&other).await;
        all_are(&other, true).await
    })
    .await;
    assert_eq!(texts(&other).await, before);
    let verified = command(&folder, &["verify"]);
    let expected = format!("sessions: {SESSIONS}; events: {}; faults: 0", SESSIONS * EVENTS);
    assert!(verified.contains(&expected), "{verified}");

    paused.signal("CONT");
    let run = finished(&other, &run).await;
    assert_eq!(run["sessions"], 0, "{run}");
    assert_eq!(run["hotEventsDeleted"], 0, "{run}");
    for server in [&paused, &other] {
        assert_eq!(texts(server).await, before);
    }
    // What it wrote before it learnt that nobody wants it.
    command(&folder, &["sweep", "--grace", "0s"]);
    assert_eq!(command(&folder, &["verify"]), verified);
    assert_eq!(texts(&paused).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_that_wakes_after_a_restore_deletes_nothing_of_it() {
    let folder = folder();
    let other = server(&folder, &[]).await;
    let paused = server(&folder, &["--set=archive_deletes_per_s_max=30"]).await;
    for id in ids() {
        ended(&other, &id, EVENTS).await;
    }
    let before = texts(&other).await;
    let run = begin_run(&paused).await;
    until("it has committed all", async || all_are(&other, true).await).await;
    pause(&paused).await;
    assert_eq!(texts(&other).await, before);
    for id in ids() {
        expect(other.post(&format!("/v1/sessions/{id}/restore"), &json!({})), 200).await;
        let patch = json!({"userId": "somebody-else"});
        expect(other.patch(&format!("/v1/sessions/{id}"), &patch), 200).await;
    }
    assert_eq!(texts(&other).await, before);

    paused.signal("CONT");
    let run = finished(&other, &run).await;
    assert_eq!(run["sessions"], SESSIONS, "{run}");
    let deleted = run["hotEventsDeleted"].as_u64().expect("a number");
    assert!(
        deleted < (SESSIONS * EVENTS) as u64,
        "it was stopped before it had deleted all: {run}"
    );
    assert!(all_are(&paused, false).await, "what was restored is hot");
    for server in [&paused, &other] {
        assert_eq!(texts(server).await, before);
    }
    let again = archive(&other).await;
    assert_eq!(again["sessions"], SESSIONS, "{again}");
    assert_eq!(again["events"], SESSIONS * EVENTS, "{again}");
    assert_eq!(texts(&paused).await, before);
    assert!(command(&folder, &["verify"]).contains("faults: 0"));
}
