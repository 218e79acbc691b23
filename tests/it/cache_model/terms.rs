//! The times and bounds of the model: short, so that all of them run out within one schedule.

use std::time::Duration;

use colloquy::{
    cache::RedisOptions,
    domain::Limit,
    service::{GroupLimits, Limits},
};

pub const CALL_TIME_MAX: Duration = Duration::from_millis(40);
pub const CONNECT_TIME_MAX: Duration = Duration::from_millis(80);
pub const LEASE: Duration = Duration::from_millis(100);
pub const GATHERING: Duration = Duration::from_millis(300);
pub const ABSENCE_MAX: Duration = Duration::from_millis(500);
pub const FILL_TIME_MAX: Duration = Duration::from_millis(50);
pub const WRITE_TIME_MAX: Duration = Duration::from_millis(120);

/// Either may be all that an entry gets: so little that most fills meet a write, or longer than all else.
pub const AGES_MAX: [Duration; 2] = [Duration::from_millis(80), Duration::from_millis(1_000)];

/// So few that entries are often cut.
const EVENTS_MAX: u16 = 6;

/// A few large events, or more small ones.
const SESSION_BYTES_MAX: usize = 1_400;

/// Enough that a copy is still there when what it was made from has changed.
const PAGES_BYTES_MAX: usize = 1 << 20;

pub fn options(age_max: Duration, unmarked_max: usize) -> RedisOptions {
    RedisOptions {
        prefix: "m".to_owned(),
        call_time_max: CALL_TIME_MAX,
        events_max: Limit::at_most(EVENTS_MAX),
        session_bytes_max: SESSION_BYTES_MAX,
        age_max,
        write_time_max: WRITE_TIME_MAX,
        fill_time_max: FILL_TIME_MAX,
        lease: LEASE,
        absence_max: ABSENCE_MAX,
        gathering: GATHERING,
        unmarked_max,
        pages_bytes_max: PAGES_BYTES_MAX,
    }
}

pub fn limits() -> Limits {
    Limits {
        page_payload_bytes_max: 1 << 20,
        tombstone: Duration::from_hours(24),
        cache_fills_max: 4,
        ready_wait_max: Duration::from_secs(2),
        groups: GroupLimits {
            queue_events_max: 1_000,
            queue_bytes_max: 1 << 20,
            group_events_max: 4,
            group_bytes_max: 1 << 20,
            flush_slots: 2,
            stalled_after: Duration::from_secs(10),
            stalled_events_max: 1_000,
        },
    }
}
