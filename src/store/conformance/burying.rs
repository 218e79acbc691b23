//! Erasing what was archived: hidden at once, and remembered until its last byte is gone.

use std::sync::Arc;

use colloquy::{
    domain::{Kind, SessionKey},
    store::{
        Store,
        catalog::{Claim, Standing, Written},
    },
};

use super::{
    all_events, at,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, claims_ended, commit, due,
        ended, mark_all, pending, restore, segment, standing,
    },
    erasing::{assert_refused, reopen, tidy},
    key, open,
};

pub async fn an_archived_session_is_erased_at_once(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    archived(&catalog, &key("clean")).await;
    ended(&store, &key("full")).await;
    archive_as(&catalog, &key("full"), Claim::Hot).await;
    for key in ["clean", "full"].map(key) {
        for _ in 0..2 {
            store.erase(&key, at(99_000)).await.unwrap();
            assert_refused(&store, &key, Kind::SessionErased).await;
        }
        assert_eq!(standing(&catalog, &key).await, Standing::Erased);
        let keys = std::slice::from_ref(&key);
        let claimed = catalog.claim(keys, Claim::Archived, &segment(), LEASE).await;
        assert_eq!(claimed.unwrap(), []);
    }
    assert_eq!(due(&catalog).await, []);
    assert_eq!(catalog.untidy(500).await.unwrap(), []);
    assert_eq!(catalog.segments(None, 500).await.unwrap(), []);
}

pub async fn an_erasure_names_every_segment_that_may_hold_bytes(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let (first, events) = archived(&catalog, &key).await;
    restore(&catalog, &key, &events, 20_000).await;
    let second = archive_as(&catalog, &key, Claim::Hot).await;
    let third = archive_as(&catalog, &key, Claim::Archived).await;
    let (given_up, writing) = (segment(), segment());
    let claimed = claim(&catalog, &key, Claim::Archived, &given_up, LEASE).await;
    catalog
        .release(&[claimed], &given_up, Written::Nothing)
        .await
        .unwrap();
    claim(&catalog, &key, Claim::Archived, &writing, LEASE).await;
    assert_eq!(pending(&catalog).await, (0, vec![]));
    for _ in 0..2 {
        store.erase(&key, at(99_000)).await.unwrap();
        let (sessions, segments) = pending(&catalog).await;
        assert_eq!(sessions, 1);
        for held in [
            &first.pointer.segment,
            &second.pointer.segment,
            &third.pointer.segment,
            &writing,
        ] {
            assert!(segments.contains(held), "{held}");
        }
        assert!(!segments.contains(&given_up), "it can't have been committed");
    }
    assert!(!catalog.is_needed(&third.pointer.segment).await.unwrap());
    assert!(!catalog.is_needed(&writing).await.unwrap());
    assert_eq!(catalog.affected(None, 2).await.unwrap().len(), 2);
}

pub async fn segments_of_erased_sessions_are_walked_in_the_order_of_their_names(
    subject: &dyn CatalogSubject,
) {
    let (catalog, store) = both(subject).await;
    let mut expected = Vec::new();
    for n in 0..7 {
        // One session in each but the last, which has two.
        let name = segment();
        for m in 0..=u64::from(n == 6) {
            let key = key(&format!("s-{n}-{m}"));
            ended(&store, &key).await;
            let claimed = claim(&catalog, &key, Claim::Hot, &name, LEASE).await;
            assert!(commit(&catalog, &claimed, &name).await);
            store.erase(&key, at(99_000)).await.unwrap();
        }
        expected.push((name, 1 + u64::from(n == 6)));
    }
    expected.sort_by_key(|(name, _)| name.to_string());
    let (kept, _) = archived(&catalog, &key("kept")).await;
    mark_all(&catalog).await;
    let mut walked = Vec::new();
    loop {
        let after = walked.last().map(|(name, _)| name);
        let page = catalog.affected(after, 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        for affected in page {
            // By the database's clock, which is not years away.
            let since_ms = affected.since.unix_ms();
            assert!(since_ms > 1_700_000_000_000, "{since_ms}");
            walked.push((affected.segment, affected.sessions));
        }
    }
    assert_eq!(walked, expected);
    assert!(walked.iter().all(|(name, _)| *name != kept.pointer.segment));
    assert_eq!(catalog.affected(None, 0).await.unwrap(), []);
    let (pending, first) = (
        catalog.pending().await.unwrap(),
        catalog.affected(None, 500).await.unwrap(),
    );
    assert_eq!(pending.sessions, 8);
    assert_eq!(pending.since, first.iter().map(|affected| affected.since).min());
    for (name, _) in &expected {
        catalog.forget_segment(name).await.unwrap();
    }
    assert_eq!(catalog.pending().await.unwrap(), Default::default());
}

pub async fn a_claim_that_ended_by_itself_may_have_left_bytes(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for (id, taken_over) in [("taken-over", true), ("left-alone", false)] {
        let (key, late) = (key(id), segment());
        ended(&store, &key).await;
        claim(&catalog, &key, Claim::Hot, &late, SHORT_LEASE).await;
        claims_ended(&catalog, &late).await;
        if taken_over {
            archive_as(&catalog, &key, Claim::Hot).await;
        }
        store.erase(&key, at(99_000)).await.unwrap();
        assert!(pending(&catalog).await.1.contains(&late), "{id}");
    }
}

/// Neither upkeep nor a new session takes the tombstone's place, long after its time.
async fn assert_stands(store: &Arc<dyn Store>, key: &SessionKey) {
    let long_after = at(1_000_000_000);
    assert_eq!(tidy(store, long_after).await.tombstones_dropped, 0);
    assert_eq!(reopen(store, key, long_after).await, Err(Kind::SessionErased));
    assert_refused(store, key, Kind::SessionErased).await;
}

pub async fn a_tombstone_outlives_its_time_while_segments_are_left(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (reopened, dropped) = (key("reopened"), key("dropped"));
    let mut segments = Vec::new();
    for key in [&reopened, &dropped] {
        segments.push(archived(&catalog, key).await.0.pointer.segment);
        store.erase(key, at(10_000)).await.unwrap();
        assert_stands(&store, key).await;
    }
    assert_eq!(pending(&catalog).await, (2, segments.clone()));

    catalog.forget_segment(&segments[0]).await.unwrap();
    assert_eq!(pending(&catalog).await, (1, segments[1..].to_vec()));
    assert_eq!(
        reopen(&store, &reopened, at(9_999)).await,
        Err(Kind::SessionErased)
    );
    assert_eq!(reopen(&store, &reopened, at(10_000)).await, Ok(true));
    assert_eq!(all_events(&store, &reopened).await, []);
    assert_eq!(standing(&catalog, &reopened).await, Standing::Hot);
    assert_stands(&store, &dropped).await;

    catalog.forget_segment(&segments[1]).await.unwrap();
    assert_eq!(pending(&catalog).await, (0, vec![]));
    assert_eq!(tidy(&store, at(10_000)).await.tombstones_dropped, 1);
    assert_eq!(standing(&catalog, &dropped).await, Standing::Unknown);
    open(&store, &dropped).await;
}

pub async fn a_forgotten_segment_leaves_the_others(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    ended(&store, &key("a")).await;
    let first = archive_as(&catalog, &key("a"), Claim::Hot).await.pointer.segment;
    let second = archive_as(&catalog, &key("a"), Claim::Archived)
        .await
        .pointer
        .segment;
    let (elsewhere, _) = archived(&catalog, &key("b")).await;
    // Of sessions that are not erased too: what is gone need not be named when they are.
    catalog.forget_segment(&first).await.unwrap();
    catalog.forget_segment(&segment()).await.unwrap();
    for id in ["a", "b"] {
        store.erase(&key(id), at(10_000)).await.unwrap();
    }
    assert_eq!(
        pending(&catalog).await,
        (2, vec![second.clone(), elsewhere.pointer.segment])
    );
    for _ in 0..2 {
        catalog.forget_segment(&second).await.unwrap();
    }
    assert_eq!(reopen(&store, &key("a"), at(10_000)).await, Ok(true));
    assert_stands(&store, &key("b")).await;
}

pub async fn a_commit_after_an_erasure_does_nothing(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let owner = segment();
    let claimed = claim(&catalog, &key, Claim::Hot, &owner, LEASE).await;
    store.erase(&key, at(10_000)).await.unwrap();
    assert!(!commit(&catalog, &claimed, &owner).await);
    let renewed = catalog.renew(std::slice::from_ref(&claimed), &owner, LEASE).await;
    assert_eq!(renewed.unwrap(), [false]);
    assert!(!catalog.is_needed(&owner).await.unwrap());
    assert_eq!(pending(&catalog).await, (1, vec![owner.clone()]));
    assert_refused(&store, &key, Kind::SessionErased).await;
    // Nor does it reach the session that has the id next.
    catalog.forget_segment(&owner).await.unwrap();
    assert_eq!(reopen(&store, &key, at(10_000)).await, Ok(true));
    assert!(!commit(&catalog, &claimed, &owner).await);
    assert!(!store.session(&key).await.unwrap().archived);
}

pub async fn a_restore_after_an_erasure_brings_nothing_back(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let (copy, events) = archived(&catalog, &key).await;
    let owner = segment();
    let epoch = claim(&catalog, &key, Claim::Archived, &owner, LEASE).await.epoch;
    catalog.bring_back(&key, epoch, &events[..1]).await.unwrap();
    store.erase(&key, at(10_000)).await.unwrap();
    // Refused or ignored: what counts is that nothing can be read.
    let _ = catalog.bring_back(&key, epoch, &events).await;
    let restored = catalog.restored(&key, epoch, &owner, at(20_000)).await;
    assert_eq!(restored.unwrap(), None);
    assert_refused(&store, &key, Kind::SessionErased).await;
    mark_all(&catalog).await;
    for gone in [&copy.pointer.segment, &owner] {
        catalog.forget_segment(gone).await.unwrap();
    }
    tidy(&store, at(9_999)).await;
    assert_eq!(reopen(&store, &key, at(10_000)).await, Ok(true));
    assert_eq!(all_events(&store, &key).await, []);
}
