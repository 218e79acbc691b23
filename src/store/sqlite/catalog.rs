//! [`Catalog`] on this store. The archive's facts are columns of the session's own row, so each promise of the contract
//! is a matter of one transaction in the one writer; what merely lists reads a snapshot.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rusqlite::Connection;

use super::{
    SqliteStore, adoption,
    claims::{self, Claimant},
    clock::{UnixMs, ms},
    copies, entries,
    erasure::{self, Remains},
    fault, leftovers, runs,
};
use crate::{
    domain::{Event, EventId, JsonObject, Result, SegmentName, Session, SessionKey, Timestamp},
    store::catalog::{
        Adopted, Affected, Archived, Catalog, Claim, Claimed, Commit, Copies, Due, Pending, Standing,
        Unmarked, Written,
    },
};

impl SqliteStore {
    /// Runs `work` in the writer, with what time it is when its turn comes.
    async fn write_now<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection, UnixMs) -> fault::Result<T> + Send + 'static,
    ) -> Result<T> {
        let clock = Arc::clone(&self.clock);
        self.writer
            .write(bytes, move |connection| work(connection, clock.now()))
            .await
    }

    async fn write_as<T: Send + 'static>(
        &self,
        owner: &SegmentName,
        lease: Duration,
        work: impl FnOnce(&Connection, &Claimant) -> fault::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (owner, lease_ms) = (owner.clone(), ms(lease));
        self.write_now(0, move |connection, now| {
            let claimant = Claimant { owner, lease_ms, now };
            work(connection, &claimant)
        })
        .await
    }
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[async_trait]
impl Catalog for SqliteStore {
    /// An append and an end exclude each other: there is one writer.
    fn settle_time(&self) -> Duration {
        Duration::ZERO
    }

    async fn due(&self, before: Timestamp, limit: usize) -> Result<Vec<Due>> {
        let now = self.clock.now();
        let work = move |connection: &_| claims::due(connection, before, rows(limit), now);
        self.readers.read(work).await
    }

    async fn claim(
        &self,
        keys: &[SessionKey],
        claim: Claim,
        owner: &SegmentName,
        lease: Duration,
    ) -> Result<Vec<Claimed>> {
        let keys = keys.to_vec();
        let work = move |connection: &_, claimant: &Claimant| claimant.claim(connection, &keys, claim);
        self.write_as(owner, lease, work).await
    }

    async fn renew(&self, claimed: &[Claimed], owner: &SegmentName, lease: Duration) -> Result<Vec<bool>> {
        let claimed = claimed.to_vec();
        let work = move |connection: &_, claimant: &Claimant| claimant.renew(connection, &claimed);
        self.write_as(owner, lease, work).await
    }

    async fn release(&self, claimed: &[Claimed], owner: &SegmentName, written: Written) -> Result<()> {
        let claimed = claimed.to_vec();
        let work = move |connection: &_, claimant: &Claimant| claimant.release(connection, &claimed, written);
        self.write_as(owner, Duration::ZERO, work).await
    }

    async fn commit(&self, commits: &[Commit], owner: &SegmentName) -> Result<Vec<bool>> {
        let commits = commits.to_vec();
        let work =
            move |connection: &_, claimant: &Claimant| claimant.commit(connection, &commits, Copies::Made);
        self.write_as(owner, Duration::ZERO, work).await
    }

    async fn commit_moved(&self, commits: &[Commit], owner: &SegmentName) -> Result<Vec<bool>> {
        let commits = commits.to_vec();
        let work =
            move |connection: &_, claimant: &Claimant| claimant.commit(connection, &commits, Copies::Moved);
        self.write_as(owner, Duration::ZERO, work).await
    }

    async fn delete_archived(&self, key: &SessionKey, epoch: i64, events: &[EventId]) -> Result<usize> {
        let (key, events) = (key.clone(), events.to_vec());
        self.write_now(0, move |connection, now| {
            copies::delete(connection, &key, epoch, &events, now)
        })
        .await
    }

    async fn untidy(&self, limit: usize) -> Result<Vec<Archived>> {
        let now = self.clock.now();
        let work = move |connection: &_| copies::untidy(connection, rows(limit), now);
        self.readers.read(work).await
    }

    async fn with_hot_events(&self, keys: &[SessionKey]) -> Result<Vec<SessionKey>> {
        let keys = keys.to_vec();
        let work = move |connection: &_| copies::with_hot_events(connection, &keys);
        self.readers.read(work).await
    }

    async fn tidied(&self, sessions: &[Archived], again_after: Option<Duration>) -> Result<()> {
        let sessions = sessions.to_vec();
        self.write_now(0, move |connection, now| {
            let again_at = again_after.map(|after| now.saturating_add(ms(after)));
            copies::tidied(connection, &sessions, again_at)
        })
        .await
    }

    async fn bring_back(&self, key: &SessionKey, epoch: i64, events: &[Event]) -> Result<()> {
        let (key, events) = (key.clone(), events.to_vec());
        let bytes = events.iter().map(|event| event.payload.as_str().len()).sum();
        self.write_now(bytes, move |connection, now| {
            copies::bring_back(connection, &key, epoch, &events, now)
        })
        .await
    }

    async fn restored(
        &self,
        key: &SessionKey,
        epoch: i64,
        owner: &SegmentName,
        now: Timestamp,
    ) -> Result<Option<Session>> {
        let key = key.clone();
        let work = move |connection: &_, claimant: &Claimant| claimant.restored(connection, &key, epoch, now);
        self.write_as(owner, Duration::ZERO, work).await
    }

    async fn standings(&self, keys: &[SessionKey]) -> Result<Vec<Standing>> {
        let keys = keys.to_vec();
        let work = move |connection: &_| entries::standings(connection, &keys);
        self.readers.read(work).await
    }

    async fn owed_marker(&self, key: &SessionKey) -> Result<Option<i64>> {
        let key = key.clone();
        let work = move |connection: &_| leftovers::owed_marker_of(connection, &key);
        self.readers.read(work).await
    }

    async fn unmarked(&self, limit: usize) -> Result<Vec<Unmarked>> {
        let work = move |connection: &_| leftovers::unmarked(connection, rows(limit));
        self.readers.read(work).await
    }

    async fn marked(&self, keys: &[SessionKey]) -> Result<()> {
        let keys = keys.to_vec();
        let work = move |connection: &_| leftovers::marked(connection, &keys);
        self.writer.write(0, work).await
    }

    async fn known(&self, segment: &SegmentName, keys: &[SessionKey]) -> Result<Vec<bool>> {
        let (segment, keys) = (segment.clone(), keys.to_vec());
        let work = move |connection: &_| leftovers::known(connection, &segment, &keys);
        self.readers.read(work).await
    }

    async fn is_needed(&self, segment: &SegmentName) -> Result<bool> {
        let segment = segment.clone();
        self.write_now(0, move |connection, now| {
            claims::is_needed(connection, &segment, now)
        })
        .await
    }

    async fn segments(&self, after: Option<&SegmentName>, limit: usize) -> Result<Vec<(SegmentName, u64)>> {
        let after = after.cloned();
        let work = move |connection: &_| entries::segments(connection, after.as_ref(), rows(limit));
        self.readers.read(work).await
    }

    async fn pointed_to(
        &self,
        after: Option<&SegmentName>,
        until: Option<&SegmentName>,
        limit: usize,
    ) -> Result<Vec<SegmentName>> {
        let (after, until) = (after.cloned(), until.cloned());
        let work =
            move |connection: &_| entries::pointed_to(connection, after.as_ref(), until.as_ref(), limit);
        self.readers.read(work).await
    }

    async fn residual(&self, limit: usize) -> Result<Vec<SegmentName>> {
        let work = move |connection: &_| leftovers::residual(connection, limit);
        self.readers.read(work).await
    }

    async fn archived_in(&self, segment: &SegmentName, limit: usize) -> Result<Vec<Archived>> {
        let segment = segment.clone();
        let work = move |connection: &_| entries::archived_in(connection, &segment, rows(limit));
        self.readers.read(work).await
    }

    async fn expire(&self, archived: &[Archived], forget_at: Timestamp) -> Result<Vec<bool>> {
        let archived = archived.to_vec();
        let expire = move |connection: &_, now| erasure::expire(connection, &archived, forget_at, now);
        let (expired, remains): (_, Vec<_>) = self.write_now(0, expire).await?.into_iter().unzip();
        for remains in remains {
            self.purge(remains).await?;
        }
        Ok(expired)
    }

    async fn pending(&self) -> Result<Pending> {
        self.readers.read(leftovers::pending).await
    }

    async fn affected(&self, after: Option<&SegmentName>, limit: usize) -> Result<Vec<Affected>> {
        let after = after.cloned();
        let work = move |connection: &_| leftovers::affected(connection, after.as_ref(), rows(limit));
        self.readers.read(work).await
    }

    async fn forget_segment(&self, segment: &SegmentName) -> Result<()> {
        let mut finished = false;
        while !finished {
            let segment = segment.clone();
            let forget = move |connection: &_| leftovers::forget(connection, &segment);
            finished = self.writer.write(0, forget).await?;
        }
        Ok(())
    }

    async fn adopt(&self, copy: &Archived, session: &Session) -> Result<Adopted> {
        let (copy, session) = (copy.clone(), session.clone());
        let bytes = session.metadata.as_str().len();
        let work = move |connection: &_, now| adoption::adopt(connection, &copy, &session, now);
        self.write_now(bytes, work).await
    }

    async fn merge(
        &self,
        claimed: &Claimed,
        owner: &SegmentName,
        copy: &Archived,
        session: &Session,
        takes_over: bool,
    ) -> Result<bool> {
        let (claimed, copy, session) = (claimed.clone(), copy.clone(), session.clone());
        let work = move |connection: &_, claimant: &Claimant| {
            adoption::merge(connection, claimant, &claimed, &copy, &session, takes_over)
        };
        self.write_as(owner, Duration::ZERO, work).await
    }

    async fn adopt_erased(&self, copy: &Archived, erased_at: Timestamp, forget_at: Timestamp) -> Result<()> {
        let copy = copy.clone();
        let work = move |connection: &_| adoption::adopt_erased(connection, &copy, erased_at, forget_at);
        let remains = self.writer.write(0, work).await?;
        self.purge(remains).await
    }

    async fn erase_older(
        &self,
        key: &SessionKey,
        erased_at: Timestamp,
        forget_at: Timestamp,
    ) -> Result<bool> {
        let key = key.clone();
        let work = move |connection: &_| adoption::erase_older(connection, &key, erased_at, forget_at);
        let remains = self.writer.write(0, work).await?;
        self.purge(remains).await?;
        Ok(remains != Remains::Nothing)
    }

    async fn walk(&self, after: Option<&SessionKey>, limit: usize) -> Result<Vec<SessionKey>> {
        let after = after.cloned();
        let work = move |connection: &_| entries::walk(connection, after.as_ref(), rows(limit));
        self.readers.read(work).await
    }

    async fn record_run(&self, id: &str, started_at: Timestamp, record: &JsonObject) -> Result<()> {
        let (id, record) = (id.to_owned(), record.clone());
        self.write_now(record.as_str().len(), move |connection, now| {
            runs::record(connection, &id, started_at, &record, now)
        })
        .await
    }

    async fn runs(&self, limit: usize) -> Result<Vec<JsonObject>> {
        let now = self.clock.now();
        let work = move |connection: &_| runs::newest(connection, rows(limit), now);
        self.readers.read(work).await
    }
}
