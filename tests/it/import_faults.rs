//! Imports of bad input: every fault is told by its line, the rest goes on, and the counts add up.

use std::fs;

use serde_json::json;

use crate::{
    backends::Store,
    harness::{Server, colloquy, expect, folder},
    import_export::{counts, export, run, run_with_input, text},
};

/// Imports this; gives what was told, line by line, but for how far it was, and the counts. It must exit with 1 if
/// anything was refused.
pub fn import(store: &std::path::Path, input: &[u8], flags: &[&str]) -> (Vec<String>, [[usize; 3]; 2]) {
    let arguments = [&["import", "-"], flags].concat();
    let output = run_with_input(store, &arguments, input);
    // How far it is stands alone on a line that begins with a number.
    let told = text(&output.stderr)
        .lines()
        .filter(|line| !line.starts_with(|c: char| c.is_ascii_digit()));
    let told = told.map(str::to_owned).collect();
    let counts = counts(&output);
    let refused = counts[0][2] + counts[1][2] > 0;
    assert_eq!(output.status.code(), Some(i32::from(refused)), "{told:?}");
    (told, counts)
}

/// A line with events of these ids, and a payload that says `said`.
pub fn line(session: &str, events: &[&str], said: &str, ended: bool) -> String {
    let events: Vec<_> = events
        .iter()
        .map(|id| {
            json!({"eventId": id, "type": "system", "payload": {"said": said}, "timestamp": "2026-01-01T00:00:00Z"})
        })
        .collect();
    let mut line =
        json!({"session": {"sessionId": session, "startedAt": "2026-01-01T00:00:00Z"}, "events": events});
    if ended {
        line["complete"] = json!({"endedAt": "2026-01-02T00:00:00Z"});
    }
    format!("{line}\n")
}

#[test]
fn every_faulty_line_is_told_by_its_number_and_the_others_go_in() {
    let faults: [(&[u8], &str); 22] = [
        (b"{\"session\":", "not valid JSON"),
        (b"Hello?", "not valid JSON"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b"{}", "session is required; events is required"),
        (b"{\"session\":{},\"events\":[]}", "session.sessionId is required"),
        (b"{\"session\":{\"sessionId\":\"a/b\"},\"events\":[]}", "session.sessionId must be 1 to 128"),
        (b"{\"session\":{\"sessionId\":7},\"events\":{}}", "session.sessionId must be a string; events must be an array"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[],\"extra\":1}", "extra is not a field"),
        (b"{\"session\":{\"sessionId\":\"x\",\"version\":3},\"events\":[]}", "session.version is not a field"),
        (b"{\"session\":{\"sessionId\":\"x\",\"status\":\"completed\"},\"events\":[]}", "session.status must be initiated or active"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[],\"complete\":null}", "complete must be a JSON object"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[],\"complete\":{\"endedAt\":\"soon\"}}", "complete.endedAt must be an RFC 3339"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[{\"eventId\":\"e\",\"type\":\"T\",\"payload\":[]}]}", "events[0].type must be a lower-case letter"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[{\"eventId\":\"e\",\"type\":\"t\",\"payload\":{\"n\":9223372036854775808}}]}", "events[0].payload"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[{\"eventId\":\"e\",\"type\":\"t\",\"payload\":{\"a\":1,\"a\":2}}]}", "events[0].payload"),
        (b"{\"session\":{\"sessionId\":\"\xff\"},\"events\":[]}", "not UTF-8"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[]} {}", "not valid JSON"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[{\"eventId\":\"e\",\"type\":\"t\",\"payload\":{\"a\":\"\\ud83d\"}}]}", "events[0].payload has half of a surrogate pair"),
        (b"{\"session\":{\"sessionId\":\"x\",\"startedAt\":\"2026-11-01512:00:00Z\"},\"events\":[]}", "session.startedAt must be an RFC 3339"),
        (b"{\"session\":{\"sessionId\":\"x\"},\"events\":[],\"part\":0}", "part must be a whole number from 1"),
        (b"\xef\xbb\xbf{\"session\":{\"sessionId\":\"x\"},\"events\":[]}", "byte-order mark"),
    ];
    let mut input = Vec::new();
    for (at, (fault, _)) in faults.iter().enumerate() {
        input.extend_from_slice(line(&format!("good-{at:02}"), &["e"], "x", true).as_bytes());
        input.extend_from_slice(fault);
        input.push(b'\n');
    }
    let store = folder();
    let (told, counts) = import(store.path(), &input, &[]);
    assert_eq!(counts, [[faults.len(), 0, faults.len()], [faults.len(), 0, 0]]);
    assert_eq!(told.len(), faults.len(), "{told:#?}");
    for (at, (told, (_, reason))) in told.iter().zip(faults).enumerate() {
        assert!(told.starts_with(&format!("line {}: ", 2 * (at + 1))), "{told}");
        assert!(told.contains(reason), "{reason:?} is not in {told:?}");
    }
    assert_eq!(
        export(store.path()).lines().count(),
        faults.len(),
        "nothing of a faulty line went in"
    );
}

#[test]
fn blank_lines_other_line_ends_and_a_missing_last_one_are_no_faults() {
    let mut input = b"\n   \r\n\t\n".to_vec();
    input.extend_from_slice(line("a", &["1"], "x", false).trim_end().as_bytes());
    input.extend_from_slice(b"\r\n\r\n  ");
    input.extend_from_slice(line("b", &["1"], "x", false).as_bytes());
    input.extend_from_slice(line("c", &["1"], "x", false).trim_end().as_bytes());
    let store = folder();
    let (told, counts) = import(store.path(), &input, &[]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts, [[3, 0, 0], [3, 0, 0]]);
    let (told, counts) = import(store.path(), b"", &[]);
    assert!(told.is_empty(), "an empty file is no fault: {told:?}");
    assert_eq!(counts, [[0, 0, 0], [0, 0, 0]]);
}

#[test]
fn a_byte_order_mark_at_the_beginning_is_passed_over_and_utf_16_is_named() {
    let store = folder();
    for (at, (before, behind)) in [("\u{feff}", ""), ("\u{feff}\r\n", ""), ("\u{feff}", "\n\u{feff}")]
        .into_iter()
        .enumerate()
    {
        let good = line(&format!("s-{at}"), &["1"], "x", false);
        let (told, counts) = import(store.path(), format!("{before}{good}{behind}").as_bytes(), &[]);
        assert_eq!(counts[0], [1, 0, usize::from(!behind.is_empty())]);
        assert_eq!(told.len(), usize::from(!behind.is_empty()), "{told:?}");
    }
    for mark in [[0xff, 0xfe], [0xfe, 0xff]] {
        let mut input = mark.to_vec();
        let line = line("utf-16", &["1"], "x", false);
        input.extend(line.encode_utf16().flat_map(|unit| match mark[0] {
            0xff => unit.to_le_bytes(),
            _ => unit.to_be_bytes(),
        }));
        let output = run_with_input(store.path(), &["import", "-"], &input);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            text(&output.stderr),
            "colloquy: standard input can't be read: it is UTF-16, and must be UTF-8\n"
        );
    }
}

#[test]
fn a_line_of_exactly_the_limit_goes_in_whatever_its_end() {
    let store = folder();
    for (at, (before, end)) in [("", "\n"), ("", "\r\n"), ("", ""), ("\u{feff}", "\r\n")]
        .into_iter()
        .enumerate()
    {
        let short = line(&format!("s-{at}"), &["1"], "", false).trim_end().len();
        for (length, refused) in [(1024, 0), (1025, 1)] {
            let line = line(&format!("s-{at}"), &["1"], &"x".repeat(length - short), false);
            let input = format!("{before}{}{end}", line.trim_end());
            let (told, counts) = import(
                store.path(),
                input.as_bytes(),
                &["--set=import_line_bytes_max=1024"],
            );
            assert_eq!(counts[0][2], refused, "{told:?}");
        }
    }
}

#[test]
fn a_line_over_its_limit_is_passed_over() {
    let long = line("long", &["1"], &"x".repeat(2_000), false);
    let short = line("short", &["1"], "x", false);
    let input = format!("{short}{long}{short}{}", long.trim_end());
    let store = folder();
    let (told, counts) = import(
        store.path(),
        input.as_bytes(),
        &["--set", "import_line_bytes_max=1024"],
    );
    assert_eq!(
        told,
        [
            "line 2: is longer than the 1024 bytes of import_line_bytes_max",
            "line 4: is longer than the 1024 bytes of import_line_bytes_max"
        ]
    );
    assert_eq!(counts, [[1, 1, 2], [1, 1, 0]]);
}

#[test]
fn lines_of_one_session_keep_their_order() {
    let mut input = String::new();
    for part in 0..3 {
        for session in 0..40 {
            let ids: Vec<_> = (0..30).map(|at| format!("{}", 1_000 - part * 30 - at)).collect();
            let ids: Vec<_> = ids.iter().map(String::as_str).collect();
            input += &line(&format!("s-{session}"), &ids, "x", part == 2);
        }
    }
    let store = folder();
    let (told, counts) = import(store.path(), input.as_bytes(), &[]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts, [[40, 80, 0], [3_600, 0, 0]]);
    for line in export(store.path()).lines() {
        let conversation: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let events = conversation["events"].as_array().expect("events");
        let ids: Vec<i64> = events
            .iter()
            .map(|event| {
                event["eventId"]
                    .as_str()
                    .expect("an id")
                    .parse()
                    .expect("a number")
            })
            .collect();
        // All at the same timestamp, so that only their order of arrival is left.
        assert_eq!(ids, (911..=1_000).rev().collect::<Vec<_>>());
    }
}

#[test]
fn an_event_that_clashes_with_what_is_stored_is_told_and_its_neighbours_go_in() {
    let store = folder();
    import(
        store.path(),
        line("s", &["a", "b"], "first", false).as_bytes(),
        &[],
    );
    let (told, counts) = import(
        store.path(),
        line("s", &["c", "b", "d"], "second", true).as_bytes(),
        &[],
    );
    assert_eq!(counts, [[0, 1, 0], [2, 0, 1]]);
    assert_eq!(
        told,
        [
            "line 1: event b: session s has an event b already, with another type or payload",
            "line 1: the session is left open, since not all of its events are in"
        ]
    );
    assert!(!export(store.path()).contains("complete"));
    // Mended, it goes in, and ends.
    let mended = line("s", &["c", "d"], "second", true);
    let (told, counts) = import(store.path(), mended.as_bytes(), &[]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts, [[0, 1, 0], [0, 2, 0]]);
    assert!(export(store.path()).contains("complete"));
}

#[test]
fn an_event_id_twice_on_one_line_is_a_replay_or_a_clash_like_any_other() {
    let store = folder();
    let (told, counts) = import(store.path(), line("s", &["a", "a"], "x", true).as_bytes(), &[]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts, [[1, 0, 0], [1, 1, 0]]);
}

#[test]
fn a_session_that_has_ended_takes_no_new_events_and_is_not_said_to_be_open() {
    let store = folder();
    import(store.path(), line("s", &["a"], "x", true).as_bytes(), &[]);
    let before = export(store.path());
    let (told, counts) = import(store.path(), line("s", &["a", "new"], "x", true).as_bytes(), &[]);
    assert_eq!(counts, [[0, 1, 0], [0, 1, 1]]);
    assert_eq!(
        told,
        ["line 1: event new: session s has ended and takes no new events"]
    );
    assert_eq!(export(store.path()), before);
}

#[tokio::test]
async fn an_erased_session_stays_erased() {
    let server = Server::start().await;
    expect(server.post("/v1/sessions", &json!({"sessionId": "gone"})), 201).await;
    assert_eq!(
        server
            .delete("/v1/sessions/gone")
            .send()
            .await
            .expect("an answer")
            .status(),
        204
    );
    let store = server.folder();
    assert!(server.stop().await.success());
    let input = line("gone", &["a", "b"], "x", true) + &line("here", &["a"], "x", true);
    let (told, counts) = import(store.path(), input.as_bytes(), &[]);
    assert_eq!(counts, [[1, 0, 1], [1, 0, 2]]);
    assert_eq!(
        told,
        ["line 1: session gone was erased, and its id can't be used again yet"]
    );
    assert!(!export(store.path()).contains("gone"));
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let store = folder();
    let missing = run(store.path(), &["import", "no-such-file.jsonl"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stdout.is_empty());
    let told = text(&missing.stderr);
    assert!(
        told.starts_with("colloquy: no-such-file.jsonl can't be read: No such file"),
        "{told}"
    );
    let directory = run(store.path(), &["import", store.path().to_str().expect("text")]);
    assert_eq!(directory.status.code(), Some(1));
    assert!(text(&directory.stderr).contains("it is a directory"));
}

#[tokio::test]
async fn while_a_server_has_the_embedded_store_an_import_is_turned_away_and_told_by_whom() {
    let server = Server::start_embedded().await;
    let store = server.folder();
    let file = store.path().join("one.jsonl");
    fs::write(&file, line("s", &["a"], "x", true)).expect("written");
    let output = colloquy()
        .arg("import")
        .arg(&file)
        .args(Store::Embedded.flags(store.path()))
        .output()
        .expect("colloquy runs");
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains(&format!("in use by process {}", server.pid())),
        "{told}"
    );
    assert_eq!(
        expect(server.get("/v1/sessions"), 200).await["sessions"],
        json!([])
    );
}

#[test]
fn an_import_waits_for_a_small_append_queue_rather_than_giving_up() {
    let ids: Vec<_> = (0..600).map(|at| at.to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let input: String = (0..24)
        .map(|at| line(&format!("s-{at}"), &ids, "x", true))
        .collect();
    let flags = [
        "--set=append_queue_events_max=500",
        "--set=append_group_events_max=1",
        "--set=append_flush_slots=1",
        "--set=import_conversations_in_flight=64",
    ];
    let store = folder();
    let (told, counts) = import(store.path(), input.as_bytes(), &flags);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts, [[24, 0, 0], [24 * 600, 0, 0]]);
}
