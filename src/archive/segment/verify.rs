//! Reads segments back, every byte and every row, and compares.

use std::sync::Arc;

use super::{Manifest, RawEvents, SegmentReader, SessionRows, fault, manifest::Counts, raw::Walk};
use crate::{
    archive::objects::Objects,
    domain::{Result, SegmentName, SessionId},
};

/// A segment whose two files are written, as the one who wrote them knows it.
#[derive(Debug, Clone)]
pub struct Written {
    pub manifest: Manifest,
    /// Of each session, in their order: eight bytes a session.
    digests: Vec<u64>,
}

impl Written {
    pub(super) fn new(manifest: Manifest, digests: Vec<u64>) -> Self {
        Self { manifest, digests }
    }

    /// Of both files.
    pub fn bytes(&self) -> u64 {
        self.manifest.sessions.bytes + self.manifest.events.bytes
    }

    /// Reads both files back and compares: the SHA-256 of every byte, the checksum of every row, and of every session
    /// that what can be read is what was given to the writer.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`](crate::domain::Kind::ArchiveDamaged): it is not.
    pub async fn verify(&self, objects: &Arc<dyn Objects>) -> Result<()> {
        verify(objects, &self.manifest, Some(&self.digests)).await
    }

    /// Writes the manifest. Safe to repeat.
    pub async fn seal(&self, objects: &Arc<dyn Objects>) -> Result<Manifest> {
        self.manifest.store(&**objects).await?;
        Ok(self.manifest.clone())
    }
}

impl SegmentReader {
    /// Reads a segment whole and compares it with its manifest: sizes, SHA-256s, counts, the checksum of every row and
    /// the rows of every session.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn check(&self, name: &SegmentName) -> Result<Manifest> {
        let manifest = self.manifest(name).await?;
        verify(&self.objects, &manifest, None).await?;
        Ok(manifest)
    }
}

async fn verify(objects: &Arc<dyn Objects>, manifest: &Manifest, digests: Option<&[u64]>) -> Result<()> {
    let name = &manifest.segment;
    let mut sessions = SessionRows::open(objects, name).await?;
    let mut events = RawEvents::open(objects, name).await?;
    let mut counts = Counts::default();
    let mut last: Option<SessionId> = None;
    while let Some(row) = sessions.next().await? {
        if row.pointer.first_row != counts.events || last.is_some_and(|last| last >= row.session.id) {
            return Err(fault::damaged(name, "its sessions are not in order"));
        }
        let mut session = Walk::new(&row, row.epoch);
        while events.next_of(&mut session, usize::MAX).await?.is_some() {}
        // There are never more sessions than `usize` counts.
        let at = usize::try_from(counts.sessions).unwrap_or(usize::MAX);
        if digests.is_some_and(|digests| digests.get(at) != Some(&session.finish())) {
            let what = format_args!("session {} is not what was written", row.session.id);
            return Err(fault::damaged(name, what));
        }
        counts.sessions += 1;
        counts.events += row.pointer.rows;
        counts.payload_bytes += session.payload_bytes;
        last = Some(row.session.id);
    }
    if !events.is_at_end().await? {
        return Err(fault::damaged(name, "it has events of no session"));
    }
    if counts != manifest.counts {
        return Err(fault::damaged(name, "it does not hold as much as it should"));
    }
    if sessions.finish().await? != manifest.sessions || events.finish().await? != manifest.events {
        return Err(fault::damaged(name, "a file has another size or another SHA-256"));
    }
    Ok(())
}
