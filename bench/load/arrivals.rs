//! When requests of an open loop are due: at random times of a given rate (a Poisson process), whatever becomes of the
//! requests before them. The times come from a fixed seed, so every run and every target has the same.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// Requests that are due within so short a time are let go together, the first of them late: to wake up for each would
/// take from the service what it is measured by. Their latency counts from when they were due.
const GRAIN: Duration = Duration::from_micros(200);
/// The same while nobody waits for one.
const GRAIN_OF_BUSY: Duration = Duration::from_millis(2);

/// A time of one rate.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Requests a second.
    pub rate: f64,
    pub span: Duration,
}

#[derive(Clone)]
struct Schedule {
    phases: Vec<Phase>,
    phase: usize,
    /// Since the first phase began.
    phase_ends: Duration,
    due: Duration,
    random: u64,
}

impl Schedule {
    fn new(phases: Vec<Phase>) -> Self {
        Self {
            phase_ends: phases.first().map(|phase| phase.span).unwrap_or_default(),
            phases,
            phase: 0,
            due: Duration::ZERO,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Evenly distributed above 0, up to 1.
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

impl Iterator for Schedule {
    type Item = (Duration, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let phase = *self.phases.get(self.phase)?;
            let gap = -self.chance().ln() / phase.rate;
            let due = self.due + Duration::from_secs_f64(gap);
            if due < self.phase_ends {
                self.due = due;
                return Some((due, self.phase));
            }
            // The process has no memory: it may begin anew where the rate changes.
            self.due = self.phase_ends;
            self.phase += 1;
            self.phase_ends += self
                .phases
                .get(self.phase)
                .map(|phase| phase.span)
                .unwrap_or_default();
        }
    }
}

/// A request that is due.
pub struct Arrival {
    pub due: Instant,
    pub phase: usize,
}

/// The requests that come due while workers wait for them.
pub struct Arrivals {
    due: Semaphore,
    schedule: Mutex<Schedule>,
    began: Instant,
}

impl Arrivals {
    /// Begins now, for so many workers. A thread of its own keeps the time: timers of the runtime count milliseconds.
    pub fn begin(phases: Vec<Phase>, workers: usize, began: Instant) -> Arc<Self> {
        let schedule = Schedule::new(phases);
        let arrivals = Arc::new(Self {
            due: Semaphore::new(0),
            schedule: Mutex::new(schedule.clone()),
            began,
        });
        let pacer = Arc::clone(&arrivals);
        std::thread::spawn(move || {
            let mut schedule = schedule.map(|(due, _)| began + due).peekable();
            while let Some(next) = schedule.peek() {
                let wait = next.saturating_duration_since(Instant::now());
                let grain = match pacer.due.available_permits() {
                    0 => GRAIN,
                    _ => GRAIN_OF_BUSY,
                };
                std::thread::sleep(wait.max(grain));
                let now = Instant::now();
                let due = std::iter::from_fn(|| schedule.next_if(|due| *due <= now));
                pacer.due.add_permits(due.count());
            }
            // Each worker learns that nothing follows.
            pacer.due.add_permits(workers);
        });
        arrivals
    }

    /// Waits for the next; `None` when there is none. Also says whether it was there before the worker was.
    pub async fn next(&self) -> Option<(Arrival, bool)> {
        let was_late = self.due.available_permits() > 0;
        self.due.acquire().await.ok()?.forget();
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let (due, phase) = schedule.next()?;
        let due = self.began + due;
        Some((Arrival { due, phase }, was_late))
    }
}
