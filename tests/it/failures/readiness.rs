//! What `/readyz` says of each backend.

use serde_json::json;

use super::Replicas;
use crate::{
    engines::{self, Engine, Redis},
    harness::{Server, expect},
};

/// Asks until the cache is said to be so. Nothing tells when a replica has noticed.
async fn until_cache_is(server: &Server, state: &str) {
    let ready = json!({"status": "ready", "backends": {"store": "ok", "cache": state, "archive": "off"}});
    for _ in 0..2_000 {
        let told = expect(server.get("/readyz"), 200).await;
        if told == ready {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the cache never is {state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_redis_is_ready_and_degraded() {
    let mongodb = engines::mongodb().await;
    let mut redis = Redis::start().await;
    let replicas = Replicas::start(&mongodb, &[&redis.url(), "none"], &[]).await;
    let (cached, plain) = (replicas.server(0), replicas.server(1));
    until_cache_is(plain, "off").await;
    until_cache_is(cached, "ok").await;
    redis.kill9();
    until_cache_is(cached, "degraded").await;
    redis.restart().await;
    until_cache_is(cached, "ok").await;
    redis.stop_signal();
    until_cache_is(cached, "degraded").await;
    redis.continue_signal();
    until_cache_is(cached, "ok").await;

    // One that finds no Redis when it starts, too.
    redis.kill9();
    let late = Replicas::start(&mongodb, &[&redis.url()], &[]).await;
    until_cache_is(late.server(0), "degraded").await;
    redis.restart().await;
    until_cache_is(late.server(0), "ok").await;
}
