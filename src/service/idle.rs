//! Ends the sessions that nobody ended and nobody used for long, so that they can be archived.

use std::time::Duration;

use super::{Service, writing};
use crate::domain::{Limit, Result, SessionFilter, SessionKey, Status, Tenant, Timestamp};

/// The `endReason` of a session that was ended because nobody used it.
pub const IDLE_REASON: &str = "idle timeout";

impl Service {
    /// Ends the sessions of a tenant that were neither opened nor appended to for `timeout`; gives how many. An archive that
    /// was asked to stop ends it early.
    ///
    /// # Errors
    /// The store can't be reached; those ended so far are.
    pub async fn end_idle(&self, tenant: &Tenant, timeout: Duration) -> Result<u64> {
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let idle_since = self.clock.now().saturating_add_ms(-timeout_ms);
        let mut ended = 0;
        for status in [Status::Initiated, Status::Active] {
            let filter = SessionFilter {
                status: Some(status),
                // One that was opened with a later start was opened later still, or by a clock that is wrong.
                started_before: Some(idle_since),
                ..SessionFilter::default()
            };
            let mut cursor = None;
            loop {
                let page = self
                    .sessions(tenant, filter.clone(), Limit::MAX, cursor.as_deref())
                    .await?;
                for session in page.sessions {
                    let key = SessionKey::new(tenant.clone(), session.id);
                    ended += u64::from(self.end_if_idle(&key, idle_since).await?);
                }
                cursor = page.next_cursor;
                if cursor.is_none() || self.archive()?.is_stopping() {
                    break;
                }
            }
        }
        Ok(ended)
    }

    async fn end_if_idle(&self, key: &SessionKey, idle_since: Timestamp) -> Result<bool> {
        let catalog = self.archive()?.catalog();
        let (of, now) = (key.clone(), self.clock.now());
        let end = async move |_: Self| match catalog.end_if_idle(&of, idle_since, IDLE_REASON, now).await {
            Err(error) if error.is_of_session() => Ok(None),
            outcome => outcome,
        };
        let ended = self.write(key, end, writing::of_ended_idle).await?;
        Ok(ended.is_some())
    }
}
