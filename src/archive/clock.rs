//! What time it is, for what can't be undone. A machine whose clock is wrong by years must not take the archive for old, so
//! the clock of the place of the objects is asked, too.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::{Archive, ms, now};
use crate::domain::{Error, Kind, Result, Timestamp};

/// How far this machine's clock and that of the objects may be apart. Clocks that are kept in time are apart by less than a
/// second, and what goes by its age goes by days.
const CLOCKS_APART_MAX: Duration = Duration::from_hours(1);

/// What the paths of objects begin with that are written to learn the time, and deleted at once.
const CLOCK_PREFIX: &str = "clock/";

impl Archive {
    /// The time by this machine's clock and by that of the objects: the earlier of the two.
    ///
    /// # Errors
    /// [`Kind::Unavailable`]: they are too far apart. The archive can't be reached.
    pub(super) async fn agreed_time(&self) -> Result<Timestamp> {
        let before = now();
        let theirs = self.time_of_objects().await?;
        let after = now();
        let apart_ms = (before.unix_ms() - theirs.unix_ms()).max(theirs.unix_ms() - after.unix_ms());
        if apart_ms > ms(CLOCKS_APART_MAX) {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "nothing is deleted by its age: this machine's clock says {after}, that of the archive {theirs}; set the \
                     one that is wrong"
                ),
            ));
        }
        Ok(theirs.min(before))
    }

    async fn time_of_objects(&self) -> Result<Timestamp> {
        let path = format!("{CLOCK_PREFIX}{}", Uuid::now_v7());
        let bytes = Bytes::from_static(b"written to learn the time, and deleted");
        self.0.objects.put(&path, bytes).await?;
        let written = self.0.objects.head(&path).await;
        self.0.objects.delete(&path).await?;
        let time = written?.written_at;
        self.forget_probes(time).await?;
        Ok(time)
    }

    /// Deletes those of processes that died.
    async fn forget_probes(&self, time: Timestamp) -> Result<()> {
        let mut probes = self.listing(CLOCK_PREFIX);
        while let Some(some) = probes.next().await? {
            for probe in some {
                if probe.written_at.saturating_add_ms(ms(CLOCKS_APART_MAX)) < time {
                    self.0.objects.delete(&probe.path).await?;
                }
            }
        }
        Ok(())
    }
}
