//! The cache under every order of events that chance finds: a model of several replicas over one store and one Redis,
//! in which the scripts, the protocol and the use cases are the real ones, and the time, the network, the store and the
//! callers are the model's. Every read is compared with what had been acknowledged when it began (I3).
//!
//! A seed determines a schedule. `COLLOQUY_TEST_SEED` repeats one, `COLLOQUY_TEST_CACHE_MODEL_ROUNDS` makes it more.

use std::{
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::runtime::{Builder, Runtime};

use crate::{engines, random::Random};

mod clients;
mod gated;
mod memory;
mod mutants;
mod oracle;
mod presence;
mod redis;
mod schedule;
mod terms;
mod troubles;
mod world;

use redis::{Mutation, VirtualRedis};
use schedule::{Schedule, Told};
use world::World;

const ROUNDS: u64 = 150;
const STEPS: usize = 250;

/// Lines of its trace that are shown of a schedule that fails; the last.
const TRACE_SHOWN: usize = 1_000;

/// Plays schedules, one after the other, on a Redis of its own.
struct Player {
    /// `None` while a world has it.
    redis: Option<VirtualRedis>,
}

impl Player {
    fn new(mutations: &[Mutation]) -> Self {
        let url = Runtime::new().unwrap().block_on(engines::redis());
        Self {
            redis: Some(VirtualRedis::new(&url, mutations)),
        }
    }

    /// Plays the schedule that this seed determines.
    fn play(&mut self, seed: u64) -> Told {
        let mut redis = self.redis.take().unwrap();
        redis.reset();
        let place: Arc<OnceLock<Arc<World>>> = Arc::default();
        let hook = Arc::clone(&place);
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
            let _ = place.set(Arc::clone(&world));
            let schedule = Schedule::new(world, Random::of(seed));
            tokio::spawn(schedule.run(STEPS)).await.unwrap()
        });
        // With all tasks, who may wait for ever.
        drop(runtime);
        let world = Arc::into_inner(place).unwrap().into_inner().unwrap();
        self.redis = Some(world.take_redis());
        told
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn some_seed() -> u64 {
    from_environment("COLLOQUY_TEST_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since.as_secs() << 20
    })
}

#[test]
fn no_schedule_makes_a_read_stale() {
    let first_seed = some_seed();
    let rounds = from_environment("COLLOQUY_TEST_CACHE_MODEL_ROUNDS").unwrap_or(ROUNDS);
    let (mut reads, mut hits) = (0, 0);
    let mut player = Player::new(&[]);
    for seed in first_seed..first_seed + rounds {
        let told = player.play(seed);
        (reads, hits) = (reads + told.reads, hits + told.hits);
        if let Some(violation) = told.violation {
            let skipped = told.trace.len().saturating_sub(TRACE_SHOWN);
            println!("{}", told.trace[skipped..].join("\n"));
            println!("{} schedules were fine", seed - first_seed);
            panic!("repeat with COLLOQUY_TEST_SEED={seed}: {violation}");
        }
    }
    println!("{rounds} schedules, {reads} reads, {hits} of them answered by the cache");
    assert!(
        hits * 20 > reads,
        "the cache answered {hits} of {reads} reads only"
    );
}
