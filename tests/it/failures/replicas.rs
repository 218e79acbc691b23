//! A replica is killed in the middle of what it was doing, again and again, while the other goes on writing to the same
//! sessions.

use std::time::Duration;

use super::{Crowd, Load, Replicas, Trouble, rounds, settle::settle, until_cached};
use crate::{
    engines::{self, Redis},
    random::Random,
};

/// Acknowledged before and after each kill.
const EVENTS: usize = 700;

/// Kills `kills` replicas, each with requests under way, and starts them again.
async fn kill_replicas(cache: &str, kills: usize) {
    let mut random = Random::seeded();
    let mongodb = engines::mongodb().await;
    let settings = [
        // A killed replica is given up soon, so that the cache is in use again before the next one is killed.
        "cache_absence_ms_max=1000",
        // Clients that never rest keep the machine busy; Redis is to be used all the same.
        "cache_call_ms_max=1000",
        "cache_lease_ms=1000",
    ];
    let mut replicas = Replicas::start(&mongodb, &[cache, cache], &settings).await;
    let crowd = Crowd {
        clients: 12,
        rest: Duration::ZERO,
        reads: 30,
        trouble: Trouble::BrokenConnections,
    };
    let mut load = Load::begin(replicas.urls(), crowd, &mut random);
    for kill in 0..kills {
        load.events(EVENTS / 2 + random.below(EVENTS / 2)).await;
        if cache != "none" {
            until_cached(&mut load, &replicas).await;
        }
        load.stage.timings.begin("one replica");
        replicas.kill(kill % 2);
        load.events(EVENTS / 2 + random.below(EVENTS / 2)).await;
        replicas.start_again(kill % 2).await;
        load.stage.moved(kill % 2, replicas.server(kill % 2).url(""));
        load.stage.timings.begin("both replicas");
    }
    load.events(EVENTS).await;
    let broken = load.stage.broken();
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &mongodb).await;
    eprintln!(
        "{kills} kills broke {broken} requests; {} events acknowledged, {stored} stored\n{}",
        stage.acknowledged(),
        stage.timings
    );
    assert!(broken >= kills, "replicas were killed with nothing under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_mid_batch_loses_and_doubles_nothing() {
    kill_replicas("none", rounds(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_mid_batch_leaves_nothing_stale_in_the_cache() {
    let redis = Redis::start().await;
    kill_replicas(&redis.url(), rounds(4)).await;
}
