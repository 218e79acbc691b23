//! Imports of what is known already: lines that say otherwise of it, and conversations in several lines.

use serde_json::json;

use crate::{
    harness::folder,
    import_export::export,
    import_faults::{import, line},
};

/// A conversation that says all there is to say.
const FULL: &str = r#"{"session":{"sessionId":"s","userId":"u","language":"en","metadata":{"a":1,"b":[2]},"startedAt":"2026-01-01T00:00:00Z","status":"active"},"events":[{"eventId":"e","type":"t","payload":{}}],"complete":{"status":"failed","reason":"r","endedAt":"2026-01-02T00:00:00Z"}}"#;

#[test]
fn what_a_known_session_would_be_otherwise_is_told_and_stays_as_it_is() {
    let store = folder();
    import(store.path(), format!("{FULL}\n").as_bytes(), &[]);
    let before = export(store.path());
    for (from, to, field) in [
        (r#""u""#, r#""v""#, "session.userId"),
        (r#""en""#, r#""de""#, "session.language"),
        (r#""a":1"#, r#""a":2"#, "session.metadata"),
        (r#"{"a":1,"b":[2]}"#, "{}", "session.metadata"),
        (
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.001Z",
            "session.startedAt",
        ),
        (r#""failed""#, r#""completed""#, "complete.status"),
        (r#""r""#, r#""other""#, "complete.reason"),
        ("2026-01-02", "2026-01-03", "complete.endedAt"),
        (
            r#""userId":"u","language":"en""#,
            r#""userId":"v","language":"de""#,
            "session.userId, session.language",
        ),
    ] {
        let other = FULL.replace(from, to);
        let input = format!("{}\n{other}\n", line("other", &["1"], "x", false).trim_end());
        let (told, counts) = import(store.path(), input.as_bytes(), &[]);
        assert_eq!(
            told,
            [format!(
                "line 2: session s is stored with another {field}; what is stored stays"
            )]
        );
        assert_eq!((counts[0][2], counts[1][2]), (1, 0), "{told:?}");
        let after = export(store.path());
        assert!(after.contains(before.trim_end()), "{after}");
    }
}

#[test]
fn an_event_that_would_be_at_another_time_is_told_and_stays_where_it_is() {
    let store = folder();
    import(store.path(), line("s", &["a", "b"], "x", false).as_bytes(), &[]);
    let before = export(store.path());
    let moved = line("s", &["a", "b"], "x", false).replacen(
        "\"timestamp\":\"2026-01-01T00:00:00Z",
        "\"timestamp\":\"2026-01-01T00:00:07Z",
        1,
    );
    let (told, counts) = import(store.path(), moved.as_bytes(), &[]);
    assert_eq!(
        told,
        ["line 1: event a is stored with another timestamp; what is stored stays"]
    );
    assert_eq!(counts, [[0, 1, 0], [0, 1, 1]]);
    assert_eq!(export(store.path()), before);
    // It is in, so nothing keeps the session from its end.
    let ended = line("s", &["a", "b"], "x", true).replacen(
        "\"timestamp\":\"2026-01-01T00:00:00Z",
        "\"timestamp\":\"2026-01-01T00:00:07Z",
        1,
    );
    import(store.path(), ended.as_bytes(), &[]);
    assert!(export(store.path()).contains("complete"));
    let without_time =
        r#"{"session":{"sessionId":"s"},"events":[{"eventId":"a","type":"system","payload":{"said":"x"}}]}"#;
    let (told, counts) = import(store.path(), without_time.as_bytes(), &[]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts[1], [0, 1, 0]);
}

#[test]
fn what_a_line_leaves_out_or_says_in_other_words_is_no_difference() {
    let store = folder();
    import(store.path(), format!("{FULL}\n").as_bytes(), &[]);
    let in_other_words = FULL
        .replace(r#"{"a":1,"b":[2]}"#, r#"{"b":[2.0],"a":1e0}"#)
        .replace("2026-01-01T00:00:00Z", "2026-01-01t01:00:00.0009+01:00");
    for same in [
        FULL,
        &in_other_words,
        r#"{"session":{"sessionId":"s"},"events":[],"complete":{}}"#,
        r#"{"session":{"sessionId":"s","status":"initiated"},"events":[]}"#,
        r#"{"session":{"sessionId":"s"},"events":[{"eventId":"e","type":"t","payload":{}}]}"#,
    ] {
        let (told, counts) = import(store.path(), same.as_bytes(), &[]);
        assert!(told.is_empty(), "{same}: {told:?}");
        assert_eq!(counts[0], [0, 1, 0]);
    }
}

#[test]
fn a_session_that_was_ended_since_its_export_is_imported_again_without_a_word() {
    let store = folder();
    let open = line("s", &["a", "b"], "x", false);
    import(store.path(), open.as_bytes(), &[]);
    import(store.path(), line("s", &["a", "b"], "x", true).as_bytes(), &[]);
    let (told, counts) = import(store.path(), open.as_bytes(), &[]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts, [[0, 1, 0], [0, 2, 0]]);
}

/// Three parts of one conversation, the last of which ends it.
fn parts(session: &str) -> Vec<String> {
    let part = |at: usize| {
        let ids = [format!("{at}-a"), format!("{at}-b")];
        let mut part: serde_json::Value =
            serde_json::from_str(&line(session, &[&ids[0], &ids[1]], "x", at == 3)).expect("JSON");
        part["part"] = json!(at);
        format!("{part}\n")
    };
    (1..=3).map(part).collect()
}

#[test]
fn a_conversation_in_several_lines_is_one_session_that_ends_with_the_last() {
    let store = folder();
    let input: String = (0..20).flat_map(|at| parts(&format!("s-{at:02}"))).collect();
    for counted in [[[20, 0, 0], [120, 0, 0]], [[0, 20, 0], [0, 120, 0]]] {
        let (told, counts) = import(store.path(), input.as_bytes(), &[]);
        assert!(told.is_empty(), "{told:?}");
        assert_eq!(counts, counted);
    }
    let exported = export(store.path());
    assert_eq!(
        exported.lines().filter(|line| line.contains("complete")).count(),
        20
    );
}

#[test]
fn a_conversation_of_which_a_line_is_missing_or_refused_is_left_open() {
    let clash = |part: &str| part.replace("-b", "-a").replacen("\"x\"", "\"y\"", 1);
    let of = |lines: &[&str]| lines.concat();
    let [one, two, three] = <[String; 3]>::try_from(parts("s")).expect("three");
    let broken = two.replace("\"events\"", "\"evens\"");
    let cases = [
        (
            of(&[&one, &broken, &three]),
            "part 3 does not come right after part 2",
        ),
        (of(&[&one, &three]), "part 3 does not come right after part 2"),
        (
            of(&[&two, &one, &three]),
            "part 3 does not come right after part 2",
        ),
        (three.clone(), "part 3 does not come right after part 2"),
        (of(&[&clash(&one), &two, &three]), "not all of its events are in"),
        (of(&[&one, &two, &clash(&three)]), "not all of its events are in"),
    ];
    for (input, why) in cases {
        let store = folder();
        let (told, counts) = import(store.path(), input.as_bytes(), &[]);
        let last = told.last().expect("a line");
        assert!(
            last.ends_with(&format!("the session is left open, since {why}")),
            "{told:?}"
        );
        assert!(counts[0][2] + counts[1][2] > 0);
        assert!(!export(store.path()).contains("complete"));
    }
    // Mended, it goes in, and ends.
    let store = folder();
    import(store.path(), of(&[&one, &broken, &three]).as_bytes(), &[]);
    let (told, counts) = import(store.path(), of(&[&one, &two, &three]).as_bytes(), &[]);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(counts, [[0, 1, 0], [2, 4, 0]]);
    assert!(export(store.path()).contains("complete"));
}

#[test]
fn a_difference_of_every_part_is_told_once() {
    let store = folder();
    import(store.path(), parts("s").concat().as_bytes(), &[]);
    let other = parts("s")
        .concat()
        .replace("\"startedAt\":\"2026-01-01", "\"startedAt\":\"2026-01-05");
    let (told, counts) = import(store.path(), other.as_bytes(), &[]);
    assert_eq!(
        told,
        ["line 1: session s is stored with another session.startedAt; what is stored stays"]
    );
    assert_eq!(counts, [[0, 0, 1], [0, 6, 0]]);
}
