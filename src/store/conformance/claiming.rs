//! Claims: what is due, who gets it, and when it is free again.

use std::{collections::HashMap, time::Duration};

use colloquy::{
    domain::SessionKey,
    store::catalog::{Claim, Claimed, Due, Written},
};

use super::{
    at,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, claims_ended, commit, due,
        ended, ended_at, segment,
    },
    key, open, store_event, the, together,
};

pub async fn ended_sessions_are_due_oldest_end_first(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let other = SessionKey::new(the("other"), the("a"));
    let ends = [
        (key("a"), 4_000),
        (key("b"), 1_000),
        (other, 3_000),
        (key("c"), 2_000),
    ];
    for (key, ended) in &ends {
        ended_at(&store, key, *ended).await;
    }
    let oldest_first = [1, 3, 2, 0].map(|n| {
        let (key, ended) = ends[n].clone();
        Due {
            key,
            ended_at: at(ended),
        }
    });
    assert_eq!(catalog.due(at(5_000), 500).await.unwrap(), oldest_first);
    assert_eq!(catalog.due(at(5_000), 4).await.unwrap(), oldest_first);
    assert_eq!(catalog.due(at(5_000), 2).await.unwrap(), oldest_first[..2]);
    assert_eq!(catalog.due(at(3_000), 500).await.unwrap(), oldest_first[..2]);
    assert_eq!(catalog.due(at(1_000), 500).await.unwrap(), []);
}

pub async fn what_cannot_be_archived_is_not_due(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    open(&store, &key("initiated")).await;
    open(&store, &key("active")).await;
    store_event(&store, super::event(&key("active"), "e")).await;
    for id in ["archived", "claimed", "erased", "due"] {
        ended(&store, &key(id)).await;
    }
    archive_as(&catalog, &key("archived"), Claim::Hot).await;
    claim(&catalog, &key("claimed"), Claim::Hot, &segment(), LEASE).await;
    store.erase(&key("erased"), at(99_000)).await.unwrap();
    assert_eq!(due(&catalog).await, [key("due")]);
}

pub async fn of_racing_claims_each_session_goes_to_one(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let keys: Vec<_> = (0..20).map(|n| key(&format!("s-{n}"))).collect();
    for key in &keys {
        ended(&store, key).await;
    }
    let claims = together(16, |_| {
        let (catalog, keys) = (catalog.clone(), keys.clone());
        async move { catalog.claim(&keys, Claim::Hot, &segment(), LEASE).await.unwrap() }
    })
    .await;
    let mut times_granted = HashMap::new();
    for claimed in claims.iter().flatten() {
        *times_granted.entry(claimed.key.clone()).or_insert(0) += 1;
    }
    let once: HashMap<_, _> = keys.into_iter().map(|key| (key, 1)).collect();
    assert_eq!(times_granted, once);
    assert_eq!(due(&catalog).await, []);
}

pub async fn every_claim_gives_a_greater_epoch(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let mut epochs = Vec::new();
    for kind in [Claim::Hot, Claim::Hot, Claim::Archived, Claim::Archived] {
        let owner = segment();
        let claimed = claim(&catalog, &key, kind, &owner, LEASE).await;
        epochs.push(claimed.epoch);
        if epochs.len() == 2 {
            assert!(commit(&catalog, &claimed, &owner).await);
        } else {
            catalog
                .release(&[claimed], &owner, Written::Nothing)
                .await
                .unwrap();
        }
    }
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
}

pub async fn a_claim_takes_only_what_it_says(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (moved, _) = archived(&catalog, &key("archived")).await;
    for id in ["hot-b", "hot-a", "claimed", "erased"] {
        ended(&store, &key(id)).await;
    }
    open(&store, &key("active")).await;
    store.erase(&key("erased"), at(99_000)).await.unwrap();
    claim(&catalog, &key("claimed"), Claim::Hot, &segment(), LEASE).await;
    let all = [
        "hot-b", "archived", "unknown", "active", "claimed", "erased", "hot-a",
    ]
    .map(key);

    let hot = catalog.claim(&all, Claim::Hot, &segment(), LEASE).await.unwrap();
    let keys: Vec<_> = hot.iter().map(|claimed| claimed.key.clone()).collect();
    assert_eq!(keys, [key("hot-b"), key("hot-a")]);
    assert!(hot.iter().all(|claimed| claimed.pointer.is_none()));

    let archived = catalog
        .claim(&all, Claim::Archived, &segment(), LEASE)
        .await
        .unwrap();
    let epoch = archived[0].epoch;
    assert!(epoch > moved.epoch);
    let only = Claimed {
        key: key("archived"),
        epoch,
        version: archived[0].version,
        pointer: Some(moved.pointer),
    };
    assert_eq!(archived, [only]);
    assert_eq!(
        catalog.claim(&[], Claim::Hot, &segment(), LEASE).await.unwrap(),
        []
    );
}

pub async fn a_claim_ends_by_itself(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let first = claim(&catalog, &key, Claim::Hot, &segment(), SHORT_LEASE).await;
    let again = tokio::time::timeout(Duration::from_secs(30), async {
        while due(&catalog).await.is_empty() {
            tokio::time::sleep(SHORT_LEASE / 8).await;
        }
    });
    again.await.expect("it is due again");
    let second = claim(&catalog, &key, Claim::Hot, &segment(), LEASE).await;
    assert!(second.epoch > first.epoch);
}

pub async fn a_renewed_claim_lasts(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for id in ["renewed", "after"] {
        ended(&store, &key(id)).await;
    }
    // Until it is in time.
    let (renewed, owner) = loop {
        let owner = segment();
        let claimed = claim(&catalog, &key("renewed"), Claim::Hot, &owner, SHORT_LEASE).await;
        let one = std::slice::from_ref(&claimed);
        if catalog.renew(one, &owner, LEASE).await.unwrap() == [true] {
            break (claimed, owner);
        }
        claims_ended(&catalog, &owner).await;
    };
    // What was claimed later for as long as it was at first has ended, and it has not.
    let later = segment();
    claim(&catalog, &key("after"), Claim::Hot, &later, SHORT_LEASE).await;
    claims_ended(&catalog, &later).await;
    assert_eq!(due(&catalog).await, [key("after")]);
    assert!(commit(&catalog, &renewed, &owner).await);
}

pub async fn only_a_claim_that_stands_is_renewed(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let (owner, short) = (segment(), segment());
    for id in ["standing", "ended", "other"] {
        ended(&store, &key(id)).await;
    }
    let lost = claim(&catalog, &key("ended"), Claim::Hot, &short, SHORT_LEASE).await;
    claims_ended(&catalog, &short).await;
    assert_eq!(catalog.renew(&[lost], &short, LEASE).await.unwrap(), [false]);
    assert!(
        !catalog.is_needed(&short).await.unwrap(),
        "an ended claim stays so"
    );

    let standing = claim(&catalog, &key("standing"), Claim::Hot, &owner, LEASE).await;
    let other = claim(&catalog, &key("other"), Claim::Hot, &segment(), LEASE).await;
    let older = Claimed {
        epoch: standing.epoch - 1,
        ..standing.clone()
    };
    let renewed = catalog
        .renew(&[other, older, standing.clone()], &owner, SHORT_LEASE)
        .await;
    assert_eq!(renewed.unwrap(), [false, false, true]);
    // The lease counts from the renewal, which made this one shorter.
    claims_ended(&catalog, &owner).await;
    assert!(!commit(&catalog, &standing, &owner).await);
    assert!(due(&catalog).await.contains(&key("standing")));
}

pub async fn a_released_claim_is_free_at_once(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let owner = segment();
    let first = claim(&catalog, &key, Claim::Hot, &owner, LEASE).await;
    let claimed = std::slice::from_ref(&first);
    catalog
        .release(claimed, &segment(), Written::Nothing)
        .await
        .unwrap();
    assert_eq!(due(&catalog).await, [], "only its owner gives a claim up");
    catalog.release(claimed, &owner, Written::Nothing).await.unwrap();
    assert_eq!(due(&catalog).await, std::slice::from_ref(&key));
    assert!(!commit(&catalog, &first, &owner).await);

    let second = claim(&catalog, &key, Claim::Hot, &owner, LEASE).await;
    catalog.release(claimed, &owner, Written::Nothing).await.unwrap();
    assert!(
        commit(&catalog, &second, &owner).await,
        "an earlier claim is not this one"
    );
}
