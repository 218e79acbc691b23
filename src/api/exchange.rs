//! What a connection and the requests on it know of each other.
//!
//! A [`Connection`](super::connection::Connection) sees bytes only. Whether a peer that sends nothing is idle or waits for
//! its answer, and whether it takes what it was answered, is known where requests are served: there, requests and answers
//! are entered here, and the connection looks.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

/// An answer counts as being taken while the peer takes at least so many bytes, or what is left of it, in the time that a
/// connection may stall.
const PROGRESS_BYTES: usize = 64 * 1024;

/// The requests of one connection.
#[derive(Default)]
pub struct Exchange {
    begun: AtomicUsize,
    under_way: AtomicUsize,
    unread: AtomicUsize,
    answers: Mutex<Vec<Arc<Taking>>>,
}

/// A request, or an answer that was not taken whole, under way while this exists.
pub struct UnderWay(Arc<Exchange>);

/// How far the peer is with an answer.
pub struct Taking(Mutex<Taken>);

struct Taken {
    /// Given to the connection, and taken by the peer, in bytes.
    given: usize,
    taken: usize,
    /// When it last took [`PROGRESS_BYTES`], or had nothing to take.
    since: Instant,
}

impl Exchange {
    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay::new(self)
    }

    /// How many requests have begun so far.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether a request is under way, or an answer was not taken whole.
    pub fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Whether the peer may still be sending a body that nobody reads.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed) > 0
    }

    /// Since when the answer has stood still that did so first; `None` if all are taken, or there are none.
    pub fn still_since(&self) -> Option<Instant> {
        self.answers()
            .iter()
            .filter_map(|answer| answer.still_since())
            .min()
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Arc<Taking>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn new(exchange: &Arc<Exchange>) -> Self {
        exchange.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(exchange))
    }

    /// The request was answered before its body was read.
    pub fn left_unread(&self) {
        self.0.unread.fetch_add(1, Ordering::Relaxed);
    }

    /// Its body was read after all.
    pub fn read(&self) {
        self.0.unread.fetch_sub(1, Ordering::Relaxed);
    }

    /// Enters an answer.
    pub fn answer(&self) -> Arc<Taking> {
        let taking = Arc::new(Taking(Mutex::new(Taken {
            given: 0,
            taken: 0,
            since: Instant::now(),
        })));
        let mut answers = self.0.answers();
        // Those that are held here alone were taken, or given up.
        answers.retain(|answer| Arc::strong_count(answer) > 1);
        answers.push(Arc::clone(&taking));
        taking
    }
}

impl Clone for UnderWay {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Taking {
    /// So many bytes are there to be taken.
    pub fn gave(&self, bytes: usize) {
        let mut taken = self.lock();
        if taken.given == taken.taken {
            taken.since = Instant::now();
        }
        taken.given += bytes;
    }

    /// So many bytes were taken.
    pub fn took(&self, bytes: usize) {
        let mut taken = self.lock();
        let before = taken.taken / PROGRESS_BYTES;
        taken.taken += bytes;
        if taken.taken / PROGRESS_BYTES > before {
            taken.since = Instant::now();
        }
    }

    fn still_since(&self) -> Option<Instant> {
        let taken = self.lock();
        (taken.given > taken.taken).then_some(taken.since)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_stands_still_until_enough_of_it_is_taken() {
        let exchange = Arc::new(Exchange::default());
        let request = exchange.begin();
        assert!(exchange.is_busy() && exchange.still_since().is_none());
        let answer = request.answer();
        assert!(exchange.still_since().is_none(), "nothing was given yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        let given = Instant::now();
        answer.gave(2 * PROGRESS_BYTES + 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        answer.took(PROGRESS_BYTES - 1);
        assert_eq!(exchange.still_since(), Some(given), "a trickle is no progress");
        answer.took(1);
        assert_eq!(exchange.still_since(), Some(Instant::now()));
        answer.took(PROGRESS_BYTES + 1);
        assert_eq!(exchange.still_since(), None, "it was taken whole");
        drop((answer, request));
        assert!(!exchange.is_busy());
    }

    #[test]
    fn answers_that_are_gone_are_forgotten() {
        let exchange = Arc::new(Exchange::default());
        let request = exchange.begin();
        for _ in 0..1000 {
            request.answer().gave(1);
        }
        assert!(exchange.answers().len() <= 2);
    }
}
