//! The primary of three dies or stops: what was acknowledged stays, once, and the service answers again when there is
//! another primary.

use std::time::{Duration, Instant};

use super::{Crowd, Load, Replicas, Trouble, rounds, settle::settle};
use crate::{
    engines::{Engine, ReplicaSet, with_database},
    random::Random,
};

/// Events acknowledged before, between and after the faults of a round.
const EVENTS: usize = 2_230;

/// Shorter than it takes a primary to step down.
const ALONE: Duration = Duration::from_millis(400);

/// From now until so many events more were acknowledged: the service answers again.
async fn answers_again(load: &mut Load, what: &str) {
    let since = Instant::now();
    load.events(20).await;
    eprintln!(
        "{what}: 20 events were acknowledged within {:.1} s",
        since.elapsed().as_secs_f64()
    );
}

/// Kills the primary after a while in which nobody could follow it: what it has stored by itself goes with it, and must
/// not have been acknowledged. Gives which it was.
async fn kill_unreplicated(set: &mut ReplicaSet, load: &mut Load) -> usize {
    let primary = set.wait_primary().await;
    let followers = (0..3).filter(|&member| member != primary);
    for follower in followers.clone() {
        set.member(follower).stop_signal();
    }
    load.rest(ALONE).await;
    set.member(primary).kill9();
    for follower in followers {
        set.member(follower).continue_signal();
    }
    primary
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failover_loses_or_doubles_an_acknowledged_event() {
    let mut random = Random::seeded();
    let mut set = ReplicaSet::start(3).await;
    let mongodb = with_database(&set.url(), "colloquy");
    let replicas = Replicas::start(&mongodb, &["none", "none"], &[]).await;
    let crowd = Crowd {
        clients: 16,
        rest: Duration::ZERO,
        reads: 25,
        trouble: Trouble::Refusals,
    };
    let mut load = Load::begin(replicas.urls(), crowd, &mut random);
    for _ in 0..rounds(1) {
        load.stage.timings.begin("quiet");
        load.events(EVENTS).await;

        load.stage.timings.begin("primary killed");
        let killed = set.kill_primary().await;
        answers_again(&mut load, "kill -9 of the primary").await;
        load.events(EVENTS).await;
        load.stage.timings.begin("member back");
        set.restart(killed).await;
        load.events(EVENTS).await;

        load.stage.timings.begin("primary stopped");
        let stopped = set.wait_primary().await;
        set.member(stopped).stop_signal();
        answers_again(&mut load, "SIGSTOP of the primary").await;
        load.events(EVENTS).await;
        load.stage.timings.begin("primary continued");
        set.member(stopped).continue_signal();
        load.events(EVENTS / 2).await;
        set.wait_all().await;

        load.stage.timings.begin("killed with its followers held");
        let killed = kill_unreplicated(&mut set, &mut load).await;
        answers_again(&mut load, "kill -9 of a primary that nobody followed").await;
        set.restart(killed).await;
        set.wait_all().await;
    }
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &mongodb).await;
    eprintln!(
        "{} events acknowledged, {stored} stored\n{}",
        stage.acknowledged(),
        stage.timings
    );
    assert!(stage.acknowledged() >= 10_000 * rounds(1));
}
