//! Rewriting segments: erasure hides a session at once, and here its bytes go.
//!
//! A segment is never changed. What it holds that is still needed, the sessions whose pointer leads to it, moves to a new
//! segment, through the phases of the archiver; then the old one has no use and is deleted, with all else that was in
//! it. Should the process die on the way, the sessions that moved have moved, and the next rewrite goes on.

use std::{collections::HashSet, fmt, sync::Arc};

use super::{
    Archive, Progress,
    run::{Work, stopped},
    segment::{SessionRow, events_path, manifest_path, sessions_path},
};
use crate::{
    domain::{Result, SegmentName, SessionKey},
    store::catalog::{CATALOG_BATCH_MAX, Claim, Pending, Standing},
};

/// Segments that are looked up at a time.
const SEGMENTS_AT_ONCE: usize = 100;

/// What a rewrite did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewritten {
    /// Segments that are gone, with the bytes of erased sessions in them.
    pub segments: u64,
    /// Sessions that moved to a new segment.
    pub sessions_moved: u64,
    /// Erased sessions whose bytes are not gone yet.
    pub pending: u64,
}

impl fmt::Display for Rewritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segments rewritten and deleted: {}; sessions moved: {}; erased sessions whose bytes are still there: {}",
            self.segments, self.sessions_moved, self.pending
        )
    }
}

impl Archive {
    /// Erased sessions whose bytes are still in the archive.
    pub async fn pending_erasures(&self) -> Result<Pending> {
        self.0.catalog.pending(SEGMENTS_AT_ONCE).await
    }

    /// Takes the bytes of erased sessions out of the archive. What somebody else is at, as a run that is writing the
    /// segment, is left for the next time.
    ///
    /// # Errors
    /// The store or the archive can't be reached, or a segment is damaged.
    pub async fn rewrite(&self) -> Result<Rewritten> {
        let work = Work::new(self, Arc::new(Progress::default()));
        let mut done = Rewritten::default();
        let mut tried = HashSet::new();
        loop {
            let pending = self.pending_erasures().await?;
            done.pending = pending.sessions;
            let next: Vec<_> = pending
                .segments
                .into_iter()
                .filter(|name| !tried.contains(name))
                .collect();
            if next.is_empty() {
                done.sessions_moved = work.progress.so_far().sessions;
                return Ok(done);
            }
            for segment in next {
                done.segments += u64::from(self.rewrite_segment(&segment, &work).await?);
                tried.insert(segment);
            }
        }
    }

    /// Says whether the segment is gone.
    async fn rewrite_segment(&self, segment: &SegmentName, work: &Work) -> Result<bool> {
        let work = work.on(segment.day());
        loop {
            if self.is_stopping() {
                return Err(stopped());
            }
            let members = match self.has(&sessions_path(segment)).await? {
                true => self.members(segment).await?,
                false => Vec::new(),
            };
            let before = members.len();
            let packed = self.pack(members, Claim::Archived, &work).await?;
            if before == 0 || packed.sessions == 0 {
                return self.delete_segment(segment).await;
            }
        }
    }

    /// The sessions whose pointer leads to the segment.
    pub(super) async fn members(&self, segment: &SegmentName) -> Result<Vec<SessionKey>> {
        let mut members = Vec::new();
        self.each_standing(segment, |_, standing| {
            if let Standing::Archived(archived) = standing
                && archived.pointer.segment == *segment
            {
                members.push(archived.key);
            }
        })
        .await?;
        Ok(members)
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

    /// Deletes a segment that nothing needs, and takes it off every list; says whether it was so.
    pub(super) async fn delete_segment(&self, segment: &SegmentName) -> Result<bool> {
        // What has neither a pointer nor a claim will never get one.
        if self.0.catalog.is_needed(segment).await? {
            return Ok(false);
        }
        // The manifest first: what has none is not rebuilt from.
        for path in [
            manifest_path(segment),
            sessions_path(segment),
            events_path(segment),
        ] {
            self.0.objects.delete(&path).await?;
        }
        self.0.reader.forget(segment);
        self.0.catalog.forget_segment(segment).await?;
        Ok(true)
    }
}
