//! Verification: is every object what was written, and does every pointer lead to what it says?

use std::{collections::HashMap, fmt};

use super::{
    Archive,
    run::stopped,
    segment::{MANIFESTS_PREFIX, manifest_path, segment_of},
};
use crate::{
    domain::{Error, Kind, Result, SegmentName},
    store::catalog::Standing,
};

/// Faults that are told one by one.
const FAULTS_MAX: usize = 1_000;

/// Segments asked for at a time.
const SEGMENTS_AT_ONCE: usize = 500;

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

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    pub segments: u64,
    /// Sessions whose pointer was followed.
    pub sessions: u64,
    /// Events of those; older copies are read, and not counted.
    pub events: u64,
    /// What is wrong, up to a thousand things.
    pub faults: Vec<Fault>,
    pub faults_untold: u64,
}

impl Verified {
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    fn blame(&mut self, segment: &SegmentName, what: impl Into<String>) {
        if self.faults.len() == FAULTS_MAX {
            self.faults_untold += 1;
            return;
        }
        self.faults.push(Fault {
            segment: segment.clone(),
            what: what.into(),
        });
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        if self.faults_untold > 0 {
            writeln!(f, "and {} more", self.faults_untold)?;
        }
        let faults = self.faults.len() as u64 + self.faults_untold;
        write!(
            f,
            "segments: {}; sessions: {}; events: {}; faults: {faults}",
            self.segments, self.sessions, self.events
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
        // Pointers that were followed, by segment.
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
                    Err(error) => self.blame(&segment, error, &mut verified).await?,
                }
                on_segment(&verified);
            }
        }
        self.verify_pointers(&followed, &mut verified).await?;
        Ok(verified)
    }

    /// What is wrong with a segment that can't be read; one that went meanwhile is none of it.
    async fn blame(&self, segment: &SegmentName, error: Error, verified: &mut Verified) -> Result<()> {
        if error.kind() != Kind::ArchiveDamaged {
            return Err(error);
        }
        if self.0.catalog.is_needed(segment).await? || self.has(&manifest_path(segment)).await? {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let what = source.map_or_else(
                || error.detail().to_owned(),
                |source| format!("{}: {source}", error.detail()),
            );
            verified.blame(segment, what);
        }
        Ok(())
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
                verified.blame(
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
                    Some(found) => verified.blame(
                        &segment,
                        format!("{pointers} sessions point to it, and it has {found} of them"),
                    ),
                    // Told already where it could not be read; else it was written after the others were listed.
                    None if verified.faults.iter().any(|fault| fault.segment == segment) => {}
                    None if self.has(&manifest_path(&segment)).await? => {}
                    None => verified.blame(
                        &segment,
                        format!("{pointers} sessions point to it, and it is not there"),
                    ),
                }
            }
        }
    }
}
