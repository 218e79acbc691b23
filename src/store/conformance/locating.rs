//! Where sessions are: which segments pointers lead to, how keys stand, whose they are, and that all of it stays.

use colloquy::{
    domain::{Day, Kind, SegmentName, SessionKey},
    store::catalog::{Claim, Standing, Written},
};

use super::{
    all_events, at,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, claims_ended, commit, due,
        ended, hot, ids, pending, pointer, restore, segment, standing,
    },
    key, kind, open, the,
};

pub async fn a_segment_is_needed_while_claimed_or_pointed_to(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let [unheard_of, late, released, used] = [(); 4].map(|()| segment());
    let is_needed = async |segment| catalog.is_needed(segment).await.unwrap();
    assert!(!is_needed(&unheard_of).await);

    claim(&catalog, &key, Claim::Hot, &late, SHORT_LEASE).await;
    claims_ended(&catalog, &late).await;
    let given_up = claim(&catalog, &key, Claim::Hot, &released, LEASE).await;
    assert!(is_needed(&released).await);
    catalog
        .release(&[given_up], &released, Written::Nothing)
        .await
        .unwrap();
    assert!(!is_needed(&released).await);

    let claimed = claim(&catalog, &key, Claim::Hot, &used, LEASE).await;
    assert!(is_needed(&used).await);
    assert!(commit(&catalog, &claimed, &used).await);
    assert!(is_needed(&used).await);
    let events = all_events(&store, &key).await;
    restore(&catalog, &key, &events, 20_000).await;
    let next = archive_as(&catalog, &key, Claim::Hot).await;
    for past in [&unheard_of, &late, &released, &used] {
        assert!(!is_needed(past).await);
    }
    assert!(is_needed(&next.pointer.segment).await);
    store.erase(&key, at(99_000)).await.unwrap();
    assert!(!is_needed(&next.pointer.segment).await);
}

pub async fn segments_are_paged_in_the_order_of_their_names(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let mut expected = Vec::new();
    for (n, tenant) in ["b", "a", "a-", "c"].into_iter().enumerate() {
        let name = SegmentName::new(the(tenant), Day::of(at(0)));
        for m in 0..=n {
            let key = SessionKey::new(name.tenant().clone(), the(&format!("s-{m}")));
            ended(&store, &key).await;
            let claimed = claim(&catalog, &key, Claim::Hot, &name, LEASE).await;
            assert!(commit(&catalog, &claimed, &name).await);
        }
        expected.push((name, n as u64 + 1));
    }
    expected.sort_by_key(|(name, _)| name.to_string());
    // Neither what is only claimed nor what is left behind is pointed to.
    ended(&store, &key("claimed")).await;
    claim(&catalog, &key("claimed"), Claim::Hot, &segment(), LEASE).await;
    assert_eq!(catalog.segments(None, 500).await.unwrap(), expected);
    let mut walked = Vec::new();
    loop {
        let after = walked.last().map(|(name, _)| name);
        let page = catalog.segments(after, 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        walked.extend(page);
    }
    assert_eq!(walked, expected);
}

pub async fn keys_stand_as_they_are_in_their_order(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    open(&store, &key("active")).await;
    for id in ["ended", "claimed", "erased"] {
        ended(&store, &key(id)).await;
    }
    claim(&catalog, &key("claimed"), Claim::Hot, &segment(), LEASE).await;
    store.erase(&key("erased"), at(99_000)).await.unwrap();
    let (copy, _) = archived(&catalog, &key("archived")).await;
    let asked = ["erased", "archived", "ended", "unknown", "claimed", "active"].map(key);
    let expected = [
        Standing::Erased,
        Standing::Archived(copy),
        Standing::Hot,
        Standing::Unknown,
        Standing::Hot,
        Standing::Hot,
    ];
    assert_eq!(catalog.standings(&asked).await.unwrap(), expected);
    assert_eq!(catalog.standings(&[]).await.unwrap(), []);
}

pub async fn archives_of_tenants_never_meet(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let ours = SessionKey::new(the("a"), the("s"));
    let theirs = SessionKey::new(the("b"), the("s"));
    for key in [&ours, &theirs] {
        ended(&store, key).await;
    }
    let events = all_events(&store, &theirs).await;
    let copy = archive_as(&catalog, &ours, Claim::Hot).await;
    assert_eq!(standing(&catalog, &theirs).await, Standing::Hot);
    let gone = catalog.delete_archived(&theirs, copy.epoch, &ids(&events)).await;
    assert_eq!(gone.unwrap(), 0);
    let gone = catalog.delete_archived(&ours, copy.epoch, &ids(&events)).await;
    assert_eq!(gone.unwrap(), events.len());
    assert_eq!(hot(&store, &theirs).await, (events.clone(), None));
    let not_theirs = catalog.with_hot_events(&[ours.clone(), theirs.clone()]).await;
    assert_eq!(not_theirs.unwrap(), []);
    store.erase(&ours, at(99_000)).await.unwrap();
    assert_eq!(hot(&store, &theirs).await, (events, None));
    assert_eq!(due(&catalog).await, [theirs]);
}

pub async fn what_was_archived_is_there_after_reopening(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (copy, _) = archived(&catalog, &key("archived")).await;
    let (back, events) = archived(&catalog, &key("restored")).await;
    restore(&catalog, &key("restored"), &events, 20_000).await;
    let (erased, _) = archived(&catalog, &key("erased")).await;
    store.erase(&key("erased"), at(10_000)).await.unwrap();
    let owner = segment();
    ended(&store, &key("claimed")).await;
    let claimed = claim(&catalog, &key("claimed"), Claim::Hot, &owner, LEASE).await;
    let session = store.session(&key("archived")).await.unwrap();
    store.close().await;
    assert_eq!(kind(catalog.due(at(1), 1).await), Kind::Unavailable);
    assert_eq!(
        kind(catalog.standings(&[key("archived")]).await),
        Kind::Unavailable
    );

    let (catalog, store) = both(subject).await;
    assert_eq!(store.session(&key("archived")).await.unwrap(), session);
    assert_eq!(
        standing(&catalog, &key("archived")).await,
        Standing::Archived(copy)
    );
    assert_eq!(hot(&store, &key("restored")).await.0.len(), 3);
    assert_eq!(catalog.due(at(20_000), 500).await.unwrap(), []);
    assert_eq!(pending(&catalog).await, (1, vec![erased.pointer.segment]));
    let untidy = catalog.untidy(500).await.unwrap();
    assert!(untidy.iter().any(|archived| archived.key == key("archived")));
    assert!(commit(&catalog, &claimed, &owner).await, "the claim stands");
    assert_eq!(hot(&store, &key("claimed")).await.1, Some(pointer(&owner)));
    store.erase(&key("restored"), at(10_000)).await.unwrap();
    assert!(pending(&catalog).await.1.contains(&back.pointer.segment));
}
