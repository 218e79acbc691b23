//! Footers: what a Parquet file says of itself at its end, and with it where every page is. Reading one takes a request
//! of its own, so those that are used are kept.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow_schema::Schema;
use bytes::Bytes;
use parquet::{
    DecodeResult,
    arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    errors::ParquetError,
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder, ParquetMetaDataReader},
};
use tokio::sync::OnceCell;

use super::{FORMAT, fault, schema};
use crate::{
    archive::objects::{ByteRange, Objects},
    domain::{Result, SegmentName},
    in_flight,
};

/// How much of the end is asked for at first: the footer of all but the largest segments.
const TAIL_BYTES: u64 = 64 << 10;

/// At the very end: the length of the metadata, and the format's four letters.
const END_BYTES: usize = 8;
const MAGIC: &[u8] = b"PAR1";

/// Where the rows of a file are.
pub(super) struct Footer {
    pub metadata: ArrowReaderMetadata,
    /// The row each row group begins with; and, behind them, how many rows there are.
    pub row_group_starts: Vec<u64>,
    /// Where the row groups end in the file.
    pub data_end: u64,
    /// What it takes in memory, about.
    bytes: usize,
}

impl Footer {
    /// Reads the footer of a file that has at least the columns of `schema`.
    pub async fn load(
        objects: &dyn Objects,
        name: &SegmentName,
        path: &str,
        schema: &Schema,
    ) -> Result<Self> {
        let get = async |range| {
            let bytes = objects.get(path, range).await;
            bytes.map_err(|error| fault::of_object(name, error))
        };
        let no_footer = || fault::damaged(name, "a file has no footer");
        let mut tail = get(ByteRange::Last(TAIL_BYTES)).await?;
        let length = metadata_length(&tail).ok_or_else(no_footer)?;
        if length + END_BYTES > tail.len() {
            tail = get(ByteRange::Last((length + END_BYTES) as u64)).await?;
        }
        let start = tail.len().checked_sub(length + END_BYTES).ok_or_else(no_footer)?;
        let bytes = tail.slice(start..tail.len() - END_BYTES);
        let decoding = move || ParquetMetaDataReader::decode_metadata(&bytes);
        let metadata = decode(name, decoding).await?;

        // The index ends where the metadata begins: that tells where in the file the tail is.
        let index = index_range(&metadata);
        let tail_start = index.end.checked_sub(start as u64);
        let bytes = match tail_start.filter(|&tail_start| tail_start <= index.start) {
            _ if index.is_empty() => Bytes::new(),
            Some(tail_start) => {
                let skipped = usize::try_from(index.start - tail_start).map_err(fault::of_encoding)?;
                tail.slice(skipped..start)
            }
            None => {
                let (start, end) = (index.start, index.end);
                get(ByteRange::Of { start, end }).await?
            }
        };
        let file_bytes = index.end + (length + END_BYTES) as u64;
        let data_end = index.start;
        let indexed = decode(name, move || with_index(metadata, file_bytes, index, bytes)).await?;
        Self::of(name, indexed, data_end, schema)
    }

    fn of(name: &SegmentName, metadata: ArrowReaderMetadata, data_end: u64, schema: &Schema) -> Result<Self> {
        check_origin(name, metadata.metadata())?;
        let columns = metadata
            .schema()
            .fields()
            .iter()
            .map(|field| (field.name(), field.data_type()));
        let expected = schema
            .fields()
            .iter()
            .map(|field| (field.name(), field.data_type()));
        if metadata.parquet_schema().num_columns() < schema.fields().len()
            || !columns.take(schema.fields().len()).eq(expected)
        {
            return Err(fault::damaged(name, "a file has other columns than it should"));
        }
        let mut row_group_starts = vec![0_u64];
        let mut rows = 0_u64;
        for row_group in metadata.metadata().row_groups() {
            let more = u64::try_from(row_group.num_rows()).ok();
            let sum = more.and_then(|more| rows.checked_add(more));
            rows = sum.ok_or_else(|| fault::damaged(name, "a row group has a negative number of rows"))?;
            row_group_starts.push(rows);
        }
        let bytes = metadata.metadata().memory_size() + 8 * row_group_starts.len();
        Ok(Self {
            metadata,
            row_group_starts,
            data_end,
            bytes,
        })
    }

    pub fn rows(&self) -> u64 {
        self.row_group_starts.last().copied().unwrap_or_default()
    }
}

fn metadata_length(tail: &[u8]) -> Option<usize> {
    let (length, magic) = tail.last_chunk::<END_BYTES>()?.split_at(4);
    let length = u32::from_le_bytes(length.try_into().ok()?);
    (magic == MAGIC).then(|| usize::try_from(length).ok())?
}

/// The bytes of the page index, which lies between the row groups and the metadata.
fn index_range(metadata: &ParquetMetaData) -> Range<u64> {
    let columns = metadata
        .row_groups()
        .iter()
        .flat_map(|row_group| row_group.columns());
    let ranges = columns.flat_map(|column| [column.column_index_range(), column.offset_index_range()]);
    ranges
        .flatten()
        .reduce(|all, one| all.start.min(one.start)..all.end.max(one.end))
        .unwrap_or_default()
}

fn with_index(
    metadata: ParquetMetaData,
    file_bytes: u64,
    index: Range<u64>,
    bytes: Bytes,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let mut decoder = ParquetMetaDataPushDecoder::try_new_with_metadata(file_bytes, metadata)?
        .with_page_index_policy(PageIndexPolicy::Required);
    decoder.push_range(index, bytes)?;
    match decoder.try_decode()? {
        DecodeResult::Data(metadata) => {
            ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())
        }
        _ => Err(ParquetError::EOF(String::from("the page index is incomplete"))),
    }
}

/// Decodes on a thread that may panic.
async fn decode<T, F>(name: &SegmentName, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ParquetError> + Send + 'static,
{
    let decoded = in_flight::spawn_blocking(work).await;
    let decoded = decoded.map_err(|error| fault::of_decoder(name, error))?;
    decoded.map_err(|error| fault::of_decoding(name, error))
}

/// Whether the file says that it is of this segment, and of a format that is known.
fn check_origin(name: &SegmentName, metadata: &ParquetMetaData) -> Result<()> {
    let about = metadata.file_metadata().key_value_metadata();
    let value = |key: &str| {
        let entry = about.into_iter().flatten().find(|entry| entry.key == key);
        entry.and_then(|entry| entry.value.as_deref())
    };
    let format = value(schema::FORMAT_KEY).and_then(|text| text.parse().ok());
    check_format(name, format)?;
    if value(schema::SEGMENT_KEY) != Some(name.to_string().as_str()) {
        return Err(fault::damaged(
            name,
            "one of its files belongs to another segment",
        ));
    }
    Ok(())
}

/// Whether a file or manifest of this format can be read.
pub(super) fn check_format(name: &SegmentName, format: Option<u64>) -> Result<()> {
    match format {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(fault::damaged(
            name,
            format_args!("a newer colloquy wrote it, in format {newer}; this one reads format {FORMAT}"),
        )),
        _ => Err(fault::damaged(name, "a file does not say which format it has")),
    }
}

/// Footers of events files that are kept: those used last, within a number of bytes.
pub(super) struct Footers {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<SegmentName, Entry>,
    uses: u64,
}

struct Entry {
    /// Whoever comes while it is loaded waits for it, and does not load it again.
    footer: Arc<OnceCell<Arc<Footer>>>,
    last_use: u64,
}

/// What an entry takes besides its footer, about.
const ENTRY_BYTES: usize = 256;

impl Footers {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            kept: Mutex::default(),
        }
    }

    pub async fn get(
        &self,
        name: &SegmentName,
        load: impl Future<Output = Result<Footer>>,
    ) -> Result<Arc<Footer>> {
        let cell = self.kept().entry(name);
        let footer = cell.get_or_try_init(async || load.await.map(Arc::new)).await;
        match footer {
            Ok(footer) => {
                self.kept().shrink(self.bytes_max);
                Ok(Arc::clone(footer))
            }
            Err(error) => {
                self.forget(name);
                Err(error)
            }
        }
    }

    pub fn forget(&self, name: &SegmentName) {
        self.kept().entries.remove(name);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each change of the map is one call, so a panic leaves none half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn entry(&mut self, name: &SegmentName) -> Arc<OnceCell<Arc<Footer>>> {
        self.uses += 1;
        let entry = self.entries.entry(name.clone()).or_insert_with(|| Entry {
            footer: Arc::default(),
            last_use: 0,
        });
        entry.last_use = self.uses;
        Arc::clone(&entry.footer)
    }

    fn shrink(&mut self, bytes_max: usize) {
        while self.entries.values().map(Entry::bytes).sum::<usize>() > bytes_max {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.footer.get().map_or(0, |footer| footer.bytes)
    }
}
