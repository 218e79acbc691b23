//! User ids come from other systems and may be any text. They are stored as sent and found by an exact match, wherever
//! the session is.

use serde_json::{Value, json};

use crate::{
    archive::{archive, succeed},
    backends::backend_flags,
    harness::{Server, colloquy, expect, expect_problem, folder},
    talk::{append, event, page, texts, walk, with_cursor},
};

fn users() -> Vec<String> {
    let short = [
        "auth0|x",
        "patients/1",
        "Zo\u{eb}",
        // The same to a reader, and another user.
        "Zoe\u{308}",
        "ZO\u{cb}",
        "日本",
        "👩‍👧",
        " a ",
        "a",
        "a+b c%20&d=e#f?",
        "\"quoted\\\" \\u0041",
        "$userId",
        "{\"$ne\":null}",
        "' OR '1'='1",
        "..",
        "null",
        "<script>",
        "\u{a0}\u{2028}\u{fffd}\u{200d}\u{10ffff}",
    ];
    let long = ["é".repeat(128), "x".repeat(256), "\u{10ffff}".repeat(64)];
    short.iter().map(|text| (*text).to_owned()).chain(long).collect()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Each user has two sessions, one opened with the user and one patched to it; and both say so.
async fn all_are_found(server: &Server, users: &[String]) {
    for (at, user) in users.iter().enumerate() {
        let path = format!("/v1/sessions?userId={}", encoded(user));
        let ids = [format!("patched-{at:02}"), format!("opened-{at:02}")];
        let found = walk(server, &path, "sessions").await;
        assert_eq!(texts(&found, "sessionId"), ids, "{user:?}");
        assert_eq!(texts(&found, "userId"), [user.as_str(); 2]);
        // A cursor of this user is no other's.
        let (_, cursor) = page(server, &format!("{path}&limit=1"), "sessions").await;
        let next = with_cursor(&format!("{path}&limit=1"), &cursor.expect("a second page"));
        assert_eq!(
            texts(&page(server, &next, "sessions").await.0, "sessionId"),
            ids[1..]
        );
        for id in &ids {
            // The second read may be a cache's, and the last one is the store's.
            for query in ["", "", "?limit=0"] {
                let read = expect(server.get(&format!("/v1/sessions/{id}{query}")), 200).await;
                assert_eq!(read["session"]["userId"], user.as_str());
            }
        }
    }
}

#[tokio::test]
async fn a_user_id_of_any_text_is_kept_and_found_hot_archived_restored_and_rebuilt() {
    let (server, users) = (Server::start().await, users());
    let started = "2026-09-01T08:00:00Z";
    let send = async |path: &str, body: &Value, status| expect(server.post(path, body), status).await;
    for (at, user) in users.iter().enumerate() {
        let (opened, patched) = (format!("opened-{at:02}"), format!("patched-{at:02}"));
        let body = json!({"sessionId": opened, "userId": user, "startedAt": started});
        assert_eq!(send("/v1/sessions", &body, 201).await["userId"], user.as_str());
        assert_eq!(send("/v1/sessions", &body, 200).await["userId"], user.as_str());
        send(
            "/v1/sessions",
            &json!({"sessionId": patched, "startedAt": started}),
            201,
        )
        .await;
        let patch = server.patch(&format!("/v1/sessions/{patched}"), &json!({"userId": user}));
        assert_eq!(expect(patch, 200).await["userId"], user.as_str());
        append(&server, &opened, &event("e")).await;
    }
    all_are_found(&server, &users).await;

    for at in 0..users.len() {
        for kind in ["opened", "patched"] {
            send(&format!("/v1/sessions/{kind}-{at:02}/complete"), &json!({}), 200).await;
        }
    }
    archive(&server).await;
    all_are_found(&server, &users).await;
    let restored = send("/v1/sessions/opened-00/restore", &json!({}), 200).await;
    assert_eq!(restored["userId"], users[0].as_str());
    archive(&server).await;

    // Both commands read every row of the archive, and rebuild compares it with the session in the store.
    let folder = server.folder();
    assert!(server.stop().await.success());
    succeed(&folder, &["verify"]);
    succeed(&folder, &["rebuild"]);
    let server = Server::start_in(folder, &[]).await;
    all_are_found(&server, &users).await;
}

#[tokio::test]
async fn a_user_id_of_any_text_is_exported_and_imported() {
    let (from, to, users) = (Server::start().await, folder(), users());
    for (at, user) in users.iter().enumerate() {
        let body = json!({"sessionId": format!("s-{at:02}"), "userId": user});
        expect(from.post("/v1/sessions", &body), 201).await;
    }
    let wanted = walk(&from, "/v1/sessions", "sessions").await;
    let folder = from.folder();
    assert!(from.stop().await.success());
    let file = to.path().join("all.jsonl");
    for (words, folder) in [(["export", "--output"].as_slice(), &folder), (&["import"], &to)] {
        let mut command = colloquy();
        let output = command
            .args(words)
            .arg(&file)
            .args(backend_flags(folder.path()))
            .output();
        let output = output.expect("colloquy runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let server = Server::start_in(to, &[]).await;
    assert_eq!(walk(&server, "/v1/sessions", "sessions").await, wanted);
}

#[tokio::test]
async fn a_user_id_with_a_control_character_or_of_257_bytes_is_refused() {
    let server = Server::start().await;
    expect(
        server.post("/v1/sessions", &json!({"sessionId": "s", "userId": "a"})),
        201,
    )
    .await;
    let controls = ('\0'..' ')
        .chain('\u{7f}'..='\u{9f}')
        .map(|control| format!("a{control}b"));
    let long = ["x".repeat(257), "é".repeat(129), "\u{10ffff}".repeat(65)];
    for bad in controls.chain(long).chain([String::new()]) {
        let body = json!({"sessionId": "new", "userId": bad});
        expect_problem(server.post("/v1/sessions", &body), 422, "validation-failed").await;
        let patch = server.patch("/v1/sessions/s", &json!({"userId": bad}));
        expect_problem(patch, 422, "validation-failed").await;
        let listing = server.get(&format!("/v1/sessions?userId={}", encoded(&bad)));
        expect_problem(listing, 400, "invalid-parameter").await;
    }
    // Half of a surrogate pair is no text at all.
    for bad in [r#""\ud83d""#, r#""a\udc00""#] {
        let body = format!(r#"{{"sessionId":"new","userId":{bad}}}"#);
        let request = server.client.post(server.url("/v1/sessions"));
        let answer = request
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_client_error(), "{}", answer.status());
    }
    assert_eq!(
        texts(&walk(&server, "/v1/sessions", "sessions").await, "userId"),
        ["a"]
    );
}
