//! What a store stamps and numbers, and that the two agree, whatever the clocks say.

use colloquy::{
    domain::{End, EndStatus, Session},
    store::Append,
};

use super::{
    AppendExt, Subject, all_events, append, at, event, key, open, session, store_event, the, together,
};

pub async fn an_event_without_a_timestamp_has_that_of_its_seq(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    for (seq, ms) in [
        (-1_001, -2),
        (-1, -1),
        (0, 0),
        (1_999, 1),
        (1_788_249_603_808_999, 1_788_249_603_808),
    ] {
        let stored = store_event(&store, event(&key, &format!("e{seq}")).proposing(seq)).await;
        assert_eq!((stored.seq, stored.timestamp), (seq, at(ms)));
    }
    // The number that it got counts, not the one that was proposed.
    let raised = store_event(&store, event(&key, "raised").proposing(5)).await;
    assert_eq!(raised.timestamp, at(raised.seq.div_euclid(1_000)));
    let given = store_event(&store, event(&key, "given").stamped(7)).await;
    assert_eq!(given.timestamp, at(7));
    let last = store_event(&store, event(&key, "last").proposing(i64::MAX)).await;
    assert_eq!(last.timestamp.to_string(), "9999-12-31T23:59:59.999Z");
}

/// A clock that is set back by 30 seconds, and one that stands still.
pub async fn events_that_the_store_stamps_read_as_they_were_accepted(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let mut accepted = Vec::new();
    for n in 0..40_i64 {
        let clock_us = 1_700_000_000_000_000 + n * 1_500 - if n >= 20 { 30_000_000 } else { 0 };
        let new = event(&key, &format!("e-{}", 99 - n)).proposing(clock_us);
        accepted.push(store_event(&store, new.clone()).await);
        let replay = append(&store, new.proposing(clock_us + 9_000_000)).await.unwrap();
        assert_eq!((replay.replayed, &replay.event), (true, &accepted[n as usize]));
    }
    assert_eq!(all_events(&store, &key).await, accepted);
}

pub async fn nothing_is_stamped_before_a_start_that_the_server_gave(subject: &dyn Subject) {
    let store = subject.store().await;
    let start = at(9_000);
    for (id, opened_at, expected) in [("server", start, 9_000_000), ("caller", at(4_000), 4_001_000)] {
        let key = key(id);
        let new = Session::opened(Default::default(), the(id), start);
        assert!(store.open(&key.tenant, new, opened_at).await.unwrap().created);
        // By a clock that is behind the one that opened the session.
        let batch = ["a", "b"].map(|id| event(&key, id).proposing(4_001_000));
        let outcomes = store.append(batch.to_vec()).await.unwrap();
        let seqs: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap().event.seq)
            .collect();
        assert_eq!(seqs, [expected, expected + 1], "a start that the {id} gave");
    }
}

pub async fn an_end_is_not_before_what_the_store_stamped(subject: &dyn Subject) {
    let store = subject.store().await;
    let failed = End {
        status: EndStatus::Failed,
        // Text that means something to a database.
        reason: Some("$startedAt".to_owned()),
        ended_at: None,
    };
    let ended = async |id: &str, proposed: &[(i64, Option<i64>)], now: i64| {
        let key = key(id);
        open(&store, &key).await;
        for (n, &(seq, stamp)) in proposed.iter().enumerate() {
            let mut new = event(&key, &format!("e-{n}")).proposing(seq);
            new.event.timestamp = stamp.map(at);
            store_event(&store, new).await;
        }
        let ended = store.end(&key, &failed, at(now)).await.unwrap();
        assert_eq!(ended.end_reason, failed.reason);
        assert_eq!(store.session(&key).await.unwrap(), ended);
        assert_eq!(ended.version, if proposed.is_empty() { 2 } else { 3 });
        ended.ended_at.unwrap()
    };
    // It was started at 1,000.
    assert_eq!(ended("by-the-clock", &[], 7_000).await, at(7_000));
    assert_eq!(ended("before-its-start", &[], -30_000).await, at(1_000));
    let behind = [(5_000_999, None), (6_001_000, None)];
    assert_eq!(ended("after-the-last", &behind, 7_000).await, at(7_000));
    assert_eq!(ended("before-the-last", &behind, 5_500).await, at(6_001));
    assert_eq!(ended("before-all", &behind, -5_500).await, at(6_001));
    let far = [(400_000_000_000_000, None)];
    assert_eq!(
        ended("years-before-the-last", &far, 7_000).await,
        at(400_000_000_000)
    );
    // What callers stamp may lie anywhere.
    let future = [(5_000_000, None), (5_100_000, Some(9_000_000))];
    assert_eq!(
        ended("before-what-a-caller-stamped", &future, 7_000).await,
        at(7_000)
    );
}

pub async fn reserved_numbers_are_given_once_in_whatever_order_they_come(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let batch = move |n: usize| -> Vec<Append> {
        let of_batch = (0..50).map(|at| {
            let seq = 1_000_000 + (n * 50 + at) as i64;
            let new = event(&super::key("s"), &format!("e-{n}-{at}")).proposing(seq);
            Append {
                reserved: true,
                ..new
            }
        });
        of_batch.collect()
    };
    // The last is stored first.
    let mut stored = store.append(batch(9)).await.unwrap();
    let rest = together(9, |n| {
        let store = store.clone();
        async move { store.append(batch(8 - n)).await.unwrap() }
    });
    stored.extend(rest.await.into_iter().flatten());
    let mut seqs: Vec<_> = stored
        .into_iter()
        .map(|outcome| outcome.unwrap().event.seq)
        .collect();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 500);
}

pub async fn a_store_says_what_the_next_number_must_exceed(subject: &dyn Subject) {
    let store = subject.store().await;
    let ids = [
        "none",
        "opened",
        "started-by-the-server",
        "begun",
        "stamped",
        "erased",
    ];
    for id in &ids[1..] {
        let opened_at = if id.starts_with("started") { 1_000 } else { 1_001 };
        let opened = store.open(&key(id).tenant, session(id), at(opened_at)).await;
        assert!(opened.unwrap().created);
    }
    for n in [70, 90, 80] {
        store_event(&store, event(&key("begun"), &format!("e-{n}")).proposing(n)).await;
        let stamped = event(&key("stamped"), &format!("e-{n}"))
            .stamped(500 - n)
            .proposing(n);
        store_event(&store, stamped).await;
    }
    store_event(&store, event(&key("erased"), "e")).await;
    store.erase(&key("erased"), at(9_000)).await.unwrap();
    let lasts = store.last_seqs(&ids.map(key)).await.unwrap();
    assert_eq!(lasts, [None, None, Some(999_999), Some(91), Some(91), None]);
    assert_eq!(store.last_seqs(&[]).await.unwrap(), []);
}
