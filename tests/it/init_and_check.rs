//! `colloquy init` and `colloquy check`, and what `serve` says of a backend that is not set up.

use std::{
    fs,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    backends::embedded_url,
    engines,
    harness::{Server, colloquy, expect, folder},
};

/// A command that can't do its work must say so, not hang.
const REFUSAL_MAX: Duration = Duration::from_secs(10);

/// Runs the command on this store to its end; gives its exit code, and what it wrote to standard output and error.
fn run(command: &str, store: &str, flags: &[&str]) -> (Option<i32>, String, String) {
    let started = Instant::now();
    let mut colloquy = colloquy();
    let run = colloquy.args([command, "--listen", "127.0.0.1:0", "--store", store]);
    let Output {
        status,
        stdout,
        stderr,
    } = run.args(flags).output().expect("colloquy runs");
    assert!(started.elapsed() < REFUSAL_MAX, "took {:?}", started.elapsed());
    let [out, told] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    assert!(!told.contains("panicked"), "{told}");
    (status.code(), out, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_database_is_served_from_once_init_has_prepared_it() {
    let url = engines::mongodb().await;
    let (code, missing, _) = run("check", &url, &[]);
    assert_eq!(code, Some(1), "{missing}");
    assert!(missing.contains("  missing   collection sessions"), "{missing}");
    let (code, _, told) = run("serve", &url, &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("run `colloquy init`"), "{told}");

    let (code, done, told) = run("init", &url, &[]);
    assert_eq!((code, told.as_str()), (Some(0), ""), "{done}");
    assert!(done.contains("done      collection events"), "{done}");
    let (code, again, _) = run("init", &url, &[]);
    assert_eq!(code, Some(0));
    assert!(again.lines().all(|line| line.starts_with("ok ")), "{again}");
    let (code, good, _) = run("check", &url, &[]);
    assert_eq!(code, Some(0), "{good}");
    // Each finding once more, below the backend that it is about.
    assert!(good.starts_with("store: mongodb://"), "{good}");
    let (store, cache) = good.split_once("cache: ").unwrap();
    assert_eq!(store.lines().count(), again.lines().count() + 1, "{good}");
    let backends = "none\n  ok        off: every read asks the store\narchive: none\n  ok        none: nothing is archived\n";
    assert_eq!(cache, backends);

    let server = Server::start_on(folder(), &[format!("--store={url}")], &[]).await;
    expect(server.post("/v1/sessions", &json!({"sessionId": "s"})), 201).await;
    assert!(server.log().contains("store=mongodb://"), "{}", server.log());
    assert!(server.stop().await.success());
    let (code, exported, _) = run("export", &url, &[]);
    assert_eq!((code, exported.lines().count()), (Some(0), 1), "{exported}");
    let (code, _, told) = run("compact", &url, &[]);
    assert_eq!(code, Some(1));
    assert!(told.contains("only the embedded store"), "{told}");
}

#[tokio::test]
async fn the_embedded_store_initialises_itself() {
    let folder = folder();
    let store = embedded_url(folder.path());
    let (code, nothing, _) = run("check", &store, &[]);
    assert_eq!(code, Some(0), "{nothing}");
    assert!(nothing.contains("nothing is there yet"), "{nothing}");
    assert!(!folder.path().join("data").exists(), "a check changes nothing");
    for command in ["init", "init", "check"] {
        let (code, good, told) = run(command, &store, &[]);
        assert_eq!((code, told.as_str()), (Some(0), ""), "{command}: {good}");
        assert!(good.contains("ok        the embedded store"), "{command}: {good}");
        assert!(folder.path().join("data/colloquy.db").is_file());
    }
    let server = Server::start_embedded_in(folder.clone(), &[]).await;
    let (code, in_use, _) = run("check", &store, &[]);
    assert_eq!(code, Some(1), "{in_use}");
    assert!(
        in_use.contains(&format!("in use by process {}", server.pid())),
        "{in_use}"
    );
    drop(server);
    fs::write(
        folder.path().join("data/colloquy.db"),
        "It was a dark and stormy night.",
    )
    .expect("written");
    let (code, damaged, _) = run("check", &store, &[]);
    assert_eq!(code, Some(1), "{damaged}");
    assert!(damaged.contains("  FAILED    "), "{damaged}");
}

#[test]
fn a_server_that_is_not_there_and_a_wrong_url_are_told_without_secrets() {
    let quick = ["--set=mongo_server_selection_ms_max=200"];
    for (url, words) in [
        (
            "mongodb://me:hunter2@127.0.0.1:9/calls",
            "no primary can be reached",
        ),
        (
            "mongodb://hunter2:@me:hunter2@host/calls",
            "the MongoDB URL is wrong",
        ),
        (
            "mongodb://127.0.0.1/calls?authMechanism=hunter2",
            "the MongoDB URL is wrong",
        ),
        (
            "mongodb+srv://me:hunter2@nowhere.invalid/calls",
            "does not resolve",
        ),
    ] {
        for command in ["serve", "init", "check", "export"] {
            let (code, out, told) = run(command, url, &quick);
            assert_eq!(code, Some(1), "{command} {url}: {told}");
            let said = if command == "check" { &out } else { &told };
            assert!(said.contains(words), "{command} {url}: {said}");
            assert!(
                !format!("{out}{told}").contains("hunter2"),
                "{command} {url}: {said}"
            );
        }
    }
}
