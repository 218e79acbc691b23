//! A field without a value is left out. No answer holds `null`, and every request that does is refused, except a merge
//! patch, where `null` removes.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    archive::archive,
    harness::{Server, expect},
    openapi::{document, operations, resolved},
    refusal::fields_of,
    talk::{append, batch_path, event, events_path, open},
};

/// Everything in `value` that is `null`, but for what callers made themselves.
fn nulls(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Null => vec![at.to_owned()],
        Value::Array(items) => items.iter().flat_map(|item| nulls(item, at)).collect(),
        Value::Object(fields) => {
            let ours = fields
                .iter()
                .filter(|(name, _)| !["payload", "metadata"].contains(&name.as_str()));
            ours.flat_map(|(name, value)| nulls(value, &format!("{at}.{name}")))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn no_answer_holds_null() {
    let server = Server::start().await;
    let post = |path: &str, body: Value| server.post(path, &body);
    // As little as there can be, so that whatever may be left out is.
    let nothing = json!({"eventId": "e", "type": "x", "payload": {"null": null}});
    let batch = json!({"events": [nothing, {"eventId": "f", "type": "x", "payload": {}}, {"eventId": "e", "type": "y", "payload": {}}, {}]});
    let asked = [
        post("/v1/sessions", json!({"sessionId": "s"})),
        post("/v1/sessions", json!({"sessionId": "s"})),
        server.get("/v1/sessions"),
        server.get("/v1/sessions?userId=nobody"),
        server.get("/v1/sessions/s"),
        server.get("/v1/sessions/s"),
        server.get("/v1/sessions/s?limit=0"),
        server.get(&events_path("s")),
        post(&events_path("s"), nothing.clone()),
        post(&events_path("s"), nothing),
        post(&batch_path("s"), batch),
        server.get("/v1/sessions/s?limit=1"),
        server.get(&events_path("s")),
        server.get("/v1/sessions/s/events/e"),
        server.patch("/v1/sessions/s", &json!({"userId": null})),
        post("/v1/sessions/s/complete", json!({})),
        post("/v1/sessions/s/restore", json!({})),
        server.get("/v1/admin/archive/runs"),
        server.get("/healthz"),
        server.get("/readyz"),
        server.get("/nope"),
        server.get("/v1/sessions?limit=x"),
        server.get("/v1/sessions/none"),
    ];
    for request in asked {
        let answer = request.send().await.expect("an answer");
        let url = answer.url().clone();
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!(nulls(&body, ""), [""; 0], "{url}: {body}");
    }
    let run = archive(&server).await;
    assert_eq!(nulls(&run, ""), [""; 0], "{run}");
    let runs = expect(server.get("/v1/admin/archive/runs"), 200).await;
    assert_eq!(nulls(&runs, ""), [""; 0], "{runs}");
}

/// The names of all schemas that `value` leads to.
fn reached(document: &Value, value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|path| path.rsplit('/').next())
                && names.insert(name.to_owned())
            {
                reached(document, resolved(document, value), names);
            }
            fields.values().for_each(|value| reached(document, value, names));
        }
        Value::Array(items) => items.iter().for_each(|value| reached(document, value, names)),
        _ => {}
    }
}

#[test]
fn the_document_allows_null_in_a_merge_patch_alone() {
    let document = document();
    let (mut sent, mut answered) = (BTreeSet::new(), BTreeSet::new());
    for (_, _, operation) in operations(&document) {
        reached(&document, &operation["requestBody"], &mut sent);
        reached(&document, &operation["responses"], &mut answered);
    }
    assert!(answered.contains("Pagination") && answered.contains("BatchRejected"));
    for name in sent.union(&answered) {
        let schema = &document["components"]["schemas"][name];
        let takes_null = schema.to_string().contains("\"nullable\":true");
        assert_eq!(takes_null, name == "SessionPatch", "{name}");
    }
}

#[tokio::test]
async fn null_is_refused_in_every_field_of_every_request_but_a_merge_patch() {
    let (server, document) = (Server::start().await, document());
    open(&server, "call-42").await;
    append(&server, "call-42", &event("there")).await;
    let mut tried = 0;
    for (path, method, operation) in operations(&document) {
        let Some(media) = operation["requestBody"]["content"].as_object() else {
            continue;
        };
        let (media_type, media) = media.iter().next().expect("a media type");
        let schema = resolved(&document, &media["schema"]);
        let url = server.url(&path.replace("{sessionId}", "call-42"));
        let send = async |body: &Value| {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let request = server.client.request(method, &url);
            let request = request.header("content-type", media_type).body(body.to_string());
            let response = request.send().await.expect("an answer");
            (
                response.status().as_u16(),
                response.json::<Value>().await.expect("JSON"),
            )
        };
        for field in schema["properties"].as_object().expect("properties").keys() {
            let mut body = schema["example"].clone();
            body[field] = Value::Null;
            let (status, answer) = send(&body).await;
            let name = format!("{method} {path} {field}: {answer}");
            if method == "patch" {
                assert_eq!(status, 200, "{name}");
            } else {
                assert_eq!((status, fields_of(&answer)), (422, vec![field.clone()]), "{name}");
            }
            tried += 1;
        }
        // An event of a batch answers for itself.
        let Some(items) = schema["properties"]["events"].get("items") else {
            continue;
        };
        for field in resolved(&document, items)["properties"]
            .as_object()
            .expect("properties")
            .keys()
        {
            let mut body = schema["example"].clone();
            body["events"][1][field] = Value::Null;
            let (status, answer) = send(&body).await;
            let outcome = &answer["outcomes"][1];
            assert_eq!(
                (status, &outcome["outcome"]),
                (200, &json!("rejected")),
                "{field}: {answer}"
            );
            assert_eq!(fields_of(&outcome["problem"]), [format!("events[1].{field}")]);
            tried += 1;
        }
    }
    assert!(tried > 15, "{tried}");
}
