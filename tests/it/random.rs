//! Chance that can be repeated: every test that rolls dice prints its seed, and `COLLOQUY_TEST_SEED` gives it back.

use std::time::{SystemTime, UNIX_EPOCH};

/// Xorshift64*: small, and good enough to choose what a test does next.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From `COLLOQUY_TEST_SEED`, else from the clock; prints the seed, which the test runner shows on a failure.
    pub fn seeded() -> Self {
        let given = std::env::var("COLLOQUY_TEST_SEED").ok();
        let seed = match given {
            Some(text) => text.parse().expect("COLLOQUY_TEST_SEED is a number"),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
                since.as_secs() ^ (u64::from(since.subsec_nanos()) << 20)
            }
        };
        println!("repeat with COLLOQUY_TEST_SEED={seed}");
        Self::of(seed)
    }

    pub fn of(seed: u64) -> Self {
        let mut random = Self(seed ^ 0x9e37_79b9_7f4a_7c15);
        random.0 = random.0.max(1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    /// Another source, which this one determines.
    pub fn fork(&mut self) -> Self {
        Self::of(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of `0..end`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("64 bits");
        usize::try_from((self.next() >> 11) % end).expect("less than a usize")
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
