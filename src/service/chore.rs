//! A chore that one process does for all that share a store: each of them runs this loop, and the one that has the chore's
//! [lease](crate::store::leases) does the rounds.
//!
//! - The owner renews its lease every third of its time, also while a round takes long. When it dies, another process has
//!   the lease after its time and the room for clocks, and does the next round at once.
//! - A process without the lease asks again when the lease ends, and after half of its own time at the latest: so a lease
//!   that was given up has a new owner soon.
//! - The owner begins a round only while it may rely on the lease (L1). A round that has begun goes on to its end: two
//!   processes may do one chore at once, see [`leases`](crate::store::leases).
//! - Every wait is longer or shorter by chance, by up to a tenth: processes that were started together drift apart.

use std::{collections::hash_map::RandomState, hash::BuildHasher, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    domain::Result,
    store::leases::{Leases, Taken},
    telemetry::metrics::metrics,
};

/// A chore, and this process as the one that may do it.
#[derive(Clone)]
pub struct Chore {
    pub leases: Arc<dyn Leases>,
    /// Of the lease.
    pub name: &'static str,
    /// This process; no other has the same, nor had it before.
    pub owner: Arc<str>,
    /// How long the lease is taken for.
    pub lease: Duration,
    /// Time from the end of a round to the next.
    pub every: Duration,
}

/// What a process knows of the lease.
struct Turn {
    /// Until when it may rely on having it (L1); `None` where it has it not.
    until: Option<Instant>,
    ask_at: Instant,
    /// When the next round is due. After a change of owner it is due at once: when the last one was is not known.
    due_at: Instant,
}

impl Chore {
    /// Does rounds while this process has the lease, and waits for the lease otherwise; for ever. `lost` is called when
    /// the lease went to another, or may have.
    pub async fn perform<W>(self, mut round: impl FnMut() -> W, lost: impl Fn())
    where
        W: Future<Output = ()> + Send + 'static,
    {
        // Dropped with this future, which ends the round, too.
        let mut under_way = JoinSet::new();
        let now = Instant::now();
        let mut turn = Turn {
            until: None,
            ask_at: now,
            due_at: now,
        };
        metrics().chore_owned(self.name, false);
        loop {
            let may_begin = turn.until.is_some() && under_way.is_empty();
            tokio::select! {
                () = sleep_until(turn.ask_at) => self.ask(&mut turn, &lost).await,
                () = sleep_until(turn.due_at), if may_begin => {
                    if turn.until.is_some_and(|until| Instant::now() < until) {
                        under_way.spawn(round());
                    } else {
                        self.lose(&mut turn, &lost);
                    }
                }
                Some(_) = under_way.join_next(), if !under_way.is_empty() => {
                    turn.due_at = Instant::now() + jittered(self.every);
                }
            }
        }
    }

    async fn ask(&self, turn: &mut Turn, lost: &impl Fn()) {
        // Before the call: see L1.
        let asked = Instant::now();
        match self.leases.take_lease(self.name, &self.owner, self.lease).await {
            Ok(Taken::Held) => {
                if turn.until.replace(asked + self.lease).is_none() {
                    turn.due_at = asked;
                    tracing::info!(chore = self.name, "this process does the chore from now on");
                    metrics().chore_owned(self.name, true);
                }
                turn.ask_at = Instant::now() + jittered(self.lease / 3);
            }
            Ok(Taken::ByAnother(left)) => {
                self.lose(turn, lost);
                turn.ask_at = Instant::now() + jittered(left.min(self.lease / 2));
            }
            Err(error) => {
                tracing::debug!(chore = self.name, %error, "the lease of a chore could not be taken or renewed");
                if turn.until.is_some_and(|until| Instant::now() >= until) {
                    self.lose(turn, lost);
                }
                turn.ask_at = Instant::now() + jittered(self.lease / 6);
            }
        }
    }

    fn lose(&self, turn: &mut Turn, lost: &impl Fn()) {
        if turn.until.take().is_some() {
            tracing::info!(chore = self.name, "this process does the chore no longer");
            metrics().chore_owned(self.name, false);
            lost();
        }
    }

    /// Gives the lease up, so that another process goes on at once. Only after [`perform`](Self::perform) was dropped: it
    /// would take the lease again.
    ///
    /// # Errors
    /// As [`Leases::give_up_lease`]. Then the lease ends by itself.
    pub async fn give_up(&self) -> Result<()> {
        metrics().chore_owned(self.name, false);
        self.leases.give_up_lease(self.name, &self.owner).await
    }
}

/// This time, longer or shorter by up to a tenth.
pub fn jittered(time: Duration) -> Duration {
    // Keyed anew each time, so that the hash of nothing is a random number.
    let random = RandomState::new().hash_one(()) % 2_001;
    time.mul_f64(0.9 + 0.2 * random as f64 / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_differ_by_chance_and_by_a_tenth_at_most() {
        let time = Duration::from_secs(10);
        let waits: Vec<_> = (0..1_000).map(|_| jittered(time)).collect();
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(9) && *most <= Duration::from_secs(11));
        // By chance, all of a thousand lie within a half of that once in 2^999 times.
        assert!(*most - *least > Duration::from_secs(1), "{least:?} {most:?}");
        assert_eq!(jittered(Duration::ZERO), Duration::ZERO);
    }
}
