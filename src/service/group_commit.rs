//! Group commit: concurrent appends of one process share the store's commits.
//!
//! There is no timer. An append that finds nothing under way leaves at once, alone; while groups are under way, appends
//! gather, and leave together as soon as they are as many as those, if a flush slot is free, or when one of those is
//! done. So a quiet service has no added latency, and a busy one pays for a commit once a group.
//!
//! There is a queue, with slots of its own, for each [`Place`] of the store: for each shard of a cluster. A group has the
//! events of one place.
//!
//! What is promised:
//! - **G1. A place that is slow, or away, holds up the events of that place alone.** Groups, slots, and shares of the room in the
//!   queue are those of one place. Without this: a group has events of two shards; one of the shards has no primary; the
//!   events of the other one wait until the store gives up, and so does everything behind the group.
//! - **G2. Few wait for a place that confirms nothing.** While a group of it has been under way for
//!   [`stalled_after`](GroupLimits::stalled_after), no more than [`stalled_events_max`](GroupLimits::stalled_events_max) wait;
//!   the next is [`Kind::Unavailable`] at once. Without this: all requests that the process may have in flight wait for
//!   one shard, and it refuses those for the others. It holds where there are several places: with one there are no others
//!   to protect.
//! - **G3. Each event is settled by what became of it.** What the store says of an event counts for that event alone: what was
//!   stored is acknowledged although others of its group failed.
//! - A unit (the events of one request) is never split over two groups, so that its events keep their order.
//! - A group that fails for a reason of its own, or panics the store, is driven again unit by unit, so that one
//!   poisoned event never fails its neighbours. Appending is idempotent, so doing it twice is harmless. A store that
//!   is away fails what is left of the group, and all that waits for its place, at once instead: asking it again for every
//!   unit or group would only make them wait for one time-out after the other. So a unit is driven twice at most.
//! - The queue is bounded in events and bytes, beside what is about to leave; past that, [`Kind::Overloaded`]. Each place
//!   has an equal share of it.
//! - A caller that goes away changes nothing for the others: its events are stored all the same.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
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
    store::{Place, Store},
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
    /// Groups of one place under way at once.
    pub flush_slots: usize,
    /// After how long a group that is under way makes its place one that confirms nothing.
    pub stalled_after: Duration,
    /// Most events that wait for such a place, where there are several.
    pub stalled_events_max: usize,
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
    /// Of each place that events were appended to so far: as many as a cluster has shards, or pairs of them.
    places: HashMap<Place, Queue>,
    /// Slots in use, of all places.
    slots_in_use: usize,
}

/// What waits for one place, and what is under way there.
#[derive(Default)]
struct Queue {
    units: VecDeque<Unit>,
    events: usize,
    bytes: usize,
    slots_in_use: usize,
    /// Slots that have yet to take their first group.
    slots_starting: usize,
    /// Events of groups under way.
    events_under_way: usize,
    /// When the groups under way began; as many as there are.
    begun: Vec<Instant>,
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
        let queues = state.places.values();
        queues.fold((0, 0), |(events, bytes), queue| {
            (events + queue.events, bytes + queue.bytes)
        })
    }

    /// For who has not yet read what it would append, and need not if there is no room for it.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] from when somebody found none until a quarter of the queue is free: were it open as soon as
    /// there is any room, more would come in to read what they bring than find a place when they have read it. While there
    /// is room for any place, it is for that one that they may come.
    pub fn room(&self) -> Result<()> {
        let state = self.0.lock();
        match !state.places.is_empty() && state.places.values().all(|queue| queue.full) {
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
        let place = self.committer.store.place(&unit.appends.key);
        let mut state = self.lock();
        state.places.entry(place).or_default();
        let places = state.places.len();
        let queue = state.places.entry(place).or_default();
        queue.has_room(&unit, &self.limits, places)?;
        queue.events += unit.appends.events.len();
        queue.bytes += unit.bytes;
        queue.units.push_back(unit);
        if !self.may_start(queue, queue.slots_in_use) {
            return Ok(None);
        }
        queue.slots_in_use += 1;
        queue.slots_starting += 1;
        state.slots_in_use += 1;
        Ok(Some(Slot {
            shared: Arc::clone(self),
            place,
            held: true,
            starting: true,
            under_way: None,
        }))
    }

    /// Whether a group may leave beside so many others: a commit costs much the same whatever is in it, so the next to
    /// those under way waits until it is worth as much.
    fn may_start(&self, queue: &Queue, others: usize) -> bool {
        others == 0 || (others < self.limits.flush_slots && queue.events >= queue.events_under_way)
    }

    /// The next group, or `None` when none may leave, and then the slot is given back under the same lock: no append
    /// can slip in between and find neither a free slot nor anyone to take it along. What stays in the queue then
    /// leaves with the last of the others, at the latest.
    fn next_group(&self, slot: &mut Slot) -> Option<Vec<Unit>> {
        let mut state = self.lock();
        let queue = state.places.entry(slot.place).or_default();
        slot.end_group(queue);
        if queue.units.is_empty() || !self.may_start(queue, queue.slots_in_use - 1) {
            slot.release(&mut state);
            return None;
        }
        let (mut events, mut bytes) = (0, 0);
        let mut group = Vec::new();
        while events < self.limits.group_events_max && bytes < self.limits.group_bytes_max {
            let Some(unit) = queue.units.pop_front() else {
                break;
            };
            events += unit.appends.events.len();
            bytes += unit.bytes;
            group.push(unit);
        }
        queue.events -= events;
        queue.bytes -= bytes;
        slot.begin_group(queue, events);
        let places = state.places.len();
        let queue = state.places.entry(slot.place).or_default();
        queue.full &= queue.is_filled(&self.limits, places);
        Some(group)
    }

    /// Fails the units, and with a store that is away, those that wait for their place. The error's source goes to one of
    /// them, since whoever answers a caller logs it.
    fn fail(&self, place: Place, mut units: Vec<Unit>, mut error: Error) {
        if error.kind() == Kind::Unavailable {
            let mut state = self.lock();
            let queue = state.places.entry(place).or_default();
            units.extend(queue.units.drain(..));
            (queue.events, queue.bytes, queue.full) = (0, 0, false);
        }
        for unit in units {
            let share = error.share();
            unit.answer(Err(std::mem::replace(&mut error, share)));
        }
    }
}

/// The share of a place in a limit.
fn share(limit: usize, places: usize) -> usize {
    (limit / places.max(1)).max(1)
}

impl Queue {
    /// Whether the unit may wait here.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: the share of the place is used up. [`Kind::Unavailable`]: too many wait for a place that
    /// confirms nothing (G2).
    fn has_room(&mut self, unit: &Unit, limits: &GroupLimits, places: usize) -> Result<()> {
        // An empty queue takes any unit, so that one as large as the limits is not refused for ever.
        if self.units.is_empty() {
            return Ok(());
        }
        let events = self.events + unit.appends.events.len();
        let bytes = self.bytes + unit.bytes;
        if places > 1 && events > limits.stalled_events_max && self.is_stalled(limits.stalled_after) {
            metrics().append_refused();
            let detail = "the part of the store that has this session does not answer; try again shortly";
            return Err(Error::new(Kind::Unavailable, detail));
        }
        // What is about to leave does not fill the queue.
        let leaving = self.slots_starting;
        if events > share(limits.queue_events_max, places) + leaving * limits.group_events_max
            || bytes > share(limits.queue_bytes_max, places) + leaving * limits.group_bytes_max
        {
            self.full = true;
            return Err(refused());
        }
        Ok(())
    }

    fn is_stalled(&self, after: Duration) -> bool {
        self.begun.iter().any(|begun| begun.elapsed() >= after)
    }

    /// Whether more than three quarters of the share of the place are used.
    fn is_filled(&self, limits: &GroupLimits, places: usize) -> bool {
        let is_filled = |waiting: usize, max: usize| waiting > max - max / 4;
        is_filled(self.events, share(limits.queue_events_max, places))
            || is_filled(self.bytes, share(limits.queue_bytes_max, places))
    }
}

fn refused() -> Error {
    metrics().append_refused();
    let detail = "too many appends are waiting for the store; try again shortly";
    Error::new(Kind::Overloaded, detail)
}

/// The right to have a group of a place under way; given back when no further one may leave, or when the flush is dropped.
struct Slot {
    shared: Arc<Shared>,
    place: Place,
    held: bool,
    /// It has yet to take its first group.
    starting: bool,
    /// Events of the group under way, and when it began.
    under_way: Option<(usize, Instant)>,
}

impl Slot {
    fn begin_group(&mut self, queue: &mut Queue, events: usize) {
        let now = Instant::now();
        queue.events_under_way += events;
        queue.begun.push(now);
        self.under_way = Some((events, now));
    }

    /// What it had under way, if anything, is done.
    fn end_group(&mut self, queue: &mut Queue) {
        if let Some((events, begun)) = self.under_way.take() {
            queue.events_under_way -= events;
            if let Some(at) = queue.begun.iter().position(|one| *one == begun) {
                queue.begun.swap_remove(at);
            }
        }
        queue.slots_starting -= usize::from(std::mem::take(&mut self.starting));
    }

    fn release(&mut self, state: &mut State) {
        self.held = false;
        state.slots_in_use -= 1;
        let queue = state.places.entry(self.place).or_default();
        queue.slots_in_use -= 1;
        self.end_group(queue);
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
        store_group(&shared, slot.place, group).await;
    }
}

async fn store_group(shared: &Shared, place: Place, group: Vec<Unit>) {
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
            drive_each(shared, place, group).await;
        }
        Err(error) => {
            tracing::debug!(events = count, "a group of appends failed");
            shared.fail(place, group, error);
        }
    }
}

/// Appends every unit by itself, up to the first one that finds the store away.
async fn drive_each(shared: &Shared, place: Place, group: Vec<Unit>) {
    let mut units = group.into_iter();
    while let Some(unit) = units.next() {
        match shared.committer.commit(&[&unit.appends]).await {
            Err(error) if error.kind() == Kind::Unavailable => {
                let rest = std::iter::once(unit).chain(units).collect();
                return shared.fail(place, rest, error);
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
