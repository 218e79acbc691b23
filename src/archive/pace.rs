//! Throttles: so many a second, evenly.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// Lets at most so many things pass a second; whoever comes too early waits.
pub(super) struct Pace {
    each: Duration,
    /// When the next thing may pass.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// 0 lets everything pass.
    pub(super) fn new(per_s_max: u32) -> Self {
        Self {
            each: match per_s_max {
                0 => Duration::ZERO,
                per_s => Duration::from_secs(1) / per_s,
            },
            next: Mutex::new(None),
        }
    }

    /// Waits until `count` more may pass.
    pub(super) async fn take(&self, count: usize) {
        if self.each.is_zero() {
            return;
        }
        let at = {
            let mut next = self.next.lock().await;
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + self.each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)));
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn things_pass_no_faster_than_their_pace() {
        let (pace, began) = (Pace::new(10), Instant::now());
        for _ in 0..5 {
            pace.take(2).await;
        }
        assert_eq!(began.elapsed(), Duration::from_millis(800));
        let (free, began) = (Pace::new(0), Instant::now());
        free.take(1_000_000).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
