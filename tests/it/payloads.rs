//! Payloads come back as they were sent, up to their limits.

use reqwest::RequestBuilder;
use serde_json::Value;

use crate::{
    harness::{Server, expect, expect_problem},
    talk::{append, events, events_path, list, open, pages},
};

const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

async fn server() -> Server {
    let server = Server::start().await;
    open(&server, "s").await;
    server
}

/// Appends an event whose payload is `payload`, to the byte.
fn append_payload(server: &Server, id: &str, payload: &str) -> RequestBuilder {
    let body = format!(r#"{{"eventId":"{id}","type":"system","payload":{payload}}}"#);
    let request = server.client.post(server.url(&events_path("s")));
    request.header("content-type", "application/json").body(body)
}

/// The text of the `payload` within the text of an event.
fn payload_in(text: &str) -> &str {
    let start = text.find(r#""payload":"#).expect("a payload") + r#""payload":"#.len();
    let end = text.rfind(r#","timestamp":"#).expect("a timestamp");
    &text[start..end]
}

async fn text_of(request: RequestBuilder, status: u16) -> String {
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), status);
    response.text().await.expect("text")
}

#[tokio::test]
async fn a_payload_comes_back_to_the_byte() {
    let server = server().await;
    let compact = [
        "{}",
        r#"{"":"","a":[],"b":{},"c":[{}],"d":[[]]}"#,
        r#"{"true":true,"false":false,"null":null}"#,
        r#"{"$set":{"a.b":1},"a.b.c":{"$where":"1"},"$":1,".":2,"$id":3,"_id":4,"$oid":"x","$date":"y"}"#,
        r#"{"$numberLong":"1","$binary":{"base64":"","subType":"00"},"__proto__":{"constructor":1}}"#,
        r#"{"nul":"a\u0000b","ctl":"\u0001\u001f\u007f","esc":"\"\\\b\f\n\r\t","slash":"\/"}"#,
        "{\"é\":\"ß\",\"日本\":\"\u{10FFFF}\",\"emoji\":\"👩‍👩‍👧\",\"rtl\":\"שלום\",\"nfd\":\"e\u{301}\",\"bom\":\"\u{feff}\",\"ls\":\"\u{2028}\"}",
        r#"{"max":9223372036854775807,"min":-9223372036854775808,"zero":0,"beyond 2^53":9007199254740993}"#,
        r#"{"z":1,"a":2,"m":{"z":1,"a":2}}"#,
        r#"{"seq":1,"timestamp":"x","eventId":7,"payload":{"payload":{}}}"#,
    ];
    for (at, payload) in compact.iter().enumerate() {
        // What must be escaped comes back in the shortest form; "/" and DEL need no escape.
        let kept = payload.replace("\\/", "/").replace("\\u007f", "\u{7f}");
        let id = format!("e{at}");
        let stored = text_of(append_payload(&server, &id, payload), 201).await;
        assert_eq!(payload_in(&stored), kept);
        let read = text_of(server.get(&format!("{}/{id}", events_path("s"))), 200).await;
        assert_eq!(read, stored);
        let replayed = text_of(append_payload(&server, &id, payload), 200).await;
        assert_eq!(replayed, stored);
    }
}

#[tokio::test]
async fn numbers_keep_their_value() {
    let server = server().await;
    let numbers = [
        "0.1",
        "1e308",
        "1.7976931348623157e308",
        "5e-324",
        "2.2250738585072014e-308",
        "-0.0",
        "0.30000000000000004",
        "1E3",
        "1e-7",
        "123456789.123456789",
        "100000000000000000000.0",
        "9223372036854775808.0",
        "1.0",
    ];
    for (at, number) in numbers.iter().enumerate() {
        let stored = text_of(
            append_payload(&server, &format!("e{at}"), &format!("{{\"n\":{number}}}")),
            201,
        )
        .await;
        let kept = payload_in(&stored);
        let kept = &kept[r#"{"n":"#.len()..kept.len() - 1];
        let (sent, back): (f64, f64) = (number.parse().unwrap(), kept.parse().unwrap());
        assert_eq!(sent.to_bits(), back.to_bits(), "{number} came back as {kept}");
        assert!(
            kept.contains(['.', 'e']),
            "{number} came back as {kept}, an integer"
        );
    }
}

#[tokio::test]
async fn a_payload_may_be_64_levels_deep_and_no_deeper() {
    let server = server().await;
    let objects = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let arrays = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    for (at, deep) in [objects(64), arrays(64)].iter().enumerate() {
        let stored = text_of(append_payload(&server, &format!("e{at}"), deep), 201).await;
        assert_eq!(payload_in(&stored), *deep);
    }
    for deep in [
        objects(65),
        arrays(65),
        objects(150),
        arrays(1000),
        objects(100_000),
    ] {
        let problem = expect_problem(append_payload(&server, "deep", &deep), 422, "validation-failed").await;
        assert!(problem["detail"].as_str().unwrap().contains("64"), "{problem}");
    }
    assert_eq!(events(&server, "s").await.len(), 2);
}

#[tokio::test]
async fn a_payload_may_be_256_kib_and_not_a_byte_more() {
    let server = server().await;
    let filled = |bytes: usize| format!(r#"{{"t":"{}"}}"#, "x".repeat(bytes - r#"{"t":""}"#.len()));
    let full = filled(PAYLOAD_BYTES_MAX);
    assert_eq!(full.len(), PAYLOAD_BYTES_MAX);
    let stored = text_of(append_payload(&server, "full", &full), 201).await;
    assert_eq!(payload_in(&stored), full);
    let over = append_payload(&server, "over", &filled(PAYLOAD_BYTES_MAX + 1));
    let problem = expect_problem(over, 413, "content-too-large").await;
    assert_eq!(problem["errors"][0]["field"], "payload");

    // White space does not count, and what it is written with does not: the compact form does.
    let spaced = full.replace(':', &format!(" : {}", " ".repeat(100_000)));
    assert_eq!(
        text_of(append_payload(&server, "full", &spaced), 200).await,
        stored
    );
    let escaped = format!(r#"{{"t":"{}"}}"#, r"\u0078".repeat(PAYLOAD_BYTES_MAX - 8));
    expect(append_payload(&server, "full", &escaped), 200).await;
    let two_bytes = format!(r#"{{"t":"{}"}}"#, "é".repeat(PAYLOAD_BYTES_MAX / 2));
    expect_problem(append_payload(&server, "é", &two_bytes), 413, "content-too-large").await;
    assert_eq!(events(&server, "s").await.len(), 1);
}

#[tokio::test]
async fn a_page_of_large_events_ends_early_and_the_walk_goes_on_to_the_end() {
    let server = server().await;
    let text = "x".repeat(PAYLOAD_BYTES_MAX - r#"{"t":""}"#.len());
    let mut expected = Vec::new();
    for at in 0..18 {
        let sent = serde_json::json!({"eventId": format!("e{at:02}"), "type": "x", "payload": {"t": text}});
        expected.push(append(&server, "s", &sent).await["eventId"].take());
    }
    for path in ["/v1/sessions/s/events?limit=500", "/v1/sessions/s?limit=500"] {
        // 4 MiB of payload are sixteen such events.
        check_pages(pages(&server, path, "events").await, &[16, 2], &expected);
        expected.reverse();
        let downwards = pages(&server, &format!("{path}&order=desc"), "events").await;
        check_pages(downwards, &[16, 2], &expected);
        expected.reverse();
    }
    let by_ten = pages(&server, "/v1/sessions/s/events?limit=10", "events").await;
    check_pages(by_ten, &[10, 8], &expected);
}

fn check_pages(pages: Vec<Vec<Value>>, sizes: &[usize], ids: &[Value]) {
    let got: Vec<usize> = pages.iter().map(Vec::len).collect();
    assert_eq!(got, sizes);
    let got: Vec<Value> = pages
        .concat()
        .iter_mut()
        .map(|event| event["eventId"].take())
        .collect();
    assert_eq!(got, ids);
}

#[tokio::test]
async fn one_event_always_fits_on_a_page() {
    let folder = crate::harness::folder();
    let server = Server::start_in(folder, &["--set", "page_payload_bytes_max=262144"]).await;
    open(&server, "s").await;
    let text = "x".repeat(PAYLOAD_BYTES_MAX - r#"{"t":""}"#.len());
    for id in ["a", "b", "c"] {
        let sent = serde_json::json!({"eventId": id, "type": "x", "payload": {"t": text}});
        append(&server, "s", &sent).await;
    }
    let sizes: Vec<usize> = pages(&server, "/v1/sessions/s/events", "events")
        .await
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(sizes, [1, 1, 1]);
    let read = expect(server.get("/v1/sessions/s"), 200).await;
    assert_eq!(list(read["events"].clone()).len(), 1);
}
