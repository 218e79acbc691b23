//! Reads files whole, from the first byte to the last, a row group at a time.

use std::{collections::VecDeque, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::{
    arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder},
    errors::ParquetError,
    file::metadata::RowGroupMetaData,
};
use sha2::{Digest as _, Sha256};

use super::{
    SegmentFile, SegmentReader,
    checksum::Place,
    events_path, fault,
    fetch::{File, decode_next},
    footer::Footer,
    hex,
    rows::{SessionRow, WholeRow},
    schema, sessions_path,
};
use crate::{
    archive::objects::{ByteRange, Objects},
    domain::{Event, Result, SegmentName, SessionId},
};

/// Rows that are decoded at a time: as many as are about so many bytes, going by the average of their row group.
const BATCH_BYTES: u64 = 4 << 20;
/// With the largest payloads, some thirty megabytes.
const BATCH_ROWS_MIN: u64 = 128;
const BATCH_ROWS_MAX: u64 = 8_192;

/// A file that is being read; holds the bytes of one row group.
pub(super) struct Scan {
    file: File,
    sha256: Sha256,
    /// How far it was read.
    position: u64,
    row_group: usize,
    decoder: Option<ParquetPushDecoder>,
}

impl Scan {
    pub async fn open(
        objects: &Arc<dyn Objects>,
        name: &SegmentName,
        path: String,
        schema: SchemaRef,
    ) -> Result<Self> {
        let footer = Footer::load(&**objects, name, &path, &schema).await?;
        Ok(Self {
            file: File {
                objects: Arc::clone(objects),
                name: name.clone(),
                path,
                footer: Arc::new(footer),
            },
            sha256: Sha256::new(),
            position: 0,
            row_group: 0,
            decoder: None,
        })
    }

    pub fn name(&self) -> &SegmentName {
        &self.file.name
    }

    /// The rows of the file, as its footer has it.
    fn count(&self) -> u64 {
        self.file
            .footer
            .row_group_starts
            .last()
            .copied()
            .unwrap_or_default()
    }

    /// The next few rows, as `read` makes them out; `None` behind the last.
    pub async fn next<T: Send + 'static>(
        &mut self,
        read: fn(&SegmentName, &RecordBatch) -> Result<Vec<T>>,
    ) -> Result<Option<Vec<T>>> {
        loop {
            let Some(mut decoder) = self.decoder.take() else {
                if self.row_group + 1 == self.file.footer.row_group_starts.len() {
                    return Ok(None);
                }
                self.decoder = Some(self.next_row_group().await?);
                continue;
            };
            let name = self.file.name.clone();
            let decoded = move || {
                let batch = decode_next(&mut decoder).map_err(|error| fault::of_decoding(&name, error))?;
                let rows = batch.map(|batch| read(&name, &batch)).transpose()?;
                Ok(rows.map(|rows| (decoder, rows)))
            };
            if let Some((decoder, rows)) = self.file.decode(decoded).await? {
                self.decoder = Some(decoder);
                return Ok(Some(rows));
            }
        }
    }

    async fn next_row_group(&mut self) -> Result<ParquetPushDecoder> {
        let row_group = self.row_group;
        self.row_group += 1;
        let about = self.file.footer.metadata.metadata().row_group(row_group);
        let (columns, batch_rows) = (about.columns(), batch_rows(about));
        // A range that is upside down makes the decoder panic, so only its end is taken, and checked.
        let ends = columns.iter().filter_map(|column| {
            let start = column
                .dictionary_page_offset()
                .unwrap_or(column.data_page_offset());
            u64::try_from(start.checked_add(column.compressed_size())?).ok()
        });
        let range = self.position..ends.max().unwrap_or_default();
        if range.is_empty() {
            return Err(fault::damaged(&self.file.name, "its row groups are not in order"));
        }
        let bytes = self.file.get(range.clone()).await?;
        self.position = range.end;
        let (mut sha256, metadata) = (self.sha256.clone(), self.file.footer.metadata.clone());
        let name = self.file.name.clone();
        let prepared = move || {
            sha256.update(&bytes);
            let decoder = ParquetPushDecoderBuilder::new_with_metadata(metadata)
                .with_row_groups(vec![row_group])
                .with_batch_size(batch_rows)
                .build();
            let pushed = decoder.and_then(|mut decoder| {
                decoder.push_range(range, bytes)?;
                Ok::<_, ParquetError>(decoder)
            });
            let decoder = pushed.map_err(|error| fault::of_decoding(&name, error))?;
            Ok((sha256, decoder))
        };
        let (sha256, decoder) = self.file.decode(prepared).await?;
        self.sha256 = sha256;
        Ok(decoder)
    }

    /// Reads what is behind the last row group; says what was read in all.
    pub async fn finish(mut self) -> Result<SegmentFile> {
        let File {
            objects, name, path, ..
        } = &self.file;
        let of_object = |error| fault::of_object(name, error);
        let bytes = objects.head(path).await.map_err(of_object)?.size;
        if self.position >= bytes {
            return Err(fault::damaged(name, "a file is shorter than its footer says"));
        }
        let range = ByteRange::Of {
            start: self.position,
            end: bytes,
        };
        let rest = objects.get(path, range).await.map_err(of_object)?;
        self.sha256.update(&rest);
        Ok(SegmentFile {
            path: self.file.path,
            bytes,
            sha256: hex(&self.sha256.finalize()),
        })
    }
}

fn batch_rows(row_group: &RowGroupMetaData) -> usize {
    let count = |count: i64| u64::try_from(count).unwrap_or_default().max(1);
    let row_bytes = (count(row_group.total_byte_size()) / count(row_group.num_rows())).max(1);
    let rows = (BATCH_BYTES / row_bytes).clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX);
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// The sessions of a segment, in their order.
pub struct SessionRows {
    scan: Scan,
    rows: VecDeque<SessionRow>,
}

impl SessionRows {
    pub(super) async fn open(objects: &Arc<dyn Objects>, name: &SegmentName) -> Result<Self> {
        Ok(Self {
            scan: Scan::open(objects, name, sessions_path(name), schema::sessions()).await?,
            rows: VecDeque::new(),
        })
    }

    /// How many there are in the file.
    pub fn count(&self) -> u64 {
        self.scan.count()
    }

    /// The next one.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`](crate::domain::Kind::ArchiveDamaged): a row is not what was written.
    pub async fn next(&mut self) -> Result<Option<SessionRow>> {
        while self.rows.is_empty() {
            match self.scan.next(SessionRow::all).await? {
                Some(rows) => self.rows.extend(rows),
                None => return Ok(None),
            }
        }
        Ok(self.rows.pop_front())
    }

    /// The next ones, up to `count`, which is at least one; none behind the last.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_some(&mut self, count: usize) -> Result<Vec<SessionRow>> {
        let mut some = Vec::new();
        while some.len() < count
            && let Some(row) = self.next().await?
        {
            some.push(row);
        }
        Ok(some)
    }

    /// To be called behind the last row.
    pub(super) async fn finish(self) -> Result<SegmentFile> {
        self.scan.finish().await
    }
}

/// The events of a segment, in the order of the file: by session, and in each in the order in which they are read.
pub struct EventRows {
    scan: Scan,
    rows: VecDeque<WholeRow>,
    /// Which row of its session the next one is.
    ordinal: u64,
}

impl EventRows {
    pub(super) async fn open(objects: &Arc<dyn Objects>, name: &SegmentName) -> Result<Self> {
        Ok(Self {
            scan: Scan::open(objects, name, events_path(name), schema::events()).await?,
            rows: VecDeque::new(),
            ordinal: 0,
        })
    }

    /// The next one.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`](crate::domain::Kind::ArchiveDamaged): a row is not what was written there.
    pub async fn next(&mut self) -> Result<Option<(SessionId, Event)>> {
        self.look_ahead().await?;
        let Some(row) = self.rows.pop_front() else {
            return Ok(None);
        };
        self.look_ahead().await?;
        let is_last = self.rows.front().is_none_or(|next| next.session != row.session);
        let place = Place {
            ordinal: self.ordinal,
            is_last,
        };
        self.ordinal = if is_last { 0 } else { self.ordinal + 1 };
        row.at(&self.scan.file.name, place).map(Some)
    }

    async fn look_ahead(&mut self) -> Result<()> {
        while self.rows.is_empty() {
            match self.scan.next(WholeRow::all).await? {
                Some(rows) => self.rows.extend(rows),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

impl SegmentReader {
    /// The sessions of a segment.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn sessions(&self, name: &SegmentName) -> Result<SessionRows> {
        SessionRows::open(&self.objects, name).await
    }

    /// The events of a segment. Reads in bounded memory: a row group at a time.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn events(&self, name: &SegmentName) -> Result<EventRows> {
        EventRows::open(&self.objects, name).await
    }
}
