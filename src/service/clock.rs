//! The time, and sequence numbers made from it.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::domain::Timestamp;

/// This process's clock.
///
/// Sequence numbers are microseconds since 1970, or one more than the last one given out where the clock did not
/// move or went back: they increase within a process whatever the clock does. Across processes they follow the
/// machines' clocks; the store raises a number that would not increase within its session where it can
/// (see [`Store::append`](crate::store::Store::append)).
#[derive(Debug, Default)]
pub struct Clock {
    last_seq: AtomicI64,
}

impl Clock {
    pub fn now(&self) -> Timestamp {
        // A clock set outside the years 0000 to 9999 is held at the epoch: wrong, but no crash.
        Timestamp::from_unix_ms(unix_us() / 1000).unwrap_or(Timestamp::EPOCH)
    }

    /// The first of `count` consecutive sequence numbers that are the caller's alone: `given`, where a clock that all
    /// replicas share gave them, else by this process's clock. That stays above all that were given, so that numbers go on
    /// increasing when the shared clock is lost.
    pub fn take_seqs(&self, count: usize, given: Option<i64>) -> i64 {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if let Some(first) = given {
            let last = first.saturating_add(count - 1);
            self.last_seq.fetch_max(last, Ordering::Relaxed);
            return first;
        }
        let now = unix_us();
        let first_after = |last: i64| now.max(last.saturating_add(1));
        let taken = self
            .last_seq
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(first_after(last).saturating_add(count - 1))
            });
        // `fetch_update` fails only when its closure returns `None`; either way it gives the previous value.
        first_after(taken.unwrap_or_else(|last| last))
    }
}

fn unix_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_never_meet_and_follow_the_clock() {
        let clock = Clock::default();
        let before = unix_us();
        let first = clock.take_seqs(1000, None);
        let second = clock.take_seqs(1, None);
        assert!(first >= before);
        assert!(second >= first + 1000);
        let shared = second + 1_000_000_000;
        assert_eq!(clock.take_seqs(3, Some(shared)), shared);
        assert_eq!(clock.take_seqs(1, None), shared + 3);
        assert_eq!(clock.take_seqs(1, Some(second)), second);
    }
}
