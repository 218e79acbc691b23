//! Rebuilding: the store was lost, or an older backup of it was restored, and what it does not know of archived sessions is read
//! from the archive.
//!
//! 1. **What was erased stays so.** First every session of the store that was opened before its [erasure](super::erasures) is
//!    erased again, then copies that were erased become tombstones, and are never seen.
//! 2. **No event is lost.** A copy that the store does not know is taken in beside what the store has: a hot session is
//!    pointed to it and keeps its hot events, and two copies are [merged](super::merge), whatever their epochs.
//! 3. What the store knows is left alone. So it can be repeated, cut off, and done beside a service that runs.
//!
//! What can't be taken in, as it is damaged, is told and holds nothing else up.

use std::fmt;

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    Archive,
    erasures::Erasures,
    faults::Fault,
    merge::{How, Taken},
    ms, now,
    run::stopped,
    segment::{MANIFESTS_PREFIX, SessionRow, segment_of},
};
use crate::{
    domain::{Error, Kind, Result, SegmentName, SessionKey, Timestamp},
    store::catalog::{Archived, CATALOG_BATCH_MAX, Standing},
};

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rebuilt {
    pub segments: u64,
    /// Sessions that are there again.
    pub sessions: u64,
    /// Sessions that were hot, and now are archived in a newer copy, beside their hot events.
    pub moved: u64,
    /// Sessions of which two copies became one.
    pub merged: u64,
    /// Copies that the store knew of.
    pub copies_passed_over: u64,
    /// Copies of sessions that were erased; their ids are refused again, and their bytes are pending.
    pub copies_erased: u64,
    /// Sessions of the store that had been erased before it was set back, and are again.
    pub erased_again: u64,
    /// Sessions that can't be taken in as long as their ids are refused because of an earlier erasure.
    pub refused: u64,
    /// Events with the id of another event that counts.
    pub clashes: u64,
    /// What can't be read or taken in.
    pub faults: Vec<Fault>,
}

impl Rebuilt {
    pub fn is_good(&self) -> bool {
        self.faults.is_empty() && self.clashes == 0 && self.refused == 0 && self.segments > 0
    }

    fn add(&mut self, taken: Taken) {
        self.clashes += taken.clashes;
        *match taken.how {
            How::Created => &mut self.sessions,
            How::Moved => &mut self.moved,
            How::Merged => &mut self.merged,
            How::Kept => &mut self.copies_passed_over,
            How::Refused => &mut self.refused,
        } += 1;
    }
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments == 0 && self.faults.is_empty() {
            f.write_str("there is no segment in the archive: is it the right one?")?;
            if self.erased_again == 0 {
                return Ok(());
            }
            f.write_str("\n")?;
        }
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        write!(
            f,
            "segments read: {}; sessions rebuilt: {}; copies that were known: {}; copies of erased sessions: {}; \
             faults: {}",
            self.segments,
            self.sessions,
            self.copies_passed_over,
            self.copies_erased,
            self.faults.len()
        )?;
        for (count, what) in [
            (
                self.moved,
                "hot sessions that have a newer copy, now archived there",
            ),
            (self.merged, "sessions with two copies, merged"),
            (self.erased_again, "sessions erased again"),
            (
                self.refused,
                "sessions whose ids are refused after an erasure, left alone until that is over",
            ),
            (
                self.clashes,
                "events with the id of another event, which counts (the log names them)",
            ),
        ] {
            if count > 0 {
                write!(f, "; {what}: {count}")?;
            }
        }
        Ok(())
    }
}

impl Archive {
    /// Takes every copy into the store that it does not know, and erases again what was erased; `on_segment` is told of each
    /// segment once it was read.
    ///
    /// # Errors
    /// The store or the archive can't be reached. [`Kind::ArchiveDamaged`]: an erasure marker can't be read.
    pub async fn rebuild(&self, on_segment: &(dyn Fn(&Rebuilt) + Sync)) -> Result<Rebuilt> {
        let mut rebuilt = Rebuilt::default();
        let erasures = self.erasures().await?;
        self.erase_again(&erasures, &mut rebuilt).await?;
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

    /// Erases every session that was erased before the store was set back. Markers tell no ids, so each session is asked for.
    async fn erase_again(&self, erasures: &Erasures, rebuilt: &mut Rebuilt) -> Result<()> {
        let mut after = None;
        while !erasures.is_empty() {
            let keys = self.0.catalog.walk(after.as_ref(), CATALOG_BATCH_MAX).await?;
            let Some(last) = keys.last() else { break };
            after = Some(last.clone());
            for key in &keys {
                let Some(erasure) = erasures.of(key) else { continue };
                let erasing = self.0.catalog.erase_older(key, erasure.at, self.forget_at());
                rebuilt.erased_again += u64::from(self.changing(&[key], erasing).await?);
            }
            if self.is_stopping() {
                return Err(stopped());
            }
        }
        Ok(())
    }

    fn forget_at(&self) -> Timestamp {
        now().saturating_add_ms(ms(self.0.options.tombstone))
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
        loop {
            let some = rows.next_some(CATALOG_BATCH_MAX).await?;
            if some.is_empty() {
                return Ok(());
            }
            let key = |row: &SessionRow| SessionKey::new(segment.tenant().clone(), row.session.id.clone());
            let keys: Vec<SessionKey> = some.iter().map(key).collect();
            let standings = self.0.catalog.standings(&keys).await?;
            let mut rows = keys.into_iter().zip(some).zip(standings);
            let mut taking = FuturesUnordered::new();
            loop {
                while taking.len() < self.0.options.sessions_in_flight
                    && let Some(((key, row), standing)) = rows.next()
                {
                    let erased_at = erasures.of_copy(&key, &row).map(|erasure| erasure.at);
                    rebuilt.copies_erased += u64::from(erased_at.is_some());
                    taking.push(self.take_row(key, row, standing == Standing::Hot, erased_at));
                }
                if self.is_stopping() {
                    return Err(stopped());
                }
                match taking.next().await {
                    Some(Ok(taken)) => rebuilt.add(taken),
                    Some(Err((key, error))) => rebuilt.faults.push(fault(segment, &key, error)?),
                    None => break,
                }
            }
        }
    }

    /// One that was erased is never there, not for a moment: its id is refused, and its bytes are known and go.
    async fn take_row(
        &self,
        key: SessionKey,
        row: SessionRow,
        is_hot: bool,
        erased_at: Option<Timestamp>,
    ) -> std::result::Result<Taken, (SessionKey, Error)> {
        let copy = Archived {
            key,
            epoch: row.epoch,
            pointer: row.pointer,
        };
        let taking = async {
            if let Some(erased_at) = erased_at {
                let adopting = self.0.catalog.adopt_erased(&copy, erased_at, self.forget_at());
                self.changing(&[&copy.key], adopting).await?;
                return Ok(Taken {
                    how: How::Kept,
                    clashes: 0,
                });
            }
            if is_hot {
                self.expect_readable(&copy).await?;
            }
            self.take_in(&copy, &row.session).await
        };
        let taken = taking.await;
        taken.map_err(|error| (copy.key, error))
    }
}

/// What is wrong with one session alone, so that the others can be taken in.
fn fault(segment: &SegmentName, key: &SessionKey, error: Error) -> Result<Fault> {
    match error.kind() {
        Kind::ArchiveDamaged | Kind::Overloaded => Ok(Fault {
            segment: segment.clone(),
            what: format!("session {}: {}", key.id, error.detail()),
        }),
        _ => Err(error),
    }
}
