//! Retention: days of the archive that are old enough are deleted whole.
//!
//! The sessions of such a day are erased first, so that nobody is led to a segment that is gone; then its segments are
//! deleted. Which sessions those are is the store's to say: those whose pointer leads there. Each is erased only where that
//! is so still, so one that was restored meanwhile stays, as does any that is hot, whenever it ended. And a segment that
//! can't be read is no obstacle: it expires as the others do.
//!
//! There is no way back from it, so what time it is must be [agreed upon](super::clock).

use std::{collections::HashSet, fmt, time::Duration};

use futures_util::{StreamExt, stream};

use super::{
    Archive,
    discard::{Discarded, Known},
    faults::Faults,
    ms, now,
    run::stopped,
    segment::{EVENTS_PREFIX, MANIFESTS_PREFIX, SESSIONS_PREFIX, segment_of},
};
use crate::{
    domain::{Error, Kind, Result, SegmentName, SessionKey, Timestamp},
    store::catalog::CATALOG_BATCH_MAX,
};

const DAY: Duration = Duration::from_hours(24);

/// Where the files of segments lie.
const PREFIXES: [&str; 3] = [SESSIONS_PREFIX, EVENTS_PREFIX, MANIFESTS_PREFIX];

/// Whether the files come in the order of their days: what follows one that is not over is not over.
fn is_by_day(prefix: &str) -> bool {
    prefix != MANIFESTS_PREFIX
}

/// Segments that are deleted at the same time: while the sessions of one are listed, those of the other are erased.
const SEGMENTS_IN_FLIGHT: usize = 2;

/// Sessions of a segment that others have claimed, with which it is left to the next time.
const CLAIMED_MAX: usize = 2 * CATALOG_BATCH_MAX;

/// What retention deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expired {
    pub segments: u64,
    pub sessions: u64,
    /// Segments that could not be deleted.
    pub faults: Faults,
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}segments deleted: {}; sessions deleted: {}",
            self.faults, self.segments, self.sessions
        )?;
        match self.faults.count() {
            0 => Ok(()),
            faults => write!(f, "; segments that can't be deleted: {faults}"),
        }
    }
}

/// Whether the day of a segment ended longer ago than `retention`.
fn is_over(segment: &SegmentName, retention: Duration, at: Timestamp) -> bool {
    let ended = segment.day().start().saturating_add_ms(ms(DAY));
    ended.saturating_add_ms(ms(retention)) <= at
}

impl Archive {
    /// Deletes the days that ended longer ago than `retention`. What others have claimed, as a restore that is under way
    /// does, is left to the next time.
    ///
    /// # Errors
    /// The store or the archive can't be reached. [`Kind::Unavailable`]: it is not certain what time it is. A segment that
    /// is damaged is no error: it is told in what comes back.
    pub async fn expire(&self, retention: Duration) -> Result<Expired> {
        let mut done = Expired::default();
        if !self.may_expire(retention).await? {
            return Ok(done);
        }
        let at = self.agreed_time().await?;
        // Those that stay are met once for each of their files.
        let mut left = HashSet::new();
        for prefix in PREFIXES {
            let mut listing = self.listing(prefix);
            let mut is_behind = false;
            while !is_behind && let Some(objects) = listing.next().await? {
                let mut over = Vec::new();
                for segment in objects.iter().filter_map(|object| segment_of(&object.path)) {
                    if is_over(&segment, retention, at) {
                        over.push(segment);
                    } else if is_by_day(prefix) {
                        is_behind = true;
                        break;
                    }
                }
                over.retain(|segment| !left.contains(segment));
                let expiring = over.into_iter().map(|segment| self.expire_segment(segment, at));
                let mut expiring = stream::iter(expiring).buffered(SEGMENTS_IN_FLIGHT);
                while let Some((segment, sessions, outcome)) = expiring.next().await {
                    done.sessions += sessions;
                    match outcome {
                        Ok(discarded) => {
                            done.segments += self.told(&segment, discarded, &mut done.faults);
                            if discarded == Discarded::Deleted {
                                continue;
                            }
                        }
                        Err(error) => self.blame_in_upkeep(&segment, error, &mut done.faults).await?,
                    }
                    left.insert(segment);
                }
            }
        }
        Ok(done)
    }

    /// Whether any day is over by this machine's clock.
    ///
    /// # Errors
    /// [`Kind::Unavailable`]: every day would be, and there is no other clock that bears it out.
    async fn may_expire(&self, retention: Duration) -> Result<bool> {
        let at = now();
        let (mut any, mut newest) = (false, None);
        for prefix in PREFIXES {
            let mut listing = self.listing(prefix);
            'prefix: while let Some(objects) = listing.next().await? {
                for object in &objects {
                    let Some(segment) = segment_of(&object.path) else {
                        continue;
                    };
                    newest = newest.max(Some(object.written_at));
                    if is_over(&segment, retention, at) {
                        any = true;
                    } else if is_by_day(prefix) {
                        break 'prefix;
                    }
                }
            }
        }
        let is_idle = newest.is_some_and(|newest| newest.saturating_add_ms(ms(retention)) <= at);
        if any && is_idle && !self.0.objects.has_own_clock() {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "nothing is deleted by its age: this machine's clock says {at}, so nothing was archived for longer than \
                     archived days are kept, and no other clock bears that out; set the clock, or archive a session first"
                ),
            ));
        }
        Ok(any)
    }

    /// Erases the sessions of a segment, and deletes it; gives how many those were, and what became of it.
    async fn expire_segment(
        &self,
        segment: SegmentName,
        at: Timestamp,
    ) -> (SegmentName, u64, Result<Discarded>) {
        let mut known = Known::default();
        let outcome = match self.expire_sessions(&segment, at, &mut known).await {
            Ok(()) => self.discard_expired(&segment, known).await,
            Err(error) => Err(error),
        };
        (segment, known.sessions, outcome)
    }

    async fn expire_sessions(&self, segment: &SegmentName, at: Timestamp, known: &mut Known) -> Result<()> {
        let forget_at = at.saturating_add_ms(ms(self.0.options.tombstone));
        let catalog = &self.0.catalog;
        let mut claimed: HashSet<SessionKey> = HashSet::new();
        while claimed.len() < CLAIMED_MAX {
            if self.is_stopping() {
                return Err(stopped());
            }
            let mut some = catalog
                .archived_in(segment, CATALOG_BATCH_MAX + claimed.len())
                .await?;
            some.retain(|archived| !claimed.contains(&archived.key));
            some.truncate(CATALOG_BATCH_MAX);
            if some.is_empty() {
                break;
            }
            let keys: Vec<&SessionKey> = some.iter().map(|archived| &archived.key).collect();
            let erased = self.changing(&keys, catalog.expire(&some, forget_at)).await?;
            for (archived, is_erased) in some.iter().zip(erased) {
                match is_erased {
                    true => known.sessions += 1,
                    false => drop(claimed.insert(archived.key.clone())),
                }
            }
        }
        Ok(())
    }
}
