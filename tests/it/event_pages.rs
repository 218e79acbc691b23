//! Paging events: in order, either way, whatever happens meanwhile (I4).

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    harness::{Server, expect, expect_problem},
    talk::{
        append, append_batch, event, event_at, events, events_path, list, open, page, texts, walk,
        with_cursor,
    },
};

const COUNT: usize = 60;
const TYPES: [&str; 3] = ["user_speech", "bot_speech", "system"];

fn at_second(second: usize) -> String {
    format!("2026-09-01T08:00:{second:02}.000Z")
}

/// A session `s` whose events arrive out of order, five to a timestamp, in batches and one by one; with what a walk
/// must give.
async fn talked() -> (Server, Vec<Value>) {
    let server = Server::start().await;
    open(&server, "s").await;
    let mut sent: Vec<Value> = (0..COUNT).map(one).collect();
    let singly = sent.split_off(COUNT - 6);
    append_batch(&server, "s", &sent).await;
    for event in &singly {
        append(&server, "s", event).await;
    }
    let mut stored = Vec::new();
    for at in 0..COUNT {
        let path = format!("{}/{}", events_path("s"), id(at));
        stored.push(expect(server.get(&path), 200).await);
    }
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let key = |event: &Value| {
        (
            text(event, "timestamp"),
            event["seq"].as_i64().unwrap(),
            text(event, "eventId"),
        )
    };
    stored.sort_by_key(key);
    (server, stored)
}

fn id(at: usize) -> String {
    format!("e{:02}", at * 37 % COUNT)
}

fn one(at: usize) -> Value {
    let mut event = event_at(&id(at), &at_second(at * 23 % 12));
    event["type"] = TYPES[at % 3].into();
    event
}

fn reversed(items: &[Value]) -> Vec<Value> {
    items.iter().rev().cloned().collect()
}

#[tokio::test]
async fn a_walk_gives_every_event_once_in_order_either_way_with_any_limit() {
    let (server, stored) = talked().await;
    let backwards = reversed(&stored);
    for limit in (1..=COUNT + 1).step_by(2).chain([2, 10, COUNT, 500]) {
        for path in ["/v1/sessions/s/events", "/v1/sessions/s"] {
            // The second path walks the same way; a few limits are enough for it.
            if path == "/v1/sessions/s" && limit % 7 != 0 {
                continue;
            }
            let up = walk(&server, &format!("{path}?limit={limit}"), "events").await;
            assert_eq!(up, stored, "{path} by {limit}");
            let down = walk(&server, &format!("{path}?order=desc&limit={limit}"), "events").await;
            assert_eq!(down, backwards, "{path} by {limit}");
        }
    }
    assert_eq!(
        walk(&server, "/v1/sessions/s/events?order=asc", "events").await,
        stored
    );
}

#[tokio::test]
async fn the_last_page_says_that_it_is_the_last() {
    let (server, _) = talked().await;
    let path = format!("/v1/sessions/s/events?limit={COUNT}");
    assert_eq!(page(&server, &path, "events").await.1, None);
    let path = format!("/v1/sessions/s/events?limit={}", COUNT / 2);
    let (first, cursor) = page(&server, &path, "events").await;
    let (second, end) = page(&server, &with_cursor(&path, &cursor.unwrap()), "events").await;
    assert_eq!((first.len(), second.len(), end), (COUNT / 2, COUNT / 2, None));
    // Without a limit it is fifty.
    let answer = expect(server.get("/v1/sessions/s/events"), 200).await;
    assert_eq!(answer["pagination"]["limit"], 50);
    assert_eq!(answer["events"].as_array().unwrap().len(), 50);
}

#[tokio::test]
async fn filters_of_type_and_time_add_up() {
    let (server, stored) = talked().await;
    let bounds = [None, Some(0), Some(4), Some(5), Some(12)];
    for event_type in TYPES.iter().map(|name| Some(*name)).chain([None, Some("other")]) {
        for (since, until) in bounds
            .iter()
            .flat_map(|since| bounds.iter().map(move |until| (*since, *until)))
        {
            let kept: Vec<Value> = stored
                .iter()
                .filter(|event| {
                    let at = event["timestamp"].as_str().unwrap();
                    event_type.is_none_or(|name| event["type"] == name)
                        && since.is_none_or(|since| at >= at_second(since).as_str())
                        && until.is_none_or(|until| at < at_second(until).as_str())
                })
                .cloned()
                .collect();
            let query = [
                event_type.map(|name| format!("&type={name}")),
                since.map(|second| format!("&since={}", at_second(second))),
                until.map(|second| format!("&until={}", at_second(second))),
            ];
            let query: String = query.into_iter().flatten().collect();
            let path = format!("/v1/sessions/s/events?limit=7{query}");
            assert_eq!(walk(&server, &path, "events").await, kept, "{path}");
            if since != until {
                let path = format!("{path}&order=desc");
                assert_eq!(walk(&server, &path, "events").await, reversed(&kept), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_cursor_serves_only_the_walk_it_came_from() {
    let (server, _) = talked().await;
    open(&server, "t").await;
    append(&server, "t", &event("e00")).await;
    let path = "/v1/sessions/s/events?limit=5";
    let (first, cursor) = page(&server, path, "events").await;
    let cursor = cursor.unwrap();
    // The two ways to read a session's events take each other's cursors; the limit may change on the way.
    let (next, _) = page(&server, &with_cursor(path, &cursor), "events").await;
    for same in [
        "/v1/sessions/s?limit=5",
        "/v1/sessions/s/events?limit=5&order=asc",
    ] {
        assert_eq!(page(&server, &with_cursor(same, &cursor), "events").await.0, next);
    }
    assert_ne!(first, next);
    for other in [
        "/v1/sessions/s/events?order=desc",
        "/v1/sessions/s?order=desc",
        "/v1/sessions/s/events?type=system",
        "/v1/sessions/s/events?since=2026-09-01T08:00:00Z",
        "/v1/sessions/s/events?until=2026-09-01T08:00:30Z",
        "/v1/sessions/t/events",
        "/v1/sessions/t",
        "/v1/sessions",
    ] {
        expect_problem(server.get(&with_cursor(other, &cursor)), 400, "invalid-cursor").await;
    }
    let flipped = format!("{}{}", &cursor[1..], &cursor[..1]);
    let padded = format!("{cursor}=");
    let longer = format!("{cursor}AAAA");
    let long = "A".repeat(5000);
    for bad in [
        "", "0", "null", "%2F", "%00", "%ff", "💥", &flipped, &padded, &longer, &long,
    ] {
        for path in ["/v1/sessions/s/events", "/v1/sessions/s"] {
            expect_problem(server.get(&with_cursor(path, bad)), 400, "invalid-cursor").await;
        }
    }
}

#[tokio::test]
async fn a_cursor_outlives_the_server_that_gave_it() {
    let (server, stored) = talked().await;
    let path = "/v1/sessions/s/events?limit=13";
    let (mut seen, mut cursor) = page(&server, path, "events").await;
    let server = Server::start_in(server.kill(), &[]).await;
    while let Some(at) = cursor {
        let (items, next) = page(&server, &with_cursor(path, &at), "events").await;
        seen.extend(items);
        cursor = next;
    }
    assert_eq!(seen, stored);
}

#[tokio::test]
async fn the_end_of_a_walk_is_where_a_later_one_would_go_on() {
    let server = Server::start().await;
    open(&server, "s").await;
    let (none, end) = page(&server, "/v1/sessions/s/events", "events").await;
    assert_eq!((none.len(), end), (0, None));
    for id in ["a", "b"] {
        append(&server, "s", &event(id)).await;
    }
    let (_, cursor) = page(&server, "/v1/sessions/s/events?limit=1", "events").await;
    let next = with_cursor("/v1/sessions/s/events?limit=1", &cursor.unwrap());
    assert_eq!(texts(&page(&server, &next, "events").await.0, "eventId"), ["b"]);
    append(&server, "s", &event("c")).await;
    let (page, more) = page(&server, &next, "events").await;
    assert_eq!(texts(&page, "eventId"), ["b"]);
    assert!(more.is_some());
}

#[tokio::test]
async fn a_walk_meets_every_event_that_was_there_once_while_others_are_appended() {
    let (server, stored) = talked().await;
    for order in ["asc", "desc"] {
        let expected = if order == "asc" {
            stored.clone()
        } else {
            reversed(&stored)
        };
        let (done, appended) = (AtomicBool::new(false), Notify::new());
        let append_on = async {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                // All over the range that is walked, and beyond both of its ends.
                let second = [59, 0, 6, 11, 3, 9, 1, 30][count % 8];
                let sent = event_at(&format!("{order}-{count}"), &at_second(second));
                append(&server, "s", &sent).await;
                count += 1;
                appended.notify_one();
            }
            count
        };
        let walk_on = async {
            let path = format!("/v1/sessions/s/events?limit=3&order={order}");
            let (mut seen, mut cursor) = page(&server, &path, "events").await;
            while let Some(at) = cursor {
                appended.notified().await;
                let (items, next) = page(&server, &with_cursor(&path, &at), "events").await;
                seen.extend(items);
                cursor = next;
                // Events that come faster than pages would keep an upward walk from ever ending.
                done.fetch_or(seen.len() > 4 * COUNT, Ordering::Relaxed);
                if done.load(Ordering::Relaxed) {
                    appended.notify_one();
                }
            }
            done.store(true, Ordering::Relaxed);
            seen
        };
        let (count, seen) = tokio::join!(append_on, walk_on);
        assert!(count >= COUNT / 3, "only {count} events came meanwhile");
        let ids: HashSet<&str> = seen.iter().map(|one| one["eventId"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), seen.len(), "nothing is repeated");
        let old: Vec<Value> = seen
            .into_iter()
            .filter(|event| event["eventId"].as_str().unwrap().starts_with('e'))
            .collect();
        assert_eq!(old, expected, "nothing is left out");
    }
    assert!(events(&server, "s").await.len() > COUNT);
}

#[tokio::test]
async fn a_read_with_min_seq_shows_the_event_that_got_it() {
    let server = Server::start().await;
    open(&server, "s").await;
    for at in 0..5 {
        let stored = append(&server, "s", &event(&format!("e{at}"))).await;
        let path = format!("/v1/sessions/s?order=desc&limit=1&minSeq={}", stored["seq"]);
        let read = expect(server.get(&path), 200).await;
        assert_eq!(list(read["events"].clone()), [stored]);
    }
    for fine in [json!(0), json!(-1), json!(i64::MAX), json!(i64::MIN)] {
        expect(server.get(&format!("/v1/sessions/s?minSeq={fine}")), 200).await;
    }
    for bad in ["", "x", "1.0", "%2B5", "9223372036854775808"] {
        let problem = expect_problem(
            server.get(&format!("/v1/sessions/s?minSeq={bad}")),
            400,
            "invalid-parameter",
        )
        .await;
        assert_eq!(problem["errors"][0]["field"], "minSeq");
    }
}
