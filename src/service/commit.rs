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
    cache::{Begun, Cache, Change, Numbers, Reserve, Wanted},
    domain::{Appended, Error, Kind, NewEvent, Result, SessionKey},
    store::{Append, Store},
};

/// The outcomes of appends, one an event, in order.
pub(super) type Outcomes = Result<Vec<Result<Appended>>>;

/// The events that one request appends to one session.
#[derive(Debug, Clone)]
pub struct Appends {
    pub key: SessionKey,
    pub events: Arc<[NewEvent]>,
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
        let sessions = Sessions::of(group, self.clock.unix_us());
        let begun = self.cache.begin_all(&sessions.writes).await;
        let outcomes = match self.numbers(&begun, &sessions.writes).await {
            Ok(numbers) => store(self.store.as_ref(), sessions.batch(group, numbers)).await,
            Err(error) => Err(error),
        };
        let changes = sessions.changes(group, &outcomes);
        let ended = begun.into_iter().zip(&changes);
        let ended = ended.map(|(begun, made)| (begun, made.change())).collect();
        self.cache.finish_all(ended).await;
        outcomes
    }

    /// The numbers of each session: those that the cache reserved, else this process's own.
    ///
    /// # Errors
    /// The store, which has to be asked before some can be reserved, is away.
    async fn numbers(&self, begun: &[Begun], writes: &[(SessionKey, Wanted)]) -> Result<Vec<Proposed>> {
        let first = |begun: &Begun| match begun.numbers {
            Numbers::Reserved(first) => Some(first),
            Numbers::Own | Numbers::AboveStore => None,
        };
        let mut reserved: Vec<Option<i64>> = begun.iter().map(first).collect();
        let above_store = |&at: &usize| begun[at].numbers == Numbers::AboveStore;
        let unsure: Vec<usize> = (0..begun.len()).filter(above_store).collect();
        if !unsure.is_empty() {
            let keys: Vec<SessionKey> = unsure.iter().map(|&at| writes[at].0.clone()).collect();
            let lasts = self.store.last_seqs(&keys).await?;
            let asked = unsure.iter().zip(keys).zip(lasts);
            let asked: Vec<Reserve> = asked
                .map(|((&at, key), above)| Reserve {
                    key,
                    wanted: writes[at].1,
                    above,
                })
                .collect();
            let first = self.cache.reserve_all(&asked).await;
            for (at, first) in unsure.into_iter().zip(first) {
                reserved[at] = first;
            }
        }
        let proposed = |(first, (_, wanted)): (Option<i64>, &(SessionKey, Wanted))| Proposed {
            next: first.unwrap_or_else(|| self.clock.take_seqs(wanted.count)),
            reserved: first.is_some(),
        };
        Ok(reserved.into_iter().zip(writes).map(proposed).collect())
    }
}

/// The numbers proposed for the events of a session.
struct Proposed {
    next: i64,
    reserved: bool,
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
    /// Each with a number wanted for each of its events.
    writes: Vec<(SessionKey, Wanted)>,
    /// The place in `writes` of the session of each append.
    of_appends: Vec<usize>,
}

impl Sessions {
    fn of(group: &[&Appends], own_us: i64) -> Self {
        let mut places = HashMap::with_capacity(group.len());
        let mut sessions = Self {
            writes: Vec::new(),
            of_appends: Vec::with_capacity(group.len()),
        };
        for appends in group {
            let place = match places.entry(&appends.key) {
                Entry::Occupied(there) => *there.get(),
                Entry::Vacant(free) => {
                    let wanted = Wanted { count: 0, own_us };
                    sessions.writes.push((appends.key.clone(), wanted));
                    *free.insert(sessions.writes.len() - 1)
                }
            };
            sessions.writes[place].1.count += appends.events.len();
            sessions.of_appends.push(place);
        }
        sessions
    }

    /// What the store is asked to append.
    fn batch(&self, group: &[&Appends], mut numbers: Vec<Proposed>) -> Vec<Append> {
        let count = self.writes.iter().map(|(_, wanted)| wanted.count).sum();
        let mut batch = Vec::with_capacity(count);
        for (appends, &session) in group.iter().zip(&self.of_appends) {
            let Proposed { next, reserved } = &mut numbers[session];
            for event in appends.events.iter() {
                batch.push(Append {
                    key: appends.key.clone(),
                    event: event.clone(),
                    seq: *next,
                    reserved: *reserved,
                });
                *next = next.saturating_add(1);
            }
        }
        batch
    }

    /// What became of each session.
    fn changes<'a>(&self, group: &[&Appends], outcomes: &'a Outcomes) -> Vec<Made<'a>> {
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let failed = |_| Made {
                    events: Vec::new(),
                    failure: writing::of_failure(error),
                };
                return self.writes.iter().map(failed).collect();
            }
        };
        let mut made: Vec<Made<'_>> = self.writes.iter().map(|_| Made::default()).collect();
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
struct Made<'a> {
    /// These events are in it, and are going to be acknowledged.
    events: Vec<&'a Appended>,
    /// What the worst failure of another event means; those that were merely refused changed nothing.
    failure: Change<'static>,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            failure: Change::Nothing,
        }
    }
}

impl<'a> Made<'a> {
    fn take(&mut self, outcome: &'a Result<Appended>) {
        match outcome {
            Ok(appended) => self.events.push(appended),
            Err(error) => {
                if let Change::Nothing = self.failure {
                    self.failure = writing::of_failure(error);
                }
            }
        }
    }

    fn change(&self) -> Change<'_> {
        match self.failure {
            Change::Nothing if self.events.is_empty() => Change::Nothing,
            Change::Nothing => Change::Events(&self.events),
            Change::Unknown { .. } => Change::Unknown {
                acknowledged: !self.events.is_empty(),
            },
            other => other,
        }
    }
}
