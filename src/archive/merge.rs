//! Two copies of a session that have to become one.
//!
//! A rebuild finds a copy that the store does not know, of a session that is archived elsewhere. One may have been made from
//! the other, or each may hold events that the other lacks: an older backup of the database was restored, the session was
//! archived in S before that, and in T after it. So all events of both are kept:
//!
//! 1. The session is claimed, as for a restore, so that nothing else moves or deletes anything of it.
//! 2. The events that only the losing copy has are brought back, and are hot beside the pointer. It prevents: the pointer
//!    moves first, the process dies, and the events of the losing copy are nowhere that a reader looks.
//! 3. Only then the pointer leads to the winner, and the loser goes to `left`, which permits its deletion.
//!
//! The hot events are late events then: the next run moves the session, with them, to a new segment.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Archive, now, segment::manifest_path};
use crate::{
    domain::{Day, Error, Event, EventId, Kind, Pointer, Result, SegmentName, Session, SessionKey},
    store::catalog::{Adopted, Archived, Claim, Claimed, Written},
};

/// How long a merge waits for whoever has claimed the session.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(10);
const CLAIM_WAIT_STEP: Duration = Duration::from_millis(50);

/// How a copy that was found got into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) how: How,
    /// Events whose ids other events have, with other content, in the copy that counts.
    pub(super) clashes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The session was not there.
    Created,
    /// It was hot, and is archived.
    Moved,
    /// It was archived elsewhere, and has the events of both copies.
    Merged,
    /// The store knew the copy.
    Kept,
    /// The id is refused because of a later erasure.
    Refused,
}

impl Archive {
    /// Reads the events of a copy from the first to the last.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`]: a hot session must not be pointed there.
    pub(super) async fn expect_readable(&self, copy: &Archived) -> Result<()> {
        let mut query = self.everything(None);
        loop {
            let page = self.0.reader.page(&copy.key, &copy.pointer, &query).await?;
            match page.items.last().filter(|_| page.has_more) {
                Some(last) => query.after = Some(last.into()),
                None => return Ok(()),
            }
        }
    }

    /// Takes a copy that was found into the store, whatever that has.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: the session has been claimed for longer than this waits.
    pub(super) async fn take_in(&self, copy: &Archived, session: &Session) -> Result<Taken> {
        let deadline = Instant::now() + CLAIM_WAIT_MAX;
        loop {
            let adopting = self.0.catalog.adopt(copy, session);
            let how = match self.changing(&[&copy.key], adopting).await? {
                Adopted::Created => How::Created,
                Adopted::Kept => How::Kept,
                Adopted::Refused => How::Refused,
                Adopted::Moved => {
                    let clashes = self.count_clashes(copy).await?;
                    return Ok(Taken {
                        how: How::Moved,
                        clashes,
                    });
                }
                Adopted::Apart(current) => {
                    if let Some(clashes) = self.try_merge(copy, session, current.epoch).await? {
                        return Ok(Taken {
                            how: How::Merged,
                            clashes,
                        });
                    }
                    if Instant::now() >= deadline {
                        let detail = format!(
                            "session {} has two copies in the archive and is claimed at the moment; rebuild again shortly",
                            copy.key.id
                        );
                        return Err(Error::new(Kind::Overloaded, detail));
                    }
                    sleep(CLAIM_WAIT_STEP).await;
                    continue;
                }
            };
            return Ok(Taken { how, clashes: 0 });
        }
    }

    /// `None` where somebody else has claimed the session, or took it over meanwhile.
    async fn try_merge(&self, copy: &Archived, session: &Session, epoch: i64) -> Result<Option<u64>> {
        // A name of its own, as for a segment that is never written.
        let owner = SegmentName::new(copy.key.tenant.clone(), Day::of(now()));
        let keys = std::slice::from_ref(&copy.key);
        let lease = self.0.options.lease;
        let claimed = self.0.catalog.claim(keys, Claim::Archived, &owner, lease).await?;
        let [claimed] = claimed.as_slice() else {
            return Ok(None);
        };
        let merged = self.merge(claimed, &owner, copy, session, epoch).await;
        if !matches!(merged, Ok(Some(_))) {
            let claimed = std::slice::from_ref(claimed);
            let released = self.0.catalog.release(claimed, &owner, Written::Nothing).await;
            if let Err(error) = released {
                tracing::warn!(%error, session = %copy.key, "a claim is left to run out");
            }
        }
        merged
    }

    async fn merge(
        &self,
        claimed: &Claimed,
        owner: &SegmentName,
        copy: &Archived,
        session: &Session,
        epoch: i64,
    ) -> Result<Option<u64>> {
        let Some(current) = claimed
            .pointer
            .clone()
            .filter(|to| to.segment != copy.pointer.segment)
        else {
            return Ok(None);
        };
        // The pointer of an older backup may lead to a segment that was rewritten since.
        let is_there = self.has(&manifest_path(&current.segment)).await?;
        // Either may win, since the events of both are kept. Under the greater epoch there are most often more of them.
        let takes_over = !is_there || epoch < copy.epoch;
        let clashes = match (is_there, takes_over) {
            (false, _) => 0,
            (true, true) => {
                self.bring_missing(claimed, owner, &current, &copy.pointer)
                    .await?
            }
            (true, false) => {
                self.bring_missing(claimed, owner, &copy.pointer, &current)
                    .await?
            }
        };
        let merging = self.0.catalog.merge(claimed, owner, copy, session, takes_over);
        let merged = self.changing(&[&copy.key], merging).await?;
        Ok(merged.then_some(clashes))
    }

    /// Brings back the events that are in one copy and not in the other; gives how many differ that have the same id.
    async fn bring_missing(
        &self,
        claimed: &Claimed,
        owner: &SegmentName,
        from: &Pointer,
        unless_in: &Pointer,
    ) -> Result<u64> {
        let (catalog, lease) = (&self.0.catalog, self.0.options.lease);
        let (mut since, mut query, mut clashes) = (Instant::now(), self.everything(None), 0);
        loop {
            let page = self.0.reader.page(&claimed.key, from, &query).await?;
            let (missing, differing) = self.compare(claimed, &page.items, unless_in).await?;
            clashes += differing;
            if !missing.is_empty() {
                catalog.bring_back(&claimed.key, claimed.epoch, &missing).await?;
            }
            if since.elapsed() > lease / 3 {
                since = Instant::now();
                catalog.renew(std::slice::from_ref(claimed), owner, lease).await?;
            }
            match page.items.last().filter(|_| page.has_more) {
                Some(last) => query.after = Some(last.into()),
                None => return Ok(clashes),
            }
        }
    }

    /// Which of the events are not in a copy, and how many are there with other content.
    async fn compare(
        &self,
        claimed: &Claimed,
        events: &[Event],
        copy: &Pointer,
    ) -> Result<(Vec<Event>, u64)> {
        let ids: Vec<EventId> = events.iter().map(|event| event.id.clone()).collect();
        if ids.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let found = self.0.reader.find(&claimed.key, copy, &ids).await?;
        let (mut missing, mut clashes) = (Vec::new(), 0);
        for (event, found) in events.iter().zip(found) {
            match found {
                None => missing.push(event.clone()),
                Some(found) if is_same(&found, event) => {}
                Some(_) => {
                    clashes += 1;
                    tell_clash(&claimed.key, &event.id);
                }
            }
        }
        Ok((missing, clashes))
    }

    /// How many hot events of a session have the id of another event in the copy that its pointer leads to now.
    async fn count_clashes(&self, copy: &Archived) -> Result<u64> {
        let (mut query, mut clashes) = (self.everything(None), 0);
        loop {
            let hot = self.0.catalog.events(&copy.key, &query).await?;
            let ids: Vec<EventId> = hot.items.iter().map(|event| event.id.clone()).collect();
            if ids.is_empty() || hot.archived.as_ref() != Some(&copy.pointer) {
                return Ok(clashes);
            }
            let found = self.0.reader.find(&copy.key, &copy.pointer, &ids).await?;
            for (event, found) in hot.items.iter().zip(found) {
                if found.is_some_and(|found| !is_same(&found, event)) {
                    clashes += 1;
                    tell_clash(&copy.key, &event.id);
                }
            }
            match hot.items.last().filter(|_| hot.has_more) {
                Some(last) => query.after = Some(last.into()),
                None => return Ok(clashes),
            }
        }
    }
}

fn is_same(one: &Event, other: &Event) -> bool {
    one.is_replayed_by(&other.event_type, &other.payload)
}

fn tell_clash(key: &SessionKey, event: &EventId) {
    tracing::warn!(
        session = %key, %event,
        "two events have the same id and other content, one from before the database was set back and one from after it; \
         the one in the archive counts"
    );
}
