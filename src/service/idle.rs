//! Ends the sessions that nobody ended and nobody used for long. That needs no archive, which takes them over later.

use std::time::Duration;

use super::{Service, writing};
use crate::{
    domain::{Kind, Result, Session},
    store::Idle,
};

/// The `endReason` of a session that was ended because nobody used it.
pub const IDLE_REASON: &str = "idle timeout";

/// Sessions that the store looks at in one go.
const BATCH_MAX: usize = 500;

/// Batches of one sweep; the next sweep goes on.
const BATCHES_MAX: usize = 200;

impl Service {
    /// Ends the sessions of all tenants that were neither opened nor appended to for `timeout`; gives how many. Any number of
    /// processes may do so at once. An archive that was asked to stop ends it early.
    ///
    /// # Errors
    /// The store can't be reached. Of the sessions that could not be ended, the error of the first, after the others
    /// were ended.
    pub async fn end_idle(&self, timeout: Duration) -> Result<u64> {
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let (mut ended, mut failed) = (0, None);
        for _ in 0..BATCHES_MAX {
            let now = self.clock.now();
            let idle_since = now.saturating_add_ms(timeout_ms.saturating_neg());
            let found = self.store.find_idle(idle_since, now, BATCH_MAX).await?;
            for idle in found.sessions {
                match self.end_one(idle).await {
                    Ok(session) => ended += u64::from(session.is_some()),
                    Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Overloaded) => {
                        return Err(error);
                    }
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            let is_stopping = self.archive().is_ok_and(|archive| archive.is_stopping());
            if !found.has_more || is_stopping {
                break;
            }
        }
        failed.map_or(Ok(ended), Err)
    }

    async fn end_one(&self, idle: Idle) -> Result<Option<Session>> {
        let (key, now) = (idle.key.clone(), self.clock.now());
        let end = async move |service: Self| match service.store.end_idle(&idle, IDLE_REASON, now).await {
            Err(error) if error.is_of_session() => Ok(None),
            outcome => outcome,
        };
        self.write(&key, end, writing::of_ended_idle).await
    }
}
