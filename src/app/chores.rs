//! What a server does by itself, beside serving: the store's housekeeping, the end of idle sessions, and archiving on
//! schedule.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    archive::Trigger,
    commands::upkeep::{self, Round},
    config::Config,
    domain::Error,
    service::Service,
    store::Upkeep,
    telemetry::metrics::metrics,
};

/// The shortest time between two sweeps of idle sessions.
const IDLE_EVERY_MIN: Duration = Duration::from_millis(100);

const UPKEEP: &str = "upkeep";
const BACKLOG: &str = "looking at the backlog";

/// The chores under way.
pub(super) struct Chores(Vec<JoinHandle<()>>);

/// Begins them; each is done at once, and then every so often.
pub(super) fn begin(service: &Service, config: &Config) -> Chores {
    let every = Duration::from_millis(config.upkeep_every_ms);
    let look_every = Duration::from_millis(config.health_every_ms);
    let mut chores = vec![
        tokio::spawn(housekeeping(service.clone(), every)),
        tokio::spawn(looking_at_backends(service.clone(), look_every)),
    ];
    if let Some(timeout) = config.session_idle_timeout.get() {
        // Sessions live at most a quarter longer than they may.
        let every = every.min(timeout / 4).max(IDLE_EVERY_MIN);
        chores.push(tokio::spawn(ending_idle(service.clone(), timeout, every)));
    }
    if let (Some(every), Ok(_)) = (config.archive_every.get(), service.archive()) {
        let round = Round {
            idle_timeout: None,
            ..round(config, Trigger::Schedule)
        };
        chores.push(tokio::spawn(archiving(service.clone(), round, every)));
    }
    Chores(chores)
}

/// A round of the archive's chores, as the configuration has it.
pub fn round(config: &Config, trigger: Trigger) -> Round {
    Round {
        retention: config.archive_retention.get(),
        idle_timeout: config.session_idle_timeout.get(),
        sweep_grace: config.archive_sweep_grace.get(),
        trigger,
    }
}

impl Chores {
    /// Stops them where they are; each can be gone on with, by whoever comes next.
    pub(super) fn end(self) {
        for chore in self.0 {
            chore.abort();
        }
    }
}

/// The times at which chores are done, which telemetry knows by these names: at once, and then every so often.
fn rounds(chores: &[&'static str], every: Duration) -> Interval {
    for chore in chores {
        metrics().chore_begun(chore);
    }
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    rounds
}

async fn housekeeping(service: Service, every: Duration) {
    let mut rounds = rounds(&[UPKEEP, BACKLOG], every);
    loop {
        rounds.tick().await;
        match service.upkeep().await {
            Ok(done) if done == Upkeep::default() => {}
            Ok(done) => tracing::info!(
                events_deleted = done.events_deleted,
                tombstones_dropped = done.tombstones_dropped,
                "upkeep"
            ),
            Err(error) => failed(UPKEEP, &error),
        }
        if let Err(error) = service.look_at_backlog().await {
            failed(BACKLOG, &error);
        }
    }
}

/// Ends sessions that nobody ended, with or without an archive.
async fn ending_idle(service: Service, timeout: Duration, every: Duration) {
    let mut rounds = rounds(&[upkeep::IDLE], every);
    loop {
        rounds.tick().await;
        match service.end_idle(timeout).await {
            Ok(0) => {}
            Ok(ended) => tracing::info!("{}: {ended} ended", upkeep::IDLE),
            Err(error) => failed(upkeep::IDLE, &error),
        }
    }
}

/// Keeps what `/readyz` and `/metrics` say of the backends true.
async fn looking_at_backends(service: Service, every: Duration) {
    let mut rounds = rounds(&[], every);
    loop {
        rounds.tick().await;
        service.look_at_backends().await;
    }
}

/// Archiving, and the upkeep of the archive.
async fn archiving(service: Service, round: Round, every: Duration) {
    let mut rounds = rounds(&upkeep::CHORES, every);
    loop {
        rounds.tick().await;
        let mut failures = 0;
        let told = round.perform(&service, |chore, done| match done {
            Ok(None) => {}
            Ok(Some(done)) => tracing::info!("{chore}: {done}"),
            Err(error) => {
                failures += 1;
                failed(chore, &error);
            }
        });
        match told.await {
            Ok(()) if failures == 0 => metrics().archive_round(),
            Ok(()) => {}
            Err(error) => failed(upkeep::ARCHIVING, &error),
        }
    }
}

fn failed(chore: &'static str, error: &Error) {
    metrics().chore_failed(chore);
    let source = std::error::Error::source(error);
    tracing::warn!(%error, ?source, "{chore} failed; it is tried again at its time");
}
