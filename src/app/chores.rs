//! What a server does by itself, beside serving: the store's housekeeping, the end of idle sessions, archiving on
//! schedule and the upkeep of the archive.
//!
//! Of all servers that share a store, one at a time does each of these ([`Chore`]), for the work that it saves; any number
//! may do any of them, as commands do. Two are done by every server: the look at the backends, which is about this server,
//! and archiving, which is shared out by claims and is faster with more servers.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

use crate::{
    archive::Trigger,
    commands::upkeep::{self, Done, Round},
    config::Config,
    domain::Error,
    service::{
        Service,
        chore::{Chore, jittered},
    },
    store::{Upkeep, leases::Leases},
    telemetry::metrics::metrics,
};

/// The shortest time between two sweeps of idle sessions.
const IDLE_EVERY_MIN: Duration = Duration::from_millis(100);

/// Longest that a server that stops takes to give its leases up; they end by themselves.
const GIVE_UP_MAX: Duration = Duration::from_secs(2);

const UPKEEP: &str = "upkeep";
const BACKLOG: &str = "looking at the backlog";

/// The chores under way.
pub(super) struct Chores {
    tasks: Vec<JoinHandle<()>>,
    leased: Vec<Chore>,
}

/// Begins them; each is done at once, and then every so often.
pub(super) fn begin(service: &Service, leases: &Arc<dyn Leases>, config: &Config) -> Chores {
    let every = Duration::from_millis(config.upkeep_every_ms);
    let look_every = Duration::from_millis(config.health_every_ms);
    let mut chores = Chores {
        tasks: vec![tokio::spawn(looking_at_backends(service.clone(), look_every))],
        leased: Vec::new(),
    };
    let owner: Arc<str> = Uuid::now_v7().to_string().into();
    let lease = Duration::from_millis(config.chore_lease_ms);
    let chore = |name, every| Chore {
        leases: Arc::clone(leases),
        name,
        owner: Arc::clone(&owner),
        lease,
        every,
    };

    known(&[UPKEEP]);
    let of = service.clone();
    chores.lease(chore("upkeep", every), move || housekeeping(of.clone()), || {});
    if service.archive().is_ok() {
        known(&[BACKLOG]);
        let (of, forgetting) = (service.clone(), service.clone());
        let look = move || looking_at_backlog(of.clone());
        // What another server sees from now on is not for this one to tell.
        chores.lease(chore("backlog", every), look, move || forgetting.forget_backlog());
    }
    if let Some(timeout) = config.session_idle_timeout.get() {
        // Sessions live at most a quarter longer than they may.
        let every = every.min(timeout / 4).max(IDLE_EVERY_MIN);
        known(&[upkeep::IDLE]);
        let of = service.clone();
        chores.lease(
            chore("idle", every),
            move || ending_idle(of.clone(), timeout),
            || {},
        );
    }
    if let (Some(every), Ok(_)) = (config.archive_every.get(), service.archive()) {
        let round = round(config, Trigger::Schedule);
        known(&[upkeep::ARCHIVING]);
        let archiving = archiving(service.clone(), round, every);
        chores.tasks.push(tokio::spawn(archiving));
        known(&upkeep::OF_ARCHIVE);
        let of = service.clone();
        let look_after = move || looking_after_archive(of.clone(), round);
        chores.lease(chore("archive", every), look_after, || {});
    }
    chores
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
    /// Has a chore done by whichever server has its lease.
    fn lease<W>(
        &mut self,
        chore: Chore,
        round: impl FnMut() -> W + Send + 'static,
        lost: impl Fn() + Send + Sync + 'static,
    ) where
        W: Future<Output = ()> + Send + 'static,
    {
        self.leased.push(chore.clone());
        self.tasks.push(tokio::spawn(chore.perform(round, lost)));
    }

    /// Stops them where they are, and gives their leases up: another server goes on with them at once.
    pub(super) async fn end(self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            // Cancelled, as it was told.
            let _ = task.await;
        }
        let giving_up = self.leased.iter().map(async |chore| {
            if let Err(error) = chore.give_up().await {
                tracing::debug!(chore = chore.name, %error, "the lease of a chore was not given up");
            }
        });
        let _ = tokio::time::timeout(GIVE_UP_MAX, futures_util::future::join_all(giving_up)).await;
    }
}

/// Telemetry shows these chores from the start.
fn known(chores: &[&'static str]) {
    for chore in chores {
        metrics().chore_begun(chore);
    }
}

/// Tells what came of a chore; says whether it went well.
fn told(chore: &'static str, done: Done) -> bool {
    let failure = match done {
        Ok(Some(done)) => {
            tracing::info!("{chore}: {done}");
            None
        }
        Ok(None) => None,
        Err(error) => {
            failed(chore, &error);
            Some(error)
        }
    };
    metrics().chore_done(chore, failure.is_none());
    failure.is_none()
}

async fn housekeeping(service: Service) {
    let done = service.upkeep().await;
    told(
        UPKEEP,
        done.map(|done| {
            (done != Upkeep::default()).then(|| {
                format!(
                    "events deleted: {}; tombstones dropped: {}",
                    done.events_deleted, done.tombstones_dropped
                )
            })
        }),
    );
}

async fn looking_at_backlog(service: Service) {
    told(BACKLOG, service.look_at_backlog().await.map(|()| None));
}

/// Ends sessions that nobody ended, with or without an archive.
async fn ending_idle(service: Service, timeout: Duration) {
    let done = service.end_idle(timeout).await;
    told(
        upkeep::IDLE,
        done.map(|ended| (ended > 0).then(|| format!("{ended} ended"))),
    );
}

/// Keeps what `/readyz` and `/metrics` say of the backends true.
async fn looking_at_backends(service: Service, every: Duration) {
    loop {
        service.look_at_backends().await;
        sleep(jittered(every)).await;
    }
}

/// Archives what is due.
async fn archiving(service: Service, round: Round, every: Duration) {
    loop {
        if told(upkeep::ARCHIVING, round.archive(&service).await) {
            metrics().archive_round();
        }
        sleep(jittered(every)).await;
    }
}

/// The upkeep of the archive.
async fn looking_after_archive(service: Service, round: Round) {
    let performed = round.look_after(&service, |chore, done| {
        told(chore, done);
    });
    if let Err(error) = performed.await {
        failed(upkeep::TIDYING, &error);
    }
}

fn failed(chore: &'static str, error: &Error) {
    let source = std::error::Error::source(error);
    tracing::warn!(%error, ?source, "{chore} failed; it is tried again at its time");
}
