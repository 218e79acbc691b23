//! Phase 7 of the archiver, and the broom of everything else here: objects that nothing leads to are deleted.
//!
//! They come from runs that died between writing and commit, and from sessions that all moved elsewhere. An object must
//! be old enough and its segment without a pointer and without a claim that stands; then it will never get either, so
//! deleting it can't take anything from anyone.
//!
//! A whole segment must also hold only sessions that the store knows. One with a session that it has never heard of belongs to another
//! store, or to this one before it was lost: that is for `rebuild`, or for a person to look at.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{
    Archive, ms, now,
    objects::{ObjectErrorKind, ObjectMeta},
    run::stopped,
    segment::{
        EVENTS_PREFIX, MANIFESTS_PREFIX, SESSIONS_PREFIX, events_path, manifest_path, segment_of,
        sessions_path,
    },
};
use crate::{
    domain::{Kind, Result, SegmentName},
    store::catalog::Standing,
};

/// What a sweep deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Segments, whole or what there was of them.
    pub segments: u64,
    pub bytes: u64,
    /// Uploads that nobody finished.
    pub uploads: u64,
    /// Notes of erasures that are long over.
    pub notes: u64,
    /// Objects where only segments should be, left alone.
    pub strangers: u64,
    /// Segments with sessions that the store does not know, or that can't be read, left alone.
    pub unknown: u64,
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segments deleted: {} ({} bytes); unfinished uploads discarded: {}; notes of erasures dropped: {}",
            self.segments, self.bytes, self.uploads, self.notes
        )?;
        if self.strangers > 0 {
            write!(f, "; objects that are not ours, left alone: {}", self.strangers)?;
        }
        if self.unknown > 0 {
            write!(
                f,
                "; segments with sessions that the store does not know, left alone: {} (was the store lost? then `colloquy \
                 archive rebuild`; is this another store's archive?)",
                self.unknown
            )?;
        }
        Ok(())
    }
}

impl Archive {
    /// Deletes what nothing leads to and what is older than `grace`.
    ///
    /// # Errors
    /// The store or the archive can't be reached.
    pub async fn sweep(&self, grace: Duration) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut useless = BTreeSet::new();
        for prefix in [MANIFESTS_PREFIX, SESSIONS_PREFIX, EVENTS_PREFIX] {
            let mut listing = self.listing(prefix);
            while let Some(objects) = listing.next().await? {
                for object in &objects {
                    if self.is_stopping() {
                        return Err(stopped());
                    }
                    self.look_at(object, grace, &mut useless, &mut swept).await?;
                }
            }
        }
        for segment in &useless {
            match self.is_known(segment).await? {
                true => swept.segments += u64::from(self.delete_segment(segment).await?),
                false => swept.unknown += 1,
            }
        }
        swept.uploads = self.0.objects.discard_unfinished(grace).await? as u64;
        swept.notes = self.drop_notes().await? as u64;
        Ok(swept)
    }

    async fn look_at(
        &self,
        object: &ObjectMeta,
        grace: Duration,
        useless: &mut BTreeSet<SegmentName>,
        swept: &mut Swept,
    ) -> Result<()> {
        let Some(segment) = segment_of(&object.path) else {
            swept.strangers += 1;
            return Ok(());
        };
        let age_ms = now().unix_ms() - object.written_at.unix_ms();
        if useless.contains(&segment) {
            swept.bytes += object.size;
        } else if age_ms >= ms(grace) && !self.0.catalog.is_needed(&segment).await? {
            useless.insert(segment);
            swept.bytes += object.size;
        }
        Ok(())
    }

    /// Whether the store knows every session of a segment. Where there is no manifest, or nothing but one, there is
    /// nothing to know; what can't be read is for a person to look at.
    async fn is_known(&self, segment: &SegmentName) -> Result<bool> {
        let is_whole = self.has(&manifest_path(segment)).await?;
        if !is_whole || !(self.has(&sessions_path(segment)).await? || self.has(&events_path(segment)).await?)
        {
            return Ok(true);
        }
        match self.knows_all_of(segment).await {
            Err(error) if error.kind() == Kind::ArchiveDamaged => Ok(false),
            known => known,
        }
    }

    async fn knows_all_of(&self, segment: &SegmentName) -> Result<bool> {
        let mut known = true;
        self.each_standing(segment, |_, standing| known &= standing != Standing::Unknown)
            .await?;
        Ok(known)
    }

    /// Whether there is such an object.
    pub(super) async fn has(&self, path: &str) -> Result<bool> {
        match self.0.objects.head(path).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
