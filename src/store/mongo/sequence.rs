//! The greatest `seq` of each session, as far as this process knows: what lets it hand out greater ones without
//! asking the database at every append.
//!
//! What holds, and what does not: within a process, numbers of a session always increase. A process that does not
//! know a session asks for the greatest stored number first, and stays above it. One that knows the session goes by
//! the clock and by what it gave out itself: where another process, whose clock runs ahead, appended in between,
//! its number may be the lower of the two, by at most the difference of the clocks. It breaks ties of timestamps
//! only, so what such an inversion can change is the order of events with the same millisecond; no event is lost or
//! doubled by it, because the event id orders what is left. Redis, where there is one, proposes from one clock and
//! from the last number of the session, and then it can't happen.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A bounded memory: when the newer half is full, the older half is forgotten.
pub(super) struct Sequences {
    half_max: usize,
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    newer: HashMap<String, Option<i64>>,
    older: HashMap<String, Option<i64>>,
}

/// Numbers taken for the events of one session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    before: Option<i64>,
    pub(super) seqs: Vec<i64>,
}

impl Sequences {
    pub(super) fn new(sessions_max: usize) -> Self {
        Self {
            half_max: (sessions_max / 2).max(1),
            halves: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        // Nothing panics while it holds the lock, and a memory may be incomplete.
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn knows(&self, session: &str) -> bool {
        let halves = self.lock();
        halves.newer.contains_key(session) || halves.older.contains_key(session)
    }

    /// Forgets a session that was erased, or is new under an id that was used before.
    pub(super) fn forget(&self, session: &str) {
        let mut halves = self.lock();
        halves.newer.remove(session);
        halves.older.remove(session);
    }

    /// Takes note of the greatest stored number, `None` where there is no event.
    pub(super) fn learn(&self, session: &str, last: Option<i64>) {
        let mut halves = self.lock();
        let known = halves.recall(session).flatten();
        halves.remember(session, known.max(last), self.half_max);
    }

    /// Whether each proposal is greater than what is stored and than the one before it, so that it can be given.
    pub(super) fn would_give(&self, session: &str, proposals: &[i64]) -> bool {
        let last = self.lock().recall(session).flatten();
        last.is_none_or(|last| proposals.first().is_none_or(|&first| first > last))
            && proposals.windows(2).all(|pair| pair[0] < pair[1])
    }

    /// Takes a number for each proposal that a number is left for; there are fewer numbers than proposals when the
    /// last one is given.
    pub(super) fn take(&self, session: &str, proposals: &[i64]) -> Taken {
        let mut halves = self.lock();
        let before = halves.recall(session).flatten();
        let mut last = before;
        let mut seqs = Vec::with_capacity(proposals.len());
        for &proposed in proposals {
            let next = match last {
                Some(last) if proposed <= last => last.checked_add(1),
                _ => Some(proposed),
            };
            let Some(next) = next else { break };
            seqs.push(next);
            last = Some(next);
        }
        halves.remember(session, last, self.half_max);
        Taken { before, seqs }
    }

    /// Gives back the numbers that no event got, where they were the last ones given; `stored` is the greatest that
    /// one did get.
    pub(super) fn settle(&self, session: &str, taken: &Taken, stored: Option<i64>) {
        let mut halves = self.lock();
        let last = taken.seqs.last().copied();
        if last != stored && last.is_some() && halves.recall(session) == Some(last) {
            halves.remember(session, taken.before.max(stored), self.half_max);
        }
    }
}

impl Halves {
    fn recall(&self, session: &str) -> Option<Option<i64>> {
        self.newer
            .get(session)
            .or_else(|| self.older.get(session))
            .copied()
    }

    fn remember(&mut self, session: &str, last: Option<i64>, half_max: usize) {
        if let Some(known) = self.newer.get_mut(session) {
            *known = last;
            return;
        }
        if self.newer.len() >= half_max {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(session.to_owned(), last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_proposed_ones_or_greater() {
        let sequences = Sequences::new(10);
        sequences.learn("s", None);
        assert_eq!(
            sequences.take("s", &[i64::MIN, -40, 1_000]).seqs,
            [i64::MIN, -40, 1_000]
        );
        assert_eq!(
            sequences.take("s", &[1_000, 3, 2_000]).seqs,
            [1_001, 1_002, 2_000]
        );
        assert_eq!(
            sequences.take("s", &[i64::MAX - 1, 0, 0, 5]).seqs,
            [i64::MAX - 1, i64::MAX]
        );
        assert!(sequences.take("s", &[0]).seqs.is_empty());
    }

    #[test]
    fn numbers_that_nobody_got_are_given_again() {
        let sequences = Sequences::new(10);
        sequences.learn("s", Some(10));
        let refused = sequences.take("s", &[90]);
        sequences.settle("s", &refused, None);
        let half = sequences.take("s", &[50, 60]);
        assert_eq!(half.seqs, [50, 60]);
        sequences.settle("s", &half, Some(50));
        assert_eq!(sequences.take("s", &[51]).seqs, [51]);
    }

    #[test]
    fn numbers_under_way_elsewhere_are_not_given_again() {
        let sequences = Sequences::new(10);
        sequences.learn("s", None);
        let first = sequences.take("s", &[5]);
        let second = sequences.take("s", &[5]);
        assert_eq!(second.seqs, [6]);
        sequences.settle("s", &first, None);
        assert_eq!(sequences.take("s", &[5]).seqs, [7]);
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_newest() {
        let sequences = Sequences::new(8);
        for n in 0..100 {
            sequences.learn(&n.to_string(), Some(n));
        }
        assert!(sequences.knows("99") && sequences.knows("97"));
        assert!(!sequences.knows("0") && !sequences.knows("90"));
    }

    #[test]
    fn what_is_learnt_never_lowers_what_is_known() {
        let sequences = Sequences::new(8);
        sequences.take("s", &[7]);
        sequences.learn("s", Some(3));
        assert!(!sequences.would_give("s", &[7]));
        assert!(sequences.would_give("s", &[8, 9]));
        assert!(!sequences.would_give("s", &[9, 8]));
    }
}
