//! How reads end, and how often each way.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often reads ended in which way, since the process began.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; Outcome::ALL.len()]);

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Hit,
    HitCopy,
    Miss,
    Filtered,
    Pending,
    Beyond,
    Behind,
    Unreachable,
    Suspended,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Hit,
        Self::HitCopy,
        Self::Miss,
        Self::Filtered,
        Self::Pending,
        Self::Beyond,
        Self::Behind,
        Self::Unreachable,
        Self::Suspended,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::HitCopy => "hit_copy",
            Self::Miss => "miss",
            Self::Filtered => "bypass_filtered",
            Self::Pending => "bypass_pending",
            Self::Beyond => "bypass_beyond",
            Self::Behind => "bypass_behind",
            Self::Unreachable => "bypass_unreachable",
            Self::Suspended => "bypass_suspended",
        }
    }
}

impl Counts {
    pub(super) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        let count = |outcome: Outcome| {
            let count = self.0[outcome as usize].load(Ordering::Relaxed);
            (outcome.as_str(), count)
        };
        Outcome::ALL.map(count).into()
    }
}
