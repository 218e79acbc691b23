//! The OpenAPI document: it is complete, it is the committed one, and the answers of the server are what it says.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use crate::{
    harness::{Server, colloquy, expect, expect_problem},
    talk::{append, batch_path, event, events_path, open},
};

const OPERATIONS: [&str; 15] = [
    "appendEvent",
    "appendEvents",
    "completeSession",
    "deleteSession",
    "getEvent",
    "getHealth",
    "getReadiness",
    "getSession",
    "listArchiveRuns",
    "listEvents",
    "listSessions",
    "openSession",
    "restoreSession",
    "startArchiveRun",
    "updateSession",
];

/// What `colloquy openapi` prints.
fn printed() -> String {
    let output = colloquy().arg("openapi").output().expect("colloquy runs");
    assert!(output.status.success());
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub fn document() -> Value {
    serde_json::from_str(&printed()).expect("JSON")
}

/// The operations: path, method, operation.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().expect("methods").clone();
        let path = path.clone();
        methods
            .into_iter()
            .map(move |(method, operation)| (path.clone(), method, operation))
    };
    paths.iter().flat_map(of_path).collect()
}

/// The schema itself, where this is a reference to one.
pub fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => {
            let name = path
                .strip_prefix("#/components/schemas/")
                .expect("a schema of ours");
            let schema = &document["components"]["schemas"][name];
            assert!(schema.is_object(), "{path} is nowhere");
            schema
        }
        None => schema,
    }
}

/// Everything in which `value` is not what `schema` says; fields that the schema does not know count, too.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let schema = resolved(document, schema);
    let fault = |words: String| vec![format!("{at} {words}: {value}")];
    if schema["oneOf"].is_array() {
        // What the discriminator says it is, is all that it may be.
        let mapped = value[schema["discriminator"]["propertyName"]
            .as_str()
            .expect("a property")]
        .as_str();
        return match mapped.map(|word| &schema["discriminator"]["mapping"][word]) {
            Some(Value::String(path)) => faults(document, &json!({"$ref": path}), value, at),
            _ => fault("is of no kind that there is".into()),
        };
    }
    if value.is_null() && schema["nullable"] == true {
        return Vec::new();
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return fault(format!("is none of {words:?}"));
    }
    match schema["type"].as_str() {
        Some("object") => object_faults(document, schema, value, at),
        Some("array") => match value.as_array() {
            Some(items) => items
                .iter()
                .enumerate()
                .flat_map(|(index, item)| faults(document, &schema["items"], item, &format!("{at}[{index}]")))
                .collect(),
            None => fault("is no array".into()),
        },
        Some("string") if !value.is_string() => fault("is no string".into()),
        Some("integer") if value.as_i64().is_none() => fault("is no integer".into()),
        Some("boolean") if !value.is_boolean() => fault("is no boolean".into()),
        _ => Vec::new(),
    }
}

fn object_faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let Some(object) = value.as_object() else {
        return vec![format!("{at} is no object: {value}")];
    };
    let mut found = Vec::new();
    for name in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(name.as_str().expect("a name")) {
            found.push(format!("{at} has no {name}: {value}"));
        }
    }
    let free = schema["additionalProperties"].is_object();
    for (name, value) in object {
        let at = format!("{at}.{name}");
        match &schema["properties"][name] {
            Value::Null if free => {}
            Value::Null => found.push(format!("{at} is not described")),
            property => found.extend(faults(document, property, value, &at)),
        }
    }
    found
}

#[test]
fn the_committed_document_is_the_one_that_the_code_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let committed = fs::read_to_string(&path).expect("openapi/openapi.json");
    assert!(
        committed == printed(),
        "openapi/openapi.json differs: run `make spec`"
    );
}

#[tokio::test]
async fn the_server_serves_the_document_and_a_page_to_read_it() {
    let server = Server::start().await;
    let response = server.get("/openapi.json").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let document = printed();
    assert!(response.text().await.unwrap() == document);

    let response = server.get("/docs").send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(content_type.starts_with("text/html"), "{content_type}");
    let page = response.text().await.unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"));
    assert!(
        page.contains(document.trim_end()),
        "the page has the document in it"
    );
    // It must work without the internet.
    for tag in ["<script src=", "<link rel=\"stylesheet\" href="] {
        for (at, _) in page.match_indices(tag) {
            let rest = &page[at + tag.len()..];
            assert!(
                !rest.starts_with("\"http") && !rest.starts_with("\"//"),
                "{}",
                &rest[..80]
            );
        }
    }
}

#[test]
fn every_operation_is_there_by_name_and_in_words() {
    let document = document();
    let operations = operations(&document);
    let names: BTreeSet<&str> = operations
        .iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().expect("an operationId"))
        .collect();
    assert_eq!(names, BTreeSet::from(OPERATIONS));
    assert_eq!(operations.len(), OPERATIONS.len());
    for (path, method, operation) in &operations {
        let summary = operation["summary"].as_str().unwrap_or_default();
        assert!(!summary.is_empty(), "{method} {path}");
        assert_eq!(
            operation["tags"].as_array().map(Vec::len),
            Some(1),
            "{method} {path}"
        );
    }
}

#[test]
fn the_parameters_of_a_path_are_those_in_its_braces() {
    for (path, method, operation) in operations(&document()) {
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
        let named: BTreeSet<&str> = of_path
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let braced: BTreeSet<&str> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        assert_eq!(named, braced, "{method} {path}");
        for parameter in &parameters {
            assert!(parameter["description"].is_string(), "{parameter}");
            assert_eq!(parameter["required"], parameter["in"] == "path", "{parameter}");
        }
    }
}

#[test]
fn every_json_body_has_an_example_that_fits_its_schema() {
    let document = document();
    for (path, method, operation) in operations(&document) {
        let mut bodies = vec![&operation["requestBody"]["content"]];
        let responses = operation["responses"].as_object().expect("responses");
        bodies.extend(responses.values().map(|response| &response["content"]));
        for (_, media) in bodies.into_iter().filter_map(Value::as_object).flatten() {
            let schema = resolved(&document, &media["schema"]);
            let mut examples: Vec<&Value> = vec![&media["example"], &schema["example"]];
            let named = media["examples"].as_object().into_iter().flatten();
            examples.extend(named.map(|(_, example)| &example["value"]));
            examples.retain(|example| !example.is_null());
            assert!(
                !examples.is_empty(),
                "{method} {path} has a body without an example"
            );
            for example in examples {
                let faults = faults(&document, &media["schema"], example, "example");
                assert!(faults.is_empty(), "{method} {path}: {faults:#?}");
            }
        }
    }
}

#[test]
fn every_operation_names_its_failures_as_problems() {
    for (path, method, operation) in operations(&document()) {
        let responses = operation["responses"].as_object().expect("responses");
        let statuses: Vec<u16> = responses.keys().map(|status| status.parse().unwrap()).collect();
        let mut expected = vec![400, 500];
        if path != "/healthz" {
            expected.push(503);
        }
        if operation["requestBody"].is_object() {
            expected.extend([408, 413, 415, 422]);
        }
        if path.contains("{sessionId}") && method != "delete" {
            expected.extend([404, 410]);
        }
        for status in expected {
            assert!(statuses.contains(&status), "{method} {path} has no {status}");
        }
        assert!(statuses.iter().any(|status| (200..300).contains(status)));
        for (status, response) in responses.iter().filter(|(status, _)| status.as_str() >= "400") {
            let media = response["content"].as_object().expect("a content");
            let types: Vec<&String> = media.keys().collect();
            assert_eq!(types, ["application/problem+json"], "{method} {path} {status}");
            let content = &media["application/problem+json"];
            assert_eq!(content["schema"]["$ref"], "#/components/schemas/Problem");
            for (code, example) in content["examples"].as_object().expect("examples") {
                assert_eq!(example["value"]["code"], code.as_str());
                assert_eq!(example["value"]["status"].to_string(), *status);
                let description = response["description"].as_str().unwrap();
                assert!(description.contains(&format!("`{code}`")), "{description}");
            }
        }
    }
}

#[test]
fn what_can_be_sent_is_closed_to_unknown_fields() {
    let document = document();
    let mut names = BTreeSet::new();
    for (_, _, operation) in operations(&document) {
        for (_, media) in operation["requestBody"]["content"]
            .as_object()
            .into_iter()
            .flatten()
        {
            collect_references(&document, &media["schema"], &mut names);
        }
    }
    let expected = [
        "Completion",
        "EventBatch",
        "NewArchiveRun",
        "NewEvent",
        "NewSession",
        "SessionPatch",
    ];
    assert_eq!(names, BTreeSet::from(expected.map(str::to_owned)));
    for name in names {
        assert_eq!(
            document["components"]["schemas"][&name]["additionalProperties"], false,
            "{name}"
        );
    }
}

fn collect_references(document: &Value, value: &Value, names: &mut BTreeSet<String>) {
    if let Some(path) = value["$ref"].as_str() {
        let name = path.rsplit('/').next().unwrap().to_owned();
        if names.insert(name) {
            collect_references(document, resolved(document, value), names);
        }
    }
    match value {
        Value::Object(fields) => fields
            .values()
            .for_each(|value| collect_references(document, value, names)),
        Value::Array(items) => items
            .iter()
            .for_each(|value| collect_references(document, value, names)),
        _ => {}
    }
}

#[tokio::test]
async fn what_the_server_answers_is_what_the_document_says() {
    let (server, document) = (Server::start().await, document());
    let fits = |name: &str, value: &Value| {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        let faults = faults(&document, &schema, value, name);
        assert!(faults.is_empty(), "{faults:#?}");
    };
    fits("Session", &open(&server, "s").await);
    let whole = json!({
        "sessionId": "t", "userId": "u", "language": "en", "metadata": {"a": {"b": [1]}}, "status": "active",
    });
    fits("Session", &expect(server.post("/v1/sessions", &whole), 201).await);
    fits("Event", &append(&server, "t", &event("e1")).await);
    let events =
        json!({"events": [event("e1"), event("e2"), {"eventId": "e1", "type": "x", "payload": {}}, {}]});
    fits(
        "BatchOutcomes",
        &expect(server.post(&batch_path("t"), &events), 200).await,
    );
    let end = json!({"status": "failed", "reason": "r"});
    fits(
        "Session",
        &expect(server.post("/v1/sessions/t/complete", &end), 200).await,
    );
    fits(
        "SessionWithEvents",
        &expect(server.get("/v1/sessions/t?limit=1"), 200).await,
    );
    fits("EventPage", &expect(server.get(&events_path("t")), 200).await);
    fits(
        "SessionPage",
        &expect(server.get("/v1/sessions?limit=1"), 200).await,
    );
    fits("SessionPage", &expect(server.get("/v1/sessions"), 200).await);
    fits("Health", &expect(server.get("/healthz"), 200).await);
    fits("Readiness", &expect(server.get("/readyz"), 200).await);
    let bad = server.post(&events_path("s"), &json!({"more": 1}));
    fits("Problem", &expect_problem(bad, 422, "validation-failed").await);
    fits(
        "Problem",
        &expect_problem(server.get("/nope"), 404, "route-not-found").await,
    );
}
