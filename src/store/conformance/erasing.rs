//! Erasure: at once, whole, and remembered for a time.

use std::sync::Arc;

use colloquy::{
    domain::{End, Kind, SessionFilter, SessionKey, Status, Tenant, Timestamp},
    store::{Store, Upkeep},
};

use super::{
    AppendExt, Subject, all_events, append, at, event, everything, key, kind, listing, open, session,
    store_event, the,
};

/// Every call that takes a key, but for `erase`, fails with `expected`.
pub async fn assert_refused(store: &Arc<dyn Store>, key: &SessionKey, expected: Kind) {
    assert_eq!(kind(store.session(key).await), expected);
    assert_eq!(kind(store.events(key, &everything()).await), expected);
    let both = store.session_with_events(key, &everything()).await;
    assert_eq!(kind(both), expected);
    assert_eq!(kind(store.event(key, &the("e")).await), expected);
    assert_eq!(kind(append(store, event(key, "e")).await), expected);
    assert_eq!(kind(append(store, event(key, "new")).await), expected);
    let patched = store.patch(key, &Default::default(), &Default::default()).await;
    assert_eq!(kind(patched), expected);
    let ended = store.end(key, &End::default(), at(9)).await;
    assert_eq!(kind(ended), expected);
    let filter = SessionFilter::default();
    let listed = listing::walk(store, &key.tenant, &filter, the("500")).await;
    assert!(listed.iter().all(|session| session.id != key.id));
}

pub async fn reopen(store: &Arc<dyn Store>, key: &SessionKey, now: Timestamp) -> Result<bool, Kind> {
    let opened = store.open(&key.tenant, session(key.id.as_str()), now).await;
    opened.map(|opened| opened.created).map_err(|error| error.kind())
}

/// Rounds of upkeep until one finds nothing to do; what they did together.
pub async fn tidy(store: &Arc<dyn Store>, now: Timestamp) -> Upkeep {
    let mut total = Upkeep::default();
    loop {
        let round = store.upkeep(now).await.unwrap();
        if round == Upkeep::default() {
            return total;
        }
        total.events_deleted += round.events_deleted;
        total.tombstones_dropped += round.tombstones_dropped;
    }
}

pub async fn erasure_hides_everything_at_once(subject: &dyn Subject) {
    let store = subject.store().await;
    for id in ["empty", "full", "ended"] {
        let key = key(id);
        open(&store, &key).await;
        if id != "empty" {
            store_event(&store, event(&key, "e")).await;
        }
        if id == "ended" {
            store.end(&key, &End::default(), at(9)).await.unwrap();
        }
        store.erase(&key, at(10_000)).await.unwrap();
        assert_refused(&store, &key, Kind::SessionErased).await;
    }
}

pub async fn an_erased_id_is_refused_until_its_time(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    store.erase(&key, at(10_000)).await.unwrap();
    for now in [at(0), at(9_999)] {
        assert_eq!(reopen(&store, &key, now).await, Err(Kind::SessionErased));
    }
    tidy(&store, at(9_999)).await;
    let early = reopen(&store, &key, at(9_999)).await;
    assert_eq!(early, Err(Kind::SessionErased));
    assert_eq!(reopen(&store, &key, at(10_000)).await, Ok(true));
    assert_eq!(reopen(&store, &key, at(10_000)).await, Ok(false));
    assert_eq!(store.session(&key).await.unwrap(), session("s"));
}

pub async fn a_fresh_session_shows_nothing_of_the_erased_one(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    for n in 0..20 {
        store_event(&store, event(&key, &format!("e-{n}")).proposing(1_000)).await;
    }
    store.end(&key, &End::default(), at(9)).await.unwrap();
    store.erase(&key, at(10_000)).await.unwrap();
    assert_eq!(reopen(&store, &key, at(10_000)).await, Ok(true));
    assert_eq!(store.session(&key).await.unwrap().status, Status::Initiated);
    assert_eq!(all_events(&store, &key).await, []);
    let gone = store.event(&key, &the("e-1")).await;
    assert_eq!(kind(gone), Kind::EventNotFound);
    // The old ids are free, with other payloads, and the numbers start anew.
    let again = event(&key, "e-1").holding(r#"{"other":true}"#).proposing(5);
    let stored = store_event(&store, again).await;
    assert_eq!(stored.seq, 5);
    tidy(&store, at(10_000)).await;
    assert_eq!(all_events(&store, &key).await, [stored]);
}

pub async fn erasing_again_does_not_extend_the_time(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    store_event(&store, event(&key, "e")).await;
    for forget_at in [10_000, 99_000, 5_000] {
        store.erase(&key, at(forget_at)).await.unwrap();
    }
    let early = reopen(&store, &key, at(9_999)).await;
    assert_eq!(early, Err(Kind::SessionErased));
    assert_eq!(reopen(&store, &key, at(10_000)).await, Ok(true));
}

pub async fn erasing_what_never_was_leaves_no_trace(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    store.erase(&key, at(10_000)).await.unwrap();
    assert_refused(&store, &key, Kind::SessionNotFound).await;
    assert_eq!(tidy(&store, at(10_000)).await, Upkeep::default());
    open(&store, &key).await;
}

pub async fn upkeep_drops_tombstones_whose_time_is_over(subject: &dyn Subject) {
    let store = subject.store().await;
    for (id, forget_at) in [("a", 10), ("b", 20), ("c", 30)] {
        open(&store, &key(id)).await;
        store_event(&store, event(&key(id), "e")).await;
        store.erase(&key(id), at(forget_at)).await.unwrap();
    }
    open(&store, &key("kept")).await;
    let kept = store_event(&store, event(&key("kept"), "e")).await;
    tidy(&store, at(20)).await;
    assert_refused(&store, &key("a"), Kind::SessionNotFound).await;
    assert_refused(&store, &key("b"), Kind::SessionNotFound).await;
    assert_refused(&store, &key("c"), Kind::SessionErased).await;
    assert_eq!(reopen(&store, &key("a"), at(0)).await, Ok(true));
    assert_eq!(all_events(&store, &key("a")).await, []);
    assert_eq!(all_events(&store, &key("kept")).await, [kept]);
    assert_eq!(tidy(&store, at(20)).await, Upkeep::default());
}

pub async fn erasing_a_large_session_leaves_nothing(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    for batch in 0..5 {
        let batch = (0..500).map(|n| event(&key, &format!("e-{batch}-{n}")));
        let outcomes = store.append(batch.collect()).await.unwrap();
        assert!(outcomes.iter().all(Result::is_ok));
    }
    // Twice at the same time: both are answered only when nothing can be read any more.
    super::together(2, |_| {
        let (store, key) = (store.clone(), key.clone());
        async move { store.erase(&key, at(10_000)).await.unwrap() }
    })
    .await;
    assert_refused(&store, &key, Kind::SessionErased).await;
    tidy(&store, at(0)).await;
    assert_eq!(reopen(&store, &key, at(10_000)).await, Ok(true));
    assert_eq!(all_events(&store, &key).await, []);
    let listed = listing::walk(&store, &Tenant::default(), &Default::default(), the("500")).await;
    assert_eq!(listed.len(), 1);
}
