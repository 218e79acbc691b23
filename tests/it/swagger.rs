//! What Swagger UI sends when a person leaves its fields as it fills them in: `/docs` is how many meet the API.
//!
//! It fills in a parameter's example, else its default, and else leaves it out; of a body it sends the example. (Swagger
//! UI 5.17, `setDefaultValue` and `getDefaultRequestBodyValue`.)

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Server, expect},
    openapi::{document, operations, resolved},
};

/// Operations that end, move or erase the session that all examples are about: a person clicks these last. The others
/// come in the order of the page.
const LAST: [&str; 3] = ["completeSession", "restoreSession", "deleteSession"];

/// What the field of a parameter holds at first.
fn filled_in(parameter: &Value) -> Option<Value> {
    let schema = &parameter["schema"];
    let named = parameter["examples"]
        .as_object()
        .and_then(|all| all.values().next());
    let media = parameter["content"]
        .as_object()
        .and_then(|all| all.values().next());
    let places = [
        named.map_or(&Value::Null, |example| &example["value"]),
        media.map_or(&Value::Null, |media| &media["example"]),
        &parameter["example"],
        &schema["example"],
        &schema["default"],
    ];
    let filled = places.into_iter().find(|value| !value.is_null());
    // A list of words that one has to be chosen from begins with its first.
    let first = || {
        schema["enum"]
            .as_array()
            .filter(|_| parameter["required"] == true)?
            .first()
    };
    filled.or_else(first).cloned()
}

fn parameters(operation: &Value) -> Vec<Value> {
    operation["parameters"].as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The request as it is sent untouched; without what has a default, unless `with_defaults`.
fn request(
    server: &Server,
    (path, method, operation): &(String, String, Value),
    with_defaults: bool,
) -> reqwest::RequestBuilder {
    let (mut path, mut query, mut headers) = (path.clone(), Vec::new(), Vec::new());
    for parameter in parameters(operation) {
        let name = text(&parameter["name"]);
        let Some(value) = filled_in(&parameter) else {
            continue;
        };
        match parameter["in"].as_str() {
            Some("path") => path = path.replace(&format!("{{{name}}}"), &text(&value)),
            Some("query") if with_defaults => query.push((name, text(&value))),
            Some("query") => {}
            Some("header") => headers.push((name, text(&value))),
            other => panic!("a parameter in {other:?}"),
        }
    }
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    let mut request = server
        .client
        .request(method, server.url(&format!("{path}?{query}")));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let bodies = operation["requestBody"]["content"].as_object();
    match bodies.and_then(|bodies| bodies.iter().next()) {
        Some((media_type, media)) => {
            let document = document();
            let example = &resolved(&document, &media["schema"])["example"];
            request
                .header("content-type", media_type)
                .body(example.to_string())
        }
        None => request,
    }
}

#[tokio::test]
async fn every_operation_as_swagger_ui_fills_it_in_does_what_it_is_for() {
    let (server, document) = (Server::start().await, document());
    let mut all = operations(&document);
    // The sort is stable, so the rest keeps the order of the page.
    all.sort_by_key(|(_, _, operation)| {
        LAST.iter()
            .position(|id| operation["operationId"] == *id)
            .map(|at| at + 1)
    });
    assert!(all.len() > LAST.len());
    for operation in &all {
        let id = text(&operation.2["operationId"]);
        let response = request(&server, operation, true).send().await.expect("an answer");
        let (status, body) = (response.status(), response.text().await.expect("a body"));
        assert!(status.is_success(), "{id}: {status} {body}");
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        // That the examples are about the same things shows in what comes back.
        match id.as_str() {
            "openSession" => assert_eq!(status, 201, "{body}"),
            "listSessions" => assert_eq!(body["sessions"][0]["sessionId"], "call-42", "{body}"),
            "getSession" => assert_eq!(body["session"]["sessionId"], "call-42", "{body}"),
            "updateSession" => assert_eq!(body["version"], 2, "{body}"),
            "appendEvent" => assert_eq!(status, 201, "{body}"),
            "appendEvents" => {
                let words = [&body["outcomes"][0]["outcome"], &body["outcomes"][1]["outcome"]];
                assert_eq!(words, ["replayed", "created"], "{body}");
            }
            "listEvents" => assert_eq!(body["events"].as_array().map(Vec::len), Some(1), "{body}"),
            "getEvent" => assert_eq!(body["eventId"], "turn-001", "{body}"),
            "completeSession" => assert_eq!(body["status"], "completed", "{body}"),
            "restoreSession" => assert_eq!(body["archived"], false, "{body}"),
            "deleteSession" => assert_eq!(status, 204, "{body}"),
            _ => {}
        }
    }
    // Nothing else was erased or opened.
    let left = expect(server.get("/v1/sessions"), 200).await;
    assert_eq!(left["sessions"], json!([]));
}

#[test]
fn nothing_is_filled_in_that_may_be_left_out_unless_it_means_the_same() {
    let mut defaults = Vec::new();
    for (path, method, operation) in operations(&document()) {
        for parameter in parameters(&operation) {
            let name = text(&parameter["name"]);
            match (parameter["required"] == true, filled_in(&parameter)) {
                (true, filled) => assert!(filled.is_some(), "{method} {path}: {name} is empty"),
                (false, None) => {}
                (false, Some(value)) => {
                    assert_eq!(value, parameter["schema"]["default"], "{method} {path}: {name}");
                    defaults.push(format!(
                        "{} {name}={}",
                        text(&operation["operationId"]),
                        text(&value)
                    ));
                }
            }
        }
    }
    // The next test sends each of these, and leaves it out.
    let expected = [
        "listSessions limit=50",
        "getSession limit=50",
        "getSession order=asc",
        "listEvents limit=50",
        "listEvents order=asc",
    ];
    assert_eq!(defaults, expected);
}

#[tokio::test]
async fn a_default_means_the_same_as_leaving_it_out() {
    let (server, document) = (Server::start().await, document());
    let all = operations(&document);
    let named = |id: &str| {
        let mut found = all
            .iter()
            .filter(|(_, _, operation)| operation["operationId"] == id);
        found.next().expect("the operation")
    };
    expect(request(&server, named("openSession"), true), 201).await;
    let events: Vec<Value> = (0..60)
        .map(|at| json!({"eventId": format!("e{at}"), "type": "system", "payload": {}}))
        .collect();
    expect(
        server.post("/v1/sessions/call-42/events/batch", &json!({"events": events})),
        200,
    )
    .await;
    for id in ["listSessions", "getSession", "listEvents"] {
        let sent = expect(request(&server, named(id), true), 200).await;
        let left_out = expect(request(&server, named(id), false), 200).await;
        assert_eq!(sent, left_out, "{id}");
    }
}
