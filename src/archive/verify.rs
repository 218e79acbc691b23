//! Verification: is every object what was written, and does every pointer lead to what it says?

use std::{collections::HashMap, fmt};

use super::{
    Archive,
    faults::Faults,
    run::stopped,
    segment::{MANIFESTS_PREFIX, manifest_path, segment_of},
};
use crate::{
    domain::{Result, SegmentName},
    store::catalog::Standing,
};

/// Segments asked for at a time.
const SEGMENTS_AT_ONCE: usize = 500;

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    pub segments: u64,
    /// Sessions whose pointer was followed.
    pub sessions: u64,
    /// Events of those; older copies are read, and not counted.
    pub events: u64,
    pub faults: Faults,
}

impl Verified {
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}segments: {}; sessions: {}; events: {}; faults: {}",
            self.faults,
            self.segments,
            self.sessions,
            self.events,
            self.faults.count()
        )
    }
}

impl Archive {
    /// Reads every segment whole and follows every pointer. Changes nothing; may run beside everything else.
    /// `on_segment` is told of each segment once it was read.
    ///
    /// # Errors
    /// The store or the archive can't be reached. What is wrong with what is there is no error, but what it finds.
    pub async fn verify(&self, on_segment: &(dyn Fn(&Verified) + Sync)) -> Result<Verified> {
        let mut verified = Verified::default();
        // Pointers that were followed, by segment; of one that can't be read, as many as there may be.
        let mut followed: HashMap<SegmentName, u64> = HashMap::new();
        let mut manifests = self.listing(MANIFESTS_PREFIX);
        while let Some(objects) = manifests.next().await? {
            for segment in objects.iter().filter_map(|object| segment_of(&object.path)) {
                if self.is_stopping() {
                    return Err(stopped());
                }
                match self.verify_segment(&segment, &mut verified).await {
                    Ok(pointers) => {
                        followed.insert(segment, pointers);
                    }
                    Err(error) => {
                        self.blame(&segment, error, &mut verified.faults).await?;
                        followed.insert(segment, u64::MAX);
                    }
                }
                on_segment(&verified);
            }
        }
        self.verify_pointers(&followed, &mut verified).await?;
        Ok(verified)
    }

    /// Gives how many pointers lead to the segment from the sessions that it says it has.
    async fn verify_segment(&self, segment: &SegmentName, verified: &mut Verified) -> Result<u64> {
        self.0.reader.check(segment).await?;
        verified.segments += 1;
        let mut pointers = 0;
        self.each_standing(segment, |row, standing| {
            let Standing::Archived(archived) = standing else {
                return;
            };
            if archived.pointer.segment != *segment {
                return;
            }
            pointers += 1;
            verified.events += row.pointer.rows;
            if archived.pointer != row.pointer {
                let id = &row.session.id;
                verified.faults.add(
                    segment,
                    format!("session {id} is not in the rows that the store points to"),
                );
            }
        })
        .await?;
        verified.sessions += pointers;
        Ok(pointers)
    }

    /// Whether each segment that the store points to was read, with as many sessions as point to it.
    async fn verify_pointers(
        &self,
        followed: &HashMap<SegmentName, u64>,
        verified: &mut Verified,
    ) -> Result<()> {
        let mut after = None;
        loop {
            let segments = self.0.catalog.segments(after.as_ref(), SEGMENTS_AT_ONCE).await?;
            let Some((last, _)) = segments.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (segment, pointers) in segments {
                match followed.get(&segment) {
                    Some(&found) if found >= pointers => {}
                    Some(found) => verified.faults.add(
                        &segment,
                        format!("{pointers} sessions point to it, and it has {found} of them"),
                    ),
                    // Written after the others were listed.
                    None if self.has(&manifest_path(&segment)).await? => {}
                    None => verified.faults.add(
                        &segment,
                        format!("{pointers} sessions point to it, and it is not there"),
                    ),
                }
            }
        }
    }
}
