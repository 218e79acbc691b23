//! The database's clock, which is that of the one process that has the file. It never goes back: a claim that has
//! ended once must not stand again because somebody set the time.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime},
};

/// Milliseconds since 1970 in UTC.
pub(super) type UnixMs = i64;

#[derive(Debug, Default)]
pub(super) struct Clock(AtomicI64);

impl Clock {
    pub(super) fn now(&self) -> UnixMs {
        // Before 1970 it is 1970.
        let read = ms(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        self.0.fetch_max(read, Ordering::Relaxed).max(read)
    }
}

pub(super) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let clock = Clock::default();
        let now = clock.now();
        assert!(now > 1_700_000_000_000);
        clock.0.store(now + 1_000_000, Ordering::Relaxed);
        assert_eq!(clock.now(), now + 1_000_000);
    }
}
