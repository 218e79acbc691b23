//! Routers whose clocks are apart by more than any lease: each takes the other's claims to have ended, and still one history comes
//! of it, since what counts is the epoch.

use std::sync::Arc;

use colloquy::store::{
    Store,
    catalog::{Catalog, Claim, Claimed, Commit},
};

use super::*;
use crate::{
    conformance::catalog::{LEASE, ended, ids, pointer, segment},
    mongo::{catalog, events, key, options},
};

const HOUR_MS: i64 = 3_600_000;

fn commit(claimed: &Claimed, owner: &colloquy::domain::SegmentName) -> Commit {
    Commit {
        key: claimed.key.clone(),
        epoch: claimed.epoch,
        version: claimed.version,
        pointer: pointer(owner),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archivers_behind_routers_whose_clocks_are_an_hour_apart_keep_one_history() {
    let mut cluster = Cluster::start(Settings::default()).await;
    initialised(&cluster, 4).await;
    let through = async |router| -> Arc<dyn Catalog> {
        catalog(&with_database(&cluster.url_of(router), "colloquy"), options()).await
    };
    let archivers = [through(0).await, through(1).await];
    let store: Arc<dyn Store> = archivers[0].clone();
    for (session, ahead_ms) in [("behind", -HOUR_MS), ("ahead", HOUR_MS)] {
        cluster.router(1).set_clock(ahead_ms);
        let key = key(session);
        ended(&store, &key).await;
        let stored = events(&store, session).await;
        // The second is the one that sees the other's claim as one that has ended.
        let [first, second] = match ahead_ms > 0 {
            true => [&archivers[0], &archivers[1]],
            false => [&archivers[1], &archivers[0]],
        };
        let (one, other) = (segment(), segment());
        let lost = first
            .claim(std::slice::from_ref(&key), Claim::Hot, &one, LEASE)
            .await
            .unwrap();
        let taken = second
            .claim(std::slice::from_ref(&key), Claim::Hot, &other, LEASE)
            .await
            .unwrap();
        assert!(taken[0].epoch > lost[0].epoch, "{session}");
        assert_eq!(first.renew(&lost, &one, LEASE).await.unwrap(), [false]);
        assert_eq!(
            first.commit(&[commit(&lost[0], &one)], &one).await.unwrap(),
            [false]
        );
        assert_eq!(
            second.commit(&[commit(&taken[0], &other)], &other).await.unwrap(),
            [true]
        );
        let deleted = first.delete_archived(&key, lost[0].epoch, &ids(&stored)).await;
        assert_eq!(deleted.unwrap(), 0, "{session}: under a lost epoch");
        assert_eq!(events(&store, session).await, stored);
        let archived = second.archived_in(&other, 10).await.unwrap();
        let deleted = second
            .delete_archived(&key, archived[0].epoch, &ids(&stored))
            .await;
        assert_eq!(deleted.unwrap(), stored.len());
        assert_eq!(first.archived_in(&one, 10).await.unwrap(), []);
    }
}
