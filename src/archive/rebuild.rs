//! Rebuilding: the store was lost, and what it knew of archived sessions is read from the archive alone.
//!
//! Of several copies of a session the one of the greatest epoch counts. What was erased does not come back
//! ([`erasures`](super::erasures)). What the store still knows, or knows better, is left alone, so it can be repeated, and
//! done beside a service that runs.

use std::fmt;

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    Archive,
    erasures::Erasures,
    ms, now,
    run::stopped,
    segment::{MANIFESTS_PREFIX, SessionRow, segment_of},
    verify::Fault,
};
use crate::{
    domain::{Kind, Result, SegmentName, SessionKey},
    store::catalog::{Adopted, Archived},
};

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rebuilt {
    pub segments: u64,
    /// Sessions that are there again.
    pub sessions: u64,
    /// Copies that were older than one found before, that the store knew of, or that were erased.
    pub copies_passed_over: u64,
    /// Copies of sessions that were erased; their ids are refused again, and their bytes are pending.
    pub copies_erased: u64,
    /// Segments that can't be read.
    pub faults: Vec<Fault>,
}

impl Rebuilt {
    pub fn is_good(&self) -> bool {
        self.faults.is_empty() && self.segments > 0
    }
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments == 0 && self.faults.is_empty() {
            return f.write_str("there is no segment in the archive: is it the right one?");
        }
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        write!(
            f,
            "segments read: {}; sessions rebuilt: {}; copies that were known or older: {}; copies of erased sessions: {}; \
             segments that can't be read: {}",
            self.segments,
            self.sessions,
            self.copies_passed_over,
            self.copies_erased,
            self.faults.len()
        )
    }
}

impl Archive {
    /// Takes every archived session into the store that it does not know; `on_segment` is told of each segment once it
    /// was read.
    ///
    /// # Errors
    /// The store or the archive can't be reached.
    pub async fn rebuild(&self, on_segment: &(dyn Fn(&Rebuilt) + Sync)) -> Result<Rebuilt> {
        let mut rebuilt = Rebuilt::default();
        let erasures = self.erasures().await?;
        let mut manifests = self.listing(MANIFESTS_PREFIX);
        while let Some(objects) = manifests.next().await? {
            for segment in objects.iter().filter_map(|object| segment_of(&object.path)) {
                match self.rebuild_segment(&segment, &erasures, &mut rebuilt).await {
                    Ok(()) => rebuilt.segments += 1,
                    Err(error) if error.kind() == Kind::ArchiveDamaged => rebuilt.faults.push(Fault {
                        segment,
                        what: error.detail().to_owned(),
                    }),
                    Err(error) => return Err(error),
                }
                on_segment(&rebuilt);
            }
        }
        Ok(rebuilt)
    }

    async fn rebuild_segment(
        &self,
        segment: &SegmentName,
        erasures: &Erasures,
        rebuilt: &mut Rebuilt,
    ) -> Result<()> {
        // Refuses what a newer version wrote.
        self.0.reader.manifest(segment).await?;
        let mut rows = self.0.reader.sessions(segment).await?;
        let mut adopting = FuturesUnordered::new();
        loop {
            let row = rows.next().await?;
            let ended = row.is_none();
            while adopting.len() >= self.0.options.sessions_in_flight || ended {
                let adopted: Option<Result<Adopted>> = adopting.next().await;
                match adopted.transpose()? {
                    Some(Adopted::Created) => rebuilt.sessions += 1,
                    Some(Adopted::Moved | Adopted::Kept) => rebuilt.copies_passed_over += 1,
                    None => break,
                }
            }
            let Some(row) = row else { return Ok(()) };
            if self.is_stopping() {
                return Err(stopped());
            }
            let key = SessionKey::new(segment.tenant().clone(), row.session.id.clone());
            let is_erased = erasures.cover(&key, segment);
            rebuilt.copies_erased += u64::from(is_erased);
            adopting.push(self.adopt(key, row, is_erased));
        }
    }

    /// One that was erased is never there, not for a moment: its id is refused, and its bytes are known and go.
    async fn adopt(&self, key: SessionKey, row: SessionRow, is_erased: bool) -> Result<Adopted> {
        let archived = Archived {
            key,
            epoch: row.epoch,
            pointer: row.pointer,
        };
        let adopting = async {
            if is_erased {
                let forget_at = now().saturating_add_ms(ms(self.0.options.tombstone));
                self.0.catalog.adopt_erased(&archived, forget_at).await?;
                return Ok(Adopted::Kept);
            }
            self.0.catalog.adopt(&archived, &row.session).await
        };
        self.changing(&[&archived.key], adopting).await
    }
}
