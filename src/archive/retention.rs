//! Retention: days of the archive that are old enough are deleted whole.
//!
//! A session of such a day is erased first, so that nobody is led to a segment that is gone; then its segment is deleted.
//! Sessions that are hot, whenever they ended, are not touched.

use std::{fmt, time::Duration};

use super::{
    Archive, ms, now,
    run::stopped,
    segment::{MANIFESTS_PREFIX, segment_of},
};
use crate::domain::{Result, SegmentName};

const DAY: Duration = Duration::from_hours(24);

/// What retention deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    pub segments: u64,
    pub sessions: u64,
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segments deleted: {}; sessions deleted: {}",
            self.segments, self.sessions
        )
    }
}

impl Archive {
    /// Deletes the days that ended longer ago than `retention`.
    ///
    /// # Errors
    /// The store or the archive can't be reached, or a segment is damaged.
    pub async fn expire(&self, retention: Duration) -> Result<Expired> {
        let mut done = Expired::default();
        let mut manifests = self.listing(MANIFESTS_PREFIX);
        while let Some(objects) = manifests.next().await? {
            for segment in objects.iter().filter_map(|object| segment_of(&object.path)) {
                let ended = segment.day().start().saturating_add_ms(ms(DAY));
                if ended.saturating_add_ms(ms(retention)) <= now() {
                    done.sessions += self.expire_segment(&segment).await?;
                    done.segments += u64::from(self.delete_segment(&segment).await?);
                }
            }
        }
        Ok(done)
    }

    async fn expire_segment(&self, segment: &SegmentName) -> Result<u64> {
        let members = self.members(segment).await?;
        let forget_at = now().saturating_add_ms(ms(self.0.options.tombstone));
        for key in &members {
            if self.is_stopping() {
                return Err(stopped());
            }
            let erased = self.changing(&[key], self.0.catalog.erase(key, forget_at)).await;
            match erased {
                Err(error) if error.is_of_session() => {}
                outcome => outcome?,
            }
        }
        Ok(members.len() as u64)
    }
}
