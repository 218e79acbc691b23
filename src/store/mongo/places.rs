//! Which shard of a cluster has which sessions, as far as this process knows: so that appends to different shards go apart, and a
//! shard without a primary keeps only its own waiting ([`Store::place`](crate::store::Store::place)).
//!
//! The router knows where a statement has to go; here it is only guessed, from the chunks as they were when they were last looked
//! at. A chunk that moved since makes a group that has events of two shards, as all groups would be otherwise, until the next
//! look. Nothing else hangs on it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::Instant;

use super::setup::{self, Chunks, admin::Server};
use crate::store::Place;

/// After how long the chunks are looked at again.
const LOOK_EVERY: Duration = Duration::from_mins(10);

/// After how long at the earliest, where an append failed or was slow.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What an append takes at most that is no reason to look again.
const QUICK: Duration = Duration::from_secs(1);

/// The ranges of keys and their shards, of a process.
pub(super) struct Places {
    server: Server,
    database: String,
    ranges: RwLock<Ranges>,
    looked_at: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Ranges {
    /// Every shard that was ever seen, by its number.
    shards: HashMap<String, u32>,
    /// `None` where there is but one place. The lower ends of chunks, ascending, with the numbers of their shards.
    chunks: Option<[Vec<(String, u32)>; 2]>,
}

impl Ranges {
    fn learn(&mut self, found: Option<[Chunks; 2]>) {
        self.chunks = found.map(|both| {
            both.map(|chunks| {
                let number = |(min, shard)| {
                    let next = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
                    (min, *self.shards.entry(shard).or_insert(next))
                };
                chunks.into_iter().map(number).collect()
            })
        });
    }

    /// The two shards that have the session and its events, as one number. They are the same one as long as the balancer leaves
    /// the chunks alone.
    fn place(&self, k: &str) -> Place {
        let Some(both) = &self.chunks else {
            return Place::default();
        };
        let shard = |chunks: &Vec<(String, u32)>| {
            let behind = chunks.partition_point(|(min, _)| min.as_str() <= k);
            chunks
                .get(behind.saturating_sub(1))
                .map_or(0, |(_, shard)| *shard)
        };
        let [sessions, events] = both.each_ref().map(shard);
        Place((sessions << 16 | (events & 0xffff)).saturating_add(1))
    }
}

impl Places {
    pub(super) fn new(server: Server, database: String) -> Self {
        Self {
            server,
            database,
            ranges: RwLock::default(),
            looked_at: Mutex::default(),
        }
    }

    /// Of the session with this key.
    pub(super) fn of(&self, k: &str) -> Place {
        self.ranges
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .place(k)
    }

    /// Looks at the chunks. What was known stays where that fails.
    pub(super) async fn look(&self) {
        *self.looked_at() = Some(Instant::now());
        match setup::chunks(&self.server, &self.database).await {
            Ok(found) => self
                .ranges
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .learn(found),
            Err(error) => tracing::debug!(%error, "where sessions lie could not be looked up"),
        }
    }

    /// Looks again, behind the back of whoever appends, where it is time to: sooner when an append failed or took long.
    pub(super) fn appended(self: &Arc<Self>, is_good: bool, took: Duration) {
        let after = match is_good && took < QUICK {
            true => LOOK_EVERY,
            false => LOOK_AGAIN_AFTER,
        };
        let is_time = {
            let mut looked_at = self.looked_at();
            let is_time = looked_at.is_none_or(|at| at.elapsed() >= after);
            if is_time {
                *looked_at = Some(Instant::now());
            }
            is_time
        };
        if is_time {
            let places = Arc::clone(self);
            tokio::spawn(async move { places.look().await });
        }
    }

    fn looked_at(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(of: &[(&str, &str)]) -> Chunks {
        of.iter()
            .map(|(min, shard)| ((*min).to_owned(), (*shard).to_owned()))
            .collect()
    }

    #[test]
    fn a_session_lies_where_its_chunk_and_that_of_its_events_do() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.place("7fff:default/s"), Place::default());
        let dealt = chunks(&[("", "a"), ("4000", "b"), ("8000", "a"), ("c000:default/s-7", "b")]);
        ranges.learn(Some([dealt.clone(), dealt.clone()]));
        let place = |ranges: &Ranges, k: &str| ranges.place(k);
        let (a, b) = (place(&ranges, "0000:default/s"), place(&ranges, "4000:default/s"));
        assert_ne!(a, b);
        for (k, expected) in [
            ("3fff:default/s", a),
            ("7fff:default/s", b),
            ("8000:default/s", a),
            ("c000:default/s-6", a),
            ("c000:default/s-7", b),
            ("ffff:default/s", b),
        ] {
            assert_eq!(ranges.place(k), expected, "{k}");
        }
        // The balancer moved the events of some, which then hang on both shards.
        let moved = chunks(&[("", "a"), ("4000", "c"), ("8000", "a"), ("c000:default/s-7", "b")]);
        ranges.learn(Some([dealt, moved]));
        assert_eq!(ranges.place("0000:default/s"), a, "as it was");
        assert_eq!(ranges.place("ffff:default/s"), b);
        let both = ranges.place("4000:default/s");
        assert!(both != a && both != b, "{both:?}");
        ranges.learn(None);
        assert_eq!(ranges.place("ffff:default/s"), Place::default());
    }
}
