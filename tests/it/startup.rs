//! How the process starts on the embedded store, or says why it doesn't.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection as Database;

use crate::{
    backends::embedded_url,
    harness::{Folder, Server, colloquy, expect, folder},
};

/// A process that refuses to start must say so, not hang.
const REFUSAL_MAX: Duration = Duration::from_secs(10);

/// Runs the command to its end; what it writes must not be that of a panic.
fn run(command: &mut Command) -> (Output, String) {
    let started = Instant::now();
    let output = command.output().expect("colloquy runs");
    assert!(started.elapsed() < REFUSAL_MAX, "took {:?}", started.elapsed());
    let told = String::from_utf8(output.stderr.clone()).expect("text");
    assert!(!told.contains("panicked"), "{told}");
    (output, told)
}

/// `colloquy serve` on this store, which must refuse to start with exit code 1; gives what it says.
fn refusal(store: &str) -> String {
    let (output, told) = run(colloquy().args(["serve", "--listen", "127.0.0.1:0", "--store", store]));
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(output.stdout.is_empty(), "errors go to stderr");
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 1, "one error, on one line: {told}");
    assert!(lines[0].starts_with("colloquy: "), "{told}");
    told
}

#[track_caller]
fn says(told: &str, parts: &[&str]) {
    for part in parts {
        assert!(told.contains(part), "{part:?} is not in: {told}");
    }
}

#[test]
fn without_arguments_it_makes_its_folder_and_serves() {
    let folder = folder();
    // Without a command, but for the port: 8080 may be anybody's.
    let mut child = colloquy()
        .args(["--listen", "127.0.0.1:0"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("colloquy starts");
    let log = BufReader::new(child.stderr.take().expect("a pipe"));
    let line = log.lines().find_map(|line| {
        let line = line.expect("text");
        line.contains("serves http://127.0.0.1:").then_some(line)
    });
    let made = folder.path().join("colloquy-data/colloquy.db").is_file();
    child.kill().expect("killed");
    child.wait().expect("gone");
    let line = line.expect("it says where it serves");
    says(&line, &["sqlite:colloquy-data/colloquy.db"]);
    assert!(made, "the default store is in the working directory");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_turned_away_and_told_by_whom() {
    let server = Server::start_embedded().await;
    let path = server.folder().path().join("data/colloquy.db");
    let told = refusal(&embedded_url(server.folder().path()));
    says(
        &told,
        &[path.to_str().expect("text"), &server.pid().to_string(), "in use"],
    );
    // Nor do the other commands share it.
    let (output, told) = run(colloquy().args(["export", "--store", &embedded_url(server.folder().path())]));
    assert_eq!(output.status.code(), Some(1));
    says(&told, &[&server.pid().to_string()]);
    expect(server.get("/readyz"), 200).await;
    // The lock goes with its holder, however that one went.
    let folder = server.kill();
    Server::start_embedded_in(folder, &[]).await;
}

#[tokio::test]
async fn an_address_in_use_is_a_clear_error() {
    let server = Server::start_embedded().await;
    let other = folder();
    let (output, told) = run(colloquy()
        .args(["--listen", server.address(), "--store"])
        .arg(embedded_url(other.path())));
    assert_eq!(output.status.code(), Some(1));
    says(&told, &["can't listen on", server.address(), "in use"]);
    // The store was given up again, so a corrected start finds it free.
    Server::start_embedded_in(other, &[]).await;
}

#[test]
fn a_wrong_configuration_is_one_error_that_lists_everything() {
    let folder = folder();
    let (output, told) = run(colloquy()
        .args(["--listen", "nowhere", "--store", "mysql://host/db"])
        .args(["--set", "connections_max=0", "--set", "connection_max=7"])
        .env("COLLOQUY_LOG_FORMAT", "xml")
        .current_dir(folder.path()));
    assert_eq!(output.status.code(), Some(2), "{told}");
    says(
        &told,
        &[
            "--listen",
            "--store",
            "--connections-max",
            "--connection-max",
            "COLLOQUY_LOG_FORMAT",
            "did you mean",
        ],
    );
    assert_eq!(told.lines().count(), 6, "a heading and five mistakes: {told}");
    assert_eq!(
        fs::read_dir(folder.path()).expect("a folder").count(),
        0,
        "nothing was made"
    );
}

#[test]
fn help_and_version_go_to_stdout_and_touch_nothing() {
    let folder = folder();
    for (argument, part) in [
        ("--help", "Usage: colloquy"),
        ("--version", concat!("colloquy ", env!("CARGO_PKG_VERSION"))),
        ("help", "import"),
    ] {
        let (output, told) = run(colloquy().arg(argument).current_dir(folder.path()));
        assert!(output.status.success(), "{told}");
        says(&String::from_utf8(output.stdout).expect("text"), &[part]);
        assert!(told.is_empty(), "{told}");
    }
    for wrong in [&["--no-such-flag"][..], &["serv"], &["import"], &["--set", "x"]] {
        let (output, told) = run(colloquy().args(wrong).current_dir(folder.path()));
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {told}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

/// A database with something in it, closed.
async fn used_database() -> (std::sync::Arc<Folder>, std::path::PathBuf) {
    let server = Server::start_embedded().await;
    for at in 0..50 {
        let session =
            serde_json::json!({"sessionId": format!("s-{at}"), "metadata": {"text": "x".repeat(500)}});
        expect(server.post("/v1/sessions", &session), 201).await;
    }
    let folder = server.folder();
    assert!(server.stop().await.success());
    let path = folder.path().join("data/colloquy.db");
    (folder, path)
}

#[tokio::test]
async fn a_damaged_database_is_refused_in_words() {
    let (_folder, path) = used_database().await;
    let whole = fs::read(&path).expect("the database");
    let store = format!("sqlite:{}", path.display());
    let damages: [(&str, Vec<u8>); 4] = [
        (
            "no database at all",
            b"It was a dark and stormy night.\n".repeat(1000),
        ),
        ("only the header is left", whole[..100].to_vec()),
        ("the end is missing", whole[..4096 + 17].to_vec()),
        ("its first page is scrambled", {
            let mut bytes = whole.clone();
            bytes[100..4096].fill(0xa5);
            bytes
        }),
    ];
    for (damage, bytes) in damages {
        fs::write(&path, &bytes).expect("written");
        let told = refusal(&store);
        says(&told, &[path.to_str().expect("text")]);
        assert_eq!(
            fs::read(&path).expect("the database"),
            bytes,
            "{damage}: left as it was"
        );
    }
    // Nothing in the way of starting again with the file restored.
    fs::write(&path, &whole).expect("written");
    let (output, told) = run(colloquy().args(["export", "--store", &store]));
    assert!(output.status.success(), "{told}");
    assert_eq!(
        String::from_utf8(output.stdout).expect("text").lines().count(),
        50
    );
}

#[tokio::test]
async fn a_database_that_is_not_ours_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("other.db");
    let other = Database::open(&path).expect("a database");
    other
        .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
        .expect("a table");
    drop(other);
    let before = fs::read(&path).expect("the database");
    says(
        &refusal(&format!("sqlite:{}", path.display())),
        &["other.db", "another application"],
    );
    assert_eq!(fs::read(&path).expect("the database"), before);

    let (_folder, path) = used_database().await;
    let newer = Database::open(&path).expect("a database");
    newer
        .pragma_update(None, "user_version", 99)
        .expect("a newer version");
    drop(newer);
    says(&refusal(&format!("sqlite:{}", path.display())), &["newer", "99"]);
}

#[test]
fn a_place_that_cannot_be_written_is_a_clear_error() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    let within_file = file.join("colloquy.db");
    says(
        &refusal(&format!("sqlite:{}", within_file.display())),
        &["can't open", "file", "Not a directory"],
    );
    says(
        &refusal(&format!("sqlite:{}", folder.path().display())),
        &["can't open"],
    );
    // The kernel's own folder takes no files, not even from root.
    says(&refusal("sqlite:/proc/colloquy.db"), &["/proc/colloquy.db"]);

    let read_only = folder.path().join("read-only");
    fs::create_dir(&read_only).expect("a folder");
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o555)).expect("permissions");
    if fs::write(read_only.join("probe"), "").is_err() {
        let path = read_only.join("colloquy.db");
        says(&refusal(&format!("sqlite:{}", path.display())), &["read-only"]);
    }
}

#[test]
fn an_address_file_that_cannot_be_written_stops_the_start() {
    let folder = folder();
    let (output, told) = run(colloquy()
        .args(["serve", "--listen", "127.0.0.1:0", "--address-file"])
        .arg(folder.path().join("no/such/folder"))
        .arg("--store")
        .arg(embedded_url(folder.path())));
    assert_eq!(output.status.code(), Some(1), "{told}");
    says(&told, &["can't write", "no/such/folder"]);
}

#[test]
fn the_openapi_document_needs_neither_store_nor_configuration() {
    let folder = folder();
    let mut child = colloquy()
        .args(["openapi", "--store", "nonsense"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("colloquy starts");
    let mut text = String::new();
    let mut out = child.stdout.take().expect("a pipe");
    out.read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("an end").success());
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(document["paths"].is_object());
    assert!(!Path::new(folder.path()).join("colloquy-data").exists());
}
