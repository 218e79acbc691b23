//! Phase 6 of the archiver: the hot events that a committed segment holds are deleted.
//!
//! Which ones is read from the segment itself, so an event goes only after its copy was read back once more (I5), and
//! memory does not grow with the segment. A deletion names the epoch of the commit: where the session has moved on since,
//! it does nothing.

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    Archive,
    run::{Work, stopped},
    segment::SegmentReader,
};
use crate::{
    domain::{EventId, Result, SegmentName, event::BATCH_EVENTS_MAX},
    store::catalog::{Archived, CATALOG_BATCH_MAX},
};

impl Archive {
    /// Deletes the hot events of these sessions, which are in the order of the segment, as far as it holds them.
    pub(super) async fn delete_hot(
        &self,
        segment: &SegmentName,
        committed: &[Archived],
        work: &Work,
    ) -> Result<()> {
        // Its footer is of no use to anyone else yet.
        let reader = SegmentReader::new(work.objects(), self.0.options.footers_bytes_max);
        let mut rows = reader.events(segment).await?;
        let mut sessions = committed.iter().peekable();
        let mut deletions = FuturesUnordered::new();
        let mut ids: Vec<EventId> = Vec::new();
        let mut of: Option<&Archived> = None;
        loop {
            let row = rows.next().await?;
            let same = match (&row, of) {
                (Some((session, _)), Some(of)) => of.key.id == *session,
                _ => false,
            };
            if !same || ids.len() == BATCH_EVENTS_MAX {
                if let Some(of) = of.filter(|_| !ids.is_empty()) {
                    deletions.push(self.delete(of, std::mem::take(&mut ids), work));
                }
                ids.clear();
            }
            while deletions.len() >= self.0.options.sessions_in_flight || row.is_none() {
                match deletions.next().await {
                    Some(deleted) => deleted?,
                    None => break,
                }
            }
            let Some((session, event)) = row else { break };
            if self.is_stopping() {
                return Err(stopped());
            }
            if !same {
                // Rows of sessions that were not committed are passed over.
                while sessions.next_if(|next| next.key.id < session).is_some() {}
                of = sessions.next_if(|next| next.key.id == session);
            }
            if of.is_some() {
                ids.push(event.id);
            }
        }
        for some in committed.chunks(CATALOG_BATCH_MAX) {
            let again_after = Some(self.0.options.tidy_again_after);
            self.0.catalog.tidied(some, again_after).await?;
        }
        Ok(())
    }

    pub(super) async fn delete(&self, of: &Archived, ids: Vec<EventId>, work: &Work) -> Result<()> {
        work.deletes.take(ids.len()).await;
        let deleted = self.0.catalog.delete_archived(&of.key, of.epoch, &ids).await?;
        work.progress.deleted(deleted);
        Ok(())
    }
}
