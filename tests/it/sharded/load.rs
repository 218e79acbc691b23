//! Replicas under load on a cluster whose chunks move, whose routers die and whose shards hold elections: every acknowledged
//! event is stored once, and no read is stale.

use std::time::Duration;

use super::*;
use crate::{
    engines::{Engine, Redis},
    failures::{
        Replicas,
        load::{Crowd, Load, Trouble},
        settle::settle,
    },
    random::Random,
};

/// Chunks of each collection: the sessions of a load lie in most of them.
const CHUNKS: u32 = 16;

fn crowd(trouble: Trouble) -> Crowd {
    Crowd {
        clients: 12,
        rest: Duration::from_millis(1),
        reads: 40,
        trouble,
    }
}

/// Two replicas with this cache.
async fn replicas(url: &str, cache: &str) -> Replicas {
    let settings = |_| vec!["cache_gathering_ms=0".to_owned()];
    Replicas::start_initialised(url, &[cache, cache], settings).await
}

fn assert_targeted(cluster: &Cluster) {
    // The reckoning itself reads everything there is.
    let ours = cluster
        .asked()
        .into_iter()
        .filter(|asked| !asked.comment.is_empty());
    let wrong: Vec<_> = ours.filter(router::Asked::is_wrong).collect();
    assert_eq!(wrong, [], "broadcasts on the request path");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_move_lose_double_and_fail_nothing() {
    moved_under_load("none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_move_leave_nothing_stale_in_the_cache() {
    let redis = Redis::start().await;
    moved_under_load(&redis.url()).await;
}

async fn moved_under_load(cache: &str) {
    let mut random = Random::seeded();
    let cluster = Cluster::start(Settings::default()).await;
    let url = initialised(&cluster, CHUNKS).await;
    let replicas = replicas(&url, cache).await;
    let mut load = Load::begin(replicas.urls(), crowd(Trouble::None), &mut random);
    let balancer = cluster.balance(Duration::from_millis(5), random.fork());
    load.events(events(2_000)).await;
    let moves = balancer.stop().await;
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &url).await;
    let refreshed: u64 = cluster.routers.iter().map(router::Router::refreshed).sum();
    println!(
        "{} events acknowledged, {stored} stored, {} chunks moved, {refreshed} times a router was out of date\n{}",
        stage.acknowledged(),
        moves.done,
        stage.timings
    );
    assert_eq!(moves.refused, []);
    assert!(moves.done >= 20 && refreshed >= 20, "chunks moved under load");
    assert_targeted(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_dies_costs_nothing_that_the_other_can_give() {
    let mut random = Random::seeded();
    let mut cluster = Cluster::start(Settings::default()).await;
    let url = initialised(&cluster, CHUNKS).await;
    let replicas = replicas(&url, "none").await;
    let mut load = Load::begin(replicas.urls(), crowd(Trouble::None), &mut random);
    let balancer = cluster.balance(Duration::from_millis(50), random.fork());
    for router in [1, 0, 1] {
        load.events(events(400)).await;
        cluster.router(router).kill();
        load.events(events(400)).await;
        cluster.router(router).start_again();
    }
    balancer.stop().await;
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &url).await;
    println!(
        "{} events acknowledged, {stored} stored\n{}",
        stage.acknowledged(),
        stage.timings
    );
    assert_targeted(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: `make test-long`"]
async fn elections_of_a_shard_lose_and_double_nothing() {
    let mut random = Random::seeded();
    let settings = Settings {
        members: vec![1, 3],
        ..Settings::default()
    };
    let (mut cluster, redis) = (Cluster::start(settings).await, Redis::start().await);
    let url = initialised(&cluster, CHUNKS).await;
    let replicas = replicas(&url, &redis.url()).await;
    let mut load = Load::begin(replicas.urls(), crowd(Trouble::Refusals), &mut random);
    let balancer = cluster.balance(Duration::from_millis(100), random.fork());
    load.events(events(500)).await;
    load.stage.timings.begin("primary killed");
    let killed = cluster.shard(1).kill_primary().await;
    load.events(events(500)).await;
    cluster.shard(1).restart(killed).await;
    load.stage.timings.begin("primary stopped");
    let stopped = cluster.shard(1).wait_primary().await;
    cluster.shard(1).member(stopped).stop_signal();
    load.events(events(500)).await;
    load.stage.timings.begin("primary continued");
    cluster.shard(1).member(stopped).continue_signal();
    cluster.shard(1).wait_all().await;
    load.events(events(500)).await;
    let moves = balancer.stop().await;
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &url).await;
    println!(
        "{} events acknowledged, {stored} stored, {} chunks moved, {} moves refused\n{}",
        stage.acknowledged(),
        moves.done,
        moves.refused.len(),
        stage.timings
    );
    assert_targeted(&cluster);
}

/// As many events as are asked for, times `COLLOQUY_TEST_FAILURE_ROUNDS`.
fn events(events: usize) -> usize {
    events * crate::failures::rounds(1)
}
