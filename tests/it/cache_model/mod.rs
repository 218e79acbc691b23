//! The cache under every order of events that chance finds: a model of several replicas over one store and one Redis,
//! in which the scripts, the protocol and the use cases are the real ones, and the time, the network, the store and the
//! callers are the model's. Every read is compared with what had been acknowledged when it began (I3).
//!
//! A seed determines a schedule. `COLLOQUY_TEST_SEED` repeats one, `COLLOQUY_TEST_CACHE_MODEL_ROUNDS` makes it more.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::runtime::{Builder, Runtime};

use crate::{engines, random::Random};

mod clients;
mod gated;
mod memory;
mod oracle;
mod presence;
mod redis;
mod schedule;
mod terms;
mod world;

use redis::{Mutation, VirtualRedis};
use schedule::{Schedule, Told};
use world::World;

const ROUNDS: u64 = 300;
const STEPS: usize = 150;

/// Steps of a schedule that are shown when it fails; all with `COLLOQUY_TEST_CACHE_MODEL_TRACE`.
const TRACE_SHOWN: usize = 120;

/// Runs one schedule.
fn play(redis: VirtualRedis, seed: u64) -> (Told, VirtualRedis) {
    let idle: Arc<std::sync::OnceLock<Arc<World>>> = Arc::default();
    let hook = Arc::clone(&idle);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_park(move || {
            if let Some(world) = hook.get() {
                world.idle.nothing_to_do();
            }
        })
        .build()
        .unwrap();
    let told = runtime.block_on(async {
        let world = World::new(redis);
        let _ = idle.set(Arc::clone(&world));
        let schedule = Schedule::new(world, Random::of(seed));
        tokio::spawn(schedule.run(STEPS)).await.unwrap()
    });
    drop(runtime);
    let world = Arc::into_inner(idle).unwrap().into_inner().unwrap();
    (told, world.take_redis())
}

fn redis(mutations: &[Mutation]) -> VirtualRedis {
    let url = Runtime::new().unwrap().block_on(engines::redis());
    VirtualRedis::new(&url, mutations)
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn no_schedule_makes_a_read_stale() {
    let first_seed = from_environment("COLLOQUY_TEST_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since.as_secs() << 20
    });
    let rounds = from_environment("COLLOQUY_TEST_CACHE_MODEL_ROUNDS").unwrap_or(ROUNDS);
    let (mut reads, mut hits) = (0, 0);
    let mut redis = redis(&[]);
    for seed in first_seed..first_seed + rounds {
        redis.reset();
        let told;
        (told, redis) = play(redis, seed);
        (reads, hits) = (reads + told.reads, hits + told.hits);
        if let Some(violation) = told.violation {
            let skipped = told.trace.len().saturating_sub(TRACE_SHOWN);
            println!("{}", told.trace[skipped..].join("\n"));
            panic!("repeat with COLLOQUY_TEST_SEED={seed}: {violation}");
        }
    }
    println!("{rounds} schedules, {reads} reads, {hits} of them answered by the cache");
    assert!(
        hits * 10 > reads,
        "the cache answered {hits} of {reads} reads only"
    );
}
