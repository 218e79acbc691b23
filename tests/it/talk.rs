//! What most tests say to a server: open, append, read, walk.

use serde_json::{Value, json};

use crate::harness::{Server, expect};

/// Most pages of a walk. Not a measure: a bound that keeps a walk that never ends from hanging a test.
const PAGES_MAX: usize = 2000;

/// What the server shows of itself to Prometheus.
pub async fn metrics(server: &Server) -> String {
    let answer = server.get("/metrics").send().await.expect("an answer");
    answer.text().await.expect("metrics")
}

/// What a series of the server's metrics, named as they show it, has come to.
pub async fn counted(server: &Server, series: &str) -> u64 {
    let count = counted_if_at_all(server, series).await;
    count.expect("it is there from the beginning")
}

/// As [`counted`], of a series that is not there before there is something to count.
pub async fn counted_if_at_all(server: &Server, series: &str) -> Option<u64> {
    let metrics = metrics(server).await;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a whole number"))
}

/// How many requests to this route were answered with this status, as the server counts them.
pub async fn answered(server: &Server, method: &str, route: &str, status: u16) -> u64 {
    let labels = [
        format!("http_request_method=\"{method}\""),
        format!("http_route=\"{route}\""),
        format!("http_response_status_code=\"{status}\""),
    ];
    let counts = metrics(server).await;
    let counts = counts.lines().filter_map(|line| {
        let (series, count) = line.rsplit_once(' ')?;
        let is_it = series.starts_with("http_server_request_duration_seconds_count{");
        (is_it && labels.iter().all(|label| series.contains(label))).then_some(count)
    });
    counts
        .map(|count| count.parse::<u64>().expect("a whole number"))
        .sum()
}

/// Opens a session, which must be new.
pub async fn open(server: &Server, id: &str) -> Value {
    expect(server.post("/v1/sessions", &json!({"sessionId": id})), 201).await
}

/// The session as a read shows it.
pub async fn session(server: &Server, id: &str) -> Value {
    expect(server.get(&format!("/v1/sessions/{id}")), 200).await["session"].take()
}

/// An event for appending.
pub fn event(id: &str) -> Value {
    json!({"eventId": id, "type": "user_speech", "payload": {"text": id}})
}

/// An event that brings its time.
pub fn event_at(id: &str, timestamp: &str) -> Value {
    let mut event = event(id);
    event["timestamp"] = timestamp.into();
    event
}

pub fn events_path(session: &str) -> String {
    format!("/v1/sessions/{session}/events")
}

pub fn batch_path(session: &str) -> String {
    format!("/v1/sessions/{session}/events/batch")
}

/// Appends an event, which must be new; gives it as it was stored.
pub async fn append(server: &Server, session: &str, event: &Value) -> Value {
    expect(server.post(&events_path(session), event), 201).await
}

/// Appends events and gives their outcomes.
pub async fn append_batch(server: &Server, session: &str, events: &[Value]) -> Vec<Value> {
    let body = json!({"events": events});
    let mut answer = expect(server.post(&batch_path(session), &body), 200).await;
    let outcomes = list(answer["outcomes"].take());
    assert_eq!(outcomes.len(), events.len(), "one outcome an event");
    outcomes
}

/// All events of a session, in their order.
pub async fn events(server: &Server, session: &str) -> Vec<Value> {
    walk(server, &format!("{}?limit=500", events_path(session)), "events").await
}

/// Follows the cursors from the first page of `path` to the last; gives all `items`.
pub async fn walk(server: &Server, path: &str, items: &str) -> Vec<Value> {
    let pages = pages(server, path, items).await;
    pages.into_iter().flatten().collect()
}

/// As [`walk`], page by page.
pub async fn pages(server: &Server, path: &str, items: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(url) = next {
        let (page, cursor) = page(server, &url, items).await;
        assert!(cursor.is_none() || !page.is_empty(), "an empty page that goes on");
        next = cursor.map(|cursor| with_cursor(path, &cursor));
        pages.push(page);
        assert!(pages.len() < PAGES_MAX, "{path} does not end");
    }
    pages
}

/// One page: its items, and the cursor of the next.
pub async fn page(server: &Server, path: &str, items: &str) -> (Vec<Value>, Option<String>) {
    let mut answer = expect(server.get(path), 200).await;
    let page = list(answer[items].take());
    let pagination = &answer["pagination"];
    let cursor = pagination["nextCursor"].as_str().map(str::to_owned);
    assert_eq!(pagination["hasMore"], cursor.is_some(), "{pagination}");
    assert!(
        page.len() as u64 <= pagination["limit"].as_u64().expect("a limit"),
        "{path}"
    );
    (page, cursor)
}

pub fn with_cursor(path: &str, cursor: &str) -> String {
    let join = if path.contains('?') { '&' } else { '?' };
    format!("{path}{join}cursor={cursor}")
}

pub fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        other => panic!("not an array: {other}"),
    }
}

/// One field of each, which must be text.
pub fn texts(items: &[Value], field: &str) -> Vec<String> {
    let text = |item: &Value| item[field].as_str().expect("text").to_owned();
    items.iter().map(text).collect()
}
