//! Phase 7 of the archiver: garbage collection of objects that nothing leads to.
//!
//! They come from runs that died between writing and commit, and from sessions that all moved elsewhere. An object must
//! be old enough, its segment without a pointer and without a claim that stands, and what it holds known to the store
//! ([`discard`](super::discard)).
//!
//! What is in use costs nothing by itself: the manifests and the segments that pointers lead to are two walks in the order of
//! the same names. They are compared page by page, and the store is asked only about what is in one of them alone. The other
//! files are compared with the manifests. So the statements grow with the pages and with the garbage.
//!
//! A sweep also tells what does not fit: segments that the store does not know, and pointers to segments that are not there.
//! Both are what an older backup of the database looks like, beside a newer archive.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    time::Duration,
};

use uuid::Uuid;

use super::{
    Archive,
    discard::{Discarded, Known},
    ms, now,
    objects::{ObjectErrorKind, ObjectMeta},
    run::stopped,
    segment::{EVENTS_PREFIX, MANIFESTS_PREFIX, SESSIONS_PREFIX, manifest_path, segment_of},
};
use crate::{
    domain::{Kind, Result, SegmentName, Timestamp},
    store::catalog::CATALOG_BATCH_MAX,
};

/// Names on `left` that one sweep looks at, to take off those of which nothing is there.
const RESIDUAL_MAX: usize = 10_000;

/// Segments that seem to be missing and are looked for one by one; of more, the rest is taken to be missing.
const MISSING_LOOKED_FOR_MAX: u64 = 1_000;

/// What a sweep deleted, and what it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Segments, whole or what there was of them.
    pub segments: u64,
    pub bytes: u64,
    /// Uploads that nobody finished.
    pub uploads: u64,
    /// Erasure markers that nothing can need any more.
    pub markers: u64,
    /// Objects in our folders that are none of ours, left alone.
    pub strangers: u64,
    /// Segments that hold copies of sessions which the store does not know, left alone.
    pub unknown: u64,
    /// Segments that nothing leads to and that can't be read, left alone.
    pub unreadable: u64,
    /// Segments that pointers lead to and that are not there.
    pub missing: u64,
}

impl Swept {
    /// Whether the store and the archive fit together.
    pub fn is_good(&self) -> bool {
        self.unknown + self.unreadable + self.missing == 0
    }

    /// Whether there is anything to tell.
    pub fn is_noteworthy(&self) -> bool {
        self.segments + self.uploads > 0 || !self.is_good()
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segments deleted: {} ({} bytes); unfinished uploads discarded: {}; erasure markers dropped: {}",
            self.segments, self.bytes, self.uploads, self.markers
        )?;
        if self.strangers > 0 {
            write!(f, "; objects that are not ours, left alone: {}", self.strangers)?;
        }
        if self.unknown > 0 {
            write!(
                f,
                "; segments with copies that the store does not know, left alone: {} (was the database lost, or an older \
                 backup of it restored? then `colloquy archive rebuild`; is this another store's archive?)",
                self.unknown
            )?;
        }
        if self.unreadable > 0 {
            write!(
                f,
                "; segments that nothing leads to and that can't be read, left alone: {} (`colloquy archive verify` \
                 names them)",
                self.unreadable
            )?;
        }
        if self.missing > 0 {
            write!(
                f,
                "; segments that the store points to and that are not there: {} (was an older backup of the database \
                 restored? then `colloquy archive rebuild`; `colloquy archive verify` names them)",
                self.missing
            )?;
        }
        Ok(())
    }
}

/// What the walks over the objects have met.
struct Met {
    grace: Duration,
    /// Segments with a manifest. Their other files are theirs.
    whole: HashSet<Uuid>,
    /// Segments that may be garbage, with the bytes that were seen of them.
    candidates: BTreeMap<SegmentName, u64>,
    /// Segments without a manifest of which there is something, garbage or not.
    partial: HashSet<Uuid>,
    /// When the newest object was written, by the clock of where it lies: the time is that at least, whatever this
    /// machine's clock says.
    latest: Timestamp,
    swept: Swept,
}

impl Met {
    fn page(&mut self, objects: &[ObjectMeta]) {
        let latest = objects.iter().map(|object| object.written_at).max();
        self.latest = self.latest.max(latest.unwrap_or(Timestamp::EPOCH));
    }

    fn is_old(&self, object: &ObjectMeta) -> bool {
        now().unix_ms() - object.written_at.unix_ms() >= ms(self.grace)
    }

    /// A file that is not a manifest.
    fn file(&mut self, object: &ObjectMeta) {
        let Some(segment) = segment_of(&object.path) else {
            self.swept.strangers += 1;
            return;
        };
        if let Some(bytes) = self.candidates.get_mut(&segment) {
            *bytes += object.size;
        } else if !self.whole.contains(&segment.id()) {
            self.partial.insert(segment.id());
            if self.is_old(object) {
                self.candidates.insert(segment, object.size);
            }
        }
    }
}

impl Archive {
    /// Deletes what nothing leads to and what is older than `grace`.
    ///
    /// # Errors
    /// The store or the archive can't be reached.
    pub async fn sweep(&self, grace: Duration) -> Result<Swept> {
        let mut met = Met {
            grace,
            whole: HashSet::new(),
            candidates: BTreeMap::new(),
            partial: HashSet::new(),
            latest: Timestamp::EPOCH,
            swept: Swept::default(),
        };
        self.walk_manifests(&mut met).await?;
        for prefix in [SESSIONS_PREFIX, EVENTS_PREFIX] {
            let mut listing = self.listing(prefix);
            while let Some(objects) = listing.next().await? {
                met.page(&objects);
                objects.iter().for_each(|object| met.file(object));
                self.go_on()?;
            }
        }
        for (segment, bytes) in std::mem::take(&mut met.candidates) {
            self.go_on()?;
            self.sweep_segment(&segment, bytes, &mut met.swept).await?;
        }
        if met.swept.missing == 0 {
            self.forget_absent(&met).await?;
        }
        let (mut swept, latest) = (met.swept, met.latest);
        for prefix in [SESSIONS_PREFIX, EVENTS_PREFIX] {
            let is_ours = |path: &str| segment_of(path).is_some();
            let discarded = self.0.objects.discard_unfinished(prefix, &is_ours, grace).await?;
            swept.uploads += discarded as u64;
        }
        swept.markers = self.tend_markers(swept.is_good(), latest).await?;
        Ok(swept)
    }

    fn go_on(&self) -> Result<()> {
        match self.is_stopping() {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    async fn sweep_segment(&self, segment: &SegmentName, bytes: u64, swept: &mut Swept) -> Result<()> {
        match self.discard(segment, Known::default()).await {
            Ok(Discarded::Deleted) => {
                swept.segments += 1;
                swept.bytes += bytes;
            }
            Ok(Discarded::Needed) => {}
            Ok(Discarded::Unknown) => swept.unknown += 1,
            Err(error) if error.kind() == Kind::ArchiveDamaged => {
                tracing::warn!(%segment, %error, "a segment that nothing leads to can't be read, and is left alone");
                swept.unreadable += 1;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Compares the manifests with the segments that pointers lead to.
    async fn walk_manifests(&self, met: &mut Met) -> Result<()> {
        let mut listing = self.listing(MANIFESTS_PREFIX);
        let mut after = None;
        while let Some(objects) = listing.next().await? {
            self.go_on()?;
            met.page(&objects);
            let mut page = BTreeMap::new();
            for object in &objects {
                match segment_of(&object.path) {
                    Some(segment) => {
                        met.whole.insert(segment.id());
                        page.insert(segment.to_string(), (segment, object));
                    }
                    None => met.swept.strangers += 1,
                }
            }
            let until = page.last_key_value().map(|(_, (segment, _))| segment.clone());
            if until.is_none() && !listing.has_ended() {
                continue;
            }
            let pointed_to = self
                .pointed_to(&mut after, until.filter(|_| !listing.has_ended()))
                .await?;
            for segment in pointed_to {
                if page.remove(&segment.to_string()).is_none() {
                    self.look_for(&segment, met).await?;
                }
            }
            for (segment, object) in page.into_values() {
                if met.is_old(object) {
                    met.candidates.insert(segment, object.size);
                }
            }
        }
        Ok(())
    }

    /// The segments that pointers lead to, up to the end of a page of manifests.
    async fn pointed_to(
        &self,
        after: &mut Option<SegmentName>,
        until: Option<SegmentName>,
    ) -> Result<Vec<SegmentName>> {
        let mut found = Vec::new();
        loop {
            let some = self
                .0
                .catalog
                .pointed_to(after.as_ref(), until.as_ref(), 2 * CATALOG_BATCH_MAX)
                .await?;
            let is_all = some.len() < 2 * CATALOG_BATCH_MAX;
            if let Some(last) = some.last() {
                *after = Some(last.clone());
            }
            found.extend(some);
            if is_all {
                *after = until.or(after.take());
                return Ok(found);
            }
        }
    }

    /// One that pointers lead to had no manifest when those were listed; it may have been written since.
    async fn look_for(&self, segment: &SegmentName, met: &mut Met) -> Result<()> {
        let is_there =
            met.swept.missing < MISSING_LOOKED_FOR_MAX && self.has(&manifest_path(segment)).await?;
        if !is_there && self.0.catalog.is_needed(segment).await? {
            met.swept.missing += 1;
        }
        Ok(())
    }

    /// Takes segments of which nothing was written after all, or nothing is left, off every `left`. Only where all that
    /// pointers lead to is there: else this may be another place than the one where the bytes are.
    async fn forget_absent(&self, met: &Met) -> Result<()> {
        for segment in self.0.catalog.residual(RESIDUAL_MAX).await? {
            self.go_on()?;
            let id = segment.id();
            let age_ms = now().unix_ms() - segment.begun_at().unix_ms();
            let is_seen = met.whole.contains(&id) || met.partial.contains(&id);
            if !is_seen && age_ms >= ms(met.grace) && !self.0.catalog.is_needed(&segment).await? {
                self.0.catalog.forget_segment(&segment).await?;
            }
        }
        Ok(())
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
