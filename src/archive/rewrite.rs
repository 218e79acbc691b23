//! Rewriting segments: erasure hides a session at once, and here its bytes go.
//!
//! A segment is never changed. What it holds that is still needed, the sessions whose pointer leads to it,
//! [moves](super::moving) to a new segment; then the old one has no use and is deleted, with all else that was in it.
//! Should the process die on the way, the sessions that moved have moved, and the next rewrite goes on.
//!
//! To take out one session costs as much as to take out a hundred of the same segment. So on schedule a segment is rewritten
//! once enough of it was erased, or once its oldest erasure has waited for as long as it may.

use std::{fmt, sync::Arc};

use tokio::task::{JoinError, JoinSet};
use tracing::Instrument as _;

use super::{
    Archive, Progress,
    discard::Discarded,
    faults::Faults,
    ms, now,
    run::{Work, stopped},
    segment::SessionRow,
};
use crate::{
    domain::{Error, Kind, Result, SegmentName, SessionKey, Timestamp},
    store::catalog::{Affected, CATALOG_BATCH_MAX, Pending, Standing},
};

/// Segments that are looked up at a time.
const SEGMENTS_AT_ONCE: usize = 500;

/// Segments that are rewritten at the same time: while one is read, encoded and read back, the store is at the other.
const SEGMENTS_IN_FLIGHT: usize = 2;

/// What a rewrite did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewritten {
    /// Segments that are gone, with the bytes of erased sessions in them.
    pub segments: u64,
    /// Sessions that moved to a new segment.
    pub sessions_moved: u64,
    /// Erased sessions whose bytes are not gone yet.
    pub pending: u64,
    /// Segments that can't be rewritten.
    pub faults: Faults,
}

impl fmt::Display for Rewritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}segments rewritten and deleted: {}; sessions moved: {}; erased sessions whose bytes are still there: {}",
            self.faults, self.segments, self.sessions_moved, self.pending
        )?;
        match self.faults.count() {
            0 => Ok(()),
            faults => write!(f, "; segments that can't be rewritten: {faults}"),
        }
    }
}

fn broken_off(error: JoinError) -> Error {
    Error::new(
        Kind::Internal,
        "the rewriting of a segment broke off; the log says why",
    )
    .with_source(error)
}

/// Which segments are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All that hold bytes of erased sessions.
    Everything,
    /// Those of which it is time.
    Due,
}

impl Archive {
    /// The erased sessions that may have bytes in the archive still.
    pub async fn pending_erasures(&self) -> Result<Pending> {
        self.0.catalog.pending().await
    }

    /// Takes the bytes of all erased sessions out of the archive. What somebody else is at, as a run that is writing the
    /// segment, is left for the next time.
    ///
    /// # Errors
    /// The store or the archive can't be reached. A segment that is damaged is none: it is told in what comes back.
    pub async fn rewrite(&self) -> Result<Rewritten> {
        self.rewrite_affected(Extent::Everything).await
    }

    /// As [`rewrite`](Self::rewrite), of the segments of which it is time: where the share of erased sessions is
    /// [`rewrite_percent_min`](super::ArchiveOptions::rewrite_percent_min), or the first of them was erased
    /// [`rewrite_after`](super::ArchiveOptions::rewrite_after), or as long as a tombstone stands, ago.
    ///
    /// # Errors
    /// As [`rewrite`](Self::rewrite).
    pub async fn rewrite_due(&self) -> Result<Rewritten> {
        self.rewrite_affected(Extent::Due).await
    }

    async fn rewrite_affected(&self, extent: Extent) -> Result<Rewritten> {
        self.write_owed_markers().await?;
        let work = Work::new(self, Arc::new(Progress::default()));
        let mut done = Rewritten::default();
        let mut after: Option<SegmentName> = None;
        loop {
            let affected = self.0.catalog.affected(after.as_ref(), SEGMENTS_AT_ONCE).await?;
            let Some(last) = affected.last() else { break };
            after = Some(last.segment.clone());
            let (mut waiting, mut rewriting) = (affected.into_iter(), JoinSet::new());
            loop {
                let room = SEGMENTS_IN_FLIGHT - rewriting.len();
                for affected in waiting.by_ref().take(room) {
                    let (archive, work) = (self.clone(), work.on(affected.segment.day()));
                    let rewriting_one = async move {
                        let rewritten = archive.rewrite_if_time(&affected, extent, &work).await;
                        (affected.segment, rewritten)
                    };
                    // Tasks of their own, since they check and copy rows for as long as they wait.
                    rewriting.spawn(rewriting_one.in_current_span());
                }
                let Some(rewritten) = rewriting.join_next().await else {
                    break;
                };
                match rewritten.map_err(broken_off)? {
                    (segment, Ok(Some(discarded))) => {
                        done.segments += self.told(&segment, discarded, &mut done.faults);
                    }
                    (_, Ok(None)) => {}
                    (segment, Err(error)) => {
                        self.blame_in_upkeep(&segment, error, &mut done.faults).await?;
                    }
                }
            }
        }
        done.pending = self.pending_erasures().await?.sessions;
        done.sessions_moved = work.progress.so_far().sessions;
        Ok(done)
    }

    /// For how long the bytes of a session that was erased then should have been gone, on schedule; negative where they may
    /// stay for a while. An id can't be opened again before the bytes of its erased session are gone, so they don't stay
    /// for longer than its tombstone either.
    pub(super) fn overdue_ms(&self, erased_at: Timestamp) -> i64 {
        let options = &self.0.options;
        let wait_max = options.rewrite_after.min(options.tombstone);
        now().unix_ms() - erased_at.saturating_add_ms(ms(wait_max)).unix_ms()
    }

    /// Whether enough was erased, or long enough ago. A segment that has no manifest is looked at at once: it takes no
    /// rewriting to delete what was never finished.
    async fn is_time(&self, affected: &Affected) -> Result<bool> {
        if self.overdue_ms(affected.since) >= 0 {
            return Ok(true);
        }
        match self.0.reader.manifest(&affected.segment).await {
            Ok(manifest) => {
                let (all, percent) = (
                    manifest.counts.sessions,
                    u64::from(self.0.options.rewrite_percent_min),
                );
                Ok(affected.sessions.saturating_mul(100) >= all.saturating_mul(percent))
            }
            Err(error) if error.kind() == Kind::ArchiveDamaged => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Gives what became of the segment; `None` where it is not time.
    async fn rewrite_if_time(
        &self,
        affected: &Affected,
        extent: Extent,
        work: &Work,
    ) -> Result<Option<Discarded>> {
        if self.is_stopping() {
            return Err(stopped());
        }
        if extent == Extent::Due && !self.is_time(affected).await? {
            return Ok(None);
        }
        let known = self.move_members(&affected.segment, work).await?;
        self.discard(&affected.segment, known).await.map(Some)
    }

    /// How the sessions that a segment holds stand, whether or not their pointer leads there; in its order.
    pub(super) async fn each_standing(
        &self,
        segment: &SegmentName,
        mut look: impl FnMut(&SessionRow, Standing) + Send,
    ) -> Result<()> {
        let mut rows = self.0.reader.sessions(segment).await?;
        loop {
            let some = rows.next_some(CATALOG_BATCH_MAX).await?;
            if some.is_empty() {
                return Ok(());
            }
            let key = |row: &SessionRow| SessionKey::new(segment.tenant().clone(), row.session.id.clone());
            let keys: Vec<SessionKey> = some.iter().map(key).collect();
            let standings = self.0.catalog.standings(&keys).await?;
            for (row, standing) in some.iter().zip(standings) {
                look(row, standing);
            }
        }
    }
}
