//! Commits: the moment a session is archived, and what it takes.

use colloquy::{
    domain::{End, Expected, Kind, SessionFilter, SessionPatch, Status},
    store::catalog::{Claim, Claimed, Commit, Standing},
};

use super::{
    all_events, append, at,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, claims_ended, commit, due,
        ended, hot, pending, pointer, segment, standing,
    },
    event, key, kind, listing, open, session, the,
};

pub async fn a_commit_archives_and_leaves_the_rest_as_it_was(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let before = ended(&store, &key).await;
    assert!(!before.archived);
    let archived = archive_as(&catalog, &key, Claim::Hot).await;
    let mut expected = before;
    expected.archived = true;
    assert_eq!(store.session(&key).await.unwrap(), expected);
    let filter = SessionFilter {
        status: Some(Status::Completed),
        ..SessionFilter::default()
    };
    let listed = listing::walk(&store, &key.tenant, &filter, the("500")).await;
    assert_eq!(listed, [expected.clone()]);
    let opened = store.open(&key.tenant, session("s"), at(1)).await.unwrap();
    assert_eq!((opened.session, opened.created), (expected, false));
    assert_eq!(standing(&catalog, &key).await, Standing::Archived(archived));
    assert_eq!(due(&catalog).await, []);
}

pub async fn a_commit_of_what_changed_meanwhile_does_nothing(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let owner = segment();
    let claimed = claim(&catalog, &key, Claim::Hot, &owner, LEASE).await;
    assert_eq!(claimed.version, store.session(&key).await.unwrap().version);
    let patch = SessionPatch {
        user_id: Some(Some(the("changed"))),
        ..SessionPatch::default()
    };
    let patched = store.patch(&key, &patch, &Expected::Any).await.unwrap();
    assert!(
        !commit(&catalog, &claimed, &owner).await,
        "a copy of what is no more"
    );
    assert_eq!(store.session(&key).await.unwrap(), patched);
    let read_anew = Claimed {
        version: patched.version,
        ..claimed
    };
    assert!(commit(&catalog, &read_anew, &owner).await);
    assert!(store.session(&key).await.unwrap().archived);
}

pub async fn an_archived_session_shows_its_hot_events_and_its_pointer(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let (events, nowhere) = hot(&store, &key).await;
    assert_eq!((events.len(), nowhere), (3, None));
    let hot_event = store.event(&key, &the("e-1")).await.unwrap();
    assert_eq!(
        (hot_event.event.as_ref(), hot_event.archived),
        (Some(&events[1]), None)
    );

    let archived = archive_as(&catalog, &key, Claim::Hot).await;
    let there = Some(archived.pointer.clone());
    assert_eq!(hot(&store, &key).await, (events.clone(), there.clone()));
    let gone = catalog.delete_archived(&key, archived.epoch, &[the("e-1")]).await;
    assert_eq!(gone.unwrap(), 1);
    let left = vec![events[0].clone(), events[2].clone()];
    assert_eq!(hot(&store, &key).await, (left, there.clone()));
    for (id, expected) in [("e-0", Some(&events[0])), ("e-1", None), ("never", None)] {
        let found = store.event(&key, &the(id)).await.unwrap();
        assert_eq!(
            (found.event.as_ref(), found.archived),
            (expected, there.clone()),
            "{id}"
        );
    }
}

pub async fn an_archived_session_takes_no_events(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (_, events) = archived(&catalog, &key("gone")).await;
    ended(&store, &key("kept")).await;
    archive_as(&catalog, &key("kept"), Claim::Hot).await;
    open(&store, &key("live")).await;
    // Stored here, stored there, and new: only the archive could tell them apart.
    let batch = vec![
        event(&key("kept"), "e-0"),
        event(&key("live"), "e-0"),
        event(&key("gone"), "e-0"),
        event(&key("gone"), "new"),
        event(&key("live"), "e-1"),
    ];
    for one in &batch {
        if one.key != key("live") {
            assert_eq!(kind(append(&store, one.clone()).await), Kind::SessionArchived);
        }
    }
    let outcomes = store.append(batch).await.unwrap();
    let kinds: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.err().map(|error| error.kind()))
        .collect();
    let refused = Some(Kind::SessionArchived);
    assert_eq!(kinds, [refused, None, refused, refused, None]);
    assert_eq!(all_events(&store, &key("gone")).await, []);
    assert_eq!(all_events(&store, &key("kept")).await.len(), events.len());
    assert_eq!(all_events(&store, &key("live")).await.len(), 2);
}

pub async fn an_archived_session_is_not_patched_and_ended_for_good(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    archived(&catalog, &key).await;
    let before = store.session(&key).await.unwrap();
    let patch = SessionPatch {
        user_id: Some(Some(the("someone"))),
        ..SessionPatch::default()
    };
    for patch in [patch, SessionPatch::default()] {
        let patched = store.patch(&key, &patch, &Default::default()).await;
        assert_eq!(kind(patched), Kind::SessionArchived);
    }
    let end = End {
        reason: Some("too late".to_owned()),
        ..End::default()
    };
    assert_eq!(store.end(&key, &end, at(99_000)).await.unwrap(), before);
    assert_eq!(store.session(&key).await.unwrap(), before);
}

pub async fn a_commit_after_its_claim_ended_does_nothing(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let before = ended(&store, &key).await;
    let owner = segment();
    let claimed = claim(&catalog, &key, Claim::Hot, &owner, SHORT_LEASE).await;
    claims_ended(&catalog, &owner).await;
    assert!(
        !commit(&catalog, &claimed, &owner).await,
        "though nobody else came"
    );
    assert!(!catalog.is_needed(&owner).await.unwrap());
    assert_eq!(store.session(&key).await.unwrap(), before);
    assert_eq!(standing(&catalog, &key).await, Standing::Hot);
    assert_eq!(due(&catalog).await, [key]);
}

pub async fn a_commit_needs_its_own_claim(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let (late, owner) = (segment(), segment());
    let first = claim(&catalog, &key, Claim::Hot, &late, SHORT_LEASE).await;
    claims_ended(&catalog, &late).await;
    let second = claim(&catalog, &key, Claim::Hot, &owner, LEASE).await;
    assert!(!commit(&catalog, &first, &late).await, "an older epoch");
    assert!(!commit(&catalog, &second, &late).await, "another's claim");
    let older = Claimed {
        epoch: first.epoch,
        ..second.clone()
    };
    assert!(!commit(&catalog, &older, &owner).await, "its own, but of earlier");
    assert_eq!(standing(&catalog, &key).await, Standing::Hot);
    assert!(commit(&catalog, &second, &owner).await);
    assert!(!commit(&catalog, &first, &late).await);
    assert_eq!(hot(&store, &key).await.1, Some(pointer(&owner)));
}

pub async fn a_repeated_commit_counts(subject: &dyn CatalogSubject) {
    let ((catalog, store), owner) = (both(subject).await, segment());
    let keys = ["a", "unclaimed", "c"].map(key);
    for key in &keys {
        ended(&store, key).await;
    }
    let claimed = [
        claim(&catalog, &keys[0], Claim::Hot, &owner, LEASE).await,
        claim(&catalog, &keys[2], Claim::Hot, &owner, LEASE).await,
    ];
    let version = claimed[0].version;
    let one = |n: usize, epoch| Commit {
        key: keys[n].clone(),
        epoch,
        version,
        pointer: pointer(&owner),
    };
    let commits = [one(0, claimed[0].epoch), one(1, 1), one(2, claimed[1].epoch)];
    for _ in 0..3 {
        let done = catalog.commit(&commits, &owner).await.unwrap();
        assert_eq!(done, [true, false, true]);
    }
    let mut moved = commits[0].clone();
    moved.pointer.first_row += 1;
    let done = catalog.commit(&[moved], &owner).await.unwrap();
    assert_eq!(done, [false], "another pointer is another commit");
    assert_eq!(hot(&store, &keys[0]).await.1, Some(pointer(&owner)));
}

pub async fn a_later_copy_takes_the_place_of_an_earlier_one(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let before = ended(&store, &key).await;
    let first = archive_as(&catalog, &key, Claim::Hot).await;
    let second = archive_as(&catalog, &key, Claim::Archived).await;
    assert!(second.epoch > first.epoch);
    assert_eq!(hot(&store, &key).await.1, Some(second.pointer.clone()));
    assert_eq!(store.session(&key).await.unwrap().version, before.version);
    assert!(!catalog.is_needed(&first.pointer.segment).await.unwrap());
    assert!(catalog.is_needed(&second.pointer.segment).await.unwrap());
    // What the first copy's archiver still wanted to delete is the second's to delete now.
    let late = catalog.delete_archived(&key, first.epoch, &[the("e-0")]).await;
    assert_eq!(late.unwrap(), 0);
    assert_eq!(pending(&catalog).await, (0, vec![]), "nobody erased it");
    store.erase(&key, at(99_000)).await.unwrap();
    let both = vec![first.pointer.segment, second.pointer.segment];
    assert_eq!(pending(&catalog).await, (1, both));
}

pub async fn a_moved_copy_leaves_the_rest_as_it_was(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (tidy, untidy) = (key("tidy"), key("untidy"));
    let (before, _) = super::catalog::archived(&catalog, &tidy).await;
    catalog.tidied(std::slice::from_ref(&before), None).await.unwrap();
    ended(&store, &untidy).await;
    archive_as(&catalog, &untidy, Claim::Hot).await;
    let sessions = async || {
        [
            store.session(&tidy).await.unwrap(),
            store.session(&untidy).await.unwrap(),
        ]
    };
    let as_it_was = sessions().await;

    let owner = segment();
    let moved = [&tidy, &untidy].map(|key| async {
        let claimed = claim(&catalog, key, Claim::Archived, &owner, LEASE).await;
        Commit {
            key: claimed.key,
            epoch: claimed.epoch,
            version: claimed.version,
            pointer: pointer(&owner),
        }
    });
    let moved: Vec<Commit> = futures_util::future::join_all(moved).await;
    for _ in 0..2 {
        let done = catalog.commit_moved(&moved, &owner).await.unwrap();
        assert_eq!(done, [true, true], "and again");
    }
    assert_eq!(sessions().await, as_it_was);
    for key in [&tidy, &untidy] {
        assert_eq!(hot(&store, key).await.1, Some(pointer(&owner)));
    }
    let listed = catalog.untidy(500).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|archived| archived.key).collect();
    assert_eq!(
        listed,
        std::slice::from_ref(&untidy),
        "what was to be looked at still is, and no more"
    );
    // Under a claim that is no more, it does nothing.
    let again = catalog
        .claim(std::slice::from_ref(&tidy), Claim::Archived, &segment(), LEASE)
        .await
        .unwrap();
    let late = Commit {
        pointer: pointer(&segment()),
        ..moved[0].clone()
    };
    assert_eq!(catalog.commit_moved(&[late], &owner).await.unwrap(), [false]);
    assert!(again[0].epoch > moved[0].epoch);
    store.erase(&tidy, at(99_000)).await.unwrap();
    assert!(
        pending(&catalog).await.1.contains(&before.pointer.segment),
        "the copy before it"
    );
}
