//! What bounds a cache in Redis (I9).

use std::time::Duration;

use crate::domain::Limit;

/// The limits of a [`RedisCache`](super::RedisCache).
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// What every key begins with.
    pub prefix: String,
    /// Longest that a call may take.
    pub call_time_max: Duration,
    /// Most events of a session that are kept; the newest.
    pub events_max: Limit,
    /// Most bytes of JSON that the events of a session may take.
    pub session_bytes_max: usize,
    /// Longest that an entry lives, however often it is used.
    pub age_max: Duration,
    /// After how long a writer counts as dead; longer than a write takes.
    pub write_time_max: Duration,
    /// Longest that a reader may take from the store to the fill.
    pub fill_time_max: Duration,
    /// For how long a replica vouches at a time; what a write may have to wait when Redis goes away.
    pub lease: Duration,
    /// After how long a silence a replica is given up, and all entries with it.
    pub absence_max: Duration,
    /// How long nobody believes a Redis that is new.
    pub gathering: Duration,
    /// Sessions that were written to while Redis was away and are remembered one by one; past that, all entries go.
    pub unmarked_max: usize,
    /// Most bytes of answers that are kept in this process as they were sent; 0: none are.
    pub pages_bytes_max: usize,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "colloquy".to_owned(),
            call_time_max: Duration::from_millis(50),
            events_max: Limit::at_most(200),
            session_bytes_max: 1024 * 1024,
            age_max: Duration::from_mins(5),
            write_time_max: Duration::from_secs(30),
            fill_time_max: Duration::from_secs(2),
            lease: Duration::from_millis(80),
            absence_max: Duration::from_secs(10),
            gathering: Duration::from_secs(1),
            unmarked_max: 10_000,
            pages_bytes_max: 32 * 1024 * 1024,
        }
    }
}
