//! One group of appends on its way: announced to the cache, numbered, stored, and told to the cache before anyone is
//! answered.
//!
//! A cache is asked once before and once after the store, whatever the number of appends and sessions; a session of which
//! several appends are in the group is announced once.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures_util::FutureExt;

use super::{Clock, writing};
use crate::{
    cache::{Cache, Change},
    domain::{Appended, Error, Kind, NewEvent, Result, SessionKey, Timestamp},
    store::{Append, Store},
};

/// The outcomes of appends, one an event, in order.
pub(super) type Outcomes = Result<Vec<Result<Appended>>>;

/// The events that one request appends to one session.
#[derive(Debug, Clone)]
pub struct Appends {
    pub key: SessionKey,
    pub events: Arc<[NewEvent]>,
    /// When they were accepted.
    pub now: Timestamp,
}

/// What groups are committed to.
pub(super) struct Committer {
    pub(super) store: Arc<dyn Store>,
    pub(super) cache: Arc<dyn Cache>,
    pub(super) clock: Arc<Clock>,
}

impl Committer {
    /// Stores the events, and gives one outcome an event, in order.
    ///
    /// # Errors
    /// As [`Store::append`]; [`Kind::Internal`] also when the store panicked or lost count.
    pub(super) async fn commit(&self, group: &[&Appends]) -> Outcomes {
        let sessions = Sessions::of(group);
        let begun = self.cache.begin_all(&sessions.writes).await;
        let numbers = begun.iter().zip(&sessions.writes);
        let mut next: Vec<i64> = numbers
            .map(|(begun, (_, events))| self.clock.take_seqs(*events, begun.first_seq))
            .collect();
        let mut batch = Vec::with_capacity(sessions.writes.iter().map(|(_, events)| events).sum());
        for (appends, &session) in group.iter().zip(&sessions.of_appends) {
            for event in appends.events.iter() {
                batch.push(Append {
                    key: appends.key.clone(),
                    event: event.clone(),
                    now: appends.now,
                    seq: next[session],
                });
                next[session] = next[session].saturating_add(1);
            }
        }
        let outcomes = store(self.store.as_ref(), batch).await;
        let changes = sessions.changes(group, &outcomes);
        let ended = begun.into_iter().zip(&changes);
        let ended = ended.map(|(begun, made)| (begun, made.change())).collect();
        self.cache.finish_all(ended).await;
        outcomes
    }
}

/// [`Store::append`], with one outcome an event whatever the store does: units that wait behind a panic would otherwise
/// wait for ever.
async fn store(store: &dyn Store, batch: Vec<Append>) -> Outcomes {
    let count = batch.len();
    match AssertUnwindSafe(store.append(batch)).catch_unwind().await {
        Ok(Ok(outcomes)) if outcomes.len() != count => Err(Error::new(
            Kind::Internal,
            "the store lost count of a group of appends",
        )),
        Ok(outcomes) => outcomes,
        Err(_panic) => Err(Error::new(
            Kind::Internal,
            "the store panicked over a group of appends",
        )),
    }
}

/// The sessions of a group.
struct Sessions {
    /// Each with how many events it is to get.
    writes: Vec<(SessionKey, usize)>,
    /// The place in `writes` of the session of each append.
    of_appends: Vec<usize>,
}

impl Sessions {
    fn of(group: &[&Appends]) -> Self {
        let mut places = HashMap::with_capacity(group.len());
        let mut sessions = Self {
            writes: Vec::new(),
            of_appends: Vec::with_capacity(group.len()),
        };
        for appends in group {
            let place = match places.entry(&appends.key) {
                Entry::Occupied(there) => *there.get(),
                Entry::Vacant(free) => {
                    sessions.writes.push((appends.key.clone(), 0));
                    *free.insert(sessions.writes.len() - 1)
                }
            };
            sessions.writes[place].1 += appends.events.len();
            sessions.of_appends.push(place);
        }
        sessions
    }

    /// What became of each session.
    fn changes<'a>(&self, group: &[&Appends], outcomes: &'a Outcomes) -> Vec<Made<'a>> {
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let failed = || Made::Otherwise(writing::of_failure(error));
                return self.writes.iter().map(|_| failed()).collect();
            }
        };
        let mut made: Vec<Made<'_>> = self.writes.iter().map(|_| Made::Events(Vec::new())).collect();
        let mut rest = outcomes.as_slice();
        for (appends, &session) in group.iter().zip(&self.of_appends) {
            let (own, others) = rest.split_at(appends.events.len());
            rest = others;
            own.iter().for_each(|outcome| made[session].take(outcome));
        }
        made
    }
}

/// What a group made of one session.
enum Made<'a> {
    /// These events are in it; those that were refused changed nothing.
    Events(Vec<&'a Appended>),
    /// Something that outweighs them.
    Otherwise(Change<'a>),
}

impl<'a> Made<'a> {
    fn take(&mut self, outcome: &'a Result<Appended>) {
        match (&mut *self, outcome) {
            (Self::Events(events), Ok(appended)) => events.push(appended),
            (Self::Events(_), Err(error)) => match writing::of_failure(error) {
                Change::Nothing => {}
                worse => *self = Self::Otherwise(worse),
            },
            (Self::Otherwise(_), _) => {}
        }
    }

    fn change(&self) -> Change<'_> {
        match self {
            Self::Events(events) if events.is_empty() => Change::Nothing,
            Self::Events(events) => Change::Events(events),
            Self::Otherwise(change) => *change,
        }
    }
}
