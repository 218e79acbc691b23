//! Exports of archived sessions, where the archive has damaged one, or is away; and imports beside them.

use std::{fs, process::Output};

use serde_json::Value;

use crate::{
    archive::{archive, ended, upkeep::files},
    backends::Store,
    export::assert_failed,
    harness::{Folder, Server, colloquy},
    import_export::{assert_same, counts, text},
    talk::{append, event, open},
};

/// A server's store with the sessions `a`, `b` and `c`, each archived in a segment of its own, and `hot`, which is not
/// archived. Gives the files of each segment with rows in them, too.
async fn archived() -> (std::sync::Arc<Folder>, [Vec<std::path::PathBuf>; 3]) {
    let server = Server::start_embedded().await;
    let mut known = Vec::new();
    let mut segments = Vec::new();
    for id in ["a", "b", "c"] {
        ended(&server, id, 20).await;
        archive(&server).await;
        let all = files(&server.folder());
        let new = all.iter().filter(|file| !known.contains(*file));
        segments.push(
            new.filter(|file| file.extension().is_some_and(|end| end == "parquet"))
                .cloned()
                .collect(),
        );
        known = all;
    }
    open(&server, "hot").await;
    append(&server, "hot", &event("e")).await;
    let folder = server.folder();
    assert!(server.stop().await.success());
    (folder, segments.try_into().expect("three"))
}

fn embedded(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = colloquy();
    command.args(arguments).args(Store::Embedded.flags(folder.path()));
    command.output().expect("colloquy runs")
}

fn exported_ids(lines: &[u8]) -> Vec<String> {
    let id = |line: &str| {
        serde_json::from_str::<Value>(line).expect("a whole line")["session"]["sessionId"].clone()
    };
    text(lines)
        .lines()
        .map(|line| id(line).as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn a_session_that_the_archive_has_damaged_is_named_and_the_others_are_exported() {
    for how in ["missing", "flipped", "cut"] {
        let (folder, segments) = archived().await;
        let whole = embedded(&folder, &["export"]);
        assert!(whole.status.success());
        assert_eq!(exported_ids(&whole.stdout), ["hot", "c", "b", "a"]);
        for file in &segments[1] {
            let mut bytes = fs::read(file).expect("a file");
            match how {
                "missing" => fs::remove_file(file).expect("removed"),
                "cut" => fs::write(file, &bytes[..bytes.len() / 2]).expect("written"),
                _ => {
                    bytes.iter_mut().for_each(|byte| *byte ^= 1);
                    fs::write(file, bytes).expect("written");
                }
            }
        }
        let output = embedded(&folder, &["export"]);
        assert_failed(&output, "session b is left out: segment ");
        let told = text(&output.stderr);
        assert!(
            told.ends_with(
                "exported 3 sessions, 41 events\ncolloquy: the export lacks 1 session, each named above\n"
            ),
            "{told}"
        );
        assert_eq!(told.matches("left out").count(), 1, "{told}");
        assert_eq!(exported_ids(&output.stdout), ["hot", "c", "a"]);
        let without: String = text(&whole.stdout)
            .split_inclusive('\n')
            .filter(|line| !line.contains(r#""sessionId":"b""#))
            .collect();
        assert_same(text(&output.stdout), &without);

        let alone = embedded(&folder, &["export", "--session", "b"]);
        assert_failed(&alone, "session b is left out");
        assert!(alone.stdout.is_empty());

        // A file that lacks something takes no other's place.
        let path = folder.path().join("out.jsonl");
        let to_file = || embedded(&folder, &["export", "--output", path.to_str().expect("text")]);
        assert_failed(
            &to_file(),
            &format!("what could be exported is in {}\n", path.display()),
        );
        assert_same(&fs::read_to_string(&path).expect("a file"), &without);
        fs::write(&path, &whole.stdout).expect("written");
        assert_failed(
            &to_file(),
            &format!("what could be exported is in {}.incomplete\n", path.display()),
        );
        assert_same(&fs::read_to_string(&path).expect("a file"), text(&whole.stdout));
        let incomplete = folder.path().join("out.jsonl.incomplete");
        assert_same(&fs::read_to_string(incomplete).expect("a file"), &without);
    }
}

#[tokio::test]
async fn an_import_goes_on_after_a_session_that_the_archive_has_damaged() {
    let (folder, segments) = archived().await;
    let whole = embedded(&folder, &["export"]).stdout;
    for file in &segments[1] {
        fs::remove_file(file).expect("removed");
    }
    let path = folder.path().join("whole.jsonl");
    fs::write(&path, whole).expect("written");
    let output = embedded(&folder, &["import", path.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(counts(&output), [[0, 4, 0], [0, 41, 20]]);
    let told = text(&output.stderr);
    assert!(told.starts_with("line 3: 20 events: segment "), "{told}");
}

#[tokio::test]
async fn an_archive_that_is_away_stops_the_export_at_once() {
    let (folder, _) = archived().await;
    let output = embedded(&folder, &["export", "--set", "archive=none"]);
    assert_failed(
        &output,
        "the export is cut off at session c: no archive is configured",
    );
    assert_eq!(
        text(&output.stderr).lines().count(),
        1,
        "{}",
        text(&output.stderr)
    );
    assert_eq!(exported_ids(&output.stdout), ["hot"]);
}

#[tokio::test]
async fn erased_sessions_are_left_out_without_a_word() {
    let server = Server::start_embedded().await;
    for id in ["a", "b", "c"] {
        ended(&server, id, 3).await;
    }
    archive(&server).await;
    assert_eq!(
        server
            .delete("/v1/sessions/b")
            .send()
            .await
            .expect("an answer")
            .status(),
        204
    );
    let folder = server.folder();
    assert!(server.stop().await.success());
    let output = embedded(&folder, &["export"]);
    assert!(output.status.success());
    assert_eq!(exported_ids(&output.stdout), ["c", "a"]);
}
