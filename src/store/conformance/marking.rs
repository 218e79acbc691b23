//! What the store owes the archive, and what it remembers for it: erasure markers, and segments that may have been written.

use colloquy::{
    domain::{Day, Kind, SegmentName, SessionKey},
    store::catalog::{Claim, Unmarked, Written},
};

use super::{
    at,
    catalog::{
        CatalogSubject, LEASE, archive_as, archived, both, claim, commit, due, ended, mark_all, pending,
        segment,
    },
    erasing::{reopen, tidy},
    key, the,
};

pub async fn an_erasure_owes_a_marker_until_it_is_written(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let mut keys = ["a", "b"].map(|tenant| SessionKey::new(the(tenant), the("s")));
    let mut segments = Vec::new();
    for key in &keys {
        let copy = archived(&catalog, key).await.0;
        segments.push(copy.pointer.segment);
        assert_eq!(catalog.owed_marker(key).await.unwrap(), None);
        assert_eq!(catalog.unmarked(10).await.unwrap().len(), segments.len() - 1);
        store.erase(key, at(10_000)).await.unwrap();
        let epoch = catalog.owed_marker(key).await.unwrap().expect("it is owed");
        assert!(epoch > copy.epoch);
        assert!(catalog.unmarked(10).await.unwrap().contains(&Unmarked {
            key: key.clone(),
            epoch
        }));
        // Repeated, it is owed once.
        store.erase(key, at(10_000)).await.unwrap();
    }
    let owed = async |limit| -> Vec<SessionKey> {
        let unmarked = catalog.unmarked(limit).await.unwrap();
        unmarked.into_iter().map(|unmarked| unmarked.key).collect()
    };
    let mut all = owed(10).await;
    all.sort();
    keys.sort();
    assert_eq!(all, keys);
    assert_eq!(owed(1).await.len(), 1);
    for segment in &segments {
        catalog.forget_segment(segment).await.unwrap();
    }
    // No byte is left, and yet it is pending: a rebuild would not know of it.
    assert_eq!(catalog.pending().await.unwrap().sessions, 2);
    assert_eq!(
        catalog.affected(None, 10).await.unwrap(),
        [],
        "no segment is called so"
    );
    assert_eq!(tidy(&store, at(10_000)).await.tombstones_dropped, 0);
    assert_eq!(
        reopen(&store, &keys[0], at(10_000)).await,
        Err(Kind::SessionErased)
    );
    store.close().await;

    let (catalog, store) = both(subject).await;
    assert_eq!(
        catalog.unmarked(10).await.unwrap().len(),
        2,
        "it outlives the process"
    );
    for _ in 0..2 {
        catalog.marked(&keys[..1]).await.unwrap();
        let left = catalog.unmarked(10).await.unwrap();
        assert!(left.len() == 1 && left[0].key == keys[1], "{left:?}");
    }
    assert_eq!(catalog.owed_marker(&keys[0]).await.unwrap(), None);
    catalog.marked(&[key("never")]).await.unwrap();
    assert_eq!(reopen(&store, &keys[0], at(10_000)).await, Ok(true));
    catalog.marked(&keys).await.unwrap();
    assert_eq!(catalog.pending().await.unwrap().sessions, 0);
    assert_eq!(tidy(&store, at(10_000)).await.tombstones_dropped, 1);
}

pub async fn a_session_that_was_never_archived_owes_none(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    ended(&store, &key("hot")).await;
    let owner = segment();
    ended(&store, &key("given-up")).await;
    let claimed = claim(&catalog, &key("given-up"), Claim::Hot, &owner, LEASE).await;
    catalog
        .release(&[claimed], &owner, Written::Nothing)
        .await
        .unwrap();
    for id in ["hot", "given-up"] {
        store.erase(&key(id), at(10_000)).await.unwrap();
        assert_eq!(catalog.owed_marker(&key(id)).await.unwrap(), None);
    }
    assert_eq!(catalog.unmarked(10).await.unwrap(), []);
    assert_eq!(catalog.pending().await.unwrap(), Default::default());
}

pub async fn a_claim_that_was_given_up_after_writing_is_remembered(subject: &dyn CatalogSubject) {
    let ((catalog, store), s) = (both(subject).await, key("s"));
    ended(&store, &s).await;
    let owner = segment();
    let claimed = claim(&catalog, &s, Claim::Hot, &owner, LEASE).await;
    let one = std::slice::from_ref(&claimed);
    catalog.release(one, &owner, Written::Maybe).await.unwrap();
    assert_eq!(
        due(&catalog).await,
        std::slice::from_ref(&s),
        "it is free at once"
    );
    assert!(!commit(&catalog, &claimed, &owner).await);
    assert!(!catalog.is_needed(&owner).await.unwrap());
    assert_eq!(catalog.residual(10).await.unwrap(), std::slice::from_ref(&owner));
    // Only the owner of a claim gives it up, and so only it is remembered.
    let other = segment();
    catalog.release(one, &other, Written::Maybe).await.unwrap();
    assert_eq!(catalog.residual(10).await.unwrap(), std::slice::from_ref(&owner));
    store.erase(&s, at(99_000)).await.unwrap();
    assert_eq!(pending(&catalog).await, (1, vec![owner.clone()]));
    catalog.forget_segment(&owner).await.unwrap();
    assert_eq!(pending(&catalog).await, (0, vec![]));
    assert_eq!(catalog.residual(10).await.unwrap(), []);
}

pub async fn segments_are_told_by_range_and_by_what_was_left(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let mut names: Vec<_> = ["a", "a-", "b", "c", "d"]
        .map(|tenant| SegmentName::new(the(tenant), Day::of(at(0))))
        .into();
    for name in &names {
        for n in 0..3 {
            let key = SessionKey::new(name.tenant().clone(), the(&format!("s-{n}")));
            ended(&store, &key).await;
            let claimed = claim(&catalog, &key, Claim::Hot, name, LEASE).await;
            assert!(commit(&catalog, &claimed, name).await);
        }
    }
    names.sort_by_key(ToString::to_string);
    let told = async |after: Option<usize>, until: Option<usize>, limit| {
        let (after, until) = (after.map(|n| &names[n]), until.map(|n| &names[n]));
        catalog.pointed_to(after, until, limit).await.unwrap()
    };
    assert_eq!(told(None, None, 100).await, names, "each once, in order");
    assert_eq!(told(None, None, 2).await, names[..2]);
    assert_eq!(
        told(Some(1), None, 100).await,
        names[2..],
        "the first is not in it"
    );
    assert_eq!(told(None, Some(2), 100).await, names[..=2], "the last is in it");
    assert_eq!(told(Some(0), Some(3), 2).await, names[1..3]);
    assert_eq!(told(Some(4), None, 100).await, []);
    assert_eq!(catalog.residual(100).await.unwrap(), []);
    // What all its sessions left is no longer pointed to.
    let moved = SessionKey::new(names[0].tenant().clone(), the("s-0"));
    let next = archive_as(&catalog, &moved, Claim::Archived)
        .await
        .pointer
        .segment;
    assert_eq!(
        told(None, Some(0), 100).await,
        names[..1],
        "two still point there"
    );
    for n in 1..3 {
        let key = SessionKey::new(names[0].tenant().clone(), the(&format!("s-{n}")));
        store.erase(&key, at(99_000)).await.unwrap();
    }
    mark_all(&catalog).await;
    assert_eq!(told(None, Some(0), 100).await, []);
    assert_eq!(catalog.residual(100).await.unwrap(), names[..1]);
    assert!(told(None, None, 100).await.contains(&next));
}
