//! The rows of an events file as they lie in it: each is held to its checksum and to its place, and handed on without an
//! event being made of it. To verify a segment, and to copy sessions from one to another, takes no more than that, and a
//! fraction of the time.

use std::{ops::Range, sync::Arc};

use arrow_array::RecordBatch;

use super::{
    SegmentFile, SegmentReader, SessionRow,
    checksum::{Digest, Place},
    events_path, fault,
    rows::WholeRows,
    scan::Scan,
    schema,
};
use crate::{
    archive::objects::Objects,
    domain::{Result, SegmentName, Tenant},
};

/// The events of a segment, session by session, in the order of the file. Reads in bounded memory: a row group at a time.
pub struct RawEvents {
    scan: Scan,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    row: usize,
    /// The same row, counted from the first of the file.
    position: u64,
}

/// Some rows of one session that follow one another in a batch.
pub(super) struct RawRows {
    pub batch: RecordBatch,
    pub rows: Range<usize>,
    /// What they take in memory, about.
    pub bytes: usize,
}

impl RawRows {
    /// Adds what comes directly behind these; else gives it back.
    pub fn extend(&mut self, next: Self) -> Option<Self> {
        let is_next =
            Arc::ptr_eq(self.batch.column(0), next.batch.column(0)) && self.rows.end == next.rows.start;
        if !is_next {
            return Some(next);
        }
        self.rows.end = next.rows.end;
        self.bytes += next.bytes;
        None
    }

    pub fn batch(&self) -> RecordBatch {
        self.batch.slice(self.rows.start, self.rows.len())
    }
}

/// A session whose rows are being gone through.
pub(super) struct Walk<'a> {
    session: &'a SessionRow,
    tenant: &'a Tenant,
    /// Rows that were taken.
    taken: u64,
    /// Timestamp, `seq` and id of the last of them.
    last: Option<(i64, i64, String)>,
    digest: Digest,
    pub payload_bytes: u64,
}

impl<'a> Walk<'a> {
    /// `epoch` is what the digest has in place of the session's.
    pub fn new(session: &'a SessionRow, epoch: i64) -> Self {
        Self {
            session,
            tenant: session.pointer.segment.tenant(),
            taken: 0,
            last: None,
            digest: Digest::new(&session.session, epoch),
            payload_bytes: 0,
        }
    }

    /// The digest of the session with the rows that were taken.
    pub fn finish(&self) -> u64 {
        self.digest.finish()
    }

    /// Holds rows to what they must be, and takes them, up to about so many bytes; gives those that were taken, and their
    /// size.
    fn take(
        &mut self,
        name: &SegmentName,
        batch: &RecordBatch,
        rows: Range<usize>,
        bytes_max: usize,
    ) -> Result<(Range<usize>, usize)> {
        let all = WholeRows::of(name, batch)?;
        let id = &self.session.session.id;
        let (mut bytes, mut taken) = (0, rows.start..rows.start);
        for row in rows.clone() {
            if bytes > bytes_max {
                break;
            }
            let place = Place {
                ordinal: self.taken,
                is_last: self.taken + 1 == self.session.pointer.rows,
            };
            let (head, payload) = all.get(name, row, self.tenant, id, place)?;
            let position = (head.timestamp_ms, head.seq, head.event_id);
            let before = match row.checked_sub(1).filter(|&before| before >= rows.start) {
                Some(before) => Some(all.position(before)),
                None => self.last.as_ref().map(|(ms, seq, id)| (*ms, *seq, id.as_str())),
            };
            if before.is_some_and(|before| before >= position) {
                return Err(fault::damaged(name, "a session's events are not in order"));
            }
            self.digest.add_row(&head, payload);
            self.payload_bytes += payload.len() as u64;
            bytes += all.bytes(row);
            self.taken += 1;
            taken.end = row + 1;
        }
        if let Some(last) = taken.clone().last() {
            let (ms, seq, id) = all.position(last);
            self.last = Some((ms, seq, id.to_owned()));
        }
        Ok((taken, bytes))
    }
}

impl RawEvents {
    pub(super) async fn open(objects: &Arc<dyn Objects>, name: &SegmentName) -> Result<Self> {
        Ok(Self {
            scan: Scan::open(objects, name, events_path(name), schema::events()).await?,
            batch: None,
            row: 0,
            position: 0,
        })
    }

    /// The next rows of a session, of about `bytes_max` at most; `None` behind its last. Sessions come in the order of the
    /// file; the rows of one that is left out are passed over unread.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`](crate::domain::Kind::ArchiveDamaged): a row is not what was written there.
    pub(super) async fn next_of(&mut self, walk: &mut Walk<'_>, bytes_max: usize) -> Result<Option<RawRows>> {
        let pointer = &walk.session.pointer;
        let left = pointer.rows - walk.taken;
        if left == 0 {
            return Ok(None);
        }
        if pointer.first_row.saturating_add(walk.taken) < self.position {
            return Err(fault::damaged(self.name(), "its sessions are not in order"));
        }
        let Some(batch) = self.seek(pointer.first_row.saturating_add(walk.taken)).await? else {
            let what = "a session has fewer events than it should";
            return Err(fault::damaged(self.name(), what));
        };
        let here = (batch.num_rows() - self.row) as u64;
        // No more than a batch has.
        let count = usize::try_from(left.min(here)).unwrap_or(usize::MAX);
        let rows = self.row..self.row + count;
        let (rows, bytes) = walk.take(self.name(), &batch, rows, bytes_max)?;
        self.pass(rows.len());
        Ok(Some(RawRows { batch, rows, bytes }))
    }

    /// Whether every row was taken or passed over.
    pub(super) async fn is_at_end(&mut self) -> Result<bool> {
        Ok(self.seek(self.position).await?.is_none())
    }

    /// To be called behind the last row.
    pub(super) async fn finish(self) -> Result<SegmentFile> {
        self.scan.finish().await
    }

    fn name(&self) -> &SegmentName {
        self.scan.name()
    }

    fn pass(&mut self, count: usize) {
        self.row += count;
        self.position += count as u64;
    }

    /// Goes on to a row of the file; gives the batch that it is in, unless the file ends before it.
    async fn seek(&mut self, to: u64) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = &self.batch {
                let here = batch.num_rows() - self.row;
                let skipped = usize::try_from(to - self.position)
                    .unwrap_or(usize::MAX)
                    .min(here);
                let batch = (skipped < here).then(|| batch.clone());
                self.pass(skipped);
                if batch.is_some() {
                    return Ok(batch);
                }
            }
            self.row = 0;
            self.batch = match self.scan.next(with_our_columns).await? {
                Some(mut batches) => batches.pop(),
                None => return Ok(None),
            };
        }
    }
}

/// The batch without the columns that are not known here.
fn with_our_columns(name: &SegmentName, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
    let schema = schema::events();
    let columns = batch.columns().get(..schema.fields().len()).unwrap_or_default();
    let ours = RecordBatch::try_new(schema, columns.to_vec());
    Ok(vec![ours.map_err(|error| fault::damaged(name, error))?])
}

impl SegmentReader {
    /// The events of a segment, to be copied.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn raw_events(&self, name: &SegmentName) -> Result<RawEvents> {
        RawEvents::open(&self.objects, name).await
    }
}
