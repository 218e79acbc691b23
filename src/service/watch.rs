//! How the backends are, as a server saw them when it last looked: for `/readyz` and `/metrics`, which must not ask for
//! what takes long, or asks every shard, whenever somebody is curious.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Health, Service};
use crate::domain::Result;

/// What was seen; `None` until somebody looked.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// The store answered.
    pub store: Option<bool>,
    /// The archive answered.
    pub archive: Option<bool>,
    /// For how long the session that has been due for archiving longest has been due; zero where none is.
    pub backlog_age: Option<Duration>,
    /// Erased sessions whose bytes are not out of the archive yet.
    pub erasures_pending: Option<u64>,
    /// For how long the bytes of the first erased session should have been gone.
    pub erasure_overdue: Option<Duration>,
}

/// The last look.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Seen>);

impl Watch {
    fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn seen(&self) -> Seen {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// What the last look saw.
    pub fn seen(&self) -> Seen {
        self.watch.seen()
    }

    /// How the archive is, as of the last look; off where there is none.
    pub fn archive_health(&self) -> Health {
        match (&self.archive, self.seen().archive) {
            (None, _) => Health::Off,
            (Some(_), Some(false)) => Health::Degraded,
            (Some(_), _) => Health::Ok,
        }
    }

    /// Asks the store and the archive whether they are there; says in the log when that changed.
    pub async fn look_at_backends(&self) {
        let before = self.seen();
        let store = self.ready().await;
        told("the store", before.store, &store);
        self.watch.update(|seen| seen.store = Some(store.is_ok()));
        if let Ok(archive) = self.archive() {
            let answered = archive.ping().await;
            told("the archive", before.archive, &answered);
            self.watch.update(|seen| seen.archive = Some(answered.is_ok()));
        }
    }

    /// Forgets what was left to archive: another process looks from now on.
    pub fn forget_backlog(&self) {
        self.watch.update(|seen| {
            seen.backlog_age = None;
            seen.erasures_pending = None;
            seen.erasure_overdue = None;
        });
    }

    /// Looks at what is left to archive, and to take out of the archive. Asks every shard.
    ///
    /// # Errors
    /// The store can't be reached; then what was seen before is forgotten.
    pub async fn look_at_backlog(&self) -> Result<()> {
        let Ok(archive) = self.archive() else {
            return Ok(());
        };
        let backlog = archive.backlog().await;
        self.watch.update(|seen| {
            seen.backlog_age = backlog.as_ref().ok().map(|backlog| backlog.age);
            seen.erasures_pending = backlog.as_ref().ok().map(|backlog| backlog.erasures_pending);
            seen.erasure_overdue = backlog.as_ref().ok().map(|backlog| backlog.erasure_overdue);
        });
        backlog.map(|_| ())
    }
}

fn told(backend: &str, before: Option<bool>, now: &Result<()>) {
    match (before, now) {
        (Some(false), Ok(())) => tracing::info!("{backend} answers again"),
        (None | Some(true), Err(error)) => {
            let source = std::error::Error::source(error);
            tracing::warn!(%error, ?source, "{backend} does not answer");
        }
        _ => {}
    }
}
