//! How sessions get into a segment, in phases that each can be repeated and after each of which a process may die:
//!
//! 1. [`claim`](Archive::claim): nobody else works on these sessions, for as long as the lease lasts.
//! 2. [`read`](Archive::read_session) and 3. [`write`](Archive::write): their events go to the segment's files, under a name
//!    that is used once.
//! 4. [`verify`](Archive::verify_and_seal): the files are read back, decoded and compared with what was read in the store; then
//!    the manifest is written.
//! 5. [`commit`](Archive::commit): each session is pointed to its copy, if its claim still stands. This is the moment that
//!    counts: before it the segment is nothing, after it the hot events are.
//! 6. [`delete`](Archive::delete_hot): the hot events that the segment holds go, read from the segment itself: an event is
//!    deleted only after its archived copy was read back (I5).
//! 7. [`sweep`](Archive::sweep), much later: a segment that no pointer leads to goes.
//!
//! The same phases move sessions from one segment to another: in order to take late events in, when what is read is the
//! old copy with what is hot besides it; and in order to leave bytes out, when rows are [copied](super::moving).

use std::{collections::HashSet, pin::pin, sync::atomic::Ordering};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::time::Instant;

use super::{
    Archive,
    run::{Work, stopped},
    segment::{SegmentWriter, Written},
};
use crate::{
    domain::{Error, Event, Kind, Page, Pointer, Result, SegmentName, Session, SessionKey},
    store::catalog::{Archived, CATALOG_BATCH_MAX, Claim, Claimed, Commit, Copies, Written as Bytes},
    telemetry::{calls, metrics::metrics},
};

/// Statements of the store at the same time: so few share a commit of SQLite, and don't wait for each other on MongoDB.
const STATEMENTS_IN_FLIGHT: usize = 4;

/// What one pass of the phases did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) sessions: u64,
    /// Sessions that could not be read; they stay where they are.
    pub(super) failed: u64,
}

/// Sessions under a claim, in the order of the segment.
pub(super) struct Batch {
    pub(super) owner: SegmentName,
    pub(super) claimed: Vec<Claimed>,
    /// When the claims were last known to stand for a whole lease.
    since: Instant,
    /// Whether bytes of the claimed sessions may be in an object, or may still come to be.
    pub(super) written: Bytes,
}

/// A session as it goes into a segment: whole, or its first page where there is more.
struct Read {
    session: Session,
    first: Page<Event>,
}

impl Archive {
    /// Takes as many of `keys`, which are of one tenant and one day, as fit into one segment through all the phases.
    pub(super) async fn pack(&self, keys: Vec<SessionKey>, claim: Claim, work: &Work) -> Result<Packed> {
        let Some(first) = keys.first() else {
            return Ok(Packed::default());
        };
        let name = SegmentName::new(first.tenant.clone(), work.day);
        let mut batch = calls::phase("claim", self.claim(keys, claim, name)).await?;
        if batch.claimed.is_empty() {
            return Ok(Packed::default());
        }
        let packed = self.pack_claimed(&mut batch, claim, work).await;
        // What was not committed; the others have no claim any more.
        if let Err(error) = self.release(&batch).await {
            tracing::warn!(%error, segment = %batch.owner, "claims are left to run out");
        }
        packed
    }

    /// Gives up the claims that are left. A write that failed may have been done all the same, or may still land, and then
    /// bytes of any of these sessions lie in the bucket: so the segment goes to their `left`, from where an erasure learns
    /// of it, and a sweep takes it off once nothing is there.
    pub(super) async fn release(&self, batch: &Batch) -> Result<()> {
        for some in batch.claimed.chunks(CATALOG_BATCH_MAX) {
            self.0.catalog.release(some, &batch.owner, batch.written).await?;
        }
        Ok(())
    }

    async fn pack_claimed(&self, batch: &mut Batch, claim: Claim, work: &Work) -> Result<Packed> {
        if claim == Claim::Hot {
            // Appends that were under way when a session ended have landed by then.
            tokio::time::sleep(self.0.catalog.settle_time()).await;
        }
        let (written, commits, failed) = calls::phase("write", self.write(batch, work)).await?;
        let Some(written) = written else {
            return Ok(Packed { sessions: 0, failed });
        };
        let committed = self
            .verify_and_commit(batch, &written, &commits, Copies::Made, work)
            .await?;
        calls::phase("delete", self.delete_hot(&batch.owner, &committed, work)).await?;
        Ok(Packed {
            sessions: committed.len() as u64,
            failed,
        })
    }

    /// Phases 4 and 5: gives what was committed, in the order of the segment.
    ///
    /// A segment of which no claim stands any more gets no manifest, so a sweep deletes what there is of it. It prevents: an
    /// archiver stands still before it has written anything; others claim its sessions, and a sweep takes its segment, of
    /// which nothing is there, off their `left`; it goes on, and leaves a whole segment that no store knows.
    pub(super) async fn verify_and_commit(
        &self,
        batch: &mut Batch,
        written: &Written,
        commits: &[Commit],
        copies: Copies,
        work: &Work,
    ) -> Result<Vec<Archived>> {
        self.renew_if_due(batch).await?;
        if !self.0.catalog.is_needed(&batch.owner).await? {
            return Ok(Vec::new());
        }
        calls::phase("verify", self.verify_and_seal(written, work)).await?;
        metrics().archive_written(written.bytes());
        self.renew_if_due(batch).await?;
        // From here on, bytes of these sessions are where some pointer may lead. A claim that is not committed, for whatever
        // reason, is not given up: whoever takes the session next learns from it where they are.
        let written: HashSet<SessionKey> = commits.iter().map(|commit| commit.key.clone()).collect();
        // No row of the others is in the segment, which is complete.
        batch.claimed.retain(|claimed| !written.contains(&claimed.key));
        batch.written = Bytes::Nothing;
        let committed = calls::phase("commit", self.commit(commits, &batch.owner, copies)).await?;
        self.count(&committed, work);
        Ok(committed)
    }

    /// Phase 1.
    pub(super) async fn claim(
        &self,
        keys: Vec<SessionKey>,
        claim: Claim,
        owner: SegmentName,
    ) -> Result<Batch> {
        let since = Instant::now();
        let catalog = &self.0.catalog;
        let claiming = keys
            .chunks(CATALOG_BATCH_MAX)
            .map(|some| catalog.claim(some, claim, &owner, self.0.options.lease))
            .collect();
        let mut claimed = all_of(claiming).await?;
        claimed.sort_by(|a, b| a.key.id.as_str().cmp(b.key.id.as_str()));
        Ok(Batch {
            owner,
            claimed,
            since,
            written: Bytes::Nothing,
        })
    }

    /// Makes the claims last, once a third of their time is over.
    pub(super) async fn renew_if_due(&self, batch: &mut Batch) -> Result<()> {
        if batch.since.elapsed() < self.0.options.lease / 3 {
            return Ok(());
        }
        let since = Instant::now();
        for some in batch.claimed.chunks(CATALOG_BATCH_MAX) {
            // One that does not stand any more will not be committed either.
            let renewing = self.0.catalog.renew(some, &batch.owner, self.0.options.lease);
            renewing.await?;
        }
        batch.since = since;
        Ok(())
    }

    /// Phases 2 and 3. Gives the files, where any session went into them, what to commit, and how many sessions could not be
    /// read.
    async fn write(&self, batch: &mut Batch, work: &Work) -> Result<(Option<Written>, Vec<Commit>, u64)> {
        let options = &self.0.options;
        let claimed = batch.claimed.clone();
        let mut reads = pin!(
            stream::iter(claimed)
                .map(|claimed| self.read_session(claimed))
                .buffered(options.sessions_in_flight)
        );
        let (mut writer, mut commits, mut failed) = (None, Vec::new(), 0);
        while let Some((claimed, read)) = reads.next().await {
            if self.is_stopping() {
                return Err(stopped());
            }
            work.pace.take(1).await;
            self.renew_if_due(batch).await?;
            let read = match read {
                Ok(read) => read,
                Err(error) if is_of_this_session(&error) => {
                    failed += u64::from(!error.is_of_session());
                    work.skip(&claimed.key, &error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            batch.written = Bytes::Maybe;
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(
                    SegmentWriter::create(work.objects(), batch.owner.clone(), options.segment).await?,
                ),
            };
            let version = read.session.version;
            let pointer = match self.write_session(writer, &claimed, read, work).await {
                Ok(pointer) => pointer,
                // A part of it is in the files, so they are given up; the next pass goes without this session.
                Err(error) if is_of_this_session(&error) => {
                    failed += u64::from(!error.is_of_session());
                    work.skip(&claimed.key, &error);
                    return Ok((None, Vec::new(), failed));
                }
                Err(error) => return Err(error),
            };
            commits.push(Commit {
                key: claimed.key,
                epoch: claimed.epoch,
                version,
                pointer,
            });
            if writer.bytes() >= options.segment_bytes_target {
                break;
            }
        }
        match writer {
            Some(writer) => Ok((Some(writer.finish().await?), commits, failed)),
            None => Ok((None, commits, failed)),
        }
    }

    /// Phase 2: a session and the beginning of its events, at least as new as the claim.
    async fn read_session(&self, claimed: Claimed) -> (Claimed, Result<Read>) {
        let read = async {
            let first = self.read_page(&claimed.key, None).await?;
            let session = self.0.catalog.session(&claimed.key).await?;
            Ok(Read { session, first })
        };
        let read = calls::phase("read", read).await;
        (claimed, read)
    }

    /// Phase 3, of one session; reads on where its first page was not all.
    async fn write_session(
        &self,
        writer: &mut SegmentWriter,
        claimed: &Claimed,
        read: Read,
        work: &Work,
    ) -> Result<Pointer> {
        let Read { mut session, first } = read;
        session.archived = true;
        writer.begin_session(&session, claimed.epoch).await?;
        let mut page = first;
        loop {
            for event in &page.items {
                work.progress.read(event.payload.as_str().len());
                writer.push(event).await?;
            }
            let Some(last) = page.items.last().filter(|_| page.has_more) else {
                return writer.end_session().await;
            };
            page = self.read_page(&claimed.key, Some(last.into())).await?;
        }
    }

    /// Phase 4.
    async fn verify_and_seal(&self, written: &Written, work: &Work) -> Result<()> {
        let objects = work.objects();
        written.verify(&objects).await?;
        written.seal(&objects).await?;
        Ok(())
    }

    /// Phase 5; gives the sessions whose pointer is now this one, in the order of the segment.
    async fn commit(&self, commits: &[Commit], owner: &SegmentName, copies: Copies) -> Result<Vec<Archived>> {
        let commit = |some| async move { self.commit_some(some, owner, copies).await }.boxed();
        let committing = commits.chunks(CATALOG_BATCH_MAX).map(commit).collect();
        let done = commits.iter().zip(all_of(committing).await?);
        let done = done.filter(|(_, done)| *done);
        let archived = |(commit, _): (&Commit, bool)| Archived {
            key: commit.key.clone(),
            epoch: commit.epoch,
            pointer: commit.pointer.clone(),
        };
        Ok(done.map(archived).collect())
    }

    async fn commit_some(&self, some: &[Commit], owner: &SegmentName, copies: Copies) -> Result<Vec<bool>> {
        let keys: Vec<&SessionKey> = some.iter().map(|commit| &commit.key).collect();
        let catalog = &self.0.catalog;
        let committing = match copies {
            Copies::Made => catalog.commit(some, owner),
            Copies::Moved => catalog.commit_moved(some, owner),
        };
        self.changing(&keys, committing).await
    }

    fn count(&self, committed: &[Archived], work: &Work) {
        let sessions = committed.len() as u64;
        let events = committed.iter().map(|archived| archived.pointer.rows).sum();
        self.0
            .counters
            .sessions_archived
            .fetch_add(sessions, Ordering::Relaxed);
        self.0
            .counters
            .events_archived
            .fetch_add(events, Ordering::Relaxed);
        work.progress.committed(sessions, events);
    }
}

/// What statements of [`CATALOG_BATCH_MAX`] sessions give, a few at a time and in their order. All come to their end, also when
/// one fails.
async fn all_of<T: Clone>(statements: Vec<BoxFuture<'_, Result<Vec<T>>>>) -> Result<Vec<T>> {
    let done: Vec<_> = stream::iter(statements)
        .buffered(STATEMENTS_IN_FLIGHT)
        .collect()
        .await;
    Ok(done.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Whether the failure is one session's alone, so that the others can go on without it.
fn is_of_this_session(error: &Error) -> bool {
    error.is_of_session() || matches!(error.kind(), Kind::Internal | Kind::ArchiveDamaged)
}
