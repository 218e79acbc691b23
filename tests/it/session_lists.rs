//! Listing sessions: newest first, filtered, page by page.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    harness::{Server, expect, expect_problem},
    talk::{append, event, events_path, list, open, page, pages, session, texts, walk, with_cursor},
};

const USERS: [&str; 2] = ["ann", "bob"];
const STATUSES: [&str; 4] = ["initiated", "active", "completed", "failed"];
const COUNT: usize = 40;

fn started(minute: usize) -> String {
    format!("2026-09-01T08:{minute:02}:00.000Z")
}

/// Sessions of all users and states; every start is shared by about three of them, and their ids rise and fall.
async fn peopled() -> (Server, Vec<Value>) {
    let server = Server::start().await;
    let made = (0..COUNT).map(|at| make(&server, at));
    join_all(made).await;
    let mut sessions = Vec::new();
    for at in 0..COUNT {
        sessions.push(session(&server, &id(at)).await);
    }
    let key = |session: &Value| (session["startedAt"].to_string(), session["sessionId"].to_string());
    sessions.sort_by_key(key);
    sessions.reverse();
    (server, sessions)
}

fn id(at: usize) -> String {
    format!("s{:02}", at * 17 % COUNT)
}

async fn make(server: &Server, at: usize) {
    let id = id(at);
    let mut body = json!({"sessionId": id, "startedAt": started(at * 7 % 13)});
    if let Some(user) = USERS.get(at % 3) {
        body["userId"] = (*user).into();
    }
    expect(server.post("/v1/sessions", &body), 201).await;
    let status = STATUSES[at / 3 % 4];
    if status == "active" {
        append(server, &id, &event("e")).await;
    } else if status != "initiated" {
        let end = json!({"status": status});
        expect(server.post(&format!("/v1/sessions/{id}/complete"), &end), 200).await;
    }
}

#[tokio::test]
async fn sessions_are_listed_newest_first_then_by_id_downwards() {
    let (server, sessions) = peopled().await;
    let answer = expect(server.get("/v1/sessions"), 200).await;
    assert_eq!(answer["sessions"], json!(sessions));
    assert_eq!(answer["pagination"], json!({"limit": 50, "hasMore": false}));
}

#[tokio::test]
async fn a_walk_lists_every_session_once_whatever_the_size_of_its_pages() {
    let (server, sessions) = peopled().await;
    for limit in [1, 2, 3, 7, COUNT - 1, COUNT, COUNT + 1, 500] {
        let pages = pages(&server, &format!("/v1/sessions?limit={limit}"), "sessions").await;
        let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
        let expected: Vec<usize> = sessions.chunks(limit).map(<[Value]>::len).collect();
        assert_eq!(sizes, expected, "limit {limit}");
        assert_eq!(pages.concat(), sessions, "limit {limit}");
    }
}

#[tokio::test]
async fn filters_add_up() {
    let (server, sessions) = peopled().await;
    let users = USERS.iter().map(|user| Some(*user)).chain([None, Some("nobody")]);
    let bounds = [None, Some(0), Some(5), Some(6), Some(12)];
    let mut kept_any = 0;
    for user in users {
        for status in STATUSES.iter().map(|status| Some(*status)).chain([None]) {
            for (after, before) in bounds
                .iter()
                .flat_map(|after| bounds.iter().map(move |before| (*after, *before)))
            {
                // Half of the combinations, evenly: the rest tells nothing new.
                if (after.unwrap_or(1) + before.unwrap_or(2) + status.map_or(0, str::len)) % 2 == 0 {
                    continue;
                }
                let expected: Vec<Value> = sessions
                    .iter()
                    .filter(|session| {
                        let start = session["startedAt"].as_str().unwrap();
                        user.is_none_or(|user| session["userId"] == user)
                            && status.is_none_or(|status| session["status"] == status)
                            && after.is_none_or(|at| start >= started(at).as_str())
                            && before.is_none_or(|at| start < started(at).as_str())
                    })
                    .cloned()
                    .collect();
                let query = [
                    user.map(|user| format!("userId={user}")),
                    status.map(|status| format!("status={status}")),
                    after.map(|at| format!("startedAfter={}", started(at))),
                    before.map(|at| format!("startedBefore={}", started(at))),
                    Some(String::from("limit=3")),
                ];
                let query: Vec<String> = query.into_iter().flatten().collect();
                let path = format!("/v1/sessions?{}", query.join("&"));
                assert_eq!(walk(&server, &path, "sessions").await, expected, "{path}");
                kept_any += usize::from(!expected.is_empty());
            }
        }
    }
    assert!(
        kept_any > 50,
        "most filters should let something through: {kept_any}"
    );
}

#[tokio::test]
async fn adjacent_windows_share_no_session_and_leave_none_out() {
    let server = Server::start().await;
    // A midnight, with a session a millisecond on either side of it; what is finer is dropped, of sessions and windows.
    let starts = [
        "23:59:59.999",
        "23:59:59.9999",
        "00:00:00.000",
        "00:00:00.0009",
        "00:00:00.001",
    ];
    for (at, start) in starts.iter().enumerate() {
        let day = if start.starts_with("23") {
            "2026-09-01"
        } else {
            "2026-09-02"
        };
        let body =
            json!({"sessionId": format!("s{at}"), "userId": "u", "startedAt": format!("{day}T{start}Z")});
        expect(server.post("/v1/sessions", &body), 201).await;
    }
    let window = async |after: &str, before: &str, more: &str| {
        let path = format!("/v1/sessions?startedAfter={after}&startedBefore={before}&limit=1{more}");
        let mut found = texts(&walk(&server, &path, "sessions").await, "sessionId");
        found.sort();
        found
    };
    for more in ["", "&userId=u", "&status=initiated", "&userId=u&status=initiated"] {
        for midnight in [
            "2026-09-02T00:00:00Z",
            "2026-09-02T00:00:00.0005Z",
            "2026-09-02T02:00:00.000%2B02:00",
        ] {
            let day = window("2026-09-01T00:00:00Z", midnight, more).await;
            assert_eq!(day, ["s0", "s1"], "{midnight} {more}");
            let next = window(midnight, "2026-09-03T00:00:00Z", more).await;
            assert_eq!(next, ["s2", "s3", "s4"], "{midnight} {more}");
            assert!(window(midnight, midnight, more).await.is_empty());
        }
        let one = window("2026-09-01T23:59:59.999Z", "2026-09-02T00:00:00Z", more).await;
        assert_eq!(one, ["s0", "s1"], "{more}");
    }
}

#[tokio::test]
async fn a_time_may_be_given_with_any_offset() {
    let (server, _) = peopled().await;
    let utc = walk(
        &server,
        "/v1/sessions?startedAfter=2026-09-01T08:05:00Z",
        "sessions",
    )
    .await;
    let offset = "/v1/sessions?startedAfter=2026-09-01T10:05:00.000%2B02:00";
    assert_eq!(walk(&server, offset, "sessions").await, utc);
    assert!(!utc.is_empty());
}

#[tokio::test]
async fn a_walk_is_not_disturbed_by_sessions_that_come_and_go_ahead_of_it() {
    let (server, sessions) = peopled().await;
    let first = "/v1/sessions?limit=10";
    let (mut seen, cursor) = page(&server, first, "sessions").await;
    // Newer than all, so behind the walk; and the one at the edge of the page goes.
    open(&server, "new").await;
    let edge = format!("/v1/sessions/{}", seen[9]["sessionId"].as_str().unwrap());
    server.delete(&edge).send().await.unwrap();
    let next = with_cursor(first, &cursor.unwrap());
    let (more, cursor) = page(&server, &next, "sessions").await;
    seen.extend(more);
    seen.extend(walk_from(&server, first, cursor).await);
    assert_eq!(texts(&seen, "sessionId"), texts(&sessions, "sessionId"));
}

async fn walk_from(server: &Server, path: &str, mut cursor: Option<String>) -> Vec<Value> {
    let mut rest = Vec::new();
    while let Some(at) = cursor {
        let (items, next) = page(server, &with_cursor(path, &at), "sessions").await;
        rest.extend(items);
        cursor = next;
    }
    rest
}

#[tokio::test]
async fn a_cursor_of_another_listing_is_refused() {
    let (server, _) = peopled().await;
    let (_, cursor) = page(&server, "/v1/sessions?limit=1", "sessions").await;
    let cursor = cursor.unwrap();
    // The limit may change on the way.
    expect(server.get(&with_cursor("/v1/sessions?limit=2", &cursor)), 200).await;
    expect(server.get(&with_cursor("/v1/sessions", &cursor)), 200).await;
    for other in [
        "/v1/sessions?status=active",
        "/v1/sessions?userId=ann",
        "/v1/sessions?startedAfter=2020-01-01T00:00:00Z",
        "/v1/sessions?startedBefore=2030-01-01T00:00:00Z",
        "/v1/sessions/s00",
        "/v1/sessions/s00/events",
    ] {
        expect_problem(server.get(&with_cursor(other, &cursor)), 400, "invalid-cursor").await;
    }

    open(&server, "talk").await;
    for id in ["a", "b"] {
        append(&server, "talk", &event(id)).await;
    }
    let (_, of_events) = page(&server, &format!("{}?limit=1", events_path("talk")), "events").await;
    for bad in [
        &of_events.unwrap(),
        "",
        "x",
        "....",
        "%00",
        "%ff",
        &cursor[1..],
        &cursor[..9],
    ] {
        let path = with_cursor("/v1/sessions", bad);
        expect_problem(server.get(&path), 400, "invalid-cursor").await;
    }
}

#[tokio::test]
async fn a_change_shows_in_the_next_listing() {
    let server = Server::start().await;
    open(&server, "s").await;
    let of = async |filter: &str| {
        let path = format!("/v1/sessions?{filter}");
        list(expect(server.get(&path), 200).await["sessions"].take()).len()
    };
    assert_eq!((of("status=initiated").await, of("status=active").await), (1, 0));
    append(&server, "s", &event("e")).await;
    assert_eq!((of("status=initiated").await, of("status=active").await), (0, 1));
    assert_eq!(of("userId=u").await, 0);
    expect(server.patch("/v1/sessions/s", &json!({"userId": "u"})), 200).await;
    assert_eq!(of("userId=u&status=active").await, 1);
    expect(server.post("/v1/sessions/s/complete", &json!({})), 200).await;
    assert_eq!((of("status=active").await, of("status=completed").await), (0, 1));
    expect(server.patch("/v1/sessions/s", &json!({"userId": null})), 200).await;
    assert_eq!((of("userId=u").await, of("").await), (0, 1));
}
