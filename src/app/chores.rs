//! What a server does by itself, beside serving: the store's housekeeping, and archiving on schedule.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    archive::{Progress, RunRequest, Trigger},
    config::Config,
    domain::{Error, Result, Tenant},
    service::Service,
    store::Upkeep,
    telemetry::metrics::metrics,
};

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
    if let (Some(every), Ok(_)) = (config.archive_every.get(), service.archive()) {
        let archiving = Archiving {
            service: service.clone(),
            retention: config.archive_retention.get(),
            idle_timeout: config.session_idle_timeout.get(),
            sweep_grace: config.archive_sweep_grace.get(),
        };
        chores.push(tokio::spawn(archiving.on_schedule(every)));
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
        if let Err(error) = service.look_at_backlog().await {
            failed("looking at the backlog", &error);
        }
    }
}

/// Keeps what `/readyz` and `/metrics` say of the backends true.
async fn looking_at_backends(service: Service, every: Duration) {
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        service.look_at_backends().await;
    }
}

/// Archiving, and the upkeep of the archive. Any number of servers may do it at once: the store says who does what.
struct Archiving {
    service: Service,
    retention: Option<Duration>,
    idle_timeout: Option<Duration>,
    sweep_grace: Duration,
}

impl Archiving {
    async fn on_schedule(self, every: Duration) {
        let mut rounds = interval(every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            // One that fails keeps none of the others back.
            self.tell("ending idle sessions", self.end_idle().await);
            self.tell("archiving", self.archive().await);
            self.tell("rewriting segments", self.rewrite().await);
            self.tell("retention", self.expire().await);
            self.tell("sweeping the archive", self.sweep().await);
        }
    }

    /// Says what was done, where anything was.
    fn tell(&self, chore: &'static str, done: Result<Option<String>>) {
        match done {
            Ok(None) => {}
            Ok(Some(done)) => tracing::info!("{chore}: {done}"),
            Err(error) => failed(chore, &error),
        }
    }

    async fn end_idle(&self) -> Result<Option<String>> {
        let Some(timeout) = self.idle_timeout else {
            return Ok(None);
        };
        let ended = self.service.end_idle(&Tenant::default(), timeout).await?;
        Ok((ended > 0).then(|| format!("{ended} ended")))
    }

    async fn archive(&self) -> Result<Option<String>> {
        let archive = self.service.archive()?;
        let request = RunRequest::default();
        // A run leaves a record, so there is one only where there is something to do.
        if !archive.has_work().await? {
            return Ok(None);
        }
        let record = archive
            .run(request, Trigger::Schedule, Arc::new(Progress::default()))
            .await?;
        let counts = record.counts;
        Ok((counts.sessions > 0).then(|| format!("{} sessions, {} events", counts.sessions, counts.events)))
    }

    async fn rewrite(&self) -> Result<Option<String>> {
        let done = self.service.archive()?.rewrite().await?;
        Ok((done.segments + done.pending > 0).then(|| done.to_string()))
    }

    async fn expire(&self) -> Result<Option<String>> {
        let Some(retention) = self.retention else {
            return Ok(None);
        };
        let done = self.service.archive()?.expire(retention).await?;
        Ok((done.segments > 0).then(|| done.to_string()))
    }

    async fn sweep(&self) -> Result<Option<String>> {
        let done = self.service.archive()?.sweep(self.sweep_grace).await?;
        Ok((done.segments + done.uploads + done.unknown > 0).then(|| done.to_string()))
    }
}

fn failed(chore: &'static str, error: &Error) {
    metrics().chore_failed(chore);
    let source = std::error::Error::source(error);
    tracing::warn!(%error, ?source, "{chore} failed; it is tried again at its time");
}
