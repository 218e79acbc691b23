//! A cache in this process, for a store that this process has to itself: answers as they were sent, and nothing else.
//!
//! Sessions share a fixed number of slots. A slot counts the writes that began, and those that are under way. An answer is
//! kept with the number of writes begun that its reader saw before it asked the store, when none was under way; it is
//! sent again only while both are still so. Then no write can have come between the two: the store would say the same.
//! That is all there is to I3 here, so a write takes nothing away, and an answer may be kept however late.
//!
//! A write of which nobody knows what became may be carried out later. It stays under way until another one that began
//! after it was answered with success: the store carries writes out in the order in which it got them
//! (`store/sqlite/writer.rs`), so there is nothing left of those before. A write that is never finished stays under way
//! for ever, and so do, as far as the cache goes, the sessions of its slot: their reads ask the store.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;

use super::{
    Begun, Cache, Change, Found, Health, Lease, Lookup, Place, Query, Rendered, Wanted,
    pages::{Pages, Stamp},
};
use crate::domain::{Limit, SessionKey};

/// So many that one session's writes seldom take another's answers away: with a thousand writes a second, each slot
/// sees one a minute.
const SLOTS: usize = 1 << 16;

/// The lower bits of a slot count the writes under way, of which there are never so many; the others, those that began.
const UNDER_WAY_BITS: u32 = 20;
const UNDER_WAY: u64 = (1 << UNDER_WAY_BITS) - 1;
const ONE_BEGUN: u64 = 1 << UNDER_WAY_BITS;

/// A cache in memory.
pub struct MemoryCache {
    pages: Pages,
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
    /// Writes begun, in all slots.
    begun: AtomicU64,
    /// Slots with writes of which nobody knows what became, and how many had begun when the last of those was given up.
    /// One of them counts as under way, for all of a slot.
    doubts: Mutex<HashMap<usize, u64>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    pending: AtomicU64,
    behind: AtomicU64,
}

impl MemoryCache {
    /// With room for so many bytes of answers.
    ///
    /// The store must be written to through this cache alone, and carry writes out in the order in which it gets them.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            pages: Pages::new(bytes_max),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            begun: AtomicU64::new(0),
            doubts: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Bytes of answers that are kept.
    pub fn bytes(&self) -> u64 {
        self.pages.bytes()
    }

    fn slot(&self, key: &SessionKey) -> usize {
        // Fewer than 2^16.
        (self.hasher.hash_one(key) % SLOTS as u64) as usize
    }

    fn doubts(&self) -> MutexGuard<'_, HashMap<usize, u64>> {
        // Nothing panics while it holds the lock.
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, slot: usize) {
        self.slots[slot].fetch_sub(1, Ordering::SeqCst);
    }

    /// A write that began as the `nth` was carried out, and with it all that were given up before it began.
    fn settle(&self, nth: u64) {
        self.doubts().retain(|&slot, given_up_at| {
            let settled = *given_up_at <= nth;
            if settled {
                self.release(slot);
            }
            !settled
        });
    }
}

/// Whether this outcome shows that the store carried the write out.
fn is_carried_out(change: Change<'_>) -> bool {
    match change {
        Change::Session(_) => true,
        Change::Events(events) => !events.is_empty(),
        // What was refused may have been so before it came to the writer; a session that is gone may be no write at all.
        Change::Nothing | Change::Unknown { .. } | Change::Replaced | Change::Opened { .. } => false,
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn begin(&self, key: &SessionKey, _wanted: Wanted) -> Begun {
        self.slots[self.slot(key)].fetch_add(ONE_BEGUN + 1, Ordering::SeqCst);
        Begun {
            marked: true,
            nth: self.begun.fetch_add(1, Ordering::SeqCst),
            ..Begun::unmarked(key.clone(), String::new())
        }
    }

    async fn finish(&self, begun: Begun, change: Change<'_>) {
        let slot = self.slot(&begun.key);
        if matches!(change, Change::Unknown { .. }) {
            let given_up_at = self.begun.load(Ordering::SeqCst);
            if self.doubts().insert(slot, given_up_at).is_none() {
                return;
            }
        } else if is_carried_out(change) {
            self.settle(begun.nth);
        }
        self.release(slot);
    }

    async fn read(&self, key: &SessionKey, query: &Query) -> Lookup {
        if query.min_seq.is_some() {
            // A copy does not tell which events it holds.
            self.counts.behind.fetch_add(1, Ordering::Relaxed);
            return Lookup::Bypass;
        }
        // Before anything is asked of the store, and before the copy is looked at.
        let writes = self.slots[self.slot(key)].load(Ordering::SeqCst);
        if writes & UNDER_WAY != 0 {
            self.counts.pending.fetch_add(1, Ordering::Relaxed);
            return Lookup::Bypass;
        }
        let stamp = Stamp::Writes(writes);
        match self.pages.get(key, &query.shape) {
            Some(kept) if kept.stamp == stamp => {
                self.counts.hits.fetch_add(1, Ordering::Relaxed);
                Lookup::Same(kept.rendered)
            }
            _ => {
                self.counts.misses.fetch_add(1, Ordering::Relaxed);
                Lookup::Miss {
                    lease: None,
                    place: Some(Place::new(key, &query.shape, stamp)),
                }
            }
        }
    }

    async fn fill(&self, _lease: Lease, _found: Found<'_>) {}

    fn keep(&self, place: Place, rendered: Rendered) {
        self.pages.keep(place, rendered);
    }

    fn wants(&self) -> Option<Limit> {
        None
    }

    fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let Counts {
            hits,
            misses,
            pending,
            behind,
        } = &self.counts;
        let counts = [
            ("hit_copy", hits),
            ("miss", misses),
            ("bypass_pending", pending),
            ("bypass_behind", behind),
        ];
        counts
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .into()
    }

    fn health(&self) -> Health {
        Health::Ok
    }

    fn unmarked(&self) -> usize {
        0
    }

    async fn close(&self) {}
}
