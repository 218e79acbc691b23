//! Sessions on their way from one segment to another, rows as they are: what a rewrite does, in the phases of the
//! [archiver](super::archiver), with the same claims, the same reading back before the commit, and the same epochs.
//!
//! The difference is what is read: the segment's files, once, from front to back, and nothing of a session from the
//! store. Hot events that a session has besides are not copied. They are served as before, and [tidied](super::tidy) as
//! before.

use super::{
    Archive,
    archiver::Batch,
    discard::Known,
    run::{Work, stopped},
    segment::{SegmentReader, SegmentWriter, SessionRow, SessionRows, Written},
};
use crate::{
    domain::{Error, Kind, Result, SegmentName, Session, SessionKey},
    store::catalog::{CATALOG_BATCH_MAX, Claim, Claimed, Commit, Copies, Written as Bytes},
    telemetry::calls,
};

/// Most sessions that one segment can hold, by any configuration.
const SEGMENT_SESSIONS_MAX: usize = 1_000_000;

impl Archive {
    /// Moves the sessions whose pointer leads to the segment to a new one, but for those that somebody else has claimed. Gives
    /// what it learned of the rows that lie there.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`]: the segment can't be read, or is not what pointers say. Nothing was moved then.
    pub(super) async fn move_members(&self, segment: &SegmentName, work: &Work) -> Result<Known> {
        let members = self.0.catalog.archived_in(segment, SEGMENT_SESSIONS_MAX).await?;
        if members.is_empty() {
            return Ok(Known::default());
        }
        let name = SegmentName::new(segment.tenant().clone(), segment.day());
        let keys = members.into_iter().map(|archived| archived.key).collect();
        let mut batch = calls::phase("claim", self.claim(keys, Claim::Archived, name)).await?;
        let moved = self.move_claimed(segment, &mut batch, work).await;
        // What was not committed; the others have no claim any more.
        if let Err(error) = self.release(&batch).await {
            tracing::warn!(%error, segment = %batch.owner, "claims are left to run out");
        }
        moved
    }

    async fn move_claimed(&self, segment: &SegmentName, batch: &mut Batch, work: &Work) -> Result<Known> {
        let leads_there = |claimed: &&Claimed| {
            let pointer = claimed.pointer.as_ref();
            pointer.is_some_and(|pointer| pointer.segment == *segment)
        };
        let members: Vec<Claimed> = batch.claimed.iter().filter(leads_there).cloned().collect();
        if members.is_empty() {
            return Ok(Known::default());
        }
        let mut others = Vec::new();
        let copying = self.copy(segment, members, &mut others, batch, work);
        let (written, commits) = calls::phase("write", copying).await?;
        let moved = match commits.is_empty() {
            true => Vec::new(),
            false => {
                self.verify_and_commit(batch, &written, &commits, Copies::Moved, work)
                    .await?
            }
        };
        let mut sessions = moved.len() as u64;
        for some in others.chunks(CATALOG_BATCH_MAX) {
            let known = self.0.catalog.known(segment, some).await?;
            sessions += known.into_iter().filter(|known| *known).count() as u64;
        }
        Ok(Known { sessions })
    }

    /// Phases 2 and 3, of sessions in the order of the segment. Those in between go to `others`.
    async fn copy(
        &self,
        segment: &SegmentName,
        members: Vec<Claimed>,
        others: &mut Vec<SessionKey>,
        batch: &mut Batch,
        work: &Work,
    ) -> Result<(Written, Vec<Commit>)> {
        // Its footer is of no use to anyone else any more.
        let reader = SegmentReader::new(work.objects(), self.0.options.footers_bytes_max);
        let mut sessions = reader.sessions(segment).await?;
        let mut events = reader.raw_events(segment).await?;
        let (owner, options) = (batch.owner.clone(), self.0.options.segment);
        batch.written = Bytes::Maybe;
        let mut writer = SegmentWriter::create(work.objects(), owner, options).await?;
        let mut commits = Vec::with_capacity(members.len());
        for member in members {
            if self.is_stopping() {
                return Err(stopped());
            }
            work.pace.take(1).await;
            self.renew_if_due(batch).await?;
            let Some(row) = self.row_of(&member, &mut sessions, others).await? else {
                others.push(member.key);
                continue;
            };
            let pointer = writer.copy_session(&row, member.epoch, &mut events).await?;
            commits.push(Commit {
                key: member.key,
                epoch: member.epoch,
                version: row.session.version,
                pointer,
            });
        }
        while let Some(row) = sessions.next().await? {
            others.push(SessionKey::new(segment.tenant().clone(), row.session.id));
        }
        Ok((writer.finish().await?, commits))
    }

    /// The row of a session, which comes after those that were read; as the store has the session now. `None` where it was
    /// erased meanwhile.
    async fn row_of(
        &self,
        member: &Claimed,
        rows: &mut SessionRows,
        others: &mut Vec<SessionKey>,
    ) -> Result<Option<SessionRow>> {
        let id = &member.key.id;
        let row = loop {
            match rows.next().await? {
                Some(row) if row.session.id < *id => {
                    others.push(SessionKey::new(member.key.tenant.clone(), row.session.id));
                }
                Some(row) if row.session.id == *id && member.pointer.as_ref() == Some(&row.pointer) => {
                    break row;
                }
                _ => {
                    return Err(Error::new(
                        Kind::ArchiveDamaged,
                        format!("session {id} is not in the rows that the store points to"),
                    ));
                }
            }
        };
        if row.session.version == member.version {
            return Ok(Some(row));
        }
        match self.0.catalog.session(&member.key).await {
            Ok(session) => Ok(Some(SessionRow {
                session: Session {
                    archived: true,
                    ..session
                },
                ..row
            })),
            Err(error) if error.is_of_session() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
