//! Restore, erasure, rewriting, sweeping, verifying, rebuilding and retention, as an operator does them.

use std::path::PathBuf;

use serde_json::json;

use super::{archive, command, ended, succeed};
use crate::{
    backends::Store,
    harness::{Folder, Server, expect, expect_problem, folder},
    talk::{append, event, events, open, session},
};

/// The files of the archive of a folder on the embedded store, in no order.
pub fn files(folder: &Folder) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.path().join("data/archive")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[tokio::test]
async fn a_restored_session_can_be_changed_and_is_archived_again() {
    let server = Server::start().await;
    ended(&server, "s", 700).await;
    let (before, stored) = (session(&server, "s").await, events(&server, "s").await);
    archive(&server).await;

    let restored = expect(server.post("/v1/sessions/s/restore", &json!({})), 200).await;
    assert_eq!(restored, before, "as it was before it was archived");
    assert_eq!(events(&server, "s").await, stored);
    let again = expect(server.post("/v1/sessions/s/restore", &json!({})), 200).await;
    assert_eq!(again, before, "what is hot stays hot");
    let patched = expect(server.patch("/v1/sessions/s", &json!({"language": "de"})), 200).await;
    assert_eq!(patched["language"], "de");

    let run = archive(&server).await;
    assert_eq!(run["sessions"], 1, "{run}");
    assert_eq!(session(&server, "s").await["archived"], true);
    assert_eq!(session(&server, "s").await["language"], "de");
    assert_eq!(events(&server, "s").await, stored);
    let nobody = server.post("/v1/sessions/nobody/restore", &json!({}));
    expect_problem(nobody, 404, "session-not-found").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_restores_all_find_it_hot() {
    let server = Server::start().await;
    ended(&server, "s", 300).await;
    let stored = events(&server, "s").await;
    archive(&server).await;
    let restores = (0..8).map(|_| expect(server.post("/v1/sessions/s/restore", &json!({})), 200));
    for restored in futures_util::future::join_all(restores).await {
        assert_eq!(restored["archived"], false);
    }
    assert_eq!(events(&server, "s").await, stored);
    assert_eq!(archive(&server).await["sessions"], 1);
    assert_eq!(events(&server, "s").await, stored);
}

#[tokio::test]
async fn an_erased_session_is_hidden_at_once_and_gone_after_the_rewrite() {
    let server = Server::start().await;
    for id in ["keep-1", "gone", "keep-2"] {
        ended(&server, id, 25).await;
    }
    let kept = [events(&server, "keep-1").await, events(&server, "keep-2").await];
    archive(&server).await;
    assert_eq!(
        server.delete("/v1/sessions/gone").send().await.unwrap().status(),
        204
    );
    expect_problem(server.get("/v1/sessions/gone"), 410, "session-erased").await;
    let listed = expect(server.get("/v1/admin/archive/runs"), 200).await;
    assert_eq!(listed["erasuresPending"], 1, "{listed}");

    let folder = server.folder();
    assert!(server.stop().await.success());
    let (list, _) = command(&folder, &["list"]);
    assert!(
        list.contains("erased sessions whose bytes are still in the archive: 1"),
        "{list}"
    );
    let words = succeed(&folder, &["rewrite"]);
    assert!(
        words.contains("segments rewritten and deleted: 1; sessions moved: 2"),
        "{words}"
    );
    assert!(words.contains("still there: 0"), "{words}");
    let verified = succeed(&folder, &["verify"]);
    assert!(
        verified.contains("segments: 1; sessions: 2; events: 50; faults: 0"),
        "{verified}"
    );

    let server = Server::start_in(folder, &[]).await;
    assert_eq!(
        [events(&server, "keep-1").await, events(&server, "keep-2").await],
        kept
    );
    expect_problem(server.get("/v1/sessions/gone"), 410, "session-erased").await;
}

#[tokio::test]
async fn a_lost_store_is_rebuilt_from_the_archive_alone() {
    if Store::chosen() != Store::Embedded {
        return rebuild_in_another_database().await;
    }
    let server = Server::start().await;
    let before = fill(&server).await;
    let folder = server.folder();
    assert!(server.stop().await.success());
    for file in std::fs::read_dir(folder.path().join("data")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let words = succeed(&folder, &["rebuild"]);
    assert!(words.contains("sessions rebuilt: 3"), "{words}");
    assert!(words.contains("copies of erased sessions: 1"), "{words}");
    let again = succeed(&folder, &["rebuild"]);
    assert!(again.contains("sessions rebuilt: 0"), "{again}");
    check(
        &Server::start_in(folder, &["--set=archive_every=off"]).await,
        &before,
    )
    .await;
}

/// As above, where the database is a server's: another folder has another database, and is given this one's archive.
async fn rebuild_in_another_database() {
    let server = Server::start().await;
    let before = fill(&server).await;
    let lost = server.folder();
    assert!(server.stop().await.success());
    let new = folder();
    std::fs::copy(lost.path().join("archive-url"), new.path().join("archive-url")).unwrap();
    let words = succeed(&new, &["rebuild"]);
    assert!(words.contains("sessions rebuilt: 3"), "{words}");
    assert!(words.contains("copies of erased sessions: 1"), "{words}");
    check(
        &Server::start_in(new, &["--set=archive_every=off"]).await,
        &before,
    )
    .await;
}

/// Three archived sessions, one of them twice; one that was erased, and one that is hot.
async fn fill(server: &Server) -> Vec<(String, serde_json::Value, Vec<serde_json::Value>)> {
    for id in ["a", "b", "erased", "twice"] {
        ended(server, id, 30).await;
    }
    archive(server).await;
    assert_eq!(
        server
            .delete("/v1/sessions/erased")
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    expect(server.post("/v1/sessions/twice/restore", &json!({})), 200).await;
    expect(
        server.patch("/v1/sessions/twice", &json!({"userId": "newer"})),
        200,
    )
    .await;
    archive(server).await;
    open(server, "hot").await;
    append(server, "hot", &event("e")).await;
    let mut before = Vec::new();
    for id in ["a", "b", "twice"] {
        before.push((id.to_owned(), session(server, id).await, events(server, id).await));
    }
    before
}

async fn check(server: &Server, before: &[(String, serde_json::Value, Vec<serde_json::Value>)]) {
    for (id, as_it_was, stored) in before {
        assert_eq!(session(server, id).await, *as_it_was);
        assert_eq!(events(server, id).await, *stored);
    }
    expect_problem(server.get("/v1/sessions/erased"), 410, "session-erased").await;
    let listed = expect(server.get("/v1/admin/archive/runs"), 200).await;
    assert_eq!(listed["erasuresPending"], 1, "{listed}");
    expect_problem(server.get("/v1/sessions/hot"), 404, "session-not-found").await;
    let run = archive(server).await;
    assert_eq!(run["sessions"], 0, "nothing is archived twice: {run}");
}

#[tokio::test]
async fn a_damaged_or_missing_object_is_said_to_be_so() {
    let server = Server::start_embedded().await;
    ended(&server, "s", 40).await;
    open(&server, "hot").await;
    archive(&server).await;
    let folder = server.folder();
    let events_file = files(&folder)
        .into_iter()
        .find(|path| path.to_string_lossy().contains("/events/"))
        .expect("an events file");
    let whole = std::fs::read(&events_file).unwrap();
    let mut broken = whole.clone();
    for byte in &mut broken[100..400] {
        *byte ^= 0x55;
    }
    std::fs::remove_file(&events_file).unwrap();
    std::fs::write(&events_file, &broken).unwrap();
    expect_problem(server.get("/v1/sessions/s"), 500, "archive-damaged").await;
    expect_problem(
        server.get("/v1/sessions/s/events/e-00003"),
        500,
        "archive-damaged",
    )
    .await;
    std::fs::remove_file(&events_file).unwrap();
    expect_problem(server.get("/v1/sessions/s"), 500, "archive-damaged").await;
    expect(server.get("/v1/sessions/hot"), 200).await;
    let metrics = crate::talk::metrics(&server).await;
    assert!(
        metrics.contains("colloquy_archive_read_errors_damaged_total 3"),
        "{metrics}"
    );
    assert!(server.stop().await.success());

    let flags = Store::Embedded.flags(folder.path());
    let verify = |flags: &[String]| {
        let mut command = crate::harness::colloquy();
        let output = command
            .args(["archive", "verify"])
            .args(flags)
            .output()
            .expect("colloquy runs");
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    let (words, code) = verify(&flags);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("faults: 1"), "{words}");
    std::fs::write(&events_file, &broken).unwrap();
    assert_eq!(verify(&flags).1, Some(1));
    std::fs::write(&events_file, &whole).unwrap();
    let (words, code) = verify(&flags);
    assert_eq!(code, Some(0), "{words}");
}

#[tokio::test]
async fn a_command_names_what_is_damaged_does_the_rest_and_exits_with_1() {
    let server = Server::start_embedded().await;
    for ids in [["a", "b"], ["c", "d"]] {
        for id in ids {
            ended(&server, id, 20).await;
        }
        archive(&server).await;
    }
    let of_events = |path: &PathBuf| path.to_string_lossy().contains("/events/");
    let kept = events(&server, "d").await;
    for id in ["a", "c"] {
        let erased = server.delete(&format!("/v1/sessions/{id}")).send().await;
        assert_eq!(erased.unwrap().status(), 204);
    }
    let folder = server.folder();
    assert!(server.stop().await.success());
    // Names sort by when segments were begun, so the first one is broken.
    let broken = files(&folder)
        .into_iter()
        .filter(of_events)
        .min()
        .expect("two files");
    let segment = broken.file_stem().expect("a name").to_string_lossy().into_owned();
    let whole = std::fs::read(&broken).unwrap();
    std::fs::remove_file(&broken).unwrap();
    let on_embedded = |words: &[&str]| {
        let flags = Store::Embedded.flags(folder.path());
        let output = crate::harness::colloquy()
            .arg("archive")
            .args(words)
            .args(flags)
            .output()
            .expect("colloquy runs");
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    for (words, expected) in [
        (
            &["rewrite"][..],
            "segments rewritten and deleted: 1; sessions moved: 1;",
        ),
        (&["rewrite"], "segments that can't be rewritten: 1"),
        (&["upkeep"], "rewriting segments: failed: "),
        (&["verify"], "segments: 1; sessions: 1; events: 20; faults: 1"),
    ] {
        let (printed, code) = on_embedded(words);
        assert_eq!(code, Some(1), "{words:?}: {printed}");
        assert!(printed.contains(&format!("{segment}: ")), "{words:?}: {printed}");
        assert!(printed.contains(expected), "{words:?}: {printed}");
    }
    std::fs::write(&broken, whole).unwrap();
    let (printed, code) = on_embedded(&["rewrite"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("still there: 0"), "{printed}");
    let flags = Store::Embedded.flags(folder.path());
    let server = Server::start_on(folder, &flags, &[]).await;
    assert_eq!(events(&server, "d").await, kept);
    assert_eq!(events(&server, "b").await.len(), 20);
}

#[tokio::test]
async fn a_sweep_deletes_what_nothing_leads_to_and_nothing_else() {
    let server = Server::start().await;
    ended(&server, "s", 20).await;
    archive(&server).await;
    // All its sessions move away, so the first segment has no use any more.
    expect(server.post("/v1/sessions/s/restore", &json!({})), 200).await;
    archive(&server).await;
    let stored = events(&server, "s").await;
    let folder = server.folder();
    assert!(server.stop().await.success());
    let young = succeed(&folder, &["sweep"]);
    assert!(young.contains("segments deleted: 0"), "{young}");
    let swept = succeed(&folder, &["sweep", "--grace", "0s"]);
    assert!(swept.contains("segments deleted: 1"), "{swept}");
    let again = succeed(&folder, &["sweep", "--grace", "0s"]);
    assert!(again.contains("segments deleted: 0"), "{again}");
    let verified = succeed(&folder, &["verify"]);
    assert!(
        verified.contains("segments: 1; sessions: 1; events: 20; faults: 0"),
        "{verified}"
    );
    let server = Server::start_in(folder, &[]).await;
    assert_eq!(events(&server, "s").await, stored);
}

#[tokio::test]
async fn retention_deletes_whole_days() {
    let server = Server::start().await;
    ended(&server, "today", 5).await;
    archive(&server).await;
    let folder = server.folder();
    assert!(server.stop().await.success());
    let (refused, good) = command(&folder, &["expire"]);
    assert!(!good && refused.contains("archive_retention is off"), "{refused}");
    let none = succeed(&folder, &["expire", "--retention", "1d"]);
    assert!(none.contains("segments deleted: 0"), "{none}");
}

#[tokio::test]
async fn a_schedule_archives_by_itself_and_ends_what_is_idle() {
    let flags = [
        "--set=archive_every=300ms",
        "--set=archive_after=0s",
        "--set=session_idle_timeout=700ms",
    ];
    let server = Server::start_in(folder(), &flags).await;
    ended(&server, "s", 5).await;
    open(&server, "idle").await;
    append(&server, "idle", &event("e")).await;
    let began = std::time::Instant::now();
    loop {
        let (s, idle) = (session(&server, "s").await, session(&server, "idle").await);
        if s["archived"] == true && idle["archived"] == true {
            assert_eq!(idle["endReason"], "idle timeout");
            assert_eq!(idle["status"], "completed");
            break;
        }
        assert!(began.elapsed() < super::PATIENCE, "{s} {idle}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
