//! Reading events: order, walks, filters, sizes.

use std::collections::HashSet;

use colloquy::domain::{Event, EventFilter, EventPosition, EventQuery, Kind, Order, SessionKey, Timestamp};
use colloquy::store::Append;

use super::{AppendExt, Subject, all_events, at, event, everything, key, kind, open, store_event, the, walk};

/// Events whose timestamps tie, go back and jump, of three types, with payloads of many sizes.
fn mixed(key: &SessionKey, count: usize) -> Vec<Append> {
    (0..count)
        .map(|n| {
            let ms = [5, 5, 3, 900, 5, -2, 5, 0][n % 8];
            let padding = "x".repeat(n * 7 % 60);
            event(key, &format!("e-{n}"))
                .stamped(ms)
                .of_type(["user_speech", "bot_speech", "system"][n % 3])
                .holding(&format!(r#"{{"n":{n},"p":"{padding}"}}"#))
        })
        .collect()
}

/// Stores them, and says in which order they are to be read.
async fn store_mixed(
    subject: &std::sync::Arc<dyn colloquy::store::Store>,
    key: &SessionKey,
    count: usize,
) -> Vec<Event> {
    let outcomes = subject.append(mixed(key, count)).await.unwrap();
    let mut events: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap().event)
        .collect();
    events.sort_by_key(|event| EventPosition::from(event));
    events
}

fn in_order(mut events: Vec<Event>, order: Order) -> Vec<Event> {
    if order == Order::Descending {
        events.reverse();
    }
    events
}

const ORDERS: [Order; 2] = [Order::Ascending, Order::Descending];

pub async fn events_are_read_by_timestamp_then_seq_then_id(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let mut stored = Vec::new();
    for (id, ms) in [("late", 9), ("b", 5), ("a", 5), ("early", 1), ("c", 5)] {
        stored.push(store_event(&store, event(&key, id).stamped(ms)).await);
    }
    let read = all_events(&store, &key).await;
    let ids: Vec<_> = read.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["early", "b", "a", "c", "late"]);
    let back = EventQuery {
        order: Order::Descending,
        ..everything()
    };
    let mut read = walk(&store, &key, back).await;
    read.reverse();
    assert_eq!(read, all_events(&store, &key).await);
}

pub async fn a_walk_of_any_page_size_meets_every_event_once(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let expected = store_mixed(&store, &key, 40).await;
    for order in ORDERS {
        for limit in (1..=42).chain([500]) {
            let query = EventQuery {
                order,
                limit: the(&limit.to_string()),
                ..everything()
            };
            let first = store.events(&key, &query).await.unwrap();
            assert_eq!(first.items.len(), limit.min(40));
            assert_eq!(first.has_more, limit < 40);
            let read = walk(&store, &key, query).await;
            assert_eq!(read, in_order(expected.clone(), order), "{order:?} {limit}");
        }
    }
}

pub async fn a_walk_meets_every_event_that_was_there_when_it_began(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let before = store_mixed(&store, &key, 120).await;
    for order in ORDERS {
        let query = EventQuery {
            order,
            limit: the("7"),
            ..everything()
        };
        let writer = {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                for n in 0..60_i64 {
                    let id = format!("new-{}-{n}", order.as_str());
                    store_event(&store, event(&key, &id).stamped(n % 10)).await;
                }
            })
        };
        let read = walk(&store, &key, query).await;
        writer.await.unwrap();
        let met: Vec<_> = read.iter().filter(|event| before.contains(event)).collect();
        let expected = in_order(before.clone(), order);
        assert_eq!(met, expected.iter().collect::<Vec<_>>());
        let ids: HashSet<_> = read.iter().map(|event| &event.id).collect();
        assert_eq!(ids.len(), read.len(), "no event twice");
        let positions: Vec<_> = read.iter().map(EventPosition::from).collect();
        assert!(match order {
            Order::Ascending => positions.is_sorted(),
            Order::Descending => positions.iter().rev().is_sorted(),
        });
    }
}

pub async fn filters_hold_on_every_page(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let all = store_mixed(&store, &key, 64).await;
    let times = [None, Some(-2), Some(0), Some(4), Some(5), Some(6), Some(900)];
    let times = times.map(|ms| ms.map(at));
    for event_type in [None, Some("system"), Some("nobody")] {
        for (since, until) in times.iter().flat_map(|a| times.iter().map(move |b| (*a, *b))) {
            for order in ORDERS {
                let filter = EventFilter {
                    event_type: event_type.map(the),
                    since,
                    until,
                };
                let expected = all.iter().filter(|event| passes(&filter, event));
                let expected = in_order(expected.cloned().collect(), order);
                for limit in ["1", "5", "500"] {
                    let query = EventQuery {
                        filter: filter.clone(),
                        order,
                        limit: the(limit),
                        ..everything()
                    };
                    let read = walk(&store, &key, query).await;
                    assert_eq!(read, expected, "{filter:?} {order:?} {limit}");
                }
            }
        }
    }
}

pub async fn adjacent_windows_share_no_event_and_leave_none_out(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let all = store_mixed(&store, &key, 64).await;
    let times = [-2, 0, 3, 5, 900].map(|ms| [ms - 1, ms, ms + 1]);
    let edges: Vec<_> = times.concat().into_iter().map(|ms| Some(at(ms))).collect();
    let edges = [&[None], edges.as_slice(), &[None]].concat();
    for event_type in [None, Some("system")] {
        for limit in ["1", "500"] {
            let mut found = Vec::new();
            for window in edges.windows(2).filter(|window| window[0] != window[1]) {
                let filter = EventFilter {
                    event_type: event_type.map(the),
                    since: window[0],
                    until: window[1],
                };
                let query = EventQuery {
                    filter,
                    limit: the(limit),
                    ..everything()
                };
                found.extend(walk(&store, &key, query).await);
            }
            let is_wanted = |event: &&Event| event_type.is_none_or(|only| event.event_type == the(only));
            let wanted: Vec<_> = all.iter().filter(is_wanted).cloned().collect();
            assert_eq!(found, wanted, "{event_type:?} {limit}");
        }
    }
}

fn passes(filter: &EventFilter, event: &Event) -> bool {
    let EventFilter {
        event_type,
        since,
        until,
    } = filter;
    event_type.as_ref().is_none_or(|only| event.event_type == *only)
        && since.is_none_or(|since| event.timestamp >= since)
        && until.is_none_or(|until| event.timestamp < until)
}

pub async fn a_page_ends_before_it_is_too_large(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let expected = store_mixed(&store, &key, 40).await;
    for order in ORDERS {
        let in_order = in_order(expected.clone(), order);
        let three = in_order[..3].iter();
        let three: usize = three.map(|event| event.payload.as_str().len()).sum();
        for payload_bytes_max in [0, 1, 20, 70, three - 1, three, three + 1, 1_000, 10_000] {
            let mut query = EventQuery {
                order,
                limit: the("10"),
                payload_bytes_max,
                ..everything()
            };
            let mut rest = in_order.as_slice();
            while !rest.is_empty() {
                let page = store.events(&key, &query).await.unwrap();
                let count = fitting(rest, payload_bytes_max).min(10);
                assert_eq!(page.items, rest[..count], "{order:?} {payload_bytes_max}");
                rest = &rest[count..];
                assert_eq!(page.has_more, !rest.is_empty());
                query.after = page.items.last().map(EventPosition::from);
            }
        }
    }
}

/// How many events fit, at least one.
fn fitting(events: &[Event], payload_bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fit = events.iter().take_while(|event| {
        bytes += event.payload.as_str().len();
        bytes <= payload_bytes_max
    });
    fit.count().max(1)
}

pub async fn a_large_session_is_walked_to_its_end(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    for batch in mixed(&key, 3_000).chunks(500) {
        let outcomes = store.append(batch.to_vec()).await.unwrap();
        assert!(outcomes.iter().all(Result::is_ok));
    }
    for order in ORDERS {
        let query = EventQuery {
            order,
            limit: the("499"),
            ..everything()
        };
        let read = walk(&store, &key, query).await;
        assert_eq!(read.len(), 3_000);
        let ids: HashSet<_> = read.iter().map(|event| &event.id).collect();
        assert_eq!(ids.len(), 3_000);
    }
}

pub async fn a_position_need_not_be_that_of_an_event(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let all = store_mixed(&store, &key, 24).await;
    let extremes = [
        (Timestamp::from_unix_ms(-62_167_219_200_000), i64::MIN),
        (Timestamp::from_unix_ms(5), i64::MIN),
        (Timestamp::from_unix_ms(5), i64::MAX),
        (Timestamp::from_unix_ms(4), 0),
        (Timestamp::from_unix_ms(253_402_300_799_999), i64::MAX),
    ];
    for (timestamp, seq) in extremes {
        let position = EventPosition {
            timestamp: timestamp.unwrap(),
            seq,
            id: the("~"),
        };
        for order in ORDERS {
            let beyond = |event: &&Event| match order {
                Order::Ascending => EventPosition::from(*event) > position,
                Order::Descending => EventPosition::from(*event) < position,
            };
            // Inside of a filter's range, and on either side of it.
            for (since, until) in [(None, None), (Some(at(3)), Some(at(5))), (Some(at(6)), None)] {
                let filter = EventFilter {
                    event_type: None,
                    since,
                    until,
                };
                let there = all.iter().filter(beyond);
                let expected = there.filter(|event| passes(&filter, event));
                let expected = in_order(expected.cloned().collect(), order);
                let query = EventQuery {
                    filter,
                    order,
                    after: Some(position.clone()),
                    limit: the("3"),
                    ..everything()
                };
                let read = walk(&store, &key, query).await;
                assert_eq!(read, expected, "{position:?} {since:?} {until:?}");
            }
        }
    }
}

pub async fn an_event_is_read_by_its_id(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    for expected in store_mixed(&store, &key, 10).await {
        let read = store.event(&key, &expected.id).await.unwrap();
        assert_eq!(read.event, Some(expected));
    }
    let missing = store.event(&key, &the("missing")).await;
    assert_eq!(kind(missing), Kind::EventNotFound);
    let other_case = store.event(&key, &the("E-1")).await;
    assert_eq!(kind(other_case), Kind::EventNotFound);
}
