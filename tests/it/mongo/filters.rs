//! What a page costs, whatever is asked for: no document is read that is not on it, and few keys are.

use colloquy::domain::{
    End, EventFilter, EventPosition, EventQuery, NewSession, Order, Session, SessionFilter, SessionPosition,
    SessionQuery, Tenant,
};
use mongodb::bson::{Bson, Document};

use super::{
    at, event, everything, key, open,
    statements::{comment, faults, seen, watch},
    store, walked,
};

fn count(statement: &Document, name: &str) -> i64 {
    let value = statement.get(name);
    let value = value.and_then(|count| count.as_i64().or(count.as_i32().map(i64::from)));
    value.unwrap_or_default()
}

/// Sees to it that every statement with this comment read no document but those that it gave; gives how many there were.
fn reads_what_it_gives(statements: &[Document], of: &str) -> usize {
    let ours: Vec<_> = statements
        .iter()
        .filter(|statement| comment(statement) == of)
        .collect();
    for statement in &ours {
        let (examined, given) = (count(statement, "docsExamined"), count(statement, "nreturned"));
        assert!(
            examined <= given,
            "{examined} documents read for {given}: {statement}"
        );
        let filter = statement
            .get_document("command")
            .unwrap()
            .get_document("filter")
            .unwrap();
        let first = |branches: &Vec<Bson>| branches.first().and_then(Bson::as_document).cloned();
        let filter = filter
            .get_array("$or")
            .ok()
            .and_then(first)
            .unwrap_or(filter.clone());
        let is_tested_on_keys =
            |name| matches!(filter.get(name), Some(Bson::Document(test)) if test.contains_key("$regex"));
        if !is_tested_on_keys("type") && !is_tested_on_keys("status") {
            // One at the end of either of two ranges, and one that was put back.
            let keys = count(statement, "keysExamined");
            assert!(
                keys <= given + 3,
                "{keys} keys for {given} documents: {statement}"
            );
        }
    }
    ours.len()
}

/// Every filter with every other, in both directions, from the start and from places inside and outside of what is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_of_events_reads_no_event_that_is_not_on_it() {
    const EVENTS: i64 = 1_200;
    let (store, database) = store().await;
    open(&store, "s").await;
    for first in (0..EVENTS).step_by(400) {
        let batch = (first..first + 400).map(|n| {
            let event_type = match n {
                n if n % 500 == 77 => "rare",
                n if n % 2 == 0 => "user_speech",
                _ => "bot_speech",
            };
            let mut append = event("s", &format!("e-{n}"), n + 1);
            append.event.event_type = event_type.parse().unwrap();
            // The middle third shares one time.
            append.event.timestamp = Some(at(if (400..800).contains(&n) { 600 } else { n }));
            append
        });
        store.append(batch.collect()).await.unwrap();
    }
    let all = walked(&store, "s").await;
    assert_eq!(all.len(), EVENTS as usize);
    let positions = [None, Some(10), Some(500), Some(777), Some(1_190)];
    let (types, times) = (
        [None, Some("user_speech"), Some("rare"), Some("never")],
        [None, Some(at(300)), Some(at(600)), Some(at(900))],
    );
    watch(&database).await;
    let mut pages = 0;
    for order in [Order::Ascending, Order::Descending] {
        for (event_type, since) in types.iter().flat_map(|one| times.map(|other| (one, other))) {
            for (until, position) in times.iter().flat_map(|one| positions.map(|other| (one, other))) {
                let after = position.map(|at| EventPosition::from(&all[at]));
                let query = EventQuery {
                    filter: EventFilter {
                        event_type: event_type.map(|text| text.parse().unwrap()),
                        since,
                        until: *until,
                    },
                    after: after.clone(),
                    limit: "20".parse().unwrap(),
                    ..everything(order)
                };
                let mut expected: Vec<_> = all
                    .iter()
                    .filter(|event| event_type.is_none_or(|only| event.event_type.as_str() == only))
                    .filter(|event| since.is_none_or(|since| event.timestamp >= since))
                    .filter(|event| until.is_none_or(|until| event.timestamp < until))
                    .collect();
                if order == Order::Descending {
                    expected.reverse();
                }
                expected.retain(|event| match (&after, order) {
                    (None, _) => true,
                    (Some(after), Order::Ascending) => EventPosition::from(*event) > *after,
                    (Some(after), Order::Descending) => EventPosition::from(*event) < *after,
                });
                let page = store.events(&key("s"), &query).await.unwrap();
                assert_eq!(page.has_more, expected.len() > 20, "{query:?}");
                expected.truncate(20);
                assert!(page.items.iter().eq(expected), "{query:?}: {:?}", page.items);
                pages += 1;
            }
        }
    }
    let statements = seen(&database).await;
    assert_eq!(faults(&statements), [""; 0]);
    let read = reads_what_it_gives(&statements, "colloquy: events");
    // Bounds that leave nothing are not asked for.
    assert!(
        (pages / 2..=pages).contains(&read),
        "{read} statements, {pages} pages"
    );
}

/// Every filter of the listing with every other, on every page.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_of_sessions_reads_no_session_that_is_not_on_it() {
    let (store, database) = store().await;
    let tenant = Tenant::default();
    for n in 0..400_i64 {
        let new = NewSession {
            user_id: (n % 4 != 0).then(|| if n % 40 == 1 { "rare" } else { "often" }.parse().unwrap()),
            ..NewSession::default()
        };
        // Some share their start.
        let session = Session::opened(new, format!("s-{n:03}").parse().unwrap(), at(n / 3));
        store.open(&tenant, session, at(n)).await.unwrap();
        if n % 100 == 2 {
            store
                .end(&key(&format!("s-{n:03}")), &End::default(), at(9_000))
                .await
                .unwrap();
        }
    }
    watch(&database).await;
    let (users, times) = (
        [None, Some("often"), Some("rare"), Some("nobody")],
        [None, Some(at(30)), Some(at(90))],
    );
    for status in [None, Some("initiated"), Some("completed"), Some("failed")] {
        for user_id in users {
            for (started_after, started_before) in
                times.iter().flat_map(|one| times.map(|other| (*one, other)))
            {
                let filter = SessionFilter {
                    status: status.map(|text| text.parse().unwrap()),
                    user_id: user_id.map(|text| text.parse().unwrap()),
                    started_after,
                    started_before,
                };
                let mut after = None;
                for _ in 0..3 {
                    let query = SessionQuery {
                        filter: filter.clone(),
                        after: after.take(),
                        limit: "7".parse().unwrap(),
                    };
                    let page = store.sessions(&tenant, &query).await.unwrap();
                    let Some(last) = page.items.last().filter(|_| page.has_more) else {
                        break;
                    };
                    after = Some(SessionPosition::from(last));
                }
            }
        }
    }
    let statements = seen(&database).await;
    assert_eq!(faults(&statements), [""; 0]);
    let read = reads_what_it_gives(&statements, "colloquy: listing");
    assert!(read > 100, "{read}");
}
