//! What the cache answers, and what it leaves to the store.

use super::*;
use crate::{
    harness::{Server, expect, folder},
    talk::{append, counted, counted_if_at_all, event, open},
};

/// Every page that can be asked for, by the cache's replica and by the store alone, until both have walked through.
async fn assert_same_pages(house: &House, replica: &Replica, session: &str) -> (usize, usize) {
    let alone = Service::new(
        Arc::clone(&house.store),
        Arc::new(colloquy::cache::NoCache),
        limits(),
    );
    let alone = Replica {
        service: alone,
        cache: Arc::clone(&replica.cache),
    };
    let (mut cached, mut stored) = (0, 0);
    for order in [Order::Ascending, Order::Descending] {
        for limit in ["1", "2", "3", "7", "500"] {
            let mut cursor: Option<String> = None;
            loop {
                let query = PageQuery {
                    order,
                    limit: limit.parse().unwrap(),
                    cursor: cursor.as_deref(),
                    ..PageQuery::default()
                };
                let (ours, theirs) = (
                    replica.read(session, &query).await,
                    alone.read(session, &query).await,
                );
                *(if ours.cached { &mut cached } else { &mut stored }) += 1;
                assert_eq!(
                    Read {
                        cached: false,
                        ..ours.clone()
                    },
                    theirs,
                    "{order:?} {limit} {cursor:?}"
                );
                cursor = ours.cursor;
                if cursor.is_none() {
                    break;
                }
            }
        }
    }
    (cached, stored)
}

#[tokio::test]
async fn a_session_is_cached_from_its_second_read() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica
        .open("s", r#"{"userId":"u","metadata":{"a":[1,{"b":"ü"}]}}"#)
        .await;
    for n in 0..5 {
        replica.append("s", &format!("e-{n}"), 1_000 + n).await;
    }
    let first = replica.read("s", &PageQuery::default()).await;
    assert!(!first.cached);
    let second = replica.read_cached("s", &PageQuery::default()).await;
    assert_eq!(
        Read {
            cached: false,
            ..second.clone()
        },
        first
    );
    assert_eq!(second.ids(), ["e-0", "e-1", "e-2", "e-3", "e-4"]);
    assert_eq!(replica.cache.health(), Health::Ok);
}

#[tokio::test]
async fn what_is_appended_to_a_cached_session_is_in_the_cache() {
    let house = House::new().await;
    let (a, b) = (house.replica().await, house.replica().await);
    a.open("s", r#"{"status":"active"}"#).await;
    b.read_cached("s", &PageQuery::default()).await;
    for (at, n) in [5, 3, 9, 3, 1].into_iter().enumerate() {
        a.append("s", &format!("e-{at}"), n).await;
        let read = b.read("s", &PageQuery::default()).await;
        assert!(read.cached, "{:?}", b.service.cache_outcomes());
        a.read("s", &newest("2")).await;
    }
    // Replayed: it is there once.
    a.append("s", "e-0", 5).await;
    let (cached, stored) = assert_same_pages(&house, &b, "s").await;
    assert!(cached > 10 && stored == 0, "{cached} {stored}");
    let read = b.read("s", &newest("500")).await;
    assert_eq!(read.events.len(), 5, "{read:?}");
}

#[tokio::test]
async fn a_change_of_a_cached_session_is_in_the_cache() {
    let house = House::new().await;
    let (a, b) = (house.replica().await, house.replica().await);
    a.open("s", r#"{"status":"active"}"#).await;
    b.read_cached("s", &PageQuery::default()).await;
    let patch = SessionPatch {
        language: Some(Some("de".parse().unwrap())),
        ..SessionPatch::default()
    };
    a.service.update(&key("s"), &patch, &Expected::Any).await.unwrap();
    let read = b.read("s", &PageQuery::default()).await;
    assert!(read.cached);
    assert_eq!(
        (&read.session["language"], &read.session["version"]),
        (&"de".into(), &2.into())
    );

    a.service.complete(&key("s"), &End::default()).await.unwrap();
    let read = b.read("s", &PageQuery::default()).await;
    assert!(read.cached);
    assert_eq!(read.session["status"], "completed");

    a.service.erase(&key("s")).await.unwrap();
    let read = b
        .service
        .read_session(&key("s"), &PageQuery::default(), render)
        .await;
    assert_eq!(read.unwrap_err().kind(), colloquy::domain::Kind::SessionErased);
}

#[tokio::test]
async fn an_entry_of_the_newest_events_answers_what_they_suffice_for() {
    let house = House::new().await;
    let replica = house
        .replica_with(RedisOptions {
            events_max: Limit::at_most(10),
            ..options()
        })
        .await;
    replica.open("s", r#"{"status":"active"}"#).await;
    for n in 0..25 {
        replica.append("s", &format!("e-{n}"), n / 4).await;
    }
    replica.read_cached("s", &newest("5")).await;
    let (cached, stored) = assert_same_pages(&house, &replica, "s").await;
    assert!(cached > 5 && stored > 5, "{cached} {stored}");
    // Older than all that is here, and among them, and newer.
    for timestamp in [0, 5, 100] {
        replica.append("s", &format!("late-{timestamp}"), timestamp).await;
        assert_same_pages(&house, &replica, "s").await;
    }
    assert!(replica.outcome("bypass_beyond") > 0);
}

#[tokio::test]
async fn an_entry_is_bounded_in_bytes() {
    let house = House::new().await;
    let replica = house
        .replica_with(RedisOptions {
            session_bytes_max: 1_000,
            ..options()
        })
        .await;
    replica.open("s", r#"{"status":"active"}"#).await;
    replica.read_cached("s", &newest("3")).await;
    for n in 0..20 {
        replica.append("s", &format!("e-{n}"), n).await;
        assert_same_pages(&house, &replica, "s").await;
    }
    let read = replica.read("s", &newest("3")).await;
    assert!(read.cached);
    assert!(!replica.read("s", &newest("20")).await.cached);
}

#[tokio::test]
async fn a_filtered_page_is_the_stores() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", r#"{"status":"active"}"#).await;
    replica.append("s", "e", 5).await;
    replica.read_cached("s", &PageQuery::default()).await;
    let query = PageQuery {
        filter: colloquy::domain::EventFilter {
            event_type: Some("system".parse().unwrap()),
            since: None,
            until: None,
        },
        ..PageQuery::default()
    };
    let page = replica
        .service
        .read_events(&key("s"), &query, render)
        .await
        .unwrap();
    assert!(Shown::read(&page).events.is_empty());
    assert_eq!(replica.outcome("bypass_filtered"), 1);
    let hits = replica.hits();
    let page = replica
        .service
        .read_events(&key("s"), &PageQuery::default(), render)
        .await
        .unwrap();
    assert_eq!(Shown::read(&page).events.len(), 1);
    assert_eq!(replica.hits(), hits + 1);
}

#[tokio::test]
async fn a_read_that_must_know_a_seq_gets_no_older_answer() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", r#"{"status":"active"}"#).await;
    let seq = replica.append("s", "e", 5).await;
    assert!(replica.read_cached("s", &wanting(seq)).await.cached);
    // Of a number that no event of the page has nothing is known, as little as of a greater one.
    for other in [seq + 1, i64::MAX, seq - 1, 0, i64::MIN] {
        assert!(!replica.read("s", &wanting(other)).await.cached, "{other}");
    }
    assert_eq!(replica.outcome("bypass_behind"), 5);
    // It is in the entry, but not on the page.
    let later = replica.append("s", "later", 6).await;
    let newest = |min_seq| PageQuery {
        min_seq: Some(min_seq),
        ..newest("1")
    };
    assert!(replica.read("s", &newest(later)).await.cached);
    assert!(!replica.read("s", &newest(seq)).await.cached);
}

fn wanting(min_seq: i64) -> PageQuery<'static> {
    PageQuery {
        min_seq: Some(min_seq),
        ..PageQuery::default()
    }
}

/// As after a write that a replica could not announce for too long.
#[tokio::test]
async fn an_entry_that_lacks_an_event_is_no_answer_to_a_reader_who_wants_it() {
    let house = House::new().await;
    let (a, b) = (house.replica().await, house.replica().await);
    a.open("s", r#"{"status":"active"}"#).await;
    a.append("s", "first", 1).await;
    b.read_cached("s", &PageQuery::default()).await;
    let lacking = a.append_stored(&house, "lacking", 2).await.event.seq;
    // It has a greater seq than the one that is lacking, and may be read from a copy.
    let later = a.append("s", "later", 3).await;
    assert!(later > lacking);
    for _ in 0..2 {
        let read = b.read("s", &wanting(later)).await;
        assert_eq!((read.cached, read.ids()), (true, vec!["first", "later"]));
        b.read("s", &PageQuery::default()).await;
    }
    let read = b.read("s", &wanting(lacking)).await;
    assert_eq!(read.ids(), ["first", "lacking", "later"]);
    let page = b.service.read_events(&key("s"), &wanting(lacking), render).await;
    assert_eq!(Shown::read(&page.unwrap()).events.len(), 3);
}

#[tokio::test]
async fn numbers_come_from_a_clock_that_replicas_share() {
    let house = House::new().await;
    let (a, b) = (house.replica().await, house.replica().await);
    a.open("s", "{}").await;
    let mut last = 0;
    for n in 0..20 {
        let replica = if n % 2 == 0 { &a } else { &b };
        let seq = replica.append("s", &format!("e-{n}"), 5).await;
        assert!(seq > last);
        last = seq;
    }
}

#[tokio::test]
async fn an_answer_that_was_the_whole_session_is_not_read_again_for_the_cache() {
    const LOOKS: &str = r#"db_client_operation_duration_seconds_count{db_operation_name="read",db_system_name="sqlite",error_type=""}"#;
    const FILLS: &str = r#"db_client_operation_duration_seconds_count{db_operation_name="fill",db_system_name="redis",error_type=""}"#;
    let cache = format!("--set=cache={}", engines::redis().await);
    let flags = [cache.as_str(), "--set=health_every_ms=600000"];
    let server = Server::start_embedded_in(folder(), &flags).await;
    let read = async |path: &str| expect(server.get(&format!("/v1/sessions/{path}")), 200).await;
    let filled = async |times| {
        while counted_if_at_all(&server, FILLS).await != Some(times) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // A Redis that is new is believed after a while.
    open(&server, "first").await;
    while counted_if_at_all(&server, FILLS).await.is_none() {
        read("first").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let asked = [
        ("", 1),
        ("?limit=3", 1),
        ("?order=desc&limit=3", 1),
        ("?limit=2", 2),
        ("?order=desc&limit=2", 2),
        ("/events", 2),
    ];
    for (nth, (query, looks)) in asked.into_iter().enumerate() {
        let id = format!("s-{nth}");
        open(&server, &id).await;
        for event_id in ["a", "b", "c"] {
            append(&server, &id, &event(event_id)).await;
        }
        let before = counted(&server, LOOKS).await;
        read(&format!("{id}{query}")).await;
        filled(nth as u64 + 2).await;
        assert_eq!(counted(&server, LOOKS).await - before, looks, "{query}");
        for (order, ids) in [("asc", ["a", "b", "c"]), ("desc", ["c", "b", "a"])] {
            let whole = read(&format!("{id}?order={order}")).await;
            let events = whole["events"].as_array().expect("events").iter();
            assert!(events.map(|event| &event["eventId"]).eq(&ids), "{whole}");
        }
        // The cache has had all of them.
        assert_eq!(counted(&server, LOOKS).await - before, looks, "{query}");
    }
}
