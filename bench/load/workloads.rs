//! What is asked of the service, in which order.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    generator::{Expected, Workload},
    requests::{Bodies, EVENTS_OF_BATCH, Sessions, Template, completes, reads},
};

/// Numbers of events that no other workload has: ids must be new, or appends are replays.
fn own_events() -> u64 {
    const EACH: u64 = 1_000_000_000;
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    TAKEN.fetch_add(1, Ordering::Relaxed) * EACH
}

/// The same kind of request over and over, on sessions in turn.
struct InTurn {
    templates: Vec<Template>,
    sessions: Sessions,
    first_event: u64,
    body_bytes: Option<usize>,
    /// The requests that a session gets, one after another; without an end where there is no number.
    each: Option<u64>,
}

impl Workload for InTurn {
    fn write(&self, nth: u64, out: &mut Vec<u8>) -> Option<Expected> {
        let session = match self.each {
            Some(each) if nth >= self.sessions.count * each => return None,
            Some(each) => nth / each,
            None => nth % self.sessions.count,
        };
        // Where a session gets several, each session gets the same ones: their answers are as long, then.
        let template = match self.each {
            Some(each) => nth % each,
            None => nth,
        };
        let template = &self.templates[(template % self.templates.len() as u64) as usize];
        let events = template.events() as u64;
        template.write(session, self.first_event + nth * events, out);
        Some(Expected {
            status: template.status,
            body_bytes: self.body_bytes,
            events,
        })
    }
}

/// One append, then two reads of sessions that others append to, and so on.
struct Mixed {
    appends: InTurn,
    reads: InTurn,
}

impl Workload for Mixed {
    fn write(&self, nth: u64, out: &mut Vec<u8>) -> Option<Expected> {
        /// Prime to the number of sessions, so that reads meet all of them.
        const STRIDE: u64 = 7_919;
        match nth % 3 {
            0 => self.appends.write(nth / 3, out),
            _ => self.reads.write(nth * STRIDE, out),
        }
    }
}

fn endless(templates: Vec<Template>, sessions: Sessions) -> InTurn {
    InTurn {
        templates,
        sessions,
        first_event: own_events(),
        body_bytes: None,
        each: None,
    }
}

fn finite(templates: Vec<Template>, sessions: Sessions, each: u64) -> InTurn {
    InTurn {
        each: Some(each),
        ..endless(templates, sessions)
    }
}

/// Single events.
pub fn appends(bodies: &Bodies, sessions: Sessions) -> Arc<dyn Workload> {
    Arc::new(endless(bodies.appends(&sessions), sessions))
}

/// Batches of 100 events. `body_bytes`: how long the answer is when all were created; any other would be longer.
pub fn batches(bodies: &Bodies, sessions: Sessions, body_bytes: Option<usize>) -> Arc<dyn Workload> {
    Arc::new(InTurn {
        body_bytes,
        ..endless(bodies.batches(&sessions, EVENTS_OF_BATCH), sessions)
    })
}

/// Every session gets so many batches of so many events. `body_bytes` as of [`batches`].
pub fn fill(
    bodies: &Bodies,
    sessions: Sessions,
    events: usize,
    each: u64,
    body_bytes: usize,
) -> Arc<dyn Workload> {
    Arc::new(InTurn {
        body_bytes: Some(body_bytes),
        ..finite(bodies.batches(&sessions, events), sessions, each)
    })
}

/// One batch for the first of these sessions.
pub fn batch(bodies: &Bodies, sessions: Sessions, events: usize) -> Arc<dyn Workload> {
    Arc::new(finite(bodies.batches(&sessions, events), sessions, 1))
}

/// The newest 50 events of sessions in turn. `body_bytes`: how long each answer is, where all are alike.
pub fn hot_reads(sessions: Sessions, body_bytes: Option<usize>) -> Arc<dyn Workload> {
    Arc::new(InTurn {
        body_bytes,
        ..endless(reads(&sessions), sessions)
    })
}

/// As hot reads, each session once.
pub fn cold_reads(sessions: Sessions, body_bytes: Option<usize>) -> Arc<dyn Workload> {
    Arc::new(InTurn {
        body_bytes,
        ..finite(reads(&sessions), sessions, 1)
    })
}

pub fn mixed(bodies: &Bodies, sessions: Sessions) -> Arc<dyn Workload> {
    Arc::new(Mixed {
        appends: endless(bodies.appends(&sessions), sessions),
        reads: endless(reads(&sessions), sessions),
    })
}

/// Opens every session once, in their order.
pub fn opens(bodies: &Bodies, sessions: Sessions) -> Arc<dyn Workload> {
    Arc::new(finite(bodies.opens(&sessions), sessions, 1))
}

/// Completes every session once, in their order.
pub fn complete_all(sessions: Sessions) -> Arc<dyn Workload> {
    Arc::new(finite(completes(&sessions), sessions, 1))
}
