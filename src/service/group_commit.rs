//! Group commit: concurrent appends of one process share the store's commits.
//!
//! There is no timer. An append that finds nothing under way leaves at once, alone; while groups are under way, appends
//! gather, and leave together as soon as they are as many as those, if a flush slot is free, or when one of those is
//! done. So a quiet service has no added latency, and a busy one pays for a commit once a group.
//!
//! What is promised:
//! - A unit (the events of one request) is never split over two groups, so that its events keep their order.
//! - A group that fails for a reason of its own, or panics the store, is driven again unit by unit, so that one
//!   poisoned event never fails its neighbours. Appending is idempotent, so doing it twice is harmless. A store that
//!   is away fails what is left of the group, and all that waits behind it, at once instead: asking it again for every
//!   unit or group would only make them wait for one time-out after the other.
//! - The queue is bounded in events and bytes, beside what is about to leave; past that, [`Kind::Overloaded`].
//! - A caller that goes away changes nothing for the others: its events are stored all the same.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, oneshot};
use tracing::Instrument;

use super::{
    Clock,
    commit::{Appends, Committer, Outcomes},
};
use crate::{
    cache::Cache,
    domain::{Error, Kind, Result},
    in_flight::{self, Permit},
    store::Store,
    telemetry::{
        metrics::metrics,
        spans::{self, Origin},
    },
};

/// The bounds of the queue and of what leaves it.
#[derive(Debug, Clone)]
pub struct GroupLimits {
    /// Most events waiting for a slot.
    pub queue_events_max: usize,
    /// Most bytes of payload waiting for a slot.
    pub queue_bytes_max: usize,
    /// A group takes no further unit once it has this many events.
    pub group_events_max: usize,
    /// A group takes no further unit once it has this many bytes of payload.
    pub group_bytes_max: usize,
    /// Groups under way at once.
    pub flush_slots: usize,
}

/// A queue of appends in front of a store. Clones share the queue.
#[derive(Clone)]
pub struct GroupCommit(Arc<Shared>);

struct Shared {
    committer: Committer,
    limits: GroupLimits,
    state: Mutex<State>,
    slot_released: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Unit>,
    events: usize,
    bytes: usize,
    slots_in_use: usize,
    /// Slots that have yet to take their first group.
    slots_starting: usize,
    /// Events of groups under way.
    events_under_way: usize,
    /// A unit found no room, and a quarter of the queue has not been free since.
    full: bool,
}

/// The events of one request, and who waits for them.
struct Unit {
    appends: Appends,
    bytes: usize,
    reply: oneshot::Sender<Outcomes>,
    origin: Option<Origin>,
    /// The request stays in flight until its events are settled, also when its caller goes away.
    _permit: Option<Permit>,
}

impl GroupCommit {
    pub fn new(store: Arc<dyn Store>, cache: Arc<dyn Cache>, clock: Arc<Clock>, limits: GroupLimits) -> Self {
        Self(Arc::new(Shared {
            committer: Committer { store, cache, clock },
            limits,
            state: Mutex::default(),
            slot_released: Notify::new(),
        }))
    }

    /// Appends the events, in order, and gives one outcome an event.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] when the queue is full, and then nothing was stored; or as [`Store::append`].
    pub async fn append(&self, appends: Appends) -> Outcomes {
        let (reply, outcome) = oneshot::channel();
        let payloads = appends.events.iter().map(|event| event.payload.as_str().len());
        let bytes = payloads.sum();
        let unit = Unit {
            appends,
            bytes,
            reply,
            origin: spans::origin(),
            _permit: in_flight::permit(),
        };
        if let Some(slot) = self.0.enqueue(unit)? {
            // Without the permit of this request: the task goes on to flush other requests' events.
            tokio::spawn(flush(slot));
        }
        // The sender is dropped unsent only when the runtime is going down.
        outcome
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the append was interrupted")))
    }

    /// Events and bytes of payload that wait for a slot.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.events, state.bytes)
    }

    /// For who has not yet read what it would append, and need not if there is no room for it.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] from when somebody found none until a quarter of the queue is free: were it open as soon as
    /// there is any room, more would come in to read what they bring than find a place when they have read it.
    pub fn room(&self) -> Result<()> {
        match self.0.lock().full {
            true => Err(refused()),
            false => Ok(()),
        }
    }

    /// Waits until everything accepted so far, and whatever comes meanwhile, has left.
    pub async fn drain(&self) {
        loop {
            let released = self.0.slot_released.notified();
            if self.0.lock().slots_in_use == 0 {
                return;
            }
            released.await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the state is whole between any two statements that matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the unit, and takes a slot for it where one is free.
    fn enqueue(self: &Arc<Self>, unit: Unit) -> Result<Option<Slot>> {
        let mut state = self.lock();
        let events = state.events + unit.appends.events.len();
        let bytes = state.bytes + unit.bytes;
        // What is about to leave does not fill the queue.
        let leaving = state.slots_starting;
        let full = events > self.limits.queue_events_max + leaving * self.limits.group_events_max
            || bytes > self.limits.queue_bytes_max + leaving * self.limits.group_bytes_max;
        // An empty queue takes any unit, so that one as large as the limits is not refused for ever.
        if full && !state.queue.is_empty() {
            state.full = true;
            return Err(refused());
        }
        (state.events, state.bytes) = (events, bytes);
        state.queue.push_back(unit);
        if !self.may_start(&state, state.slots_in_use) {
            return Ok(None);
        }
        state.slots_in_use += 1;
        state.slots_starting += 1;
        Ok(Some(Slot {
            shared: Arc::clone(self),
            held: true,
            starting: true,
            events: 0,
        }))
    }

    /// Whether a group may leave beside so many others: a commit costs much the same whatever is in it, so the next to
    /// those under way waits until it is worth as much.
    fn may_start(&self, state: &State, others: usize) -> bool {
        others == 0 || (others < self.limits.flush_slots && state.events >= state.events_under_way)
    }

    /// The next group, or `None` when none may leave, and then the slot is given back under the same lock: no append
    /// can slip in between and find neither a free slot nor anyone to take it along. What stays in the queue then
    /// leaves with the last of the others, at the latest.
    fn next_group(&self, slot: &mut Slot) -> Option<Vec<Unit>> {
        let mut state = self.lock();
        slot.end_group(&mut state);
        if state.queue.is_empty() || !self.may_start(&state, state.slots_in_use - 1) {
            slot.release(&mut state);
            return None;
        }
        let (mut events, mut bytes) = (0, 0);
        let mut group = Vec::new();
        while events < self.limits.group_events_max && bytes < self.limits.group_bytes_max {
            let Some(unit) = state.queue.pop_front() else {
                break;
            };
            events += unit.appends.events.len();
            bytes += unit.bytes;
            group.push(unit);
        }
        state.events -= events;
        state.bytes -= bytes;
        let is_filled = |waiting: usize, max: usize| waiting > max - max / 4;
        state.full &= is_filled(state.events, self.limits.queue_events_max)
            || is_filled(state.bytes, self.limits.queue_bytes_max);
        state.events_under_way += events;
        slot.events = events;
        Some(group)
    }

    /// Fails the units, and with a store that is away, those that wait for it. The error's source goes to one of them,
    /// since whoever answers a caller logs it.
    fn fail(&self, mut units: Vec<Unit>, mut error: Error) {
        if error.kind() == Kind::Unavailable {
            let mut state = self.lock();
            units.extend(state.queue.drain(..));
            (state.events, state.bytes, state.full) = (0, 0, false);
        }
        for unit in units {
            let share = error.share();
            unit.answer(Err(std::mem::replace(&mut error, share)));
        }
    }
}

fn refused() -> Error {
    metrics().append_refused();
    let detail = "too many appends are waiting for the store; try again shortly";
    Error::new(Kind::Overloaded, detail)
}

/// The right to have a group under way; given back when no further one may leave, or when the flush is dropped.
struct Slot {
    shared: Arc<Shared>,
    held: bool,
    /// It has yet to take its first group.
    starting: bool,
    /// Of the group under way.
    events: usize,
}

impl Slot {
    /// What it had under way, if anything, is done.
    fn end_group(&mut self, state: &mut State) {
        state.events_under_way -= std::mem::take(&mut self.events);
        state.slots_starting -= usize::from(std::mem::take(&mut self.starting));
    }

    fn release(&mut self, state: &mut State) {
        self.held = false;
        state.slots_in_use -= 1;
        self.end_group(state);
        self.shared.slot_released.notify_waiters();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.held {
            let shared = Arc::clone(&self.shared);
            self.release(&mut shared.lock());
        }
    }
}

/// Sends groups to the store until none may leave.
async fn flush(mut slot: Slot) {
    let shared = Arc::clone(&slot.shared);
    loop {
        // Requests that have arrived already come along; where there are none, this costs next to nothing.
        tokio::task::yield_now().await;
        let Some(group) = shared.next_group(&mut slot) else {
            return;
        };
        store_group(&shared, group).await;
    }
}

async fn store_group(shared: &Shared, group: Vec<Unit>) {
    let count = group.iter().map(|unit| unit.appends.events.len()).sum();
    let bytes = group.iter().map(|unit| unit.bytes).sum();
    let origins = group.iter().filter_map(|unit| unit.origin.as_ref());
    let span = spans::flush(count, bytes, origins);
    let started = Instant::now();
    let appends: Vec<&Appends> = group.iter().map(|unit| &unit.appends).collect();
    let committed = shared.committer.commit(&appends).instrument(span).await;
    metrics().flushed(count, committed.is_ok(), started.elapsed());
    match committed {
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter();
            for unit in group {
                let own = outcomes.by_ref().take(unit.appends.events.len()).collect();
                unit.answer(Ok(own));
            }
        }
        Err(error) if error.kind() == Kind::Internal && group.len() > 1 => {
            tracing::warn!(error = %error, units = group.len(), "a group of appends failed; trying each by itself");
            drive_each(shared, group).await;
        }
        Err(error) => {
            tracing::debug!(events = count, "a group of appends failed");
            shared.fail(group, error);
        }
    }
}

/// Appends every unit by itself, up to the first one that finds the store away.
async fn drive_each(shared: &Shared, group: Vec<Unit>) {
    let mut units = group.into_iter();
    while let Some(unit) = units.next() {
        match shared.committer.commit(&[&unit.appends]).await {
            Err(error) if error.kind() == Kind::Unavailable => {
                let rest = std::iter::once(unit).chain(units).collect();
                return shared.fail(rest, error);
            }
            outcome => unit.answer(outcome),
        }
    }
}

impl Unit {
    fn answer(self, outcome: Outcomes) {
        // A caller that went away is no concern of ours; what it sent is stored.
        let _ = self.reply.send(outcome);
    }
}
