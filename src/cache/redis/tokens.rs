//! Names for writes and fills under way.

use std::sync::atomic::{AtomicU64, Ordering};

/// Names for writes and fills that no replica gives twice.
pub(super) struct Tokens {
    replica: String,
    given: AtomicU64,
}

impl Tokens {
    /// Half of the replica's name is random enough, and every write sends it twice.
    pub(super) fn of(replica: &str) -> Self {
        Self {
            replica: replica.chars().take(16).collect(),
            given: AtomicU64::new(0),
        }
    }

    pub(super) fn next(&self) -> String {
        format!(
            "{}-{:x}",
            self.replica,
            self.given.fetch_add(1, Ordering::Relaxed)
        )
    }
}
