//! What was seen of a session's rows on the way to a page.

use std::{collections::VecDeque, ops::Range};

use arrow_array::RecordBatch;

use super::{
    checksum::Head,
    fault,
    rows::{Found, for_each_head},
};
use crate::domain::{EventQuery, Order, Pointer, Result, SessionKey};

/// Some rows that follow one another in the session, looked at for a query.
pub(super) struct Window {
    /// Those that the query asks for, in its order.
    pub matches: VecDeque<Found>,
    first: Side,
    last: Side,
}

/// Where a row lies from the bounds of a query. Outside of both, where they contradict each other.
#[derive(Debug, Clone, Copy, Default)]
struct Side {
    is_below: bool,
    is_above: bool,
}

impl Window {
    /// Looks at rows of a session. Keeps one more of those that are asked for than the page takes, so that it shows
    /// whether there are more.
    pub fn look(
        batches: &[RecordBatch],
        ordinals: Range<u64>,
        key: &SessionKey,
        pointer: &Pointer,
        query: &EventQuery,
    ) -> Result<Self> {
        let matches_max = query.limit.get() + 1;
        let is_ascending = query.order == Order::Ascending;
        let mut matches = VecDeque::new();
        let mut ends: Option<(Side, Side)> = None;
        for_each_head(batches, ordinals, key, pointer, |ordinal, head| {
            let side = Side::of(head, query);
            ends = Some((ends.map_or(side, |(first, _)| first), side));
            if side.is_below || side.is_above || !has_type(head, query) {
                return Ok(());
            }
            if !is_ascending && matches.len() == matches_max {
                matches.pop_back();
            }
            if matches.len() < matches_max {
                let found = Found::new(&pointer.segment, &key.id, ordinal, head)?;
                if is_ascending {
                    matches.push_back(found);
                } else {
                    matches.push_front(found);
                }
            }
            Ok(())
        })?;
        let (first, last) = ends.unwrap_or_default();
        Ok(Self { matches, first, last })
    }

    /// Holds the indexes to what they said when they left out what comes before these rows: that the query does not
    /// ask for it. Rows are in order, so the row at the end stands for all beyond.
    pub fn check_start(&self, ordinals: &Range<u64>, pointer: &Pointer, query: &EventQuery) -> Result<()> {
        let is_proved = match query.order {
            Order::Ascending => ordinals.start == 0 || self.first.is_below,
            Order::Descending => ordinals.end == pointer.rows || self.last.is_above,
        };
        proved(is_proved, pointer)
    }

    /// The same of what comes behind these rows.
    pub fn check_end(&self, ordinals: &Range<u64>, pointer: &Pointer, query: &EventQuery) -> Result<()> {
        let is_proved = match query.order {
            Order::Ascending => ordinals.end == pointer.rows || self.last.is_above,
            Order::Descending => ordinals.start == 0 || self.first.is_below,
        };
        proved(is_proved, pointer)
    }
}

fn proved(is_proved: bool, pointer: &Pointer) -> Result<()> {
    if is_proved {
        Ok(())
    } else {
        Err(fault::damaged(
            &pointer.segment,
            "its index leaves out rows that it should not",
        ))
    }
}

fn has_type(head: &Head<'_>, query: &EventQuery) -> bool {
    let asked = query.filter.event_type.as_ref();
    asked.is_none_or(|asked| asked.as_str() == head.event_type)
}

impl Side {
    fn of(head: &Head<'_>, query: &EventQuery) -> Self {
        let ms = head.timestamp_ms;
        let since = query.filter.since.is_some_and(|since| ms < since.unix_ms());
        let until = query.filter.until.is_some_and(|until| ms >= until.unix_ms());
        let beyond = query.after.as_ref().map(|after| {
            let position = (ms, head.seq, head.event_id);
            position.cmp(&(after.timestamp.unix_ms(), after.seq, after.id.as_str()))
        });
        Self {
            is_below: since || (query.order == Order::Ascending && beyond.is_some_and(|it| it.is_le())),
            is_above: until || (query.order == Order::Descending && beyond.is_some_and(|it| it.is_ge())),
        }
    }
}
