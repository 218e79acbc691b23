//! Archived sessions whose time is over: erased many at a time, each only where it is as it is said to be.

use std::sync::Arc;

use colloquy::{
    domain::{Kind, SessionKey},
    store::catalog::{Archived, Catalog, Claim, Standing, Written},
};

use super::{
    all_events, at,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, claims_ended, commit, ended,
        hot, pending, restore, segment, standing,
    },
    erasing::{assert_refused, reopen, tidy},
    event, key, store_event, together,
};

async fn expire(catalog: &Arc<dyn Catalog>, archived: &[Archived]) -> Vec<bool> {
    catalog.expire(archived, at(10_000)).await.unwrap()
}

pub async fn an_archived_session_expires_as_if_it_were_erased(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let mut all = Vec::new();
    for n in 0..30 {
        all.push(archived(&catalog, &key(&format!("s-{n:02}"))).await.0);
    }
    let (kept, _) = archived(&catalog, &key("kept")).await;
    assert!(expire(&catalog, &[]).await.is_empty());
    for _ in 0..2 {
        assert_eq!(expire(&catalog, &all).await, vec![true; 30], "and again");
    }
    for archived in &all {
        assert_refused(&store, &archived.key, Kind::SessionErased).await;
        assert_eq!(standing(&catalog, &archived.key).await, Standing::Erased);
    }
    assert_eq!(
        standing(&catalog, &kept.key).await,
        Standing::Archived(kept.clone())
    );
    assert_eq!(
        pending(&catalog).await.0,
        30,
        "its bytes are there until the segment is gone"
    );
    assert_eq!(
        catalog.segments(None, 500).await.unwrap(),
        [(kept.pointer.segment, 1)]
    );
    assert_eq!(
        reopen(&store, &all[0].key, at(10_000)).await,
        Err(Kind::SessionErased)
    );
    for archived in &all {
        catalog.forget_segment(&archived.pointer.segment).await.unwrap();
    }
    assert_eq!(
        reopen(&store, &all[0].key, at(9_999)).await,
        Err(Kind::SessionErased)
    );
    assert_eq!(reopen(&store, &all[0].key, at(10_000)).await, Ok(true));
    assert_eq!(tidy(&store, at(10_000)).await.tombstones_dropped, 29);
}

pub async fn what_expires_must_be_archived_there_under_that_epoch(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (restored, events) = archived(&catalog, &key("restored")).await;
    restore(&catalog, &restored.key, &events, 20_000).await;
    let (moved, _) = archived(&catalog, &key("moved")).await;
    let now_there = archive_as(&catalog, &moved.key, Claim::Archived).await;
    let (again, its_events) = archived(&catalog, &key("again")).await;
    restore(&catalog, &again.key, &its_events, 20_000).await;
    let archived_again = archive_as(&catalog, &again.key, Claim::Hot).await;
    let (as_said, _) = archived(&catalog, &key("as-said")).await;
    let (looked_at, _) = archived(&catalog, &key("looked-at")).await;
    let owner = segment();
    let claimed = claim(&catalog, &looked_at.key, Claim::Archived, &owner, LEASE).await;
    catalog
        .release(&[claimed], &owner, Written::Nothing)
        .await
        .unwrap();
    ended(&store, &key("hot")).await;
    let unknown = |id| Archived {
        key: key(id),
        ..as_said.clone()
    };
    let asked = [
        restored.clone(),
        moved.clone(),
        again.clone(),
        as_said.clone(),
        looked_at.clone(),
        unknown("hot"),
        unknown("never"),
    ];
    let expected = [false, false, false, true, false, false, false];
    assert_eq!(expire(&catalog, &asked).await, expected);
    assert_eq!(standing(&catalog, &restored.key).await, Standing::Hot);
    assert_eq!(hot(&store, &restored.key).await, (events, None));
    assert_eq!(
        standing(&catalog, &moved.key).await,
        Standing::Archived(now_there)
    );
    assert_eq!(
        standing(&catalog, &again.key).await,
        Standing::Archived(archived_again)
    );
    assert_eq!(standing(&catalog, &as_said.key).await, Standing::Erased);
    assert!(matches!(
        standing(&catalog, &looked_at.key).await,
        Standing::Archived(_)
    ));
    assert_eq!(all_events(&store, &key("hot")).await.len(), 3);
    assert_eq!(standing(&catalog, &key("never")).await, Standing::Unknown);
}

pub async fn what_is_claimed_does_not_expire(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for (id, is_lost) in [("held", false), ("lost", true)] {
        let (copy, events) = archived(&catalog, &key(id)).await;
        let owner = segment();
        let lease = if is_lost { SHORT_LEASE } else { LEASE };
        let claimed = claim(&catalog, &copy.key, Claim::Archived, &owner, lease).await;
        catalog
            .bring_back(&copy.key, claimed.epoch, &events)
            .await
            .unwrap();
        let as_it_is = Archived {
            epoch: claimed.epoch,
            ..copy
        };
        if is_lost {
            claims_ended(&catalog, &owner).await;
        }
        assert_eq!(
            expire(&catalog, std::slice::from_ref(&as_it_is)).await,
            [is_lost],
            "{id}"
        );
        let restored = catalog
            .restored(&as_it_is.key, claimed.epoch, &owner, at(20_000))
            .await;
        assert_eq!(restored.unwrap().is_some(), !is_lost, "{id}");
        if is_lost {
            assert!(
                pending(&catalog).await.1.contains(&owner),
                "it may have written a copy"
            );
        } else {
            assert_eq!(hot(&store, &as_it_is.key).await, (events, None));
        }
    }
}

/// Whoever is told that it was done finds it so, and never both.
pub async fn of_racing_restores_and_expiries_one_wins(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let mut copies = Vec::new();
    for n in 0..24 {
        copies.push(archived(&catalog, &key(&format!("s-{n:02}"))).await);
    }
    let all: Vec<Archived> = copies.iter().map(|(copy, _)| copy.clone()).collect();
    let (racing, copies) = (catalog.clone(), Arc::new(copies));
    let outcomes = together(25, move |n| {
        let (catalog, all, copies) = (racing.clone(), all.clone(), Arc::clone(&copies));
        async move {
            if n == 24 {
                let mut expired = Vec::new();
                for one in all.chunks(4) {
                    expired.extend(expire(&catalog, one).await);
                }
                return expired;
            }
            let (copy, events) = &copies[n];
            vec![try_restore(&catalog, copy, events).await]
        }
    })
    .await;
    let (restored, expired) = outcomes.split_at(24);
    for (n, (restored, expired)) in restored.iter().flatten().zip(&expired[0]).enumerate() {
        let key = key(&format!("s-{n:02}"));
        let found = standing(&catalog, &key).await;
        match (*restored, *expired) {
            (true, false) => {
                assert_eq!(found, Standing::Hot, "{key}");
                assert_eq!(all_events(&store, &key).await.len(), 3, "{key}");
            }
            (false, true) => assert_eq!(found, Standing::Erased, "{key}"),
            both => panic!("{key}: restored and expired: {both:?}, {found:?}"),
        }
    }
}

async fn try_restore(
    catalog: &Arc<dyn Catalog>,
    copy: &Archived,
    events: &[colloquy::domain::Event],
) -> bool {
    let owner = segment();
    let keys = std::slice::from_ref(&copy.key);
    let claimed = catalog.claim(keys, Claim::Archived, &owner, LEASE).await.unwrap();
    let Some(claimed) = claimed.first() else {
        return false;
    };
    catalog
        .bring_back(&copy.key, claimed.epoch, events)
        .await
        .unwrap();
    let restored = catalog
        .restored(&copy.key, claimed.epoch, &owner, at(20_000))
        .await;
    restored.unwrap().is_some()
}

pub async fn hot_events_of_what_expires_go_too(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let mut all = Vec::new();
    for id in ["clean", "late", "full"] {
        let copy = match id {
            "full" => {
                ended(&store, &key(id)).await;
                archive_as(&catalog, &key(id), Claim::Hot).await
            }
            _ => archived(&catalog, &key(id)).await.0,
        };
        all.push(copy);
    }
    let owner = segment();
    let claimed = claim(&catalog, &key("late"), Claim::Archived, &owner, LEASE).await;
    let (_, events) = archived(&catalog, &key("other")).await;
    let late: Vec<_> = events
        .iter()
        .map(|event| colloquy::domain::Event {
            session: key("late").id,
            ..event.clone()
        })
        .collect();
    catalog
        .bring_back(&key("late"), claimed.epoch, &late)
        .await
        .unwrap();
    catalog
        .release(std::slice::from_ref(&claimed), &owner, Written::Nothing)
        .await
        .unwrap();
    all[1].epoch = claimed.epoch;
    assert_eq!(expire(&catalog, &all).await, [true; 3]);
    for archived in &all {
        catalog.forget_segment(&archived.pointer.segment).await.unwrap();
    }
    catalog.forget_segment(&owner).await.unwrap();
    // Opened again over the tombstone, each is empty, and its old ids are free.
    for archived in &all {
        let key = &archived.key;
        assert_eq!(reopen(&store, key, at(10_000)).await, Ok(true));
        assert_eq!(all_events(&store, key).await, [], "{key}");
        store_event(&store, event(key, "e-0")).await;
    }
    assert_eq!(tidy(&store, at(0)).await.events_deleted, 0, "they went at once");
}

pub async fn sessions_of_a_segment_are_found_by_their_pointers(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (one, other) = (segment(), segment());
    let mut expected = Vec::new();
    for n in 0..9 {
        let key = SessionKey::new("t".parse().unwrap(), format!("s-{n}").parse().unwrap());
        ended(&store, &key).await;
        let owner = if n % 3 == 0 { &other } else { &one };
        let claimed = claim(&catalog, &key, Claim::Hot, owner, LEASE).await;
        assert!(commit(&catalog, &claimed, owner).await);
        if n % 3 > 0 {
            let Standing::Archived(archived) = standing(&catalog, &key).await else {
                panic!("{key} was archived");
            };
            expected.push(archived);
        }
    }
    let found = async |limit| {
        let mut found = catalog.archived_in(&one, limit).await.unwrap();
        found.sort_by(|a, b| a.key.id.as_str().cmp(b.key.id.as_str()));
        found
    };
    assert_eq!(found(500).await, expected);
    assert_eq!(found(2).await.len(), 2);
    assert_eq!(catalog.archived_in(&segment(), 500).await.unwrap(), []);
    store.erase(&expected[0].key, at(99_000)).await.unwrap();
    assert_eq!(found(500).await, expected[1..]);
}
