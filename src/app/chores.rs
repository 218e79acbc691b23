//! What a server does by itself, beside serving: the store's housekeeping, and archiving on schedule.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    archive::Trigger, commands::upkeep::Round, config::Config, domain::Error, service::Service, store::Upkeep,
};

/// The chores under way.
pub(super) struct Chores(Vec<JoinHandle<()>>);

/// Begins them; each is done at once, and then every so often.
pub(super) fn begin(service: &Service, config: &Config) -> Chores {
    let every = Duration::from_millis(config.upkeep_every_ms);
    let mut chores = vec![tokio::spawn(housekeeping(service.clone(), every))];
    if let (Some(every), Ok(_)) = (config.archive_every.get(), service.archive()) {
        let round = Round {
            retention: config.archive_retention.get(),
            idle_timeout: config.session_idle_timeout.get(),
            sweep_grace: config.archive_sweep_grace.get(),
            trigger: Trigger::Schedule,
        };
        chores.push(tokio::spawn(archiving(service.clone(), round, every)));
    }
    Chores(chores)
}

impl Chores {
    /// Stops them where they are; each can be gone on with, by whoever comes next.
    pub(super) fn end(self) {
        for chore in self.0 {
            chore.abort();
        }
    }
}

async fn housekeeping(service: Service, every: Duration) {
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        match service.upkeep().await {
            Ok(done) if done == Upkeep::default() => {}
            Ok(done) => tracing::info!(
                events_deleted = done.events_deleted,
                tombstones_dropped = done.tombstones_dropped,
                "upkeep"
            ),
            Err(error) => failed("upkeep", &error),
        }
    }
}

/// Archiving, and the upkeep of the archive.
async fn archiving(service: Service, round: Round, every: Duration) {
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let told = round.perform(&service, |chore, done| match done {
            Ok(None) => {}
            Ok(Some(done)) => tracing::info!("{chore}: {done}"),
            Err(error) => failed(chore, &error),
        });
        if let Err(error) = told.await {
            failed("archiving", &error);
        }
    }
}

fn failed(chore: &str, error: &Error) {
    let source = std::error::Error::source(error);
    tracing::warn!(%error, ?source, "{chore} failed; it is tried again at its time");
}
