//! One replica loses its way to Redis while the other keeps its own: what the one can't take back in Redis, the other must
//! not believe.

use std::time::Duration;

use super::{
    Crowd, Load, Replicas, calm_crowd,
    proxy::{Proxy, Way},
    rounds,
    settle::settle,
    until_cached,
};
use crate::{
    engines::{self, Redis},
    random::Random,
};

/// To compare with.
const QUIET: Duration = Duration::from_millis(300);

/// Longer than `cache_gathering_ms`: what is stale by then would be told.
const HEALED: Duration = Duration::from_millis(1_300);

/// One after the other; each for less than `cache_absence_ms_max`, after which a replica is given up.
const WAYS: [(Way, &str); 3] = [
    (Way::Cut, "one replica cut off"),
    (Way::Stalled, "one replica stalled"),
    (Way::Cut, FLUSHED),
];

/// The other one, which sees Redis flushed meanwhile, must wait for the one that can't: for `cache_gathering_ms`.
const FLUSHED: &str = "one cut off, Redis flushed";
const LONGEST_FLUSHED_MS: u64 = 500;

/// Cuts one of two replicas off, again and again; each vouches for `lease_ms` at a time.
async fn cut_one_off(lease_ms: u64, rounds: usize) {
    let mut random = Random::seeded();
    let mongodb = engines::mongodb().await;
    let redis = Redis::start().await;
    let proxy = Proxy::before(redis.url().trim_start_matches("redis://")).await;
    let cut_off = format!("redis://{}", proxy.address());
    let lease = format!("cache_lease_ms={lease_ms}");
    let replicas = Replicas::start(&mongodb, &[&cut_off, &redis.url()], &[&lease]).await;
    let crowd = Crowd {
        clients: 10,
        ..calm_crowd()
    };
    let mut load = Load::begin(replicas.urls(), crowd, &mut random);
    for _ in 0..rounds {
        for (way, name) in WAYS {
            load.stage.timings.begin("quiet");
            until_cached(&mut load, &replicas).await;
            load.rest(QUIET).await;
            // Now and then for a moment only, such as a call takes.
            let longest = match name {
                FLUSHED => LONGEST_FLUSHED_MS,
                _ => *random.pick(&[100, 1_500, 1_500]),
            };
            load.stage.timings.begin(name);
            proxy.set(way);
            if name == FLUSHED {
                assert_eq!(redis.ask("FLUSHALL").await.expect("an answer"), "+OK\r\n");
            }
            load.rest(Duration::from_millis(20 + random.next() % longest))
                .await;
            load.stage.timings.begin("healed");
            proxy.set(Way::Open);
            load.rest(HEALED).await;
        }
    }
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &mongodb).await;
    eprintln!(
        "lease {lease_ms} ms: {} events acknowledged, {stored} stored
{}",
        stage.acknowledged(),
        stage.timings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_cut_off_from_redis_makes_no_other_read_what_is_stale() {
    cut_one_off(80, rounds(2)).await;
}

/// While a word lasts that was given before the way was cut, what the one could not mark is not acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_cut_off_from_redis_waits_until_nobody_takes_its_word() {
    cut_one_off(600, rounds(2)).await;
}
