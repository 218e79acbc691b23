//! Appending: one read of how the sessions stand, one unordered insert of all events, and a look at what was there
//! already. Who is second learns it from the duplicate key; nothing is checked first that the insert does not check.
//!
//! What can happen between the read and the insert, and what comes of it:
//!
//! - The session **ends**: the event is stored all the same; whoever appends after the end was acknowledged is refused.
//!   A sweep ends no session as idle while an append to it is under way, unless that is very slow ([`idle`]).
//! - The session ends and **is archived**: see below.
//! - The session **is erased**: the event lands under the erased life's key, where nobody looks any more, not even
//!   when the id is used again ([`keys`]), and upkeep removes it ([`erasure`](super::erasure)). The append
//!   began before the erasure was acknowledged, so saying "stored" is no lie: it was stored, then erased. If the
//!   event was there before, and the erasure deleted it in this very moment, it is told as new once more.
//! - The connection **is lost**: the insert is made again. What the first try stored meets its own `_id`, and is
//!   recognised by its `seq`.
//! - **Some** events are refused because of a state that passes, as on a shard whose primary is gone: they alone are inserted
//!   again. Those that stay so fail by themselves, and the others are acknowledged. Likewise, what can't be found out
//!   about an event after the insert is the failure of that event.
//! - The process **dies**: a session may be left `initiated` with events; the repeated append makes it active.
//!
//! An archiver claims a session that has ended, waits for the time that is called `append_settle` here, reads its events,
//! and later deletes what it copied. An event must not be told as stored if it landed after that reading: its id may be
//! in the archive. When the append read that the session goes on, the claim was still to come. So an insert that was
//! acknowledged within `append_settle` of the moment before that read is there before the archiver reads, and a quarter
//! is left for clocks that do not run alike. One that took longer may be late: then the append looks at its
//! sessions again, and where one was claimed meanwhile (its epoch is another) it does not say that the event
//! was stored, but that the session is archived. So the caller looks for it there. The event stays where it
//! landed, for readers and, where the session is archived, for the next look of the archive at what is not tidy.
//!
//! Of an ended session, an append looks for the event only. When it is not there, its session may have been archived
//! since it was looked at, so it is looked at once more before the event is called new.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use mongodb::bson::Document;

use super::{
    call::Call,
    documents::{self, Place, Standing},
    events,
    fault::{Fault, Result},
    idle,
    inserts::{CLOCKS_APART_MAX, Refused, insert_many, last_sequences, last_sequences_ahead},
    keys,
    sequence::{Proposal, Sequences, Taken},
};
use crate::{
    domain::{self, Appended, Error, Event, Status, Timestamp},
    store::{Append, refusal},
};

mod settling;

/// How often an event is appended anew because what was in its way was gone when looked at.
const ROUNDS_MAX: u32 = 8;

/// Which part of the time that an archiver waits an append may take without looking at its sessions again.
const SETTLED_WITHIN: f64 = 0.75;

type Outcome = domain::Result<Appended>;

/// What appends go by.
pub(super) struct Appends<'a> {
    pub(super) call: &'a Call,
    pub(super) sequences: &'a Sequences,
    pub(super) concern: &'a Document,
    /// The option `append_settle`.
    pub(super) settle: Duration,
}

impl Appends<'_> {
    pub(super) async fn append(&self, batch: &[Append]) -> Result<Vec<Outcome>> {
        let keys: Vec<String> = batch.iter().map(|append| keys::of_session(&append.key)).collect();
        let mut outcomes: Vec<Option<Outcome>> = batch.iter().map(|_| None).collect();
        for round in 0..ROUNDS_MAX {
            let open: Vec<usize> = (0..batch.len()).filter(|&at| outcomes[at].is_none()).collect();
            if open.is_empty() {
                break;
            }
            if round > 0
                && let Err(fault) = self.call.pause(round.min(3)).await
            {
                lose(&mut outcomes, &open, fault);
                break;
            }
            let group = Group {
                call: self.call,
                concern: self.concern,
                sequences: self.sequences,
                batch,
                keys: &keys,
                outcomes: &mut outcomes,
                sessions: HashMap::new(),
                stored: HashMap::new(),
                again: Vec::new(),
            };
            match group.append(&open, self.settle).await {
                Err(fault) if round == 0 => return Err(fault),
                Err(fault) => lose(&mut outcomes, &open, fault),
                Ok(()) => {}
            }
        }
        let contended = || Err(Fault::Contended.into());
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(contended))
            .collect())
    }
}

/// A round of appending. Events go by their place in the batch.
struct Group<'a> {
    call: &'a Call,
    concern: &'a Document,
    sequences: &'a Sequences,
    batch: &'a [Append],
    /// The session's key of each.
    keys: &'a [String],
    /// `None` is what is still open.
    outcomes: &'a mut Vec<Option<Outcome>>,
    /// By key.
    sessions: HashMap<&'a str, Session>,
    /// What was found where an event was to go.
    stored: HashMap<usize, Event>,
    /// Events whose id stands earlier in the batch, with the place of that one.
    again: Vec<(usize, usize)>,
}

struct Session {
    /// When the round began.
    place: Place,
    /// What its events share.
    events: String,
    new: Vec<usize>,
    taken: Option<Taken>,
}

impl Session {
    /// What is proposed for these events of its own.
    fn proposals(&self, batch: &[Append], places: &[usize]) -> Vec<Proposal> {
        let seq_min = self.place.seq_min.unwrap_or(i64::MIN);
        let proposal = |&at: &usize| match batch[at].reserved {
            true => Proposal::Reserved(batch[at].seq),
            false => Proposal::Own(seq_min.max(batch[at].seq)),
        };
        places.iter().map(proposal).collect()
    }
}

/// An event on its way into the database.
struct Insert {
    at: usize,
    event: Event,
}

impl<'a> Group<'a> {
    /// # Errors
    /// Nothing is known of any event that is open, nor was anything of them stored by this round that is known of.
    async fn append(mut self, open: &[usize], settle: Duration) -> Result<()> {
        let began = Instant::now();
        let ended = self.sort(open).await?;
        self.learn_sequences().await?;
        let mut first = ended.clone();
        first.extend(self.ambiguous());
        self.look_up(&first, &HashMap::new()).await?;
        self.refuse_ended(&ended).await?;

        let (inserts, exhausted) = self.number();
        let inserted = self.insert(inserts).await?;
        let mut met = inserted.met;
        met.extend(&exhausted);
        if let Err(fault) = self.look_up(&met, &inserted.own).await {
            lose(self.outcomes, &met, fault);
        }
        self.refuse_open(&exhausted, refusal::seq_exhausted);

        self.settle_sequences();
        if began.elapsed() > settle.mul_f64(SETTLED_WITHIN)
            && let Err(fault) = self.refuse_late().await
        {
            let new = |at: &usize| matches!(&self.outcomes[*at], Some(Ok(appended)) if !appended.replayed);
            let new: Vec<usize> = open.iter().copied().filter(new).collect();
            self.take_back(&new, fault);
        }
        self.repeat();
        if let Err(fault) = self.activate(open).await {
            let first = |at: &usize| {
                let session = self.sessions.get(self.key(*at));
                session.is_some_and(|session| session.place.status == Status::Initiated)
            };
            let first: Vec<usize> = open.iter().copied().filter(first).collect();
            self.take_back(&first, fault);
        }
        Ok(())
    }

    fn key(&self, at: usize) -> &'a str {
        &self.keys[at]
    }

    fn is_open(&self, at: usize) -> bool {
        self.outcomes[at].is_none()
    }

    /// Reads how the sessions stand, and sorts the events: refused at once, told by an earlier one of the batch, new,
    /// or of an ended session; gives the last.
    async fn sort(&mut self, open: &[usize]) -> Result<Vec<usize>> {
        let standings = self.standings(open.iter().map(|&at| self.key(at))).await?;
        let (mut ended, mut seen) = (Vec::new(), HashMap::new());
        for &at in open {
            let k = self.key(at);
            let Append { key, event, .. } = &self.batch[at];
            let place = match standings.get(k) {
                Some(Standing::Session(place)) if place.pointer.is_none() => place,
                standing => {
                    let refusal = match standing {
                        Some(Standing::Session(_)) => refusal::session_archived(&key.id),
                        Some(Standing::Erased) => refusal::session_erased(&key.id),
                        None => refusal::session_not_found(&key.id),
                    };
                    self.outcomes[at] = Some(Err(refusal));
                    continue;
                }
            };
            match seen.entry((k, &event.id)) {
                Entry::Occupied(first) => {
                    self.again.push((at, *first.get()));
                    continue;
                }
                Entry::Vacant(vacant) => vacant.insert(at),
            };
            let events = keys::of_events(k, place.life);
            let session = self.sessions.entry(k).or_insert_with(|| Session {
                place: place.clone(),
                events,
                new: Vec::new(),
                taken: None,
            });
            if place.status.has_ended() {
                ended.push(at);
            } else {
                session.new.push(at);
            }
        }
        Ok(ended)
    }

    /// How the sessions stand. From here on a sweep of idle sessions does not end those that go on.
    async fn standings(&self, keys: impl Iterator<Item = &'a str>) -> Result<HashMap<String, Standing>> {
        let mut keys: Vec<&str> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        let keys = keys.into_iter().map(str::to_owned).collect();
        let standings = idle::unmarked(self.call, self.concern, keys).await?;
        Ok(standings.into_iter().collect())
    }

    /// Asks for the numbers that the unreserved ones must exceed: the greatest one of a session that this process does not
    /// know; of one that it knows, the greatest that other processes gave by clocks that are ahead. The latter counts only
    /// for events that are stamped with their number, so it is asked only for sessions that get one.
    async fn learn_sequences(&self) -> Result<()> {
        let (mut unknown, mut known, mut least) = (Vec::new(), Vec::new(), i64::MAX);
        for session in self.sessions.values() {
            let new = session.new.iter().map(|&at| &self.batch[at]);
            let own: Vec<_> = new.filter(|append| !append.reserved).collect();
            let knows = self.sequences.knows(&session.events);
            if own.is_empty() || (knows && session.place.status == Status::Initiated) {
                continue;
            }
            if session.place.status == Status::Initiated {
                // No event that was acknowledged.
                self.sequences.learn(&session.events, None);
            } else if !knows {
                unknown.push(session.events.clone());
            } else if own.iter().any(|append| append.event.timestamp.is_none()) {
                least = own.iter().fold(least, |least, append| least.min(append.seq));
                known.push(session.events.clone());
            }
        }
        if !unknown.is_empty() {
            let lasts = last_sequences(self.call, unknown.clone()).await?;
            for session in unknown {
                self.sequences.learn(&session, lasts.get(&session).copied());
            }
        }
        if !known.is_empty() {
            let now = Timestamp::of_unix_us(least);
            let ahead = last_sequences_ahead(self.call, known, now, CLOCKS_APART_MAX).await?;
            for (session, last) in ahead {
                self.sequences.learn(&session, Some(last));
            }
        }
        Ok(())
    }

    /// The events whose number hangs on whether others of the batch are new: where numbers have to be raised, one that
    /// turns out to be a replay must not have raised another's. Of reserved numbers there are none.
    fn ambiguous(&self) -> Vec<usize> {
        let several = self.sessions.values().filter(|session| session.new.len() > 1);
        let ambiguous = several.filter(|session| {
            let proposals = session.proposals(self.batch, &session.new);
            !self.sequences.would_give(&session.events, &proposals)
        });
        ambiguous
            .flat_map(|session| session.new.iter().copied())
            .collect()
    }

    /// The key of an event, and the key that its session's events share.
    fn names(&self, at: usize) -> (String, String) {
        let events = &self.sessions[self.key(at)].events;
        (keys::of_event(events, &self.batch[at].event.id), events.clone())
    }

    /// Settles those of the events that are stored. `own` holds the numbers under which an insert of this round may have
    /// stored some without learning it.
    async fn look_up(&mut self, places: &[usize], own: &HashMap<usize, i64>) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let wanted = places.iter().map(|&at| self.names(at)).collect();
        let found: HashMap<_, _> = events::find(self.call, wanted).await?.into_iter().collect();
        for &at in places {
            let Some(document) = found.get(&self.names(at).0) else {
                continue;
            };
            let append = &self.batch[at];
            let stored = documents::read_event(document, &append.key.id)?;
            let mut outcome = compare(stored.clone(), append);
            if let Ok(appended) = &mut outcome {
                appended.replayed = own.get(&at) != Some(&stored.seq);
            }
            self.outcomes[at] = Some(outcome);
            // The caller learns of this event, so an event that is appended afterwards comes after it.
            let session = &self.sessions[self.key(at)];
            self.sequences.met(&session.events, stored.seq);
            self.stored.insert(at, stored);
        }
        Ok(())
    }

    /// Gives the new events that are still open their numbers; those that no number is left for come second.
    fn number(&mut self) -> (Vec<Insert>, Vec<usize>) {
        let (mut inserts, mut exhausted) = (Vec::new(), Vec::new());
        for session in self.sessions.values_mut() {
            let places = session
                .new
                .iter()
                .copied()
                .filter(|&at| self.outcomes[at].is_none());
            let places: Vec<usize> = places.collect();
            if places.is_empty() {
                continue;
            }
            let proposals = session.proposals(self.batch, &places);
            let taken = self.sequences.take(&session.events, &proposals);
            exhausted.extend(&places[taken.seqs.len()..]);
            for (at, &seq) in places.into_iter().zip(&taken.seqs) {
                let Append { key, event, .. } = &self.batch[at];
                let event = event.clone().accepted(key.id.clone(), seq);
                inserts.push(Insert { at, event });
            }
            session.taken = Some(taken);
        }
        (inserts, exhausted)
    }

    /// Inserts the events, each on its own. One that is refused for itself has that outcome; one that meets its id is
    /// still open.
    async fn insert(&mut self, inserts: Vec<Insert>) -> Result<Inserted> {
        if inserts.is_empty() {
            return Ok(Inserted::default());
        }
        let document = |insert: &Insert| {
            let events = &self.sessions[self.key(insert.at)].events;
            documents::event(events, &insert.event, None)
        };
        let documents = inserts.iter().map(document).collect::<Result<Vec<_>>>()?;
        let mut done = insert_many(self.call, documents).await?;
        let mut inserted = Inserted::default();
        for (place, insert) in inserts.into_iter().enumerate() {
            let Insert { at, event } = insert;
            match done.refused.remove(&place) {
                None => {
                    self.outcomes[at] = Some(Ok(Appended {
                        event,
                        replayed: false,
                    }))
                }
                Some(Refused::Duplicate) => {
                    inserted.met.push(at);
                    if done.again.contains(&place) {
                        inserted.own.insert(at, event.seq);
                    }
                }
                Some(Refused::For(fault)) => self.outcomes[at] = Some(Err(fault.into())),
            }
        }
        Ok(inserted)
    }
}

/// Settles those of the events that are open: the store can't tell what became of them.
fn lose(outcomes: &mut [Option<Outcome>], places: &[usize], fault: Fault) {
    let mut error: Error = fault.into();
    for &at in places {
        if outcomes[at].is_none() {
            let share = error.share();
            outcomes[at] = Some(Err(std::mem::replace(&mut error, share)));
        }
    }
}

fn compare(stored: Event, append: &Append) -> Outcome {
    stored.appended_again(&append.event)
}

#[derive(Default)]
struct Inserted {
    /// Events that met their id.
    met: Vec<usize>,
    /// The numbers of those that an earlier try of the same insert may have stored.
    own: HashMap<usize, i64>,
}
