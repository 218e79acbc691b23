//! Several processes on one database: what the conformance suite says of concurrent callers holds between stores as well.

use std::collections::HashSet;

use colloquy::domain::{End, Kind, Session, Status};
use futures_util::future::join_all;

use super::{append, at, connect, event, events, key, open, options};
use crate::engines;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_is_second_learns_it_in_another_process_too() {
    let url = engines::mongodb().await;
    colloquy::store::mongo::init(&url, &options(), 1).await.unwrap();
    let stores = join_all((0..4).map(|_| connect(&url, options()))).await;
    open(&stores[0], "s").await;
    let racing = (0..64_i64).map(|n| {
        let store = stores[n as usize % 4].clone();
        tokio::spawn(async move {
            append(&store, event("s", &format!("e-{}", n / 8), n))
                .await
                .unwrap()
        })
    });
    let appended: Vec<_> = join_all(racing).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(appended.iter().filter(|one| !one.replayed).count(), 8);
    let stored = events(&stores[1], "s").await;
    assert_eq!(stored.len(), 8);
    assert!(appended.iter().all(|one| stored.contains(&one.event)));
    assert_eq!(stores[2].session(&key("s")).await.unwrap().version, 2);

    let ends = (0..16_i64).map(|n| {
        let store = stores[n as usize % 4].clone();
        tokio::spawn(async move { store.end(&key("s"), &End::default(), at(n)).await.unwrap() })
    });
    let ended: Vec<Session> = join_all(ends).await.into_iter().map(Result::unwrap).collect();
    assert!(
        ended
            .iter()
            .all(|session| *session == ended[0] && session.status == Status::Completed)
    );
    for store in &stores {
        let late = append(store, event("s", "late", 99)).await;
        assert_eq!(late.unwrap_err().kind(), Kind::SessionEnded);
    }
}

/// Events of two processes that bring a timestamp may share it and a number; the id orders them, and a walk of any page
/// size meets each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_walk_keeps_its_order_where_numbers_are_the_same() {
    use colloquy::domain::{EventPosition, Order};

    let event = |session: &str, id: &str, seq: i64| {
        let mut event = event(session, id, seq);
        event.event.timestamp = Some(at(7));
        event
    };

    let url = engines::mongodb().await;
    colloquy::store::mongo::init(&url, &options(), 1).await.unwrap();
    let stores = join_all((0..5).map(|_| connect(&url, options()))).await;
    open(&stores[0], "s").await;
    append(&stores[0], event("s", "first", 0)).await.unwrap();
    // Every process learns the last number before any of them gives the next.
    for (n, store) in stores.iter().enumerate() {
        let _ = append(store, event("s", "first", 0)).await.unwrap();
        assert!(
            append(store, event("s", &format!("warm-{n}"), n as i64 + 1))
                .await
                .is_ok()
        );
    }
    for place in [100, 200, 300] {
        for (n, store) in stores.iter().enumerate() {
            append(store, event("s", &format!("e-{place}-{}", 9 - n), place))
                .await
                .unwrap();
        }
    }
    let stored = events(&stores[0], "s").await;
    assert_eq!(stored.len(), 21);
    let places: HashSet<_> = stored.iter().map(|event| event.seq).collect();
    assert!(
        places.len() < stored.len(),
        "numbers are the same where clocks are"
    );
    assert!(
        stored
            .windows(2)
            .all(|pair| EventPosition::from(&pair[0]) < EventPosition::from(&pair[1]))
    );
    for order in [Order::Ascending, Order::Descending] {
        for limit in 1..=22 {
            let mut query = super::everything(order);
            query.limit = limit.to_string().parse().unwrap();
            let mut walked = Vec::new();
            loop {
                let page = stores[1].events(&key("s"), &query).await.unwrap();
                query.after = page.items.last().map(EventPosition::from);
                assert!(page.items.len() == limit || !page.has_more, "{order:?} {limit}");
                walked.extend(page.items);
                if !page.has_more {
                    break;
                }
            }
            if order == Order::Descending {
                walked.reverse();
            }
            assert_eq!(walked, stored, "{order:?} {limit}");
        }
    }
}

/// A replay that was proposed a high number leaves the new events beside it theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_in_a_batch_raises_nobodys_number() {
    let (store, _) = super::store().await;
    open(&store, "s").await;
    append(&store, event("s", "old", 10)).await.unwrap();
    let batch = vec![
        event("s", "old", 90),
        event("s", "new", 50),
        event("s", "raised", 7),
        event("s", "newer", 60),
    ];
    let outcomes = store.append(batch).await.unwrap();
    let seqs: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().unwrap().event.seq)
        .collect();
    assert_eq!(seqs, [10, 50, 51, 60]);
}
