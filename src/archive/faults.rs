//! What is wrong with single segments. It is collected and reported, and does not stop the work on the others.

use std::{fmt, sync::atomic::Ordering};

use super::{Archive, discard::Discarded, segment::manifest_path};
use crate::domain::{Error, Kind, Result, SegmentName};

/// Faults that are told one by one.
const FAULTS_MAX: usize = 1_000;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub segment: SegmentName,
    /// A sentence without its end.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.segment, self.what)
    }
}

/// All that is wrong: a thousand faults one by one, and how many there are besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    told: Vec<Fault>,
    untold: u64,
}

impl Faults {
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    pub fn count(&self) -> u64 {
        self.told.len() as u64 + self.untold
    }

    /// The first thousand.
    pub fn told(&self) -> &[Fault] {
        &self.told
    }

    pub(super) fn add(&mut self, segment: &SegmentName, what: impl Into<String>) {
        if self.told.len() == FAULTS_MAX {
            self.untold += 1;
            return;
        }
        self.told.push(Fault {
            segment: segment.clone(),
            what: what.into(),
        });
    }
}

/// A line for each.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.told {
            writeln!(f, "{fault}")?;
        }
        match self.untold {
            0 => Ok(()),
            more => writeln!(f, "and {more} more"),
        }
    }
}

impl Archive {
    /// Adds what is wrong with a segment, unless it went meanwhile: then somebody else did what was to be done.
    ///
    /// # Errors
    /// The failure itself, where it is not this segment's alone.
    pub(super) async fn blame(&self, segment: &SegmentName, error: Error, faults: &mut Faults) -> Result<()> {
        if !is_of_segment(&error) {
            return Err(error);
        }
        if self.0.catalog.is_needed(segment).await? || self.has(&manifest_path(segment)).await? {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let what = source.map_or_else(
                || error.detail().to_owned(),
                |source| format!("{}: {source}", error.detail()),
            );
            faults.add(segment, what);
        }
        Ok(())
    }

    /// As [`blame`](Self::blame), by upkeep, which counts the segments that it could not work on.
    pub(super) async fn blame_in_upkeep(
        &self,
        segment: &SegmentName,
        error: Error,
        faults: &mut Faults,
    ) -> Result<()> {
        let before = faults.count();
        self.blame(segment, error, faults).await?;
        let more = faults.count() - before;
        self.0.counters.segments_failed.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }
}

impl Archive {
    /// How many segments were deleted; one that is kept for want of a proof is a fault.
    pub(super) fn told(&self, segment: &SegmentName, discarded: Discarded, faults: &mut Faults) -> u64 {
        if discarded == Discarded::Unknown {
            self.0.counters.segments_failed.fetch_add(1, Ordering::Relaxed);
            faults.add(
                segment,
                "it is kept, because it holds copies of sessions that the store does not know; was an older backup of the \
                 database restored? `colloquy archive rebuild` takes them in",
            );
        }
        u64::from(discarded == Discarded::Deleted)
    }
}

/// Whether the failure is that of one segment, so that the others can be worked on.
pub(super) fn is_of_segment(error: &Error) -> bool {
    matches!(error.kind(), Kind::ArchiveDamaged | Kind::Internal)
}
