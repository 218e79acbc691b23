//! The greatest `seq` of each session, as far as this process knows: what lets it hand out greater ones without
//! asking the database for the greatest of a session at every append.
//!
//! A number is proposed in one of two ways:
//!
//! - **Reserved**, by Redis, for one event among all processes. It is stored as it is. Were it raised because another
//!   group of this process was stored first, it would leave the reserved range and meet a number that another process
//!   reserved: process A reserves 100 to 299 for one group and 300 for the next, B reserves 301; the 300 is stored first,
//!   and 100 to 299, raised above it, become 301 to 500. Only a number that is not above those which this process gave by
//!   its own clock is raised: Redis was away then, and does not know of them yet.
//! - **By this process's own clock**, without Redis or while it is away. It is raised above every number that this process
//!   gave in the session; above what the database had when this process first gave one so; and, for an event without a
//!   timestamp, above what lies ahead of the clock in the database now
//!   ([`last_sequences_ahead`](super::inserts::last_sequences_ahead)).
//!
//! What follows:
//! 1. Numbers that one process gives in one session differ, and those of a call are greater than those of calls that
//!    were answered before it.
//! 2. Where all numbers of a session are reserved, no two are the same.
//! 3. By their own clocks, two processes that append to one session at the same time may give the same number: neither
//!    sees what the other is about to store. Where events have timestamps of their own, they may do so at different
//!    times as well, while their clocks are apart.
//! 4. An event without a timestamp reads after every such event that was acknowledged before its append began: where both
//!    numbers are reserved, always; where this one is not, if the clocks are less than a day apart.

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
    newer: HashMap<String, Known>,
    older: HashMap<String, Known>,
}

/// A number proposed for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proposal {
    Reserved(i64),
    /// By this process's clock.
    Own(i64),
}

/// What is known of a session's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Known {
    /// The greatest, whoever gave it.
    last: Option<i64>,
    /// The greatest that this process gave without a reservation.
    own: Option<i64>,
    /// The database was asked for the greatest, or has none.
    asked: bool,
}

impl Known {
    /// Takes a number; `None` when the last one is given.
    fn take(&mut self, proposal: Proposal) -> Option<i64> {
        match proposal {
            Proposal::Reserved(seq) if self.own.is_none_or(|own| seq > own) => {
                self.last = self.last.max(Some(seq));
                Some(seq)
            }
            Proposal::Reserved(seq) | Proposal::Own(seq) => {
                let next = match self.last {
                    Some(last) if seq <= last => last.checked_add(1)?,
                    _ => seq,
                };
                (self.last, self.own) = (Some(next), Some(next));
                Some(next)
            }
        }
    }
}

/// Numbers taken for the events of one session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    before: Known,
    after: Known,
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

    /// Whether the database was asked for the greatest number of the session.
    pub(super) fn knows(&self, session: &str) -> bool {
        self.lock().recall(session).is_some_and(|known| known.asked)
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
        let mut known = halves.recall(session).unwrap_or_default();
        known.last = known.last.max(last);
        known.asked = true;
        halves.remember(session, known, self.half_max);
    }

    /// Takes note of a stored number, which may not be the greatest.
    pub(super) fn met(&self, session: &str, seq: i64) {
        let mut halves = self.lock();
        if let Some(mut known) = halves.recall(session).filter(|known| known.last < Some(seq)) {
            known.last = Some(seq);
            halves.remember(session, known, self.half_max);
        }
    }

    /// Whether each of these numbers would be given as it is proposed.
    pub(super) fn would_give(&self, session: &str, proposals: &[Proposal]) -> bool {
        let mut known = self.lock().recall(session).unwrap_or_default();
        proposals.iter().all(|&proposal| {
            let (Proposal::Reserved(seq) | Proposal::Own(seq)) = proposal;
            known.take(proposal) == Some(seq)
        })
    }

    /// Takes a number for each proposal that a number is left for; there are fewer numbers than proposals when the
    /// last one is given.
    pub(super) fn take(&self, session: &str, proposals: &[Proposal]) -> Taken {
        let mut halves = self.lock();
        let before = halves.recall(session).unwrap_or_default();
        let mut after = before;
        let seqs = proposals
            .iter()
            .map_while(|&proposal| after.take(proposal))
            .collect();
        halves.remember(session, after, self.half_max);
        Taken { before, after, seqs }
    }

    /// Gives back the numbers that no event got, where they were the last ones given; `stored` is the greatest that
    /// one did get.
    pub(super) fn settle(&self, session: &str, taken: &Taken, stored: Option<i64>) {
        let mut halves = self.lock();
        let Taken { before, after, .. } = *taken;
        if before == after || after.last == stored || halves.recall(session) != Some(after) {
            return;
        }
        let own = if before.own == after.own { None } else { stored };
        let settled = Known {
            last: before.last.max(stored),
            own: before.own.max(own),
            asked: before.asked,
        };
        halves.remember(session, settled, self.half_max);
    }
}

impl Halves {
    fn recall(&self, session: &str) -> Option<Known> {
        self.newer
            .get(session)
            .or_else(|| self.older.get(session))
            .copied()
    }

    fn remember(&mut self, session: &str, known: Known, half_max: usize) {
        if let Some(newer) = self.newer.get_mut(session) {
            *newer = known;
            return;
        }
        if self.newer.len() >= half_max {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(session.to_owned(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(seqs: &[i64]) -> Vec<Proposal> {
        seqs.iter().copied().map(Proposal::Own).collect()
    }

    fn reserved(seqs: impl IntoIterator<Item = i64>) -> Vec<Proposal> {
        seqs.into_iter().map(Proposal::Reserved).collect()
    }

    #[test]
    fn numbers_are_the_proposed_ones_or_greater() {
        let sequences = Sequences::new(10);
        sequences.learn("s", None);
        let take = |seqs: &[i64]| sequences.take("s", &own(seqs)).seqs;
        assert_eq!(take(&[i64::MIN, -40, 1_000]), [i64::MIN, -40, 1_000]);
        assert_eq!(take(&[1_000, 3, 2_000]), [1_001, 1_002, 2_000]);
        assert_eq!(take(&[i64::MAX - 1, 0, 0, 5]), [i64::MAX - 1, i64::MAX]);
        assert!(take(&[0]).is_empty());
    }

    #[test]
    fn reserved_numbers_stay_in_their_range_whichever_group_is_stored_first() {
        let sequences = Sequences::new(10);
        assert_eq!(sequences.take("s", &reserved([300])).seqs, [300]);
        let earlier: Vec<i64> = (100..300).collect();
        assert!(sequences.would_give("s", &reserved(earlier.clone())));
        assert_eq!(sequences.take("s", &reserved(earlier.clone())).seqs, earlier);
        // When Redis is away, this process's own go on above all of them.
        assert_eq!(sequences.take("s", &own(&[150, 160])).seqs, [301, 302]);
        // Redis does not know of these, and what it reserves is raised above them.
        assert!(!sequences.would_give("s", &reserved([301])));
        assert_eq!(sequences.take("s", &reserved([301, 302])).seqs, [303, 304]);
        assert_eq!(sequences.take("s", &reserved([400, 401])).seqs, [400, 401]);
    }

    #[test]
    fn what_was_learnt_raises_no_reserved_number() {
        let sequences = Sequences::new(10);
        sequences.learn("s", Some(500));
        sequences.met("s", 600);
        assert_eq!(sequences.take("s", &reserved([100])).seqs, [100]);
        assert_eq!(sequences.take("s", &own(&[100])).seqs, [601]);
    }

    #[test]
    fn one_number_of_an_unknown_session_says_nothing_of_its_greatest() {
        let sequences = Sequences::new(10);
        sequences.met("s", 7);
        assert!(!sequences.knows("s"));
        sequences.take("s", &reserved([9]));
        assert!(!sequences.knows("s"));
        sequences.learn("s", Some(20));
        assert!(sequences.knows("s"));
        assert_eq!(sequences.take("s", &own(&[8])).seqs, [21]);
    }

    #[test]
    fn numbers_that_nobody_got_are_given_again() {
        let sequences = Sequences::new(10);
        sequences.learn("s", Some(10));
        let refused = sequences.take("s", &own(&[90]));
        sequences.settle("s", &refused, None);
        let half = sequences.take("s", &own(&[50, 60]));
        assert_eq!(half.seqs, [50, 60]);
        sequences.settle("s", &half, Some(50));
        assert_eq!(sequences.take("s", &own(&[51])).seqs, [51]);
        let refused = sequences.take("s", &reserved([90]));
        sequences.settle("s", &refused, None);
        assert_eq!(sequences.take("s", &own(&[52])).seqs, [52]);
    }

    #[test]
    fn numbers_under_way_elsewhere_are_not_given_again() {
        let sequences = Sequences::new(10);
        sequences.learn("s", None);
        let first = sequences.take("s", &own(&[5]));
        let second = sequences.take("s", &own(&[5]));
        assert_eq!(second.seqs, [6]);
        sequences.settle("s", &first, None);
        assert_eq!(sequences.take("s", &own(&[5])).seqs, [7]);
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
        sequences.take("s", &own(&[7]));
        sequences.learn("s", Some(3));
        assert!(!sequences.would_give("s", &own(&[7])));
        assert!(sequences.would_give("s", &own(&[8, 9])));
        assert!(!sequences.would_give("s", &own(&[9, 8])));
    }
}
