//! The whole API over HTTP on MongoDB, with the profiler on: what reaches the server keeps the rule of `statements`.
//! The API suite does the same at length when it runs on MongoDB; see `backends`.

use std::collections::BTreeSet;

use mongodb::bson::{Document, doc};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    database,
    statements::{faults, seen},
};
use crate::{
    backends::Store,
    harness::{Server, expect, folder},
};

/// Every operation, in an order in which each has something to do: method, path, body, status.
fn operations() -> Vec<(Method, &'static str, Value, u16)> {
    let event = |id: &str| json!({"eventId": id, "type": "system", "payload": {"n": 1}});
    let session = "/v1/sessions/{sessionId}";
    let events = "/v1/sessions/{sessionId}/events";
    vec![
        (Method::GET, "/healthz", Value::Null, 200),
        (Method::GET, "/readyz", Value::Null, 200),
        (
            Method::POST,
            "/v1/sessions",
            json!({"sessionId": "s", "userId": "u"}),
            201,
        ),
        (Method::POST, "/v1/sessions", json!({"sessionId": "s"}), 200),
        (Method::POST, events, event("e"), 201),
        (Method::POST, events, event("e"), 200),
        (
            Method::POST,
            "/v1/sessions/{sessionId}/events/batch",
            json!({"events": [event("e"), event("f")]}),
            200,
        ),
        (
            Method::GET,
            "/v1/sessions/{sessionId}/events/{eventId}",
            Value::Null,
            200,
        ),
        (Method::GET, events, Value::Null, 200),
        (Method::GET, session, Value::Null, 200),
        (Method::PATCH, session, json!({"metadata": {"plan": "gold"}}), 200),
        (Method::GET, "/v1/sessions", Value::Null, 200),
        (Method::POST, "/v1/sessions/{sessionId}/complete", json!({}), 200),
        (Method::POST, "/v1/sessions/{sessionId}/restore", Value::Null, 200),
        (
            Method::POST,
            "/v1/admin/archive/runs",
            json!({"olderThan": "0s"}),
            202,
        ),
        (Method::GET, "/v1/admin/archive/runs", Value::Null, 200),
        (Method::DELETE, session, Value::Null, 204),
    ]
}

#[test]
fn no_operation_is_left_out() {
    let document: Value = serde_json::from_str(include_str!("../../../openapi/openapi.json")).unwrap();
    let mut declared = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        declared.extend(
            item.as_object()
                .unwrap()
                .keys()
                .map(|method| (method.to_uppercase(), path.clone())),
        );
    }
    let used: BTreeSet<_> = operations()
        .into_iter()
        .map(|(method, path, ..)| (method.to_string(), path.to_owned()))
        .collect();
    assert_eq!(used, declared);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_one_shard_and_what_asks_more_is_noticed() {
    let folder = folder();
    let backends = Store::MongoDb.flags(folder.path());
    let url = backends[0].trim_start_matches("--store=");
    let database = database(url).await;
    let server = Server::start_on(folder.clone(), &backends, &[]).await;
    for (method, path, body, status) in operations() {
        let path = path.replace("{sessionId}", "s").replace("{eventId}", "e");
        let mut request = server.client.request(method, server.url(&path));
        if !body.is_null() {
            request = request.json(&body);
        }
        assert_eq!(request.send().await.unwrap().status(), status, "{path}");
    }
    expect(server.get("/v1/sessions/s"), 410).await;
    assert!(server.stop().await.success());
    let statements = seen(&database).await;
    assert!(statements.len() > 20, "{}", statements.len());
    assert_eq!(faults(&statements), [""; 0]);

    // The same rule, on the same profile, does not let this pass.
    let events = database.collection::<Document>("events");
    events
        .find_one(doc! { "eventId": "e" })
        .comment("colloquy: events by id")
        .await
        .unwrap();
    let breaches = faults(&seen(&database).await);
    assert_eq!(breaches.len(), 1, "{breaches:?}");
    assert!(breaches[0].starts_with("a broadcast: "), "{breaches:?}");
    // Nor can a test end with it, which is how the API suite would learn of it.
    let ending = std::thread::spawn(move || drop(folder));
    assert!(ending.join().is_err(), "the folder went as if nothing were");
}
