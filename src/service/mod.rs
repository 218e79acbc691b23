//! The use cases: open, append, read, complete, erase.
//!
//! Every caller comes in here: HTTP, import, export, tests. A use case fills in what the caller left to the server
//! (ids, clocks, sequence numbers), asks the store, and makes pages of what comes back. It holds no state of its
//! own but the group commit's queue, so any number of processes may serve the same store.
//!
//! - [`sessions`]: open, read, list, change, end, restore and erase sessions.
//! - [`idle`]: ends the ones that nobody ended, with or without an archive.
//! - [`events`]: append and read events.
//! - [`reading`], [`writing`]: what the cache has to do with either.
//! - [`group_commit`]: makes concurrent appends share the store's commits; [`commit`]: one such.
//! - [`watch`]: how the backends are.
//! - [`chore`]: what one process does for all.
//! - [`clock`]: the time, and sequence numbers from it.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    archive::Archive,
    cache::Cache,
    domain::{Error, Event, Kind, Result, Session},
    store::{Store, Upkeep},
};

pub mod chore;
pub mod clock;
pub mod commit;
pub mod events;
pub mod group_commit;
pub mod idle;
pub mod reading;
pub mod sessions;
pub mod watch;
pub mod writing;

pub use crate::cache::Health;
pub use clock::Clock;
pub use commit::Appends;
pub use group_commit::{GroupCommit, GroupLimits};
pub use idle::IDLE_REASON;
use watch::Watch;

pub use crate::cache::Rendered;
pub use reading::{PageQuery, ReadPage, Render};

/// What bounds the use cases (I9).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most bytes of payload on a page; a page ends early before it passes this.
    pub page_payload_bytes_max: usize,
    /// How long the tombstone of an erased session refuses its id.
    pub tombstone: Duration,
    /// Longest that the store may take to say that it is there.
    pub ready_wait_max: Duration,
    /// Sessions that are read for the cache at once, beside what callers ask for.
    pub cache_fills_max: usize,
    /// The append queue and its groups.
    pub groups: GroupLimits,
}

/// The use cases over one store, with a cache in front.
#[derive(Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    /// `None` where nothing was ever archived, as in tests of other things.
    archive: Option<Archive>,
    fills: Arc<Semaphore>,
    appends: GroupCommit,
    clock: Arc<Clock>,
    watch: Arc<Watch>,
    limits: Arc<Limits>,
}

/// A page of sessions, and the cursor of the next one where there is one.
#[derive(Debug, Clone)]
pub struct SessionsPage {
    pub sessions: Vec<Session>,
    pub next_cursor: Option<String>,
}

/// A page of events, and the cursor of the next one where there is one.
#[derive(Debug, Clone)]
pub struct EventsPage {
    pub events: Vec<Event>,
    pub next_cursor: Option<String>,
}

impl Service {
    pub fn new(store: Arc<dyn Store>, cache: Arc<dyn Cache>, limits: Limits) -> Self {
        Self::with_clock(store, cache, limits, Clock::default())
    }

    /// As [`new`](Self::new), by this clock.
    pub fn with_clock(store: Arc<dyn Store>, cache: Arc<dyn Cache>, limits: Limits, clock: Clock) -> Self {
        let clock = Arc::new(clock);
        let appends = GroupCommit::new(
            Arc::clone(&store),
            Arc::clone(&cache),
            Arc::clone(&clock),
            limits.groups.clone(),
        );
        Self {
            appends,
            fills: Arc::new(Semaphore::new(limits.cache_fills_max)),
            store,
            cache,
            archive: None,
            clock,
            watch: Arc::default(),
            limits: Arc::new(limits),
        }
    }

    /// The use cases with an archive, which is that of the same store and the same cache.
    #[must_use]
    pub fn with_archive(self, archive: Archive) -> Self {
        Self {
            archive: Some(archive),
            ..self
        }
    }

    /// The archive, for what is not asked of a session.
    ///
    /// # Errors
    /// [`Kind::ArchiveUnavailable`]: there is none.
    pub fn archive(&self) -> Result<&Archive> {
        let none = || Error::new(Kind::ArchiveUnavailable, "no archive is configured");
        self.archive.as_ref().ok_or_else(none)
    }

    /// Whether requests can be served right now: whether the store answers.
    ///
    /// # Errors
    /// [`Kind::Unavailable`], and how each backend is.
    pub async fn ready(&self) -> Result<()> {
        let wait_max = self.limits.ready_wait_max;
        let pinged = tokio::time::timeout(wait_max, self.store.ping()).await;
        let away = |error: Error| {
            let cache = self.cache.health().as_str();
            let detail = format!("store: {}; cache: {cache}", error.detail());
            Error::new(Kind::Unavailable, detail).with_source(error)
        };
        let silent = |_| {
            Error::new(
                Kind::Unavailable,
                format!("did not answer within {} ms", wait_max.as_millis()),
            )
        };
        pinged.map_err(silent).flatten().map_err(away)
    }

    /// How the cache is; without one, or with one that is away, requests are served all the same.
    pub fn cache_health(&self) -> Health {
        self.cache.health()
    }

    /// How often reads of the cache ended in which way.
    pub fn cache_outcomes(&self) -> Vec<(&'static str, u64)> {
        self.cache.outcomes()
    }

    /// Sessions with writes that other replicas could not be told of yet.
    pub fn cache_unmarked(&self) -> usize {
        self.cache.unmarked()
    }

    /// Events and bytes of payload that wait to be written.
    pub fn appends_waiting(&self) -> (usize, usize) {
        self.appends.waiting()
    }

    /// Whether appends find room to wait in; for who has not read them yet.
    ///
    /// # Errors
    /// [`Kind::Overloaded`], as an append would.
    pub fn room_for_appends(&self) -> Result<()> {
        self.appends.room()
    }

    /// Does the store's outstanding chores until none is left.
    pub async fn upkeep(&self) -> Result<Upkeep> {
        let mut total = Upkeep::default();
        loop {
            let round = self.store.upkeep(self.clock.now()).await?;
            if round == Upkeep::default() {
                return Ok(total);
            }
            total.events_deleted += round.events_deleted;
            total.tombstones_dropped += round.tombstones_dropped;
        }
    }

    /// Finishes the appends that were accepted, then closes the cache and the store.
    pub async fn close(&self) {
        if let Some(archive) = &self.archive {
            archive.stop();
            archive.settle().await;
        }
        self.appends.drain().await;
        self.cache.close().await;
        self.store.close().await;
    }
}
