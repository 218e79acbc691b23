//! Sequence numbers that no two replicas give: Redis reserves them, by session.
//!
//! The key `numbers` of a session holds the greatest number reserved, and the process of Redis in which that was so. What holds
//! while Redis answers, and the interleaving that would break it otherwise:
//!
//! 1. **Reservations do not overlap.** One script reads the greatest number, takes those above it and writes it back
//!    (`begin.lua`, `reserve.lua`). Without that, two replicas read the same clock in the same microsecond.
//! 2. **A reserved number is stored as it is**, for the event that it was reserved for, or for none
//!    ([`Append::reserved`](crate::store::Append::reserved)). Otherwise two groups of one replica, of which the later one is
//!    stored first, have the earlier one's numbers raised into a range that another replica reserved.
//! 3. **Reserved numbers are above all that were acknowledged.** `begin.lua` reserves only where it is known that the store
//!    has none above the greatest number: the opening of the session was announced here, or a replica marked its write, asked the
//!    store and reserved above what that said (`reserve.lua`). All later numbers are above these in turn. Otherwise a Redis that is
//!    new, came back with an older copy or lost the key would number by its clock alone, below what was stored by a
//!    clock that was ahead. A Redis that was restarted or failed over is another process, so what it says is not known.
//! 4. **Numbers given without Redis end that knowledge.** The replica that gave them has the session forgotten as soon as
//!    Redis answers again (`forget.lua`), and then the next writer asks the store. Until then this replica raises what is
//!    reserved for it above what it gave itself, and other replicas may reserve a number that it gave.
//! 5. **A wrong clock moves no session.** Numbers follow Redis's clock only while that is within [`SKEW_MAX`] of the
//!    replica's own, and else the replica's own; they are reserved in Redis all the same. A greatest number that is further ahead
//!    than that, and not near what the store has either, is not used. So an answer of a clock that is wrong by more than
//!    [`SKEW_MAX`] has no effect on numbers, and one that is wrong by less has none once so much time has passed.
//!
//! If the key is lost (evicted, flushed, failed over), the next writer asks the store, which does not know of writes that are under
//! way. Their numbers lie below the clock by then, unless they were reserved ahead of it: one microsecond an event, for as
//! long as events come faster than that. So where the session was used so lately that the key must have been lost, numbers
//! go on [`LOST`] after the clock. That is more than ten groups of a thousand events, all of one session, reserve in the same
//! instant. A failover takes longer than a write does, so what its last writes reserved is stored or given up by then.
//!
//! A group that is stored again, in whole or by its parts, reserves again. The first try may have stored events under its own
//! numbers, or may yet do so; nobody else gets those.

use std::time::Duration;

use redis::Value;

use super::entry::{self, decimal};
use crate::cache::{Numbers, Reserve, Wanted};

/// How far Redis's clock may be from a replica's for numbers to follow it.
const SKEW_MAX: Duration = Duration::from_mins(5);

/// How far ahead of the clock numbers may have been reserved by a `seq` that was lost.
const LOST: Duration = Duration::from_millis(10);

/// Numbers up to here are exact in Lua, which has doubles alone, with room to count on. In time that is the year 2255.
const EXACT_MAX: i64 = 9_000_000_000_000_000;

/// What `begin.lua` is told of the numbers that a write needs.
pub(super) fn wanted(wanted: Wanted, process: &str) -> [Vec<u8>; 4] {
    let count = if is_exact(wanted.own_us) { wanted.count } else { 0 };
    let (own, skew) = (decimal(wanted.own_us), decimal(SKEW_MAX.as_micros()));
    [decimal(count), own, skew, process.into()]
}

/// What `begin.lua` said of them.
pub(super) fn begun(first: Value, wanted: Wanted) -> Numbers {
    match entry::integer(first) {
        _ if wanted.count == 0 || !is_exact(wanted.own_us) => Numbers::Own,
        Some(first) => Numbers::Reserved(first),
        None => Numbers::AboveStore,
    }
}

/// What `reserve.lua` is told; `None` where numbers are out of its range.
pub(super) fn above(write: &Reserve, keys_live_ms: Vec<u8>, process: &str) -> Option<Vec<Vec<u8>>> {
    let Reserve { wanted, above, .. } = *write;
    if !is_exact(wanted.own_us) || !above.is_none_or(is_exact) {
        return None;
    }
    Some(vec![
        keys_live_ms,
        decimal(wanted.count),
        decimal(wanted.own_us),
        decimal(SKEW_MAX.as_micros()),
        decimal(LOST.as_micros()),
        process.into(),
        above.map_or_else(Vec::new, decimal),
    ])
}

/// What `finish.lua` is told of a session that is new.
pub(super) fn opened(seq_min: Option<i64>, keys_live_ms: Vec<u8>, process: &str) -> [Vec<u8>; 4] {
    let above = seq_min.map_or(0, |least| least - 1);
    let above = decimal(if is_exact(above) { above } else { 0 });
    ["opened".into(), above, keys_live_ms, process.into()]
}

fn is_exact(number: i64) -> bool {
    (-EXACT_MAX..=EXACT_MAX).contains(&number)
}
