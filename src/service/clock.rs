//! The time, and sequence numbers made from it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::domain::Timestamp;

/// How far the numbers may run ahead of the clock; past that, it was set back. One number is a microsecond, so this is a
/// million events that were numbered faster than the clock went.
const AHEAD_US_MAX: i64 = 1_000_000;

/// Gives microseconds since 1970.
type Source = dyn Fn() -> i64 + Send + Sync;

/// This process's clock.
///
/// The sequence numbers that it proposes are microseconds since 1970, or one more than the last one where the clock did
/// not move, so that events which are accepted at the same moment are proposed different ones. A clock that is set
/// back takes the proposals with it, so one wrong time has no effect on sessions that had no event at that time. Within a session
/// numbers increase all the same: the store raises them (see [`Store::append`](crate::store::Store::append)).
#[derive(Clone)]
pub struct Clock {
    source: Arc<Source>,
    last_seq: Arc<AtomicI64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::of(system_us)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

impl Clock {
    /// A clock that shows what `source` gives, in microseconds since 1970.
    pub fn of(source: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self {
            source: Arc::new(source),
            last_seq: Arc::new(AtomicI64::new(i64::MIN)),
        }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::of_unix_us(self.unix_us())
    }

    /// Microseconds since 1970.
    pub fn unix_us(&self) -> i64 {
        (self.source)()
    }

    /// The first of `count` consecutive sequence numbers to propose.
    pub fn take_seqs(&self, count: usize) -> i64 {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let now = self.unix_us();
        let first_after = |last: i64| match last.saturating_add(1) {
            next if next > now.saturating_add(AHEAD_US_MAX) => now,
            next => now.max(next),
        };
        let taken = self
            .last_seq
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(first_after(last).saturating_add(count - 1))
            });
        // `fetch_update` fails only when its closure returns `None`; either way it gives the previous value.
        first_after(taken.unwrap_or_else(|last| last))
    }
}

fn system_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock_at(start: i64) -> (Clock, Arc<AtomicI64>) {
        let time = Arc::new(AtomicI64::new(start));
        let source = Arc::clone(&time);
        (Clock::of(move || source.load(Ordering::Relaxed)), time)
    }

    #[test]
    fn sequence_numbers_never_meet_and_follow_the_clock() {
        let before = system_us();
        assert!(Clock::default().take_seqs(1_000) >= before);
        let (clock, time) = clock_at(5_000);
        assert_eq!(clock.take_seqs(1_000), 5_000);
        assert_eq!(clock.take_seqs(1), 6_000);
        time.store(4_000, Ordering::Relaxed);
        assert_eq!(clock.take_seqs(1), 6_001, "a little back");
        time.store(9_000, Ordering::Relaxed);
        assert_eq!(clock.take_seqs(1), 9_000);
    }

    #[test]
    fn one_wrong_time_does_not_stay() {
        let hour_us = 3_600_000_000;
        for wrong in [hour_us * 24 * 365, i64::MAX, i64::MIN] {
            let (clock, time) = clock_at(hour_us);
            clock.take_seqs(10);
            time.store(wrong, Ordering::Relaxed);
            assert_eq!(clock.take_seqs(10), wrong);
            time.store(hour_us + 20, Ordering::Relaxed);
            assert_eq!(clock.take_seqs(10), hour_us + 20);
        }
    }

    #[test]
    fn a_time_before_1970_is_rounded_down() {
        let (clock, _) = clock_at(-1);
        assert_eq!(clock.now().unix_ms(), -1);
        assert_eq!(clock.take_seqs(1), -1);
    }
}
