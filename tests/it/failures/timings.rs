//! How long requests took, in the stretches of time that a test names. Printed, not judged: what a busy machine makes of
//! it is no property of the code.

use std::{
    fmt::{self, Display, Formatter},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub sent: Instant,
    pub took: Duration,
    pub write: bool,
    /// Answered, and not with a 503.
    pub served: bool,
}

impl Sample {
    fn ended(&self) -> Instant {
        self.sent + self.took
    }
}

#[derive(Default)]
pub struct Timings(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    samples: Vec<Sample>,
    /// The stretches, by their beginnings.
    stretches: Vec<(Instant, String)>,
}

impl Timings {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, sample: Sample) {
        self.lock().samples.push(sample);
    }

    /// From here on, requests count as of this stretch; several may have the same name.
    pub fn begin(&self, stretch: &str) {
        self.lock().stretches.push((Instant::now(), stretch.to_owned()));
    }
}

/// A request counts where it ends: what a fault held up may have begun before.
impl Display for Timings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut noted = self.lock();
        noted.samples.sort_by_key(Sample::ended);
        let mut names: Vec<&str> = Vec::new();
        for (_, name) in &noted.stretches {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        for name in names {
            let mut stretch = Stretch::default();
            for (at, (from, each)) in noted.stretches.iter().enumerate() {
                if each == name {
                    let until = noted.stretches.get(at + 1).map(|(until, _)| *until);
                    stretch.add(&noted.samples, *from, until);
                }
            }
            writeln!(f, "  {name:<28} {stretch}")?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Stretch {
    reads: Vec<Duration>,
    writes: Vec<Duration>,
    unserved: usize,
    /// The longest time in which no write was served.
    standstill: Duration,
}

impl Stretch {
    fn add(&mut self, samples: &[Sample], from: Instant, until: Option<Instant>) {
        let first = samples.partition_point(|sample| sample.ended() < from);
        let mut served = from;
        for sample in &samples[first..] {
            if until.is_some_and(|until| sample.ended() >= until) {
                break;
            }
            match sample.write {
                true => self.writes.push(sample.took),
                false => self.reads.push(sample.took),
            }
            if !sample.served {
                self.unserved += 1;
            } else if sample.write {
                self.standstill = self.standstill.max(sample.ended() - served);
                served = sample.ended();
            }
        }
        let until = until.unwrap_or(served);
        self.standstill = self.standstill.max(until.saturating_duration_since(served));
    }
}

impl Display for Stretch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let mut kinds = [("reads", self.reads.clone()), ("writes", self.writes.clone())];
        for (kind, took) in &mut kinds {
            took.sort();
            let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
            let slowest = took.last().copied().unwrap_or_default();
            write!(
                f,
                "{:>6} {kind}: median {:>6.1} ms, p99 {:>7.1} ms, slowest {:>7.1} ms; ",
                took.len(),
                ms(at(50)),
                ms(at(99)),
                ms(slowest)
            )?;
        }
        write!(
            f,
            "{} unserved, {:.1} ms without a served write",
            self.unserved,
            ms(self.standstill)
        )
    }
}
