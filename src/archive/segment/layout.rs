//! Which rows of a session to look at for a page: as few as the indexes of the file allow.
//!
//! The indexes are hints. They carry no checksum, so what they leave out is proved by what is read: next to the rows
//! that may be on the page, the row beyond them is looked at too, and must indeed lie beyond; see
//! [`Window`](super::window::Window).

use std::ops::Range;

use parquet::file::page_index::{column_index::ColumnIndexMetaData, offset_index::PageLocation};

use super::{fetch::File, schema::event};
use crate::domain::{EventQuery, Order, Pointer, Timestamp};

/// The pages that a session's timestamps and payloads lie in.
pub(super) struct Layout {
    rows: u64,
    timestamps: Vec<TimePage>,
    payloads: Vec<PayloadPage>,
}

/// A page of timestamps. Its ends may be those of a neighbouring session's.
struct TimePage {
    /// The first row in it that is the session's.
    start: u64,
    min_ms: i64,
    max_ms: i64,
}

/// A page of payloads that are all the session's.
struct PayloadPage {
    rows: Range<u64>,
    /// Of payload, uncompressed.
    bytes: u64,
}

impl Layout {
    pub fn of(file: &File, pointer: &Pointer) -> Self {
        let mut layout = Self {
            rows: pointer.rows,
            timestamps: Vec::new(),
            payloads: Vec::new(),
        };
        let (first, end) = (pointer.first_row, pointer.first_row.saturating_add(pointer.rows));
        for (at, bounds) in file.footer.row_group_starts.windows(2).enumerate() {
            if bounds[0] < end && first < bounds[1] {
                layout.add(file, at, bounds[0]..bounds[1], first..end);
            }
        }
        layout
    }

    fn add(&mut self, file: &File, row_group: usize, group: Range<u64>, session: Range<u64>) {
        let index = file
            .footer
            .metadata
            .metadata()
            .page_index_for_row_group(row_group);
        let times = match index.column_index(event::TIMESTAMP) {
            Some(ColumnIndexMetaData::INT64(times)) => Some(times),
            _ => None,
        };
        for (at, page) in pages(index.page_locations(event::TIMESTAMP), &group).enumerate() {
            if page.start < session.end && session.start < page.end {
                self.timestamps.push(TimePage {
                    start: page.start.saturating_sub(session.start),
                    min_ms: times
                        .and_then(|times| times.min_value(at).copied())
                        .unwrap_or(i64::MIN),
                    max_ms: times
                        .and_then(|times| times.max_value(at).copied())
                        .unwrap_or(i64::MAX),
                });
            }
        }
        let sizes = index.offset_index(event::PAYLOAD);
        let sizes = sizes.and_then(|index| index.unencoded_byte_array_data_bytes());
        let sizes = sizes.into_iter().flatten();
        for (page, &bytes) in pages(index.page_locations(event::PAYLOAD), &group).zip(sizes) {
            if session.start <= page.start && page.start < page.end && page.end <= session.end {
                self.payloads.push(PayloadPage {
                    rows: page.start - session.start..page.end - session.start,
                    bytes: u64::try_from(bytes).unwrap_or_default(),
                });
            }
        }
    }

    /// The rows, counted from the session's first, that show which events are on the page. Not empty.
    pub fn candidates(&self, query: &EventQuery) -> Range<u64> {
        let (lower, upper) = bounds(query);
        // The first row that may lie within the bounds, and the first of which it is certain that it lies behind a bound.
        let from = lower.map_or(0, |ms| self.first(|page| page.max_ms >= ms));
        let to = upper.map_or(self.rows, |ms| self.first(|page| page.min_ms > ms));
        let (mut start, mut end) = (from.saturating_sub(1), to.saturating_add(1));
        if query.filter.event_type.is_none() {
            match query.order {
                Order::Ascending => {
                    let certain = lower.map_or(0, |ms| self.first(|page| page.min_ms > ms));
                    end = end.min(self.enough_after(certain, query));
                }
                Order::Descending => {
                    let certain = upper.map_or(self.rows, |ms| self.first(|page| page.max_ms >= ms));
                    start = start.max(self.enough_before(certain, query));
                }
            }
        }
        start = start.min(self.rows.saturating_sub(1));
        start..end.max(start + 1).min(self.rows)
    }

    /// The rows that are on the page whatever they hold, where there are such: at the session's start or end.
    pub fn known(&self, query: &EventQuery) -> Option<Range<u64>> {
        let (lower, upper) = bounds(query);
        if query.filter.event_type.is_some() {
            return None;
        }
        let limit = query.limit.get() as u64;
        match (query.order, lower, upper) {
            (Order::Ascending, None, _) => Some(0..self.enough_after(0, query).min(limit).min(self.rows)),
            (Order::Descending, _, None) => {
                let start = self.enough_before(self.rows, query);
                Some(start.max(self.rows.saturating_sub(limit))..self.rows)
            }
            _ => None,
        }
    }

    /// The start of the first page of timestamps that is so.
    fn first(&self, is_so: impl Fn(&TimePage) -> bool) -> u64 {
        let page = self.timestamps.iter().find(|page| is_so(page));
        page.map_or(self.rows, |page| page.start)
    }

    /// The row before which, from `from` on, the page is full, and one row more: that there is more shows there.
    fn enough_after(&self, from: u64, query: &EventQuery) -> u64 {
        let mut bytes = 0_u64;
        let pages = self.payloads.iter().filter(|page| page.rows.start >= from);
        let full = pages.into_iter().find(|page| {
            bytes = bytes.saturating_add(page.bytes);
            bytes > query.payload_bytes_max as u64
        });
        let by_bytes = full.map_or(self.rows, |page| page.rows.end + 1);
        by_bytes.min(from + query.limit.get() as u64 + 1)
    }

    /// As [`enough_after`](Self::enough_after), backwards: the first row to look at.
    fn enough_before(&self, to: u64, query: &EventQuery) -> u64 {
        let mut bytes = 0_u64;
        let pages = self.payloads.iter().rev().filter(|page| page.rows.end <= to);
        let full = pages.into_iter().find(|page| {
            bytes = bytes.saturating_add(page.bytes);
            bytes > query.payload_bytes_max as u64
        });
        let by_bytes = full.map_or(0, |page| page.rows.start.saturating_sub(1));
        by_bytes.max(to.saturating_sub(query.limit.get() as u64 + 1))
    }
}

/// The rows of the file that each page holds.
fn pages<'a>(
    locations: Option<&'a Vec<PageLocation>>,
    group: &Range<u64>,
) -> impl Iterator<Item = Range<u64>> + use<'a> {
    let (start, end) = (group.start, group.end);
    let locations = locations.map_or(&[][..], Vec::as_slice);
    let row = move |location: &PageLocation| {
        let row = u64::try_from(location.first_row_index).unwrap_or_default();
        start.saturating_add(row).min(end)
    };
    let ends = locations.iter().skip(1).map(row).chain([end]);
    locations.iter().map(row).zip(ends).map(|(start, end)| start..end)
}

/// The earliest and the latest timestamp that can be on the page, both inclusive.
fn bounds(query: &EventQuery) -> (Option<i64>, Option<i64>) {
    let after = query.after.as_ref().map(|after| after.timestamp);
    let (after, before) = match query.order {
        Order::Ascending => (after, None),
        Order::Descending => (None, after),
    };
    let lower = query.filter.since.into_iter().chain(after).max();
    let upper = query.filter.until.into_iter().chain(before).min();
    (lower.map(Timestamp::unix_ms), upper.map(Timestamp::unix_ms))
}
