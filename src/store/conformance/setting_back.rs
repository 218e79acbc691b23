//! What a store does that was set back: it meets copies that it made before and does not know any more, and takes them in
//! without losing what it has.

use colloquy::{
    domain::{End, Kind, Session, SessionKey, Status},
    store::catalog::{Adopted, Archived, Claim, Standing, Written},
};

use super::{
    adopting::{copy, stub},
    all_events, at,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, claims_ended, commit, due,
        ended, hot, pending, restore, segment, standing,
    },
    erasing::assert_refused,
    event, key, open, store_event, the,
};

pub async fn a_store_knows_the_copies_that_it_made_and_no_others(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let known = async |segment, id| catalog.known(segment, &[key(id)]).await.unwrap() == [true];
    let (first, events) = archived(&catalog, &key("s")).await;
    assert!(
        known(&first.pointer.segment, "s").await,
        "its pointer leads there"
    );
    restore(&catalog, &key("s"), &events, 20_000).await;
    assert!(
        known(&first.pointer.segment, "s").await,
        "it was restored from there"
    );
    let second = archive_as(&catalog, &key("s"), Claim::Hot).await;
    archive_as(&catalog, &key("s"), Claim::Archived).await;
    assert!(known(&second.pointer.segment, "s").await, "it moved from there");

    let (late, later, written) = (segment(), segment(), segment());
    ended(&store, &key("claimed")).await;
    claim(&catalog, &key("claimed"), Claim::Hot, &late, SHORT_LEASE).await;
    claims_ended(&catalog, &late).await;
    assert!(known(&late, "claimed").await, "its last claim names it");
    claim(&catalog, &key("claimed"), Claim::Hot, &later, SHORT_LEASE).await;
    assert!(known(&late, "claimed").await, "an earlier claim named it");
    claims_ended(&catalog, &later).await;
    let given_up = claim(&catalog, &key("claimed"), Claim::Hot, &written, LEASE).await;
    catalog
        .release(&[given_up], &written, Written::Maybe)
        .await
        .unwrap();
    assert!(known(&written, "claimed").await, "it may have been written");

    ended(&store, &key("hot")).await;
    let unheard_of = segment();
    for id in ["s", "claimed", "hot", "never"] {
        assert!(!known(&unheard_of, id).await, "{id}");
        assert!(!known(&first.pointer.segment, "hot").await, "another session's");
    }
    store.erase(&key("s"), at(99_000)).await.unwrap();
    for segment in [&first.pointer.segment, &second.pointer.segment] {
        assert!(known(segment, "s").await, "it was erased from there");
    }
    catalog.forget_segment(&first.pointer.segment).await.unwrap();
    assert!(!known(&first.pointer.segment, "s").await);
    let asked = [key("never"), key("s"), key("hot")];
    let answers = catalog.known(&second.pointer.segment, &asked).await;
    assert_eq!(answers.unwrap(), [false, true, false], "in their order");
    assert_eq!(catalog.known(&segment(), &[]).await.unwrap(), [false; 0]);
}

pub async fn what_is_known_is_never_adopted(subject: &dyn CatalogSubject) {
    let ((catalog, store), s) = (both(subject).await, key("s"));
    let (first, events) = archived(&catalog, &s).await;
    restore(&catalog, &s, &events, 20_000).await;
    let session = store.session(&s).await.unwrap();
    for epoch in [first.epoch, i64::MAX - 10] {
        let found = Archived {
            epoch,
            ..first.clone()
        };
        assert_eq!(catalog.adopt(&found, &stub("s")).await.unwrap(), Adopted::Kept);
        assert_eq!(store.session(&s).await.unwrap(), session);
        assert_eq!(hot(&store, &s).await, (events.clone(), None));
    }
    // A run that is writing a segment at this moment has not committed it yet.
    let owner = segment();
    let claimed = claim(&catalog, &s, Claim::Hot, &owner, LEASE).await;
    let being_written = Archived {
        pointer: super::catalog::pointer(&owner),
        ..first
    };
    let adopted = catalog.adopt(&being_written, &stub("s")).await;
    assert_eq!(adopted.unwrap(), Adopted::Kept);
    assert!(commit(&catalog, &claimed, &owner).await);
}

pub async fn an_epoch_is_never_given_twice(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let now = segment().begun_at().unix_ms();
    // Of two sessions the second stands for the first in a backup, in which it was never claimed.
    let mut epochs = Vec::new();
    for id in ["before", "after"] {
        ended(&store, &key(id)).await;
        epochs.push(archive_as(&catalog, &key(id), Claim::Hot).await.epoch);
        // The clock has moved on when the next one is claimed.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(epochs[0] >= now && epochs[1] > epochs[0], "{epochs:?} at {now}");
    // And it goes on from what was found, whatever the clock says.
    let found = copy(&key("found"), i64::MAX - 10);
    catalog.adopt(&found, &stub("found")).await.unwrap();
    let next = claim(&catalog, &key("found"), Claim::Archived, &segment(), LEASE).await;
    assert!(next.epoch > found.epoch);
}

/// A session with the events `e-0` and `e-1`, as an older backup has it; ended or not.
async fn set_back(store: &std::sync::Arc<dyn colloquy::store::Store>, key: &SessionKey, ended: bool) {
    open(store, key).await;
    for id in ["e-0", "e-1"] {
        store_event(store, event(key, id)).await;
    }
    if ended {
        store.end(key, &End::default(), at(9_000)).await.unwrap();
    }
}

pub async fn a_hot_session_is_pointed_to_a_copy_and_keeps_its_events(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for (id, is_ended) in [("active", false), ("ended", true)] {
        let s = key(id);
        set_back(&store, &s, is_ended).await;
        let events = all_events(&store, &s).await;
        let found = copy(&s, 5);
        assert_eq!(catalog.adopt(&found, &stub(id)).await.unwrap(), Adopted::Moved);
        for _ in 0..2 {
            assert_eq!(catalog.adopt(&found, &stub(id)).await.unwrap(), Adopted::Kept);
        }
        assert_eq!(
            store.session(&s).await.unwrap(),
            stub(id),
            "as the newer copy has it"
        );
        assert_eq!(
            hot(&store, &s).await,
            (events.clone(), Some(found.pointer.clone()))
        );
        let Standing::Archived(there) = standing(&catalog, &s).await else {
            panic!("{id} is archived");
        };
        assert!(
            there.epoch > found.epoch,
            "no claim from before it is meant for it"
        );
        let untidy = catalog.untidy(10).await.unwrap();
        assert!(untidy.contains(&there), "{id} is looked at soon");
        let hot_events = catalog.with_hot_events(std::slice::from_ref(&s)).await;
        assert_eq!(hot_events.unwrap(), std::slice::from_ref(&s));
        // What the copy has goes; what it has not is moved with it.
        let deleted = catalog.delete_archived(&s, there.epoch, &[the("e-0")]).await;
        assert_eq!(deleted.unwrap(), 1);
        assert_eq!(hot(&store, &s).await.0, events[1..]);
        let refused = store.append(vec![event(&s, "e-2")]).await.unwrap().remove(0);
        assert_eq!(refused.unwrap_err().kind(), Kind::SessionArchived);
    }
    assert_eq!(due(&catalog).await, []);
    // Of what it was later than the copy, the newer counts.
    let newer = key("newer");
    set_back(&store, &newer, true).await;
    let stored = store.session(&newer).await.unwrap();
    let older = Session {
        version: stored.version - 1,
        ..stub("newer")
    };
    catalog.adopt(&copy(&newer, 5), &older).await.unwrap();
    let expected = Session {
        archived: true,
        ..stored
    };
    assert_eq!(store.session(&newer).await.unwrap(), expected);
}

pub async fn a_claim_on_a_session_that_is_pointed_elsewhere_is_void(subject: &dyn CatalogSubject) {
    let ((catalog, store), s) = (both(subject).await, key("s"));
    set_back(&store, &s, true).await;
    let owner = segment();
    let claimed = claim(&catalog, &s, Claim::Hot, &owner, LEASE).await;
    let found = copy(&s, 5);
    assert_eq!(catalog.adopt(&found, &stub("s")).await.unwrap(), Adopted::Moved);
    assert!(!commit(&catalog, &claimed, &owner).await);
    let renewed = catalog.renew(std::slice::from_ref(&claimed), &owner, LEASE).await;
    assert_eq!(renewed.unwrap(), [false]);
    assert!(!catalog.is_needed(&owner).await.unwrap());
    assert_eq!(
        catalog.known(&owner, std::slice::from_ref(&s)).await.unwrap(),
        [true]
    );
    assert_eq!(hot(&store, &s).await.1, Some(found.pointer));
    let again = claim(&catalog, &s, Claim::Archived, &segment(), LEASE).await;
    assert!(again.epoch > claimed.epoch);
}

pub async fn two_copies_are_merged_under_a_claim(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for takes_over in [true, false] {
        let id = format!("s-{takes_over}");
        let s = key(&id);
        let (current, events) = archived(&catalog, &s).await;
        let found = copy(&s, 5);
        let Adopted::Apart(there) = catalog.adopt(&found, &stub(&id)).await.unwrap() else {
            panic!("neither is known to hold the other");
        };
        assert_eq!(there, current);
        let stored = store.session(&s).await.unwrap();
        assert_ne!(stored, stub(&id), "nothing was changed");
        let known = catalog
            .known(&found.pointer.segment, std::slice::from_ref(&s))
            .await;
        assert_eq!(known.unwrap(), [false]);

        let owner = segment();
        let claimed = claim(&catalog, &s, Claim::Archived, &owner, LEASE).await;
        catalog.bring_back(&s, claimed.epoch, &events[1..]).await.unwrap();
        let merged = catalog
            .merge(&claimed, &owner, &found, &stub(&id), takes_over)
            .await;
        assert!(merged.unwrap());
        let (winner, loser) = match takes_over {
            true => (&found, &current),
            false => (&current, &found),
        };
        let there = Some(winner.pointer.clone());
        assert_eq!(hot(&store, &s).await, (events[1..].to_vec(), there));
        assert_eq!(
            store.session(&s).await.unwrap(),
            stub(&id),
            "of the greater version"
        );
        for segment in [&winner.pointer.segment, &loser.pointer.segment] {
            assert_eq!(
                catalog.known(segment, std::slice::from_ref(&s)).await.unwrap(),
                [true]
            );
        }
        assert!(!catalog.is_needed(&loser.pointer.segment).await.unwrap());
        assert_eq!(catalog.adopt(&found, &stub(&id)).await.unwrap(), Adopted::Kept);
        // The claim is over, and its brought-back events are late ones.
        let untidy = catalog.untidy(10).await.unwrap();
        assert!(untidy.iter().any(|archived| archived.key == s));
        archive_as(&catalog, &s, Claim::Archived).await;
    }
}

pub async fn a_merge_under_a_lost_claim_changes_nothing(subject: &dyn CatalogSubject) {
    let ((catalog, store), s) = (both(subject).await, key("s"));
    let (current, _) = archived(&catalog, &s).await;
    let (session, found, owner) = (store.session(&s).await.unwrap(), copy(&s, 5), segment());
    let lost = claim(&catalog, &s, Claim::Archived, &owner, SHORT_LEASE).await;
    claims_ended(&catalog, &owner).await;
    let other = segment();
    let stands = claim(&catalog, &s, Claim::Archived, &other, LEASE).await;
    for (claimed, owner) in [(&lost, &owner), (&lost, &other), (&stands, &owner)] {
        let merged = catalog.merge(claimed, owner, &found, &stub("s"), true).await;
        assert!(!merged.unwrap());
        assert_eq!(store.session(&s).await.unwrap(), session);
        assert_eq!(hot(&store, &s).await.1, Some(current.pointer.clone()));
        let known = catalog
            .known(&found.pointer.segment, std::slice::from_ref(&s))
            .await;
        assert_eq!(known.unwrap(), [false]);
    }
    store.erase(&s, at(99_000)).await.unwrap();
    let merged = catalog.merge(&stands, &other, &found, &stub("s"), true).await;
    assert!(!merged.unwrap());
    assert_refused(&store, &s, Kind::SessionErased).await;
}

pub async fn a_copy_from_after_an_erasure_waits_for_its_end(subject: &dyn CatalogSubject) {
    let ((catalog, store), s) = (both(subject).await, key("s"));
    ended(&store, &s).await;
    store.erase(&s, at(99_000)).await.unwrap();
    // As after a later erasure's end, when the id was used again: that is what the newer store knew.
    let later = copy(&s, i64::MAX - 10);
    for _ in 0..2 {
        assert_eq!(catalog.adopt(&later, &stub("s")).await.unwrap(), Adopted::Refused);
        assert_eq!(pending(&catalog).await, (0, vec![]), "its bytes are not to go");
    }
    assert_refused(&store, &s, Kind::SessionErased).await;
    super::erasing::tidy(&store, at(99_000)).await;
    assert_eq!(catalog.adopt(&later, &stub("s")).await.unwrap(), Adopted::Created);
    assert_eq!(store.session(&s).await.unwrap(), stub("s"));
}

pub async fn what_was_erased_is_erased_again_if_it_is_older(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    // All of them are opened at 1,001.
    for id in ["hot", "active", "archived"] {
        open(&store, &key(id)).await;
        store_event(&store, event(&key(id), "e-0")).await;
    }
    for id in ["hot", "archived"] {
        store.end(&key(id), &End::default(), at(9_000)).await.unwrap();
    }
    let copy = archive_as(&catalog, &key("archived"), Claim::Hot).await;
    for id in ["hot", "active", "archived"] {
        let erase = async |erased_at| {
            catalog
                .erase_older(&key(id), at(erased_at), at(99_000))
                .await
                .unwrap()
        };
        assert!(!erase(1_000).await, "{id} was opened after that");
        store.session(&key(id)).await.unwrap();
        assert!(erase(1_001).await, "{id}");
        assert!(!erase(1_001).await, "{id}");
        assert_refused(&store, &key(id), Kind::SessionErased).await;
    }
    assert!(
        !catalog
            .erase_older(&key("never"), at(1_000), at(99_000))
            .await
            .unwrap()
    );
    assert_eq!(catalog.unmarked(10).await.unwrap(), [], "the marker is there");
    assert_eq!(pending(&catalog).await, (1, vec![copy.pointer.segment]));
    // Where the store does not know when it was opened, its segment tells.
    let found = super::adopting::copy(&key("found"), 5);
    let begun_at = found.pointer.segment.begun_at();
    let session = Session {
        status: Status::Completed,
        ..stub("found")
    };
    catalog.adopt(&found, &session).await.unwrap();
    let erase = async |at_| catalog.erase_older(&key("found"), at_, at(99_000)).await.unwrap();
    assert!(!erase(begun_at.saturating_add_ms(-1)).await);
    assert!(erase(begun_at).await);
}

pub async fn a_walk_meets_every_session_once_and_no_tombstone(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let mut expected = Vec::new();
    for tenant in ["a", "b"] {
        for n in 0..5 {
            let key = SessionKey::new(the(tenant), the(&format!("s-{n}")));
            ended(&store, &key).await;
            match n {
                0 => drop(archive_as(&catalog, &key, Claim::Hot).await),
                1 => {
                    store.erase(&key, at(99_000)).await.unwrap();
                    continue;
                }
                _ => {}
            }
            expected.push(key);
        }
    }
    for limit in [1, 3, 500] {
        let mut walked: Vec<SessionKey> = Vec::new();
        loop {
            let page = catalog.walk(walked.last(), limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            walked.extend(page);
        }
        walked.sort();
        assert_eq!(walked, expected, "pages of {limit}");
    }
}
