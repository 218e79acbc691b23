//! Bodies that are not JSON, or not the JSON an operation takes: refused by name, and nothing changes (I7).

use serde_json::{Value, json};

use crate::refusal::{OPERATIONS, Untouched};

#[tokio::test]
async fn what_is_not_json_is_a_400() {
    let untouched = Untouched::start(&[]).await;
    let malformed = [
        "{",
        "}",
        "{\"",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":}",
        "{\"a\":1",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1}}",
        "{} {}",
        "{}x",
        "{}\0",
        "{\"a\":01}",
        "{\"a\":-01}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1.e1}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":-}",
        "{\"a\":0x10}",
        "{\"a\":1_000}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":-Infinity}",
        "{\"a\":nul}",
        "{\"a\":True}",
        "{\"a\":truex}",
        "{\"a\":undefined}",
        "{\"a\":\"x}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\u12G4\"}",
        "{\"a\":\"line\nbreak\"}",
        "{\"a\":\"tab\t\"}",
        "{\"a\":\"nul\0\"}",
        "// c\n{}",
        "/* c */{}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":[}",
        "{\"a\":[1}",
        "{\"a\":{]}",
        "{\"a\":1;}",
        "{\"a\":\u{a0}1}",
        "{\"a\":\u{c}1}",
        " ",
        "\n",
        "\0",
        "\u{feff}{}",
        "\u{feff}",
        "abc",
        "eventId=e",
        "<xml/>",
        "\"",
        "[",
        "[{",
        "nul",
        "--",
        "{\"metadata\":{\"a\":\"\\x\"}}",
        "{\"payload\":{\"a\":nul}}",
        "{\"events\":[{\"payload\":{\"a\":1.}}]}",
        // Not because of the half of a surrogate pair, but of what follows it.
        "{\"a\":\"\\ud800\\x\"}",
        "{\"a\":\"\\ud800\\u12\"}",
        "{\"a\":\"\\ud800\"",
        "{\"a\":\"\\ud8\"}",
        "{\"events\":[{\"eventId\":\"\\ud800\"},]}",
    ];
    let not_utf8: [&[u8]; 8] = [
        b"{\"a\":\"\xff\"}",
        b"{\"\xfe\":1}",
        b"\xff",
        b"{\"a\":\"\xc0\xaf\"}",
        b"{\"a\":\"\xed\xa0\x80\"}",
        b"{\"a\":\"\xf4\x90\x80\x80\"}",
        b"{\"a\":\"na\xefve\"}",
        b"\xff\xfe{\0}\0",
    ];
    for (method, path, _) in OPERATIONS {
        let texts = malformed.iter().map(|text| text.as_bytes());
        for body in texts.chain(not_utf8) {
            let request = untouched.request(method, path, body);
            untouched.refuses(request, 400, "malformed-json").await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn json_that_is_no_object_is_a_422() {
    let untouched = Untouched::start(&[]).await;
    for (method, path, _) in OPERATIONS {
        for body in ["[]", "[{}]", "null", "true", "1", "-1.5", "\"{}\"", " [ ] "] {
            let request = untouched.request(method, path, body);
            untouched.refuses_fields(request, 422, &["body"]).await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_field_that_nobody_knows_is_refused_by_name() {
    let untouched = Untouched::start(&[]).await;
    for (method, path, good) in OPERATIONS {
        for field in [
            "nope",
            "SessionId",
            "user_id",
            " userId",
            "",
            "é",
            "$set",
            "__proto__",
            "tenant",
            "seq",
        ] {
            let mut body: Value = serde_json::from_str(good).unwrap();
            body[field] = json!(1);
            let request = untouched.request(method, path, body.to_string());
            untouched.refuses_fields(request, 422, &[field]).await;
        }
        let nul = format!(r#"{{"a\u0000b":1,{}"#, &good[1..]);
        let request = untouched.request(method, path, nul);
        untouched.refuses_fields(request, 422, &["a\\u{0}b"]).await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_key_that_stands_twice_is_refused() {
    let untouched = Untouched::start(&[]).await;
    for (method, path, good) in OPERATIONS {
        let body: Value = serde_json::from_str(good).unwrap();
        for (name, value) in body.as_object().unwrap() {
            let first = name.chars().next().map(u32::from).unwrap();
            for again in [name.clone(), format!("\\u{first:04x}{}", &name[1..])] {
                let text = format!(r#"{{"{again}":{value},{}"#, &good[1..]);
                let request = untouched.request(method, path, text);
                untouched.refuses_fields(request, 422, &[name]).await;
            }
        }
    }
    untouched.finish().await;
}

/// Objects that can't be kept as they are.
fn unkeepable() -> Vec<String> {
    let mut objects: Vec<String> = [
        r#"{"a":9223372036854775808}"#,
        r#"{"a":-9223372036854775809}"#,
        r#"{"a":18446744073709551615}"#,
        r#"{"a":[[123456789012345678901234567890]]}"#,
        r#"{"a":1e400}"#,
        r#"{"a":-1e400}"#,
        r#"{"a":1,"b":2,"a":1}"#,
        r#"{"a":1,"\u0061":1}"#,
        r#"{"a":{"b":[{"c":1,"c":1}]}}"#,
        r#"{"":1,"":2}"#,
        r#"{"a\u0000b":1}"#,
        r#"{"a":[{"\u0000":1}]}"#,
        // Half of a surrogate pair stands for no character.
        r#"{"a":"\ud800"}"#,
        r#"{"a":"\udc00"}"#,
        r#"{"a":"\ud800\ud800"}"#,
        r#"{"a":"\udc00\ud800"}"#,
        r#"{"a":"\ud800x"}"#,
        r#"{"a":"\ud800\n"}"#,
        r#"{"a":["\uD83D\u0041"]}"#,
        r#"{"\ud800":1}"#,
        r#"{"a":{"\udfff":1}}"#,
        r#"{"a":1,"\ud800":1,"\ud800":1}"#,
        "[]",
        "[{}]",
        "\"{}\"",
        "1",
        "true",
    ]
    .map(str::to_owned)
    .to_vec();
    objects.push(format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64)));
    objects.push(format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65)));
    objects.push(format!(
        "{{\"a\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    ));
    objects.push(format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)));
    objects.push(format!("{{\"a\":[-{}]}}", "9".repeat(100_000)));
    objects.push(format!("{{\"a\":{}}}", "9".repeat(4000)));
    objects
}

#[tokio::test]
async fn an_object_that_cannot_be_kept_as_it_is_is_refused_and_never_rounded() {
    let untouched = Untouched::start(&[]).await;
    let objects = unkeepable();
    for object in objects.iter().map(String::as_str).chain(["null"]) {
        let event = format!(r#"{{"eventId":"new","type":"x","payload":{object}}}"#);
        let request = untouched.request("POST", "/v1/sessions/s/events", event);
        untouched.refuses_fields(request, 422, &["payload"]).await;
        let session = format!(r#"{{"sessionId":"new","metadata":{object}}}"#);
        let request = untouched.request("POST", "/v1/sessions", session);
        untouched.refuses_fields(request, 422, &["metadata"]).await;
    }
    for object in objects {
        let patch = format!(r#"{{"userId":"new","metadata":{object}}}"#);
        let request = untouched.request("PATCH", "/v1/sessions/s", patch);
        untouched.refuses_fields(request, 422, &["metadata"]).await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_text_with_half_of_a_surrogate_pair_is_the_fault_of_its_field() {
    let untouched = Untouched::start(&[]).await;
    for half in [r"\ud83d", r"a\udc00b", r"\ud83d\ud83d"] {
        for (operation, field) in [
            (0, "sessionId"),
            (0, "userId"),
            (0, "language"),
            (0, "startedAt"),
            (0, "status"),
            (1, "userId"),
            (1, "language"),
            (2, "status"),
            (2, "reason"),
            (3, "eventId"),
            (3, "type"),
            (3, "timestamp"),
            (4, "events"),
        ] {
            let (method, path, good) = OPERATIONS[operation];
            let mut body: Value = serde_json::from_str(good).unwrap();
            body[field] = json!("HALF");
            let body = body.to_string().replace("HALF", half);
            untouched
                .refuses_fields(untouched.request(method, path, body), 422, &[field])
                .await;
        }
        // As a name, it is that of no field, and is told as it was written.
        for (method, path, good) in OPERATIONS {
            let body = format!(r#"{{"{half}":1,{}"#, &good[1..]);
            untouched
                .refuses_fields(untouched.request(method, path, body), 422, &[half])
                .await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn nesting_and_digits_without_end_are_the_fault_of_what_holds_them() {
    let untouched = Untouched::start(&[]).await;
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let arrays = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let digits = "9".repeat(100_000);
    for (operation, field) in [
        (0, "metadata"),
        (1, "metadata"),
        (2, "reason"),
        (3, "payload"),
        (4, "events"),
        (0, "nope"),
        (4, "nope"),
    ] {
        let (method, path, good) = OPERATIONS[operation];
        let mut body: Value = serde_json::from_str(good).unwrap();
        body[field] = json!("ENDLESS");
        for endless in [&objects, &arrays, &digits] {
            if (field, endless) == ("events", &arrays) {
                continue; // An array, whose items are refused one by one.
            }
            let body = body.to_string().replace("\"ENDLESS\"", endless);
            untouched
                .refuses_fields(untouched.request(method, path, body), 422, &[field])
                .await;
        }
    }
    for (method, path, _) in OPERATIONS {
        for open in ["[", r#"{"a":"#] {
            let unclosed = format!(r#"{{"metadata":{}1"#, open.repeat(100_000));
            let request = untouched.request(method, path, unclosed);
            untouched.refuses(request, 400, "malformed-json").await;
        }
        untouched
            .refuses_fields(untouched.request(method, path, arrays.clone()), 422, &["body"])
            .await;
    }
    untouched.finish().await;
}

#[tokio::test]
async fn a_body_of_nothing_but_faults_gets_an_answer_of_bounded_size() {
    let untouched = Untouched::start(&[]).await;
    let fields: Vec<String> = (0..200_000).map(|at| format!("\"{at:x}\":1")).collect();
    let body = format!("{{{}}}", fields.join(","));
    for (method, path, _) in OPERATIONS {
        let request = untouched.request(method, path, body.clone());
        let problem = untouched.refuses(request, 422, "validation-failed").await;
        let told = problem["errors"].as_array().unwrap().len();
        assert!((2..=20).contains(&told), "{told} faults are told");
    }
    let long = format!(r#"{{"{}":1}}"#, "é".repeat(1_000_000));
    let problem = untouched
        .refuses(
            untouched.request("POST", "/v1/sessions", long),
            422,
            "validation-failed",
        )
        .await;
    assert!(problem.to_string().len() < 1000);
    untouched.finish().await;
}

fn bad_ids() -> Vec<Value> {
    let mut ids: Vec<Value> = [
        "", ".", "..", "a/b", "a b", " a", "é", "a\0", "a%41", "a#", "a?", "a\\b", "a\"b", "<a>", "a,b",
    ]
    .map(Value::from)
    .to_vec();
    ids.push("x".repeat(129).into());
    ids.push("x".repeat(100_000).into());
    ids.extend([json!(1), json!(true), json!([]), json!(["a"]), json!({})]);
    ids
}

fn bad_times() -> Vec<Value> {
    let mut times: Vec<Value> = [
        "",
        "yesterday",
        "2026-02-30T00:00:00Z",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "26-01-01T00:00:00Z",
        "2026-1-1T00:00:00Z",
        "2026-01-01T00:00:00+0200",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00Z ",
        "10000-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
        "0000-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "1767225600",
        "2026-11-01512:00:00Z",
        "2026-11-01\u{0}12:00:00Z",
        "2026-11-01 12:00:00Z",
        "2026-11-01_12:00:00Z",
        "2026-11-01T12:00:00+24:00",
        "2026-11-01T12:00:00+00:60",
        "2026-11-01T12:00:61Z",
        "２０２６-01-01T00:00:00Z",
    ]
    .map(Value::from)
    .to_vec();
    times.extend([
        json!(null),
        json!(1_767_225_600_000_i64),
        json!(1.5),
        json!([]),
        json!({}),
    ]);
    times
}

/// No user id, by type, length or a control character.
fn bad_user_ids() -> Vec<Value> {
    let mut ids = vec![json!(""), json!(7), json!(true), json!([]), json!({})];
    ids.extend([json!("x".repeat(257)), json!("é".repeat(129))]);
    ids.extend(["\0", "a\n", "\u{1f}", "\u{7f}", "\u{80}b", "\u{9f}"].map(Value::from));
    ids
}

/// Words that are none of an enumeration's.
fn bad_words(more: &[&str]) -> Vec<Value> {
    let mut words = vec![
        json!(null),
        json!(1),
        json!(""),
        json!(false),
        json!([]),
        json!("ACTIVE"),
        json!("nope"),
    ];
    words.extend(more.iter().map(|word| json!(word)));
    words
}

#[tokio::test]
async fn every_field_is_checked_on_its_own() {
    let untouched = Untouched::start(&[]).await;
    let nothing = || json!(null);
    let with_null = |mut values: Vec<Value>| {
        values.push(nothing());
        values
    };
    let languages = || {
        let words = [
            "",
            "-",
            "en_US",
            "en-",
            "1en",
            "e n",
            "englishlanguage",
            "en--US",
            "日本",
        ];
        let mut values: Vec<Value> = words.map(Value::from).to_vec();
        values.extend([json!("en-".repeat(20)), json!(1), json!([])]);
        values
    };
    let types = || {
        let words = ["", "A", "1a", "_a", "a b", "é", "a/b", "-a"];
        let mut values: Vec<Value> = words.map(Value::from).to_vec();
        values.extend([json!("a".repeat(65)), json!(1), json!({}), nothing()]);
        values
    };
    let cases: Vec<(usize, &str, Vec<Value>)> = vec![
        (0, "sessionId", with_null(bad_ids())),
        (0, "userId", with_null(bad_user_ids())),
        (0, "language", with_null(languages())),
        (0, "startedAt", bad_times()),
        (0, "status", bad_words(&["completed", "failed", "Active"])),
        (1, "userId", bad_user_ids()),
        (1, "language", languages()),
        (2, "status", bad_words(&["active", "initiated", "Completed"])),
        (2, "reason", vec![nothing(), json!(1), json!([]), json!({"a": 1})]),
        (3, "eventId", with_null(bad_ids())),
        (3, "type", types()),
        (3, "timestamp", bad_times()),
        (
            4,
            "events",
            vec![nothing(), json!({}), json!("e"), json!(1), json!([])],
        ),
    ];
    for (operation, field, values) in cases {
        let (method, path, good) = OPERATIONS[operation];
        for value in values {
            let mut body: Value = serde_json::from_str(good).unwrap();
            body[field] = value;
            let request = untouched.request(method, path, body.to_string());
            untouched.refuses_fields(request, 422, &[field]).await;
        }
    }
    untouched.finish().await;
}

#[tokio::test]
async fn fields_that_are_missing_are_named_all_at_once() {
    let untouched = Untouched::start(&[]).await;
    let (_, path, good) = OPERATIONS[3];
    for field in ["eventId", "type", "payload"] {
        let mut body: Value = serde_json::from_str(good).unwrap();
        body.as_object_mut().unwrap().remove(field);
        let request = untouched.request("POST", path, body.to_string());
        untouched.refuses_fields(request, 422, &[field]).await;
    }
    let request = untouched.request("POST", path, r#"{"timestamp":"x","b":1,"a":2}"#);
    let all = ["eventId", "type", "payload", "timestamp", "a", "b"];
    untouched.refuses_fields(request, 422, &all).await;
    let request = untouched.request("POST", OPERATIONS[4].1, "{}");
    untouched.refuses_fields(request, 422, &["events"]).await;
    untouched.finish().await;
}

#[tokio::test]
async fn a_field_that_is_too_large_is_a_413_that_names_it() {
    let untouched = Untouched::start(&[]).await;
    let metadata = json!({"a": "x".repeat(16 * 1024)});
    let payload = json!({"a": "x".repeat(256 * 1024)});
    let event = json!({"eventId": "new", "type": "x", "payload": payload});
    for (operation, body, field) in [
        (0, json!({"metadata": metadata}), "metadata"),
        (1, json!({"userId": "new", "metadata": metadata}), "metadata"),
        (2, json!({"reason": "é".repeat(1025)}), "reason"),
        (3, event, "payload"),
        (4, json!({"events": vec![json!({}); 501]}), "events"),
    ] {
        let (method, path, _) = OPERATIONS[operation];
        let request = untouched.request(method, path, body.to_string());
        untouched.refuses_fields(request, 413, &[field]).await;
    }
    untouched.finish().await;
}
