//! The use cases: open, append, read, complete, erase.
//!
//! Every caller comes in here: HTTP, import, export, tests. A use case fills in what the caller left to the server
//! (ids, clocks, sequence numbers), asks the store, and makes pages of what comes back. It holds no state of its
//! own but the group commit's queue, so any number of processes may serve the same store.
//!
//! - [`sessions`]: open, read, list, change, end and erase sessions.
//! - [`events`]: append and read events.
//! - [`group_commit`]: makes concurrent appends share the store's commits.
//! - [`clock`]: the time, and sequence numbers from it.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{Event, Result, Session},
    store::{Store, Upkeep},
};

pub mod clock;
pub mod events;
pub mod group_commit;
pub mod sessions;

pub use clock::Clock;
pub use group_commit::{GroupCommit, GroupLimits};

/// What bounds the use cases (I9).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most bytes of payload on a page; a page ends early before it passes this.
    pub page_payload_bytes_max: usize,
    /// How long the tombstone of an erased session refuses its id.
    pub tombstone: Duration,
    /// The append queue and its groups.
    pub groups: GroupLimits,
}

/// The use cases over one store.
#[derive(Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    appends: GroupCommit,
    clock: Arc<Clock>,
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
    pub fn new(store: Arc<dyn Store>, limits: Limits) -> Self {
        Self {
            appends: GroupCommit::new(Arc::clone(&store), limits.groups.clone()),
            store,
            clock: Arc::new(Clock::default()),
            limits: Arc::new(limits),
        }
    }

    /// Whether requests can be served right now.
    pub async fn ready(&self) -> Result<()> {
        self.store.ping().await
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

    /// Finishes the appends that were accepted, then closes the store.
    pub async fn close(&self) {
        self.appends.drain().await;
        self.store.close().await;
    }
}
