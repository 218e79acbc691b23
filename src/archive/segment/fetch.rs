//! Fetches rows of a file: asks the decoder which bytes it needs, gets them in a few requests, and decodes.

use std::{ops::Range, sync::Arc};

use arrow_array::RecordBatch;
use futures_util::future::try_join_all;
use parquet::{
    DecodeResult,
    arrow::{
        ProjectionMask,
        arrow_reader::RowSelection,
        async_reader::RowGroupSelection,
        push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder},
    },
    errors::ParquetError,
};

use super::{fault, footer::Footer};
use crate::{
    archive::objects::{ByteRange, Objects},
    domain::{Result, SegmentName},
    in_flight,
};

/// Bytes between two ranges that are rather fetched than made two requests of.
const NEARBY_BYTES: u64 = 64 << 10;

const BATCH_ROWS: usize = 4_096;

/// A file whose footer is known.
#[derive(Clone)]
pub(super) struct File {
    pub objects: Arc<dyn Objects>,
    pub name: SegmentName,
    pub path: String,
    pub footer: Arc<Footer>,
}

impl File {
    /// Reads some columns of some rows, which are ascending ranges, in at most `gets_max` requests, all at once. `with`
    /// makes something of them, on a thread where it may take its time.
    pub async fn read<T, F>(
        &self,
        rows: Vec<Range<u64>>,
        columns: ProjectionMask,
        gets_max: usize,
        with: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&[RecordBatch]) -> Result<T> + Send + 'static,
    {
        let file = self.clone();
        let planning = move || {
            let decoder = file.decoder(&rows, columns);
            let decoder = decoder.map_err(|error| fault::of_decoding(&file.name, error))?;
            let wanted = decoder.scan_plan().map(|planned| planned.range).collect();
            Ok((decoder, coalesced(wanted, gets_max)))
        };
        // Indexes that are damaged are no less of a strain on it than pages that are.
        let (mut decoder, ranges) = self.decode(planning).await?;
        let gets = ranges.iter().map(|range| self.get(range.clone()));
        let buffers = try_join_all(gets).await?;
        let name = self.name.clone();
        self.decode(move || {
            let decoded = decoder
                .push_ranges(ranges, buffers)
                .and_then(|()| decode_all(&mut decoder));
            with(&decoded.map_err(|error| fault::of_decoding(&name, error))?)
        })
        .await
    }

    /// Does work that may take its time, and may panic over what it finds.
    pub async fn decode<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let done = in_flight::spawn_blocking(work).await;
        done.map_err(|error| fault::of_decoder(&self.name, error))?
    }

    /// Reads bytes of the row groups.
    pub async fn get(&self, range: Range<u64>) -> Result<bytes::Bytes> {
        if range.is_empty() || range.end > self.footer.data_end {
            return Err(fault::damaged(&self.name, "a page lies where there are none"));
        }
        let Range { start, end } = range;
        let bytes = self.objects.get(&self.path, ByteRange::Of { start, end }).await;
        let bytes = bytes.map_err(|error| fault::of_object(&self.name, error))?;
        // The contract of objects rules it out; what decodes them would not forgive it.
        match bytes.len() as u64 == end - start {
            true => Ok(bytes),
            false => Err(fault::damaged(&self.name, "fewer bytes came than were asked for")),
        }
    }

    fn decoder(
        &self,
        rows: &[Range<u64>],
        columns: ProjectionMask,
    ) -> Result<ParquetPushDecoder, ParquetError> {
        ParquetPushDecoderBuilder::new_with_metadata(self.footer.metadata.clone())
            .with_projection(columns)
            .with_batch_size(BATCH_ROWS)
            .with_row_group_selections(self.selections(rows))
            .build()
    }

    fn selections(&self, rows: &[Range<u64>]) -> Vec<RowGroupSelection> {
        let mut selections = Vec::new();
        for (at, bounds) in self.footer.row_group_starts.windows(2).enumerate() {
            let (start, end) = (bounds[0], bounds[1]);
            let first = rows.partition_point(|range| range.end <= start);
            let inside = rows[first..].iter().take_while(|range| range.start < end);
            let local: Vec<_> = inside
                .map(|range| index(range.start.max(start) - start)..index(range.end.min(end) - start))
                .collect();
            if !local.is_empty() {
                let selection = RowSelection::from_consecutive_ranges(local.into_iter(), index(end - start));
                selections.push(RowGroupSelection::new(at, Some(selection)));
            }
        }
        selections
    }
}

/// A number of rows as this machine counts; row groups fit its memory.
fn index(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// Decodes what was asked for; all bytes were pushed.
pub(super) fn decode_all(decoder: &mut ParquetPushDecoder) -> Result<Vec<RecordBatch>, ParquetError> {
    let mut batches = Vec::new();
    while let Some(batch) = decode_next(decoder)? {
        batches.push(batch);
    }
    Ok(batches)
}

pub(super) fn decode_next(decoder: &mut ParquetPushDecoder) -> Result<Option<RecordBatch>, ParquetError> {
    match decoder.try_decode()? {
        DecodeResult::Data(batch) => Ok(Some(batch)),
        DecodeResult::Finished => Ok(None),
        DecodeResult::NeedsData(_) => Err(ParquetError::EOF(String::from(
            "pages are not where the index has them",
        ))),
    }
}

/// At most `count_max` ranges that cover all of these, with as little between as can be.
fn coalesced(mut ranges: Vec<Range<u64>>, count_max: usize) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let Some(first) = ranges.first() else {
        return Vec::new();
    };
    let mut end = first.end;
    let mut gaps = Vec::new();
    for range in &ranges[1..] {
        if range.start > end.saturating_add(NEARBY_BYTES) {
            gaps.push(end..range.start);
        }
        end = end.max(range.end);
    }
    let start = first.start;
    gaps.sort_unstable_by_key(|gap| std::cmp::Reverse(gap.end - gap.start));
    gaps.truncate(count_max.saturating_sub(1));
    gaps.sort_unstable_by_key(|gap| gap.start);
    let starts = std::iter::once(start).chain(gaps.iter().map(|gap| gap.end));
    let ends = gaps.iter().map(|gap| gap.start).chain([end]);
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_where_least_lies_between() {
        const FAR: u64 = 2 * NEARBY_BYTES;
        let ranges = vec![0..10, 20..30, FAR..FAR + 10, 4 * FAR..4 * FAR + 10];
        assert_eq!(
            coalesced(ranges.clone(), 3),
            [0..30, FAR..FAR + 10, 4 * FAR..4 * FAR + 10]
        );
        assert_eq!(coalesced(ranges.clone(), 2), [0..FAR + 10, 4 * FAR..4 * FAR + 10]);
        let one = |ranges| match coalesced(ranges, 1).as_slice() {
            [one] => one.clone(),
            more => panic!("{more:?}"),
        };
        assert_eq!(one(ranges), 0..4 * FAR + 10);
        assert_eq!(one(vec![5..9, 0..20, 3..4]), 0..20);
        assert!(coalesced(Vec::new(), 3).is_empty());
    }
}
