//! How the archive is, for whoever looks after it: whether it answers, and what is left to do.

use std::time::Duration;

use super::{Archive, ms, now, segment::MANIFESTS_PREFIX};
use crate::domain::{Result, Timestamp};

/// What is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// For how long the session that has been due for archiving longest has been due; zero where none is.
    pub age: Duration,
    /// Erased sessions whose bytes are not out of the archive yet.
    pub erasures_pending: u64,
    /// For how long the bytes of the first of them should have been gone; zero where there is time.
    pub erasure_overdue: Duration,
}

impl Archive {
    /// Whether the place of the objects answers.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub async fn ping(&self) -> Result<()> {
        let listing = async { Ok(self.0.objects.list(MANIFESTS_PREFIX, None, 1).await?) };
        self.in_time(listing).await.map(|_| ())
    }

    /// What is left to do. Asks every shard.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn backlog(&self) -> Result<Backlog> {
        let due_since = self
            .oldest_due()
            .await?
            .map(|ended| ended.saturating_add_ms(ms(self.0.options.after)));
        let age_ms = due_since.map_or(0, |since| now().unix_ms() - since.unix_ms());
        let pending = self.pending_erasures().await?;
        let overdue_ms = pending.since.map_or(0, |since| self.overdue_ms(since));
        let span = |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        Ok(Backlog {
            age: span(age_ms),
            erasures_pending: pending.sessions,
            erasure_overdue: span(overdue_ms),
        })
    }

    /// When the session ended that has been due for archiving longest, where there is one.
    pub async fn oldest_due(&self) -> Result<Option<Timestamp>> {
        let before = now().saturating_add_ms(-ms(self.0.options.after));
        let due = self.0.catalog.due(before, 1).await?;
        Ok(due.first().map(|due| due.ended_at))
    }
}
