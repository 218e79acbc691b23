//! Leases and claims where clocks differ: what a router wrote whose clock is behind, or far ahead. One server has one clock, so the
//! test moves what was written instead.

use std::{sync::Arc, time::Duration};

use colloquy::store::{
    catalog::{Catalog, Claim},
    leases::Taken,
    mongo::{self, MongoOptions},
};
use mongodb::{
    Database,
    bson::{Document, doc},
};

use super::{catalog, database, key, options};
use crate::{
    conformance::catalog::{LEASE, claim, commit, due, ended, segment},
    engines,
};

const APART: Duration = Duration::from_secs(300);

async fn apart() -> (Arc<dyn Catalog>, Database) {
    let url = engines::mongodb().await;
    mongo::init(&url, &options(), 1).await.unwrap();
    let options = MongoOptions {
        clocks_apart_max: APART,
        ..options()
    };
    (catalog(&url, options).await, database(&url).await)
}

/// Has the field `until` of all documents say so much from now, as a router with another clock would have written it.
async fn until(database: &Database, collection: &str, field: &str, from_now_ms: i64) {
    let written = doc! { "$set": { field: { "$add": ["$$NOW", from_now_ms] } } };
    let all = database.collection::<Document>(collection);
    let changed = all.update_many(doc! {}, vec![written]).await.unwrap();
    assert!(changed.matched_count > 0);
}

const APART_MS: i64 = 300_000;
const LEASE_MS: i64 = 600_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_to_another_only_when_it_is_over_by_every_clock() {
    let (catalog, database) = apart().await;
    for (from_now_ms, expected) in [
        (-1, false),
        (-APART_MS / 2, false),
        (-APART_MS - 1, true),
        // A clock that is ahead within bounds wrote it, and one that is not.
        (LEASE_MS + APART_MS / 2, false),
        (LEASE_MS + APART_MS + 60_000, true),
    ] {
        assert_eq!(
            catalog.take_lease("chore", "one", LEASE).await.unwrap(),
            Taken::Held
        );
        until(&database, "leases", "until", from_now_ms).await;
        let taken = catalog.take_lease("chore", "other", LEASE).await.unwrap();
        assert_eq!(taken == Taken::Held, expected, "{from_now_ms} ms: {taken:?}");
        catalog.give_up_lease("chore", "one").await.unwrap();
        catalog.give_up_lease("chore", "other").await.unwrap();
    }
}

/// When a claim is over for anybody else, its owner can't act under it any more, by any clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_left_to_its_owner_until_it_is_over_by_every_clock() {
    let (catalog, database) = apart().await;
    let s = key("s");
    let store: Arc<dyn colloquy::store::Store> = catalog.clone();
    ended(&store, &s).await;
    let owner = segment();
    let claimed = claim(&catalog, &s, Claim::Hot, &owner, LEASE).await;
    let keys = [s.clone()];
    for from_now_ms in [-1, -APART_MS / 2] {
        until(&database, "sessions", "claim.until", from_now_ms).await;
        assert!(
            !commit(&catalog, &claimed, &owner).await,
            "it is over for its owner"
        );
        assert!(
            catalog.is_needed(&owner).await.unwrap(),
            "by another clock it stands"
        );
        let taken = catalog.claim(&keys, Claim::Hot, &segment(), LEASE).await;
        assert_eq!(taken.unwrap(), []);
        assert_eq!(due(&catalog).await, []);
    }
    until(&database, "sessions", "claim.until", -APART_MS - 1).await;
    assert!(!commit(&catalog, &claimed, &owner).await);
    assert!(!catalog.is_needed(&owner).await.unwrap());
    assert_eq!(due(&catalog).await, keys);
    claim(&catalog, &s, Claim::Hot, &segment(), LEASE).await;
}
