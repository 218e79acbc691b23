//! What became of the requests of a time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{Failure, proc::Cpu};

/// A latency above is counted as this.
const MICROS_MAX: u64 = 120_000_000;

pub struct Tally {
    /// How long it was.
    pub span: Duration,
    /// Right answers that came in it.
    pub answered: u64,
    /// Events in those.
    pub events: u64,
    /// 503, where that was to be expected.
    pub shed: u64,
    /// Of those, without `Retry-After`.
    pub shed_in_silence: u64,
    /// Requests that were due, in an open loop.
    pub due: u64,
    /// Of those, how many found no free connection and waited for one.
    pub waited: u64,
    /// Of those, how many were never sent.
    pub unsent: u64,
    pub errors: BTreeMap<String, u64>,
    /// Microseconds from when the request was due, which in a closed loop is when it was sent.
    pub latency: Histogram<u64>,
    /// Microseconds from when it was sent.
    pub from_sent: Histogram<u64>,
    pub cpu: Cpu,
}

impl Tally {
    pub fn new(span: Duration) -> Result<Self, Failure> {
        let histogram = Histogram::new_with_bounds(1, MICROS_MAX, 3)?;
        Ok(Self {
            span,
            answered: 0,
            events: 0,
            shed: 0,
            shed_in_silence: 0,
            due: 0,
            waited: 0,
            unsent: 0,
            errors: BTreeMap::new(),
            latency: histogram.clone(),
            from_sent: histogram,
            cpu: Cpu::default(),
        })
    }

    /// A right answer; one that came after the time was over has a latency, and is no part of the throughput.
    pub fn answer(&mut self, times: Times, events: u64, is_in_time: bool) {
        self.time(times);
        if is_in_time {
            self.count(events);
        }
    }

    /// The latency of a right answer.
    pub fn time(&mut self, times: Times) {
        self.latency.saturating_record(micros(times.due, times.done));
        self.from_sent.saturating_record(micros(times.sent, times.done));
    }

    /// A right answer that came in this time.
    pub fn count(&mut self, events: u64) {
        self.answered += 1;
        self.events += events;
    }

    /// Right answers to what was due in it, whenever they came.
    pub fn right(&self) -> u64 {
        self.latency.len()
    }

    pub fn error(&mut self, what: String) {
        *self.errors.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.answered += other.answered;
        self.events += other.events;
        self.due += other.due;
        self.waited += other.waited;
        self.unsent += other.unsent;
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
        self.latency.add(&other.latency)?;
        self.from_sent.add(&other.from_sent)?;
        Ok(())
    }

    /// As one of a longer time, of which `later` is the rest.
    pub fn extend(&mut self, later: &Self) -> Result<(), Failure> {
        self.span += later.span;
        self.shed += later.shed;
        self.shed_in_silence += later.shed_in_silence;
        self.cpu = self.cpu.and(later.cpu);
        self.add(later)
    }

    pub fn requests_per_s(&self) -> f64 {
        self.answered as f64 / self.span.as_secs_f64()
    }

    pub fn events_per_s(&self) -> f64 {
        self.events as f64 / self.span.as_secs_f64()
    }

    /// In milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    pub fn errors(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Processor time of a request in microseconds, by who took it.
    pub fn micros_each(&self, of: fn(Cpu) -> Duration) -> f64 {
        of(self.cpu).as_secs_f64() * 1e6 / (self.answered + self.shed).max(1) as f64
    }

    pub fn json(&self) -> Value {
        let quantiles = |histogram: &Histogram<u64>| {
            let at = |quantile| histogram.value_at_quantile(quantile);
            json!({
                "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999), "max": histogram.max(),
            })
        };
        json!({
            "seconds": self.span.as_secs_f64(),
            "answered": self.answered,
            "requestsPerSecond": self.requests_per_s(),
            "eventsPerSecond": self.events_per_s(),
            "due": self.due,
            "waitedForAConnection": self.waited,
            "unsent": self.unsent,
            "shed": self.shed,
            "shedWithoutRetryAfter": self.shed_in_silence,
            "errors": self.errors,
            "latencyMicros": quantiles(&self.latency),
            "latencyFromSentMicros": quantiles(&self.from_sent),
            "cpuMicrosPerRequest": {
                "service": self.micros_each(|cpu| cpu.service),
                "mongod": self.micros_each(|cpu| cpu.mongod),
                "redis": self.micros_each(|cpu| cpu.redis),
                "generator": self.micros_each(|cpu| cpu.generator),
            },
        })
    }
}

/// When a request was due, when it was sent, and when its answer was there.
#[derive(Clone, Copy)]
pub struct Times {
    pub due: Instant,
    pub sent: Instant,
    pub done: Instant,
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
