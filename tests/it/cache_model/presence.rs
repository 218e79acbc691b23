//! Whose writes I3 covers: the exceptions of the module `vouching`, and nothing more.
//!
//! They are told from what the model did and what reached Redis, not from what the scripts made of it, so that a broken
//! script excuses nothing.

use std::collections::BTreeMap;

use super::terms::{ABSENCE_MAX, GATHERING, LEASE};

/// When each replica was last heard in Redis; times in microseconds of Redis's clock.
#[derive(Debug, Default)]
pub struct Presence {
    /// When Redis began to know nothing: it was started, restarted or flushed.
    empty_since_us: Option<i64>,
    replicas: BTreeMap<usize, Heard>,
}

#[derive(Debug)]
struct Heard {
    /// Until when its last word held. It is absent from then on.
    until_us: i64,
    /// From when on all who believe Redis know of it.
    known_us: i64,
}

impl Presence {
    /// Redis is new, or has lost its registry.
    pub fn emptied(&mut self, now_us: i64) {
        self.replicas.clear();
        self.empty_since_us = Some(now_us);
    }

    /// A replica's word was run in Redis, with these arguments.
    pub fn heard(&mut self, replica: usize, args: &[Vec<u8>], now_us: i64) {
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<i64>().unwrap();
        let excepted = self.is_excepted(replica, now_us);
        let heard = self.replicas.entry(replica).or_insert(Heard {
            until_us: now_us,
            known_us: now_us,
        });
        heard.until_us = match args[1].as_slice() {
            b"join" => now_us,
            _ => number(&args[2]),
        };
        if excepted {
            // Who asked just before believes for a lease that there is no such replica.
            heard.known_us = now_us + us(LEASE);
        }
    }

    /// A replica got the answer to its word: from now on it waits, by itself, for those who do not know of it.
    pub fn answered(&mut self, replica: usize, now_us: i64) {
        if let Some(heard) = self.replicas.get_mut(&replica) {
            heard.known_us = heard.known_us.min(now_us);
        }
    }

    /// Whether I3 does not cover what a replica writes now: it was cut off for longer than `absence_max`, or from its
    /// start, or for as long as a new registry waits.
    pub fn is_excepted(&self, replica: usize, now_us: i64) -> bool {
        match self.replicas.get(&replica) {
            None => {
                let since = self.empty_since_us.unwrap_or(i64::MIN);
                now_us > since.saturating_add(us(GATHERING))
            }
            Some(heard) => now_us < heard.known_us || now_us > heard.until_us + us(ABSENCE_MAX),
        }
    }
}

fn us(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}
