//! Changing a session: JSON Merge Patch (RFC 7396) and If-Match (RFC 9110, section 13.1.1).

use futures_util::future::join_all;
use reqwest::header::IF_MATCH;
use serde_json::{Value, json};

use crate::{
    harness::{Server, expect, expect_problem, json as body_of},
    talk::{append, event, open, session},
};

const PATH: &str = "/v1/sessions/s";

async fn server_with(metadata: &Value) -> Server {
    let server = Server::start().await;
    let body = json!({"sessionId": "s", "userId": "u", "language": "en", "metadata": metadata});
    expect(server.post("/v1/sessions", &body), 201).await;
    server
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_leaves_the_rest() {
    let server = server_with(&json!({"a": 1})).await;
    let before = session(&server, "s").await;
    let patch = json!({"language": "de-DE"});
    let response = server.patch(PATH, &patch).send().await.unwrap();
    assert_eq!(response.headers()["etag"], "\"2\"");
    let patched = body_of(response, 200).await;
    let mut expected = before.clone();
    expected["language"] = "de-DE".into();
    expected["version"] = 2.into();
    assert_eq!(patched, expected);

    let patch = json!({"language": null, "userId": null, "metadata": null});
    let patched = expect(server.patch(PATH, &patch), 200).await;
    assert!(patched.get("language").is_none());
    assert!(patched.get("userId").is_none());
    assert_eq!(patched["metadata"], json!({}));
    assert_eq!(patched["startedAt"], before["startedAt"]);
    assert_eq!(session(&server, "s").await, patched);
}

#[tokio::test]
async fn metadata_is_merged_as_rfc_7396_has_it() {
    // Appendix A, as far as the target is an object.
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
        (json!({"a": {"b": 1}}), json!({"a": [null]}), json!({"a": [null]})),
        (
            json!({"a": 1.5}),
            json!({"a": {"$b.c": 0.1}}),
            json!({"a": {"$b.c": 0.1}}),
        ),
    ];
    let server = Server::start().await;
    for (at, (target, patch, merged)) in cases.iter().enumerate() {
        let id = format!("s{at}");
        let body = json!({"sessionId": id, "metadata": target});
        expect(server.post("/v1/sessions", &body), 201).await;
        let body = json!({"metadata": patch});
        let patched = expect(server.patch(&format!("/v1/sessions/{id}"), &body), 200).await;
        assert_eq!(patched["metadata"], *merged, "{target} + {patch}");
        assert_eq!(session(&server, &id).await, patched);
    }
}

#[tokio::test]
async fn both_names_of_a_merge_patch_are_understood() {
    let server = server_with(&json!({})).await;
    for (at, content_type) in ["application/merge-patch+json", "application/json; charset=UTF-8"]
        .iter()
        .enumerate()
    {
        let request = server.client.patch(server.url(PATH));
        let body = format!(r#"{{"userId":"user-{at}"}}"#);
        let request = request.header("content-type", *content_type).body(body);
        assert_eq!(expect(request, 200).await["userId"], format!("user-{at}"));
    }
}

#[tokio::test]
async fn a_patch_that_changes_nothing_keeps_the_version() {
    let numbers = json!({"i": i64::MIN, "x": 1e300, "y": 0.1, "z": 5e-324, "whole": 2.0, "n": {"m": [1]}});
    let server = server_with(&numbers).await;
    let before = session(&server, "s").await;
    for patch in [
        json!({}),
        json!({"userId": "u", "language": "en"}),
        json!({"metadata": {}}),
        json!({"metadata": {"not there": null}}),
        json!({"metadata": numbers}),
    ] {
        assert_eq!(expect(server.patch(PATH, &patch), 200).await, before, "{patch}");
    }
    let nothing_to_remove = json!({"userId": null, "language": null});
    let removed = expect(server.patch(PATH, &nothing_to_remove), 200).await;
    assert_eq!(removed["version"], 2);
    let again = expect(server.patch(PATH, &nothing_to_remove), 200).await;
    assert_eq!(again, removed);
}

#[tokio::test]
async fn if_match_lets_a_change_through_only_at_a_version_it_names() {
    let server = server_with(&json!({})).await;
    append(&server, "s", &event("e")).await;
    // The session is at version 2; a patch that changes nothing keeps it there.
    for good in [
        "*",
        "\"2\"",
        " \"2\" ",
        "\"1\", \"2\"",
        "\"1\",\"2\",\"3\"",
        "W/\"1\", \"2\"",
        "\"x,y\", \"2\"",
        ",\"2\",,",
    ] {
        let request = server.patch(PATH, &json!({"userId": "u"})).header(IF_MATCH, good);
        expect(request, 200).await;
    }
    let before = session(&server, "s").await;
    for stale in [
        "\"1\"",
        "\"3\"",
        "W/\"2\"",
        "\"\"",
        "\"1\", \"3\"",
        "\"02\"",
        "\"+2\"",
        "\"2.0\"",
        "\" 2\"",
        "\"1,2\"",
        "\"99999999999999999999\"",
        "\"abc\"",
    ] {
        let request = server
            .patch(PATH, &json!({"userId": "other"}))
            .header(IF_MATCH, stale);
        expect_problem(request, 412, "version-mismatch").await;
    }
    for bad in [
        "2",
        "",
        "\"2",
        "2\"",
        "\"2\" \"3\"",
        "*, \"2\"",
        "'2'",
        "w/\"2\"",
        ",",
    ] {
        let request = server
            .patch(PATH, &json!({"userId": "other"}))
            .header(IF_MATCH, bad);
        let problem = expect_problem(request, 400, "invalid-parameter").await;
        assert_eq!(problem["errors"][0]["field"], "If-Match", "{bad}");
    }
    assert_eq!(session(&server, "s").await, before);
}

#[tokio::test]
async fn if_match_may_stand_on_several_lines() {
    let server = server_with(&json!({})).await;
    let patch = |tags: [&'static str; 2]| {
        let request = server.patch(PATH, &json!({"userId": "u"}));
        request.header(IF_MATCH, tags[0]).header(IF_MATCH, tags[1])
    };
    expect(patch(["\"7\"", "\"1\""]), 200).await;
    expect(patch(["*", "\"9\""]), 200).await;
    expect_problem(patch(["\"7\"", "\"8\""]), 412, "version-mismatch").await;
    expect_problem(patch(["\"1\"", "1"]), 400, "invalid-parameter").await;
}

#[tokio::test]
async fn of_many_changes_meant_for_one_version_one_succeeds() {
    let server = server_with(&json!({})).await;
    let calls = (0..12).map(|at| {
        let patch = json!({"metadata": {"by": at}});
        server.patch(PATH, &patch).header(IF_MATCH, "\"1\"").send()
    });
    let mut statuses = Vec::new();
    for response in join_all(calls).await {
        statuses.push(response.unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses[0], 200);
    assert_eq!(statuses[1..], [412; 11]);
    assert_eq!(session(&server, "s").await["version"], 2);
}

#[tokio::test]
async fn of_many_changes_at_once_none_is_lost() {
    let server = server_with(&json!({})).await;
    let calls = (0..20).map(|at| {
        let patch = json!({"metadata": {format!("k{at}"): at}});
        expect(server.patch(PATH, &patch), 200)
    });
    join_all(calls).await;
    let session = session(&server, "s").await;
    assert_eq!(session["version"], 21);
    assert_eq!(session["metadata"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn an_ended_session_can_still_be_changed_but_not_its_end() {
    let server = server_with(&json!({})).await;
    let end = json!({"status": "failed", "reason": "r"});
    let ended = expect(server.post(&format!("{PATH}/complete"), &end), 200).await;
    let patch = json!({"metadata": {"rating": 5}});
    let patched = expect(server.patch(PATH, &patch), 200).await;
    let mut expected = ended;
    expected["metadata"] = json!({"rating": 5});
    expected["version"] = 3.into();
    assert_eq!(patched, expected);
    for field in [
        "status",
        "endedAt",
        "endReason",
        "startedAt",
        "version",
        "archived",
        "sessionId",
    ] {
        let request = server.patch(PATH, &json!({field: patched[field]}));
        let problem = expect_problem(request, 422, "validation-failed").await;
        assert_eq!(problem["errors"][0]["field"], field);
    }
    assert_eq!(session(&server, "s").await, patched);
}

#[tokio::test]
async fn limits_hold_for_what_a_merge_makes_of_the_metadata() {
    let half = "x".repeat(9000);
    let server = server_with(&json!({"a": half})).await;
    let before = session(&server, "s").await;
    let patch = json!({"userId": "other", "metadata": {"b": half}});
    let problem = expect_problem(server.patch(PATH, &patch), 413, "content-too-large").await;
    assert_eq!(problem["errors"][0]["field"], "metadata");
    assert_eq!(session(&server, "s").await, before);

    // Replacing one half with the other fits, to the byte.
    let room = 16 * 1024 - r#"{"b":""}"#.len();
    let patch = json!({"metadata": {"a": null, "b": "y".repeat(room)}});
    expect_problem(server.patch(PATH, &patch), 413, "content-too-large").await;
    let patch = json!({"metadata": {"a": null, "b": "y".repeat(room - r#""a":null,"#.len())}});
    expect(server.patch(PATH, &patch), 200).await;
    let patch = json!({"metadata": {"b": "y".repeat(room)}});
    let full = expect(server.patch(PATH, &patch), 200).await;
    let patch = json!({"metadata": {"c": 1}});
    expect_problem(server.patch(PATH, &patch), 413, "content-too-large").await;
    assert_eq!(session(&server, "s").await, full);
}

#[tokio::test]
async fn a_patch_needs_a_session() {
    let server = Server::start().await;
    open(&server, "other").await;
    for request in [
        server.patch(PATH, &json!({})),
        server.patch(PATH, &json!({})).header(IF_MATCH, "*"),
        server.patch(PATH, &json!({})).header(IF_MATCH, "\"1\""),
    ] {
        expect_problem(request, 404, "session-not-found").await;
    }
}

#[tokio::test]
async fn if_match_is_refused_where_it_is_not_honoured() {
    let server = server_with(&json!({})).await;
    for request in [
        server.delete("/v1/sessions/s"),
        server.post("/v1/sessions/s/complete", &json!({})),
        server.post(
            "/v1/sessions/s/events",
            &json!({"eventId": "e", "type": "system", "payload": {}}),
        ),
    ] {
        let problem = expect_problem(request.header(IF_MATCH, "\"99\""), 400, "invalid-parameter").await;
        assert_eq!(problem["errors"][0]["field"], "If-Match");
    }
    let read = expect(server.get("/v1/sessions/s").header(IF_MATCH, "\"99\""), 200).await;
    assert_eq!(read["session"]["status"], "initiated");
    assert_eq!(read["events"], json!([]));
}
