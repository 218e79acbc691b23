//! Deleting a segment whole, which every kind of maintenance does here and nowhere else.
//!
//! The store may be older than the archive: an older backup of the database was restored, or another process wrote to the
//! same place. Then what the store says about a session, that it is hot or where its pointer leads, is true of the store
//! and tells nothing about a copy that it has never heard of. So a segment is deleted only where these hold:
//!
//! 1. **Every row is known** ([`Catalog::known`]): for every session of the segment, the store's own record names this segment,
//!    as one that it left or as the owner of its last claim. It prevents: a session is archived in S, an older backup
//!    is restored in which it is hot with fewer events, and a sweep deletes S because no pointer leads there.
//!    A segment holds a session once. So where the caller has seen the record of as many sessions name S as S has rows, they
//!    are known without being asked about again ([`Known`]).
//! 2. **Nothing needs it** ([`Catalog::is_needed`]), asked *after* 1. It prevents: a rebuild points a session to S between the
//!    two questions. A copy that is known is not adopted, so after 1 no pointer can come to lead to S.
//! 3. **The manifest goes first.** It prevents: a process dies between two deletions, and a rebuild adopts sessions from the
//!    half that is left. What has no manifest was never committed, or its deletion was proven before, so 1 is not asked of it.
//!
//! 1 and 2 stay true once they are: a segment leaves a session's `left` only when it was deleted, and what has neither a
//! pointer nor a claim that stands will never get one.
//!
//! [`Catalog::known`]: crate::store::catalog::Catalog::known
//! [`Catalog::is_needed`]: crate::store::catalog::Catalog::is_needed

use super::{
    Archive,
    segment::{SessionRow, events_path, manifest_path, sessions_path},
};
use crate::{
    domain::{Kind, Result, SegmentName, SessionKey},
    store::catalog::CATALOG_BATCH_MAX,
};

/// What became of a segment that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discarded {
    Deleted,
    /// A pointer leads there, or a claim stands in order to write it.
    Needed,
    /// It holds a copy that the store does not know. Nothing was deleted.
    Unknown,
}

/// What the caller has seen of a segment's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Known {
    /// Sessions, each counted once, whose record named the segment, since it was last taken off any `left`.
    pub(super) sessions: u64,
}

impl Archive {
    /// Deletes a segment that nothing needs and that holds nothing the store does not know, and takes it off every list;
    /// says whether it did, and why it did not.
    ///
    /// # Errors
    /// The store or the archive can't be reached. [`ArchiveDamaged`](crate::domain::Kind::ArchiveDamaged): the segment can't
    /// be read, so nothing can be proven, and nothing was deleted.
    pub(super) async fn discard(&self, segment: &SegmentName, known: Known) -> Result<Discarded> {
        if self.0.catalog.is_needed(segment).await? {
            return Ok(Discarded::Needed);
        }
        if self.is_whole(segment).await? && !self.knows_all_of(segment, known).await? {
            return Ok(Discarded::Unknown);
        }
        if self.0.catalog.is_needed(segment).await? {
            return Ok(Discarded::Needed);
        }
        self.remove(segment).await?;
        Ok(Discarded::Deleted)
    }

    /// Deletes the objects of a segment, and takes it off every list.
    async fn remove(&self, segment: &SegmentName) -> Result<()> {
        for path in [
            manifest_path(segment),
            sessions_path(segment),
            events_path(segment),
        ] {
            self.0.objects.delete(&path).await?;
        }
        self.0.reader.forget(segment);
        self.0.catalog.forget_segment(segment).await
    }

    /// As [`discard`](Self::discard), of a segment whose time is over. One that can't be read goes, too, once nothing
    /// needs it: what a copy in it holds that the store does not know is as old as the rest.
    pub(super) async fn discard_expired(&self, segment: &SegmentName, known: Known) -> Result<Discarded> {
        match self.discard(segment, known).await {
            Err(error) if error.kind() == Kind::ArchiveDamaged => {
                if self.0.catalog.is_needed(segment).await? {
                    return Ok(Discarded::Needed);
                }
                tracing::warn!(%segment, %error, "a damaged segment is deleted, since its time is over");
                self.remove(segment).await?;
                Ok(Discarded::Deleted)
            }
            discarded => discarded,
        }
    }

    /// Whether there is a manifest and anything that it speaks of.
    async fn is_whole(&self, segment: &SegmentName) -> Result<bool> {
        if !self.has(&manifest_path(segment)).await? {
            return Ok(false);
        }
        Ok(self.has(&sessions_path(segment)).await? || self.has(&events_path(segment)).await?)
    }

    async fn knows_all_of(&self, segment: &SegmentName, known: Known) -> Result<bool> {
        let mut rows = self.0.reader.sessions(segment).await?;
        if known.sessions == rows.count() {
            return Ok(true);
        }
        loop {
            let some = rows.next_some(CATALOG_BATCH_MAX).await?;
            if some.is_empty() {
                return Ok(true);
            }
            let key = |row: &SessionRow| SessionKey::new(segment.tenant().clone(), row.session.id.clone());
            let keys: Vec<SessionKey> = some.iter().map(key).collect();
            let known = self.0.catalog.known(segment, &keys).await?;
            if known.contains(&false) {
                return Ok(false);
            }
        }
    }
}
