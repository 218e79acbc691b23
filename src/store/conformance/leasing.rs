//! Leases: of all processes that share a store, one has each.

use std::{sync::Arc, time::Duration};

use colloquy::store::{catalog::Catalog, leases::Taken};

use super::{
    catalog::{CatalogSubject, LEASE, SHORT_LEASE, both},
    together,
};

/// Most that a store may add to a lease on behalf of its clocks, in these tests and by default.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(5);

async fn take(catalog: &Arc<dyn Catalog>, name: &str, owner: &str, time: Duration) -> Taken {
    catalog.take_lease(name, owner, time).await.unwrap()
}

async fn is_held(catalog: &Arc<dyn Catalog>, name: &str, owner: &str) -> bool {
    take(catalog, name, owner, LEASE).await == Taken::Held
}

/// Asks until the owner gets the lease, as it must.
async fn get(catalog: &Arc<dyn Catalog>, name: &str, owner: &str) {
    let got = async {
        while !is_held(catalog, name, owner).await {
            tokio::time::sleep(SHORT_LEASE / 8).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), got).await;
    waited.expect("a lease ends by itself");
}

pub async fn of_racing_takers_one_gets_the_lease(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    for round in 0..10 {
        let name = format!("chore-{round}");
        let taken = together(16, |n| {
            let (catalog, name) = (catalog.clone(), name.clone());
            async move { is_held(&catalog, &name, &format!("owner-{n}")).await }
        })
        .await;
        assert_eq!(taken.iter().filter(|held| **held).count(), 1, "{taken:?}");
        // It is the one that was told so.
        for (n, held) in taken.into_iter().enumerate() {
            assert_eq!(is_held(&catalog, &name, &format!("owner-{n}")).await, held);
        }
    }
}

pub async fn a_lease_is_told_to_last_as_long_as_it_may(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    assert!(is_held(&catalog, "chore", "one").await);
    match take(&catalog, "chore", "other", LEASE).await {
        Taken::ByAnother(left) => {
            assert!(left > LEASE / 2 && left <= LEASE + CLOCKS_APART_MAX, "{left:?}");
        }
        Taken::Held => panic!("two have the lease"),
    }
}

pub async fn a_lease_that_its_owner_takes_again_lasts(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    assert_eq!(take(&catalog, "chore", "one", SHORT_LEASE).await, Taken::Held);
    assert!(is_held(&catalog, "chore", "one").await);
    match take(&catalog, "chore", "other", SHORT_LEASE).await {
        // What counts is the owner's time, and not that of whoever asks.
        Taken::ByAnother(left) => assert!(left > LEASE / 2, "{left:?}"),
        Taken::Held => panic!("two have the lease"),
    }
}

pub async fn a_lease_ends_by_itself_and_then_goes_to_another(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    assert_eq!(take(&catalog, "chore", "one", SHORT_LEASE).await, Taken::Held);
    get(&catalog, "chore", "other").await;
    assert!(!is_held(&catalog, "chore", "one").await);
}

pub async fn a_lease_that_went_to_another_is_not_renewed(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    assert_eq!(take(&catalog, "chore", "one", SHORT_LEASE).await, Taken::Held);
    get(&catalog, "chore", "other").await;
    for time in [SHORT_LEASE, LEASE] {
        assert!(matches!(
            take(&catalog, "chore", "one", time).await,
            Taken::ByAnother(_)
        ));
    }
    // Nor has the attempt taken anything from the other one.
    assert!(is_held(&catalog, "chore", "other").await);
}

pub async fn a_lease_that_was_given_up_is_free_at_once(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    assert!(is_held(&catalog, "chore", "one").await);
    catalog.give_up_lease("chore", "one").await.unwrap();
    assert!(is_held(&catalog, "chore", "other").await);
    // Twice does no harm.
    catalog.give_up_lease("chore", "one").await.unwrap();
    assert!(!is_held(&catalog, "chore", "one").await);
}

pub async fn only_its_owner_gives_a_lease_up(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    catalog.give_up_lease("chore", "one").await.unwrap();
    assert!(is_held(&catalog, "chore", "one").await);
    catalog.give_up_lease("chore", "other").await.unwrap();
    assert!(!is_held(&catalog, "chore", "other").await);
}

pub async fn leases_of_different_names_are_independent(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    assert!(is_held(&catalog, "a", "one").await);
    assert!(is_held(&catalog, "b", "other").await);
    assert!(!is_held(&catalog, "a", "other").await);
    catalog.give_up_lease("a", "one").await.unwrap();
    assert!(!is_held(&catalog, "b", "one").await);
}
