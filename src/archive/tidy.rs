//! What is left to do for sessions after their commit: hot events that a run did not come to delete, and events that came
//! late.
//!
//! Every commit puts its sessions on the list. A run that came to its end looks at them once more some time later. A
//! hot event of which the segment holds a copy is deleted; so is one that differs from the copy of its id, since
//! it was never acknowledged. One that the segment does not know came late: its session moves to a new segment,
//! together with it. Until then readers see it all the same.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Archive, Counts, Progress,
    run::{Work, stopped},
};
use crate::{
    domain::{EventId, Result, SegmentName, SessionKey},
    store::catalog::{Archived, CATALOG_BATCH_MAX, Claim, Claimed, Written},
};

impl Archive {
    /// Tidies all that is due, by itself: what a run does first, unless it is one on schedule. Gives what moved, and what could
    /// not be tidied.
    ///
    /// # Errors
    /// The store or the archive can't be reached.
    pub async fn tidy_due(&self) -> Result<Counts> {
        let work = Work::new(self, Arc::new(Progress::default()));
        self.tidy(&work).await?;
        Ok(work.progress.so_far())
    }

    /// Tidies all that is due, and moves sessions with late events to a new segment.
    pub(super) async fn tidy(&self, work: &Work) -> Result<()> {
        loop {
            let due = self.0.catalog.untidy(CATALOG_BATCH_MAX).await?;
            let more = due.len() == CATALOG_BATCH_MAX;
            let keys: Vec<SessionKey> = due.iter().map(|archived| archived.key.clone()).collect();
            let hot = self.0.catalog.with_hot_events(&keys).await?;
            let (untidy, tidy): (Vec<_>, Vec<_>) =
                due.into_iter().partition(|archived| hot.contains(&archived.key));
            self.0.catalog.tidied(&tidy, None).await?;
            let done = match untidy.first() {
                Some(first) => {
                    let owner = SegmentName::new(first.key.tenant.clone(), first.pointer.segment.day());
                    self.tidy_some(&untidy, &owner, work).await?
                }
                None => tidy.len(),
            };
            // What others are at is left to them, and what can't be done now to the next run.
            if !more || done == 0 {
                return Ok(());
            }
        }
    }

    /// Tidies sessions that have hot events; says how many. They are claimed for the sake of a new epoch, and given up at
    /// once. It is greater than that of any restore that was cut short, so what that brought back is deleted too; a
    /// restore that begins later has a greater one still, so what it brings back is not. While a claim stood, a store
    /// would have to take it for a restore, and delete nothing.
    async fn tidy_some(&self, untidy: &[Archived], owner: &SegmentName, work: &Work) -> Result<usize> {
        let keys: Vec<SessionKey> = untidy.iter().map(|archived| archived.key.clone()).collect();
        let lease = self.0.options.lease;
        let claimed = self.0.catalog.claim(&keys, Claim::Archived, owner, lease).await?;
        // Nothing is ever written under this name.
        self.0.catalog.release(&claimed, owner, Written::Nothing).await?;
        let (mut tidy, mut late) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for Claimed {
            key, epoch, pointer, ..
        } in &claimed
        {
            let Some(pointer) = pointer.clone() else { continue };
            if self.is_stopping() {
                break;
            }
            let (key, epoch) = (key.clone(), *epoch);
            let archived = Archived { key, epoch, pointer };
            match self.delete_copied(&archived, work).await {
                Ok(true) => tidy.push(archived),
                Ok(false) => {
                    let place = (archived.key.tenant.clone(), archived.pointer.segment.day());
                    late.entry(place).or_default().push(archived.key);
                }
                // Nothing is lost, readers see what there is, and it is tried again later.
                Err(error) => {
                    work.skip(&archived.key, &error);
                    tidy.push(archived);
                }
            }
        }
        let again_after = Some(self.0.options.tidy_again_after);
        self.0.catalog.tidied(&tidy, again_after).await?;
        let mut done = tidy.len();
        for ((_, day), keys) in late {
            let moved = self.pack(keys, Claim::Archived, &work.on(day)).await?;
            done += usize::try_from(moved.sessions).unwrap_or(usize::MAX);
        }
        if self.is_stopping() {
            return Err(stopped());
        }
        Ok(done)
    }

    /// Deletes the hot events of an archived session that its segment has; says whether those were all.
    async fn delete_copied(&self, archived: &Archived, work: &Work) -> Result<bool> {
        let mut query = self.everything(None);
        let mut all = true;
        loop {
            let hot = self.0.catalog.events(&archived.key, &query).await?;
            let ids: Vec<EventId> = hot.items.iter().map(|event| event.id.clone()).collect();
            if ids.is_empty() {
                return Ok(all);
            }
            let copies = self.find(&archived.key, &archived.pointer, &ids).await?;
            let copied = ids.into_iter().zip(copies).filter(|(_, copy)| copy.is_some());
            let copied: Vec<EventId> = copied.map(|(id, _)| id).collect();
            all &= copied.len() == hot.items.len();
            if !copied.is_empty() {
                self.delete(archived, copied, work).await?;
            }
            match hot.items.last().filter(|_| hot.has_more) {
                Some(last) => query.after = Some(last.into()),
                None => return Ok(all),
            }
        }
    }
}
