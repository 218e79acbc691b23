//! Redis comes back from an old snapshot of itself: what lies in it was true once, and must not be told again.

use std::time::Duration;

use super::{Load, Replicas, calm_crowd, redis::told, rounds, settle::settle, until_cached};
use crate::{
    engines::{self, Engine, Redis},
    random::Random,
};

/// In which clients read what the last snapshot had otherwise.
const CHANGED: Duration = Duration::from_millis(1_000);

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_loads_from_an_old_snapshot_is_never_served() {
    let mut random = Random::seeded();
    let mongodb = engines::mongodb().await;
    let mut redis = Redis::start().await;
    let url = redis.url();
    let replicas = Replicas::start(&mongodb, &[&url, &url], &[]).await;
    let mut load = Load::begin(replicas.urls(), calm_crowd(), &mut random);
    let mut loaded = Vec::new();
    for _ in 0..rounds(3) {
        until_cached(&mut load, &replicas).await;
        told(&redis, "SAVE").await;
        load.rest(Duration::from_millis(200 + random.next() % 600)).await;
        redis.kill9();
        if random.chance(50) {
            load.rest(Duration::from_millis(random.next() % 300)).await;
        }
        redis.restart().await;
        loaded.push(redis.ask("DBSIZE").await.expect("an answer"));
    }
    until_cached(&mut load, &replicas).await;
    load.rest(CHANGED).await;
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &mongodb).await;
    eprintln!(
        "{} events acknowledged, {stored} stored; keys in old snapshots: {loaded:?}",
        stage.acknowledged()
    );
    assert!(
        loaded.iter().all(|keys| keys != ":0\r\n"),
        "there was no snapshot"
    );
}
