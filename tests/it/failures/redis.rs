//! Redis stops, dies, comes back with nothing, forgets everything or holds its tongue, while two replicas go on: no read
//! is stale, and no request fails.

use std::time::Duration;

use super::{Load, Replicas, calm_crowd, rounds, settle::settle, until_cached};
use crate::{
    engines::{self, Engine, Redis},
    random::Random,
};

/// To compare with.
const QUIET: Duration = Duration::from_millis(1_000);

/// Longer than a replica needs to find back to a Redis, and the registry to be believed; so the cache is in use again.
const RECOVERY: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Several times, and started again on the same port.
    Killed,
    /// SIGSTOP.
    Stopped,
    /// Flushed every few milliseconds.
    Flushed,
    /// Keeps all its clients waiting.
    Paused,
    /// Stands still for just longer than a call may take, again and again.
    Slow,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::Killed,
        Self::Stopped,
        Self::Flushed,
        Self::Paused,
        Self::Slow,
    ];

    fn name(self) -> String {
        format!("Redis {self:?}").to_lowercase()
    }

    /// Has Redis suffer for about `time`.
    async fn strike(self, redis: &mut Redis, load: &mut Load, time: Duration) {
        let ms = time.as_millis();
        match self {
            Self::Killed => {
                for _ in 0..3 {
                    redis.kill9();
                    load.rest(time / 2).await;
                    redis.restart().await;
                    load.rest(time).await;
                }
            }
            Self::Stopped => {
                redis.stop_signal();
                load.rest(time).await;
                redis.continue_signal();
            }
            Self::Flushed => {
                for _ in 0..ms / 10 {
                    told(redis, "FLUSHALL").await;
                    load.rest(Duration::from_millis(8)).await;
                }
            }
            Self::Paused => {
                told(redis, &format!("CLIENT PAUSE {ms}")).await;
                load.rest(time).await;
            }
            Self::Slow => {
                for _ in 0..ms / 150 {
                    redis.stop_signal();
                    load.rest(Duration::from_millis(60)).await;
                    redis.continue_signal();
                    load.rest(Duration::from_millis(90)).await;
                }
            }
        }
    }
}

/// Has Redis do something, which it must.
pub async fn told(redis: &Redis, command: &str) {
    assert_eq!(redis.ask(command).await.expect("an answer"), "+OK\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_redis_no_read_is_stale_and_no_request_fails() {
    let mut random = Random::seeded();
    let mongodb = engines::mongodb().await;
    let mut redis = Redis::start().await;
    let url = redis.url();
    let replicas = Replicas::start(&mongodb, &[&url, &url], &[]).await;
    let mut load = Load::begin(replicas.urls(), calm_crowd(), &mut random);
    for _ in 0..rounds(1) {
        for fault in Fault::ALL {
            load.stage.timings.begin("quiet");
            until_cached(&mut load, &replicas).await;
            load.rest(QUIET).await;
            let time = Duration::from_millis(300 + random.next() % 600);
            load.stage.timings.begin(&fault.name());
            fault.strike(&mut redis, &mut load, time).await;
            load.stage.timings.begin("afterwards");
            load.rest(RECOVERY).await;
        }
    }
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &mongodb).await;
    eprintln!(
        "{} events acknowledged, {stored} stored
{}",
        stage.acknowledged(),
        stage.timings
    );
}
