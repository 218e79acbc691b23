//! `colloquy import` and `colloquy export`, as typed at a command line.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    backends::{Store, backend_flags},
    conversations::{self, Line, Shape},
    harness::{Server, colloquy, expect, folder, peak_memory_kib},
    random::Random,
};

/// The command on the store of `folder`.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = colloquy();
    command.args(arguments).args(backend_flags(folder));
    command
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = command(folder, arguments).output().expect("colloquy runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("panicked"), "{told}");
    output
}

/// The command with this on its standard input.
pub fn run_with_input(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(folder, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("colloquy starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        // A command that gives up early leaves the rest unread.
        scope.spawn(move || pipe.write_all(input));
        child.wait_with_output().expect("an end")
    })
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The counts that an import prints: new, replayed and refused, of sessions and of events.
pub fn counts(output: &Output) -> [[usize; 3]; 2] {
    let printed = text(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    let numbers = |line: &str, name: &str| {
        let rest = line.strip_prefix(name).unwrap_or_else(|| panic!("{printed}"));
        let parts: Vec<_> = rest.split(", ").collect();
        ["new", "replayed", "refused"].map(|word| {
            let part = parts.iter().find_map(|part| part.strip_suffix(word));
            part.unwrap_or_else(|| panic!("{printed}"))
                .trim()
                .parse()
                .expect("a number")
        })
    };
    [numbers(lines[0], "sessions:"), numbers(lines[1], "events:")]
}

pub fn export(folder: &Path) -> String {
    let output = run(folder, &["export"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Says where two files differ rather than showing both.
#[track_caller]
pub fn assert_same(left: &str, right: &str) {
    let differing = left
        .lines()
        .zip(right.lines())
        .position(|(left, right)| left != right);
    assert!(differing.is_none(), "line {differing:?} differs");
    assert_eq!(left.len(), right.len());
}

#[test]
fn what_was_imported_is_exported_byte_for_byte_and_importing_again_adds_nothing() {
    let mut random = Random::seeded();
    let lines = conversations::mixed(&mut random, 300);
    let (sessions, events) = (lines.len(), conversations::events(&lines));
    let (store, other) = (folder(), folder());
    let file = store.path().join("conversations.jsonl");
    let whole = conversations::file(&lines);
    fs::write(&file, &whole).expect("written");
    let path = file.to_str().expect("text");

    let first = run(store.path(), &["import", path]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(counts(&first), [[sessions, 0, 0], [events, 0, 0]]);
    assert_same(&export(store.path()), &whole);

    let second = run(store.path(), &["import", path]);
    assert!(second.status.success(), "{}", text(&second.stderr));
    assert_eq!(counts(&second), [[0, sessions, 0], [0, events, 0]]);
    let exported = export(store.path());
    assert_same(&exported, &whole);

    let moved = run_with_input(other.path(), &["import", "-"], exported.as_bytes());
    assert_eq!(counts(&moved), [[sessions, 0, 0], [events, 0, 0]]);
    assert_same(&export(other.path()), &whole);
}

#[tokio::test]
async fn what_the_api_stored_moves_to_another_store_unchanged() {
    let server = Server::start().await;
    let open = |body: Value| server.post("/v1/sessions", &body);
    expect(open(json!({"sessionId": "empty"})), 201).await;
    expect(open(json!({"sessionId": "active", "status": "active"})), 201).await;
    expect(
        open(json!({"sessionId": "ended", "startedAt": "2026-01-01T00:00:00Z"})),
        201,
    )
    .await;
    expect(
        server.post(
            "/v1/sessions/ended/complete",
            &json!({"reason": "\u{1F44B} said \"bye\""}),
        ),
        200,
    )
    .await;
    expect(
        open(json!({"sessionId": "talk", "startedAt": "0000-01-01T00:00:00Z"})),
        201,
    )
    .await;
    // Appended out of the order of their timestamps, and two at the same one.
    for (id, at) in [("c", "03"), ("a", "01"), ("e", "02"), ("b", "02")] {
        let timestamp = format!("2026-01-01T00:00:{at}.500+00:00");
        let event = json!({"eventId": id, "type": "system", "payload": {"n": 1.0e2}, "timestamp": timestamp});
        expect(server.post("/v1/sessions/talk/events", &event), 201).await;
    }
    expect(
        server.patch("/v1/sessions/talk", &json!({"metadata": {"é": 1}, "userId": "u"})),
        200,
    )
    .await;
    expect(open(json!({"sessionId": "erased"})), 201).await;
    assert_eq!(
        server
            .delete("/v1/sessions/erased")
            .send()
            .await
            .expect("an answer")
            .status(),
        204
    );
    let talk = expect(server.get("/v1/sessions/talk/events"), 200).await;
    let first = server.folder();
    assert!(server.stop().await.success());

    let exported = export(first.path());
    assert_eq!(exported.lines().count(), 4);
    let second = folder();
    let output = run_with_input(second.path(), &["import", "-"], exported.as_bytes());
    assert_eq!(counts(&output), [[4, 0, 0], [4, 0, 0]]);
    assert_eq!(export(second.path()), exported);

    let server = Server::start_in(second, &[]).await;
    let moved = expect(server.get("/v1/sessions/talk/events"), 200).await;
    let without_seq = |page: &Value| {
        let mut events = page["events"].as_array().expect("events").clone();
        events.iter_mut().for_each(|event| event["seq"] = Value::Null);
        events
    };
    assert_eq!(without_seq(&moved), without_seq(&talk));
    let ids: Vec<_> = moved["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| &event["eventId"])
        .collect();
    assert_eq!(ids, ["a", "e", "b", "c"]);
    for (id, status) in [
        ("empty", "initiated"),
        ("active", "active"),
        ("ended", "completed"),
        ("talk", "active"),
    ] {
        let read = expect(server.get(&format!("/v1/sessions/{id}")), 200).await;
        assert_eq!(read["session"]["status"], status, "{id}");
    }
}

#[test]
fn an_import_that_was_killed_at_any_point_is_finished_by_importing_again() {
    let mut random = Random::seeded();
    let lines = conversations::mixed(&mut random, 120);
    let whole = conversations::file(&lines);
    let store = folder();
    for _ in 0..6 {
        let mut child = command(store.path(), &["import", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("colloquy starts");
        // The pipe holds little, so by the time that this much went in, most of it is stored or about to be.
        let cut = random.below(whole.len());
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(&whole.as_bytes()[..cut])
            .expect("read by the import");
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    let output = run_with_input(store.path(), &["import", "-"], whole.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let [sessions, events] = counts(&output);
    assert_eq!((sessions[0] + sessions[1], sessions[2]), (lines.len(), 0));
    assert_eq!(
        (events[0] + events[1], events[2]),
        (conversations::events(&lines), 0)
    );
    assert!(sessions[1] > 0, "something was stored before a kill");
    assert_same(&export(store.path()), &whole);
}

#[test]
fn one_session_can_be_exported_by_itself() {
    let mut random = Random::seeded();
    let lines = conversations::mixed(&mut random, 60);
    let store = folder();
    run_with_input(
        store.path(),
        &["import", "-"],
        conversations::file(&lines).as_bytes(),
    );
    for line in lines.iter().step_by(11) {
        let output = run(store.path(), &["export", "--session", &line.session_id]);
        assert!(output.status.success());
        assert_same(text(&output.stdout), &format!("{}\n", line.text));
        let events = match line.events {
            1 => "1 event".to_owned(),
            count => format!("{count} events"),
        };
        assert_eq!(text(&output.stderr), format!("exported 1 session, {events}\n"));
    }
    let unknown = run(store.path(), &["export", "--session", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stdout.is_empty());
    assert_eq!(text(&unknown.stderr), "colloquy: there is no session nobody\n");
    let impossible = run(store.path(), &["export", "--session", "no/body"]);
    assert_eq!(impossible.status.code(), Some(2));
    assert!(text(&impossible.stderr).contains("the session id must be"));
}

#[test]
fn an_export_to_a_file_replaces_it_only_when_it_succeeds() {
    let mut random = Random::seeded();
    let lines = conversations::mixed(&mut random, 30);
    let store = folder();
    run_with_input(
        store.path(),
        &["import", "-"],
        conversations::file(&lines).as_bytes(),
    );
    let path = store.path().join("out.jsonl");
    fs::write(&path, "the backup of yesterday").expect("written");
    let name = path.to_str().expect("text");
    let failed = run(store.path(), &["export", "--session", "nobody", "--output", name]);
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(
        fs::read_to_string(&path).expect("a file"),
        "the backup of yesterday"
    );

    let done = run(store.path(), &["export", "--output", name]);
    assert!(done.status.success());
    assert!(done.stdout.is_empty());
    assert_same(
        &fs::read_to_string(&path).expect("a file"),
        &conversations::file(&lines),
    );
    let left = fs::read_dir(store.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = left
        .filter(|left| left.to_string_lossy().starts_with("out"))
        .collect();
    assert_eq!(left.len(), 1, "no part of a file: {left:?}");

    let nowhere = run(store.path(), &["export", "--output", "/no/such/folder/file"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("can't write /no/such/folder/file"));
}

/// Imports what `write` sends into the store that these flags name, and gives the most memory that took, in KiB, and
/// the counts.
pub fn import_memory(
    backends: &[String],
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> (u64, [[usize; 3]; 2]) {
    let mut child: Child = colloquy()
        .args(["import", "-"])
        .args(backends)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("colloquy starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    write(&mut pipe).expect("read by the import");
    drop(pipe);
    let mut peak = 0;
    while child.try_wait().expect("a child").is_none() {
        // The mark only rises, so the last look is the one that counts; a process on its way out has none.
        peak = peak_memory_kib(child.id()).unwrap_or(peak).max(peak);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let mut stdout = Vec::new();
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_to_end(&mut stdout)
        .expect("read");
    let output = Output {
        status: child.wait().expect("gone"),
        stdout,
        stderr: Vec::new(),
    };
    assert!(output.status.success());
    (peak, counts(&output))
}

#[test]
fn an_import_takes_no_more_memory_for_a_larger_file() {
    let mut random = Random::seeded();
    let template: Line = conversations::line(&mut random, "TEMPLATE", Shape::Wordy);
    let import = |megabytes: usize| {
        let store = folder();
        let copies = megabytes * 1024 * 1024 / template.text.len();
        let (peak, counts) = import_memory(&backend_flags(store.path()), |out| {
            (0..copies)
                .try_for_each(|at| writeln!(out, "{}", template.text.replace("TEMPLATE", &format!("s-{at}"))))
        });
        assert_eq!(counts, [[copies, 0, 0], [copies * template.events, 0, 0]]);
        peak / 1024
    };
    let (small, large) = (import(1), import(64));
    println!("peak of a small import {small} MiB, of a large one {large} MiB");
    assert!(
        large < small + 48,
        "{small} MiB for 1 MiB, {large} MiB for 64 MiB"
    );
}

#[tokio::test]
async fn a_page_of_the_embedded_store_costs_the_same_at_any_depth_of_a_hundred_thousand_events() {
    const EVENTS: usize = 100_000;
    let store = folder();
    import_memory(&Store::Embedded.flags(store.path()), |out| {
        write!(out, r#"{{"session":{{"sessionId":"long"}},"events":["#)?;
        for at in 0..EVENTS {
            let comma = if at > 0 { "," } else { "" };
            let ms = at / 3;
            write!(
                out,
                r#"{comma}{{"eventId":"e-{at}","type":"system","payload":{{"at":{at}}},"timestamp":"2026-01-01T00:{:02}:{:02}.{:03}Z"}}"#,
                ms / 60_000,
                ms / 1_000 % 60,
                ms % 1_000
            )?;
        }
        writeln!(out, "]}}")
    });
    let server = Server::start_embedded_in(store, &[]).await;
    let (mut cost, mut cursor, mut next) = (Vec::new(), String::new(), 0);
    let mut read_before = bytes_read(server.pid());
    loop {
        let page = expect(
            server.get(&format!("/v1/sessions/long/events?limit=500{cursor}")),
            200,
        )
        .await;
        for event in page["events"].as_array().expect("events") {
            assert_eq!(event["payload"]["at"], next);
            next += 1;
        }
        let read = bytes_read(server.pid());
        cost.push(read - read_before);
        read_before = read;
        match page["pagination"]["nextCursor"].as_str() {
            Some(text) => cursor = format!("&cursor={text}"),
            None => break,
        }
    }
    assert_eq!(next, EVENTS);
    // What a page makes the server read from its file does not grow with the page's depth.
    let half = cost.len() / 2;
    let [shallow, deep] = [&cost[..half], &cost[half..]].map(|costs| costs.iter().sum::<u64>());
    println!("{shallow} bytes read for the first half of the pages, {deep} for the second");
    assert!(deep < shallow * 2, "{shallow} bytes, then {deep}");
    let peak = peak_memory_kib(server.pid()).expect("a running server") / 1024;
    println!("peak of the server {peak} MiB");
    assert!(peak < 120, "{peak} MiB");
}

/// Bytes that the process has read from files so far, cached by the system or not.
fn bytes_read(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("what the process read");
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("rchar: "))
        .expect("a count");
    line.parse().expect("a number")
}
