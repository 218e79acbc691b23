//! `colloquy archive upkeep`: a round of what a server does on schedule, for those who have a schedule of their own.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use serde_json::json;

use super::{PATIENCE, ended, succeed, upkeep::files};
use crate::{
    backends::Store,
    harness::{Folder, Server, colloquy, expect, expect_problem, folder},
    talk::{append, event, open, session},
};

/// Everything is due at once.
const AT_ONCE: [&str; 7] = [
    "upkeep",
    "--set=archive_after=0s",
    "--set=session_idle_timeout=1ms",
    "--set=archive_tidy_again_after=0s",
    "--set=archive_sweep_grace=0s",
    "--set=archive_retention=1d",
    "--set=mongo_append_settle_ms=1",
];

/// An archived session that was erased, one that has ended, and one that nobody ended.
async fn something_to_do(server: &Server) {
    for id in ["kept", "erased"] {
        ended(server, id, 5).await;
    }
    super::archive(server).await;
    let erased = server.delete("/v1/sessions/erased").send().await;
    assert_eq!(erased.expect("an answer").status(), 204);
    ended(server, "ended", 5).await;
    open(server, "idle").await;
    append(server, "idle", &event("e")).await;
}

/// The line that the command printed of a chore.
fn line<'a>(words: &'a str, chore: &str) -> &'a str {
    let of_chore = |line: &&str| line.starts_with(&format!("{chore}: "));
    let found = words.lines().find(of_chore);
    found.unwrap_or_else(|| panic!("{chore}? {words}"))
}

#[tokio::test]
async fn one_round_does_everything_and_the_next_finds_nothing_to_do() {
    let server = Server::start().await;
    something_to_do(&server).await;
    let folder = server.folder();
    assert!(server.stop().await.success());

    let words = succeed(&folder, &AT_ONCE);
    assert_eq!(
        line(&words, "ending idle sessions"),
        "ending idle sessions: 1 ended"
    );
    assert_eq!(line(&words, "archiving"), "archiving: 2 sessions, 6 events");
    let rewritten = line(&words, "rewriting segments");
    assert!(rewritten.contains("segments rewritten and deleted: 1"), "{words}");
    assert_eq!(line(&words, "retention"), "retention: nothing to do");
    line(&words, "sweeping the archive");
    let list = succeed(&folder, &["list"]);
    assert!(list.contains("still in the archive: 0"), "{list}");

    let again = succeed(&folder, &AT_ONCE);
    for chore in [
        "ending idle sessions",
        "archiving",
        "rewriting segments",
        "retention",
    ] {
        assert_eq!(line(&again, chore), format!("{chore}: nothing to do"), "{again}");
    }
    let verified = succeed(&folder, &["verify"]);
    assert!(
        verified.contains("sessions: 3; events: 11; faults: 0"),
        "{verified}"
    );
    let server = Server::start_in(folder, &[]).await;
    assert_eq!(session(&server, "idle").await["endReason"], "idle timeout");
    for id in ["kept", "ended", "idle"] {
        assert_eq!(session(&server, id).await["archived"], true);
    }
    expect_problem(server.get("/v1/sessions/erased"), 410, "session-erased").await;
}

#[tokio::test]
async fn a_chore_that_fails_keeps_none_of_the_others_back_and_is_told() {
    let server = Server::start_embedded().await;
    something_to_do(&server).await;
    let folder = server.folder();
    assert!(server.stop().await.success());
    let is_of_sessions = |path: &std::path::PathBuf| path.to_string_lossy().contains("/sessions/");
    let broken = files(&folder)
        .into_iter()
        .find(is_of_sessions)
        .expect("a file of sessions");
    std::fs::write(&broken, "no Parquet").expect("the file is broken");

    let (words, good) = on(Store::Embedded, &folder, &AT_ONCE);
    assert!(!good, "{words}");
    assert_eq!(line(&words, "archiving"), "archiving: 2 sessions, 6 events");
    let rewriting = line(&words, "rewriting segments");
    assert!(rewriting.starts_with("rewriting segments: failed: "), "{words}");
    line(&words, "retention");
    line(&words, "sweeping the archive");
}

#[tokio::test]
async fn without_an_archive_there_is_nothing_to_keep_up() {
    let server = Server::start_embedded().await;
    let folder = server.folder();
    assert!(server.stop().await.success());
    let (words, good) = on(Store::Embedded, &folder, &["upkeep", "--archive=none"]);
    assert!(!good && words.contains("no archive is configured"), "{words}");
}

/// As [`command`](super::command), on this store.
fn on(store: Store, folder: &Folder, words: &[&str]) -> (String, bool) {
    let flags = store.flags(folder.path());
    let output = colloquy().arg("archive").args(words).args(flags).output();
    let output = output.expect("colloquy runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let words = text(&output.stdout) + &text(&output.stderr);
    (words, output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_it_leaves_the_rest_to_the_next_round() {
    let folder = folder();
    let flags = Store::MongoDb.flags(folder.path());
    let server = Server::start_on(Arc::clone(&folder), &flags, &[]).await;
    for at in 0..20 {
        ended(&server, &format!("s-{at}"), 2).await;
    }
    // Slow enough to be met at work, by any clock.
    let mut upkeep = colloquy()
        .arg("archive")
        .args(AT_ONCE)
        .arg("--set=archive_sessions_per_s_max=1")
        .args(&flags)
        .stdout(Stdio::piped())
        .spawn()
        .expect("colloquy runs");
    let began = Instant::now();
    let newest = async || {
        expect(server.get("/v1/admin/archive/runs"), 200).await["runs"]
            .get(0)
            .cloned()
            .unwrap_or_default()
    };
    while newest().await["status"] != "running" {
        assert!(began.elapsed() < PATIENCE, "it never begins");
    }
    let told = Command::new("kill")
        .args(["-TERM", &upkeep.id().to_string()])
        .status();
    assert!(told.expect("kill runs").success());
    let mut words = String::new();
    std::io::Read::read_to_string(&mut upkeep.stdout.take().expect("its output"), &mut words).expect("text");
    assert_eq!(upkeep.wait().expect("its end").code(), Some(1), "{words}");
    assert!(
        words.ends_with("stopped early, as asked to; run it again to go on\n"),
        "{words}"
    );
    assert!(
        !words.contains("sweeping the archive"),
        "nothing more is begun: {words}"
    );
    let run = newest().await;
    assert_eq!(
        (&run["status"], &run["trigger"]),
        (&json!("stopped"), &json!("command")),
        "{run}"
    );

    let (words, good) = on(Store::MongoDb, &folder, &AT_ONCE);
    assert!(good, "{words}");
    for at in 0..20 {
        assert_eq!(session(&server, &format!("s-{at}")).await["archived"], true);
    }
}
