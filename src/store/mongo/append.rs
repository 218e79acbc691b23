//! Appending: one read of how the sessions stand, one unordered insert of all events, and a look at what was there
//! already. Who is second learns it from the duplicate key; nothing is checked first that the insert does not check.
//!
//! What can happen between the read and the insert, and what comes of it:
//!
//! - The session **ends**: the event is stored all the same. It is a straggler, there for readers and for a later
//!   run of the archiver; whoever appends after the end was acknowledged is refused.
//! - The session **is erased**: the event lands under the erased life's key, where nobody looks any more, not even
//!   when the id is used again ([`keys`]), and upkeep removes it ([`erasure`](super::erasure)). The append
//!   began before the erasure was acknowledged, so saying "stored" is no lie: it was stored, then erased. If the
//!   event was there before, and the erasure deleted it in this very moment, it is told as new once more.
//! - The connection **is lost**: the insert is made again. What the first try stored meets its own `_id`, and is
//!   recognised by its `seq`.
//! - The process **dies**: a session may be left `initiated` with events; the repeated append makes it active.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use mongodb::{
    bson::{Bson, Document, RawDocumentBuf, doc},
    error::ErrorKind,
    options::Hint,
};

use super::{
    call::Call,
    documents::{self, Standing},
    events,
    fault::{DUPLICATE_KEY, Fault, Result},
    keys::{self, Life},
    sequence::{Sequences, Taken},
    sessions,
    setup::schema::IN_ORDER,
};
use crate::{
    domain::{self, Appended, Error, Event, SessionId, Status},
    store::{Append, refusal},
};

/// How often an event is appended anew because what was in its way was gone when looked at.
const ROUNDS_MAX: u32 = 8;

type Outcome = domain::Result<Appended>;

pub(super) async fn append(
    call: &Call,
    sequences: &Sequences,
    concern: &Document,
    batch: &[Append],
) -> Result<Vec<Outcome>> {
    let mut outcomes: Vec<Option<Outcome>> = batch.iter().map(|_| None).collect();
    for round in 0..ROUNDS_MAX {
        let open: Vec<usize> = (0..batch.len()).filter(|&at| outcomes[at].is_none()).collect();
        if open.is_empty() {
            break;
        }
        if round > 0 {
            call.pause(round.min(3)).await?;
        }
        let group = Group {
            call,
            sequences,
            batch,
            outcomes: &mut outcomes,
            sessions: HashMap::new(),
            stored: HashMap::new(),
            again: Vec::new(),
        };
        group.append(open, concern).await?;
    }
    let contended = || Err(Fault::Contended.into());
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(contended))
        .collect())
}

/// A round of appending. Events go by their place in the batch.
struct Group<'a> {
    call: &'a Call,
    sequences: &'a Sequences,
    batch: &'a [Append],
    /// `None` is what is still open.
    outcomes: &'a mut Vec<Option<Outcome>>,
    /// By key.
    sessions: HashMap<String, Session>,
    /// What was found where an event was to go.
    stored: HashMap<usize, Event>,
    /// Events whose id stands earlier in the batch, with the place of that one.
    again: Vec<(usize, usize)>,
}

struct Session {
    life: Life,
    status: Status,
    /// What its events share.
    events: String,
    new: Vec<usize>,
    taken: Option<Taken>,
}

/// An event on its way into the database.
struct Insert {
    at: usize,
    event: Event,
}

impl Group<'_> {
    async fn append(mut self, open: Vec<usize>, concern: &Document) -> Result<()> {
        let ended = self.sort(&open).await?;
        self.learn_sequences().await?;
        let mut first = ended.clone();
        first.extend(self.ambiguous());
        self.look_up(&first, &HashMap::new()).await?;
        self.refuse_open(&ended, refusal::session_ended);

        let (inserts, exhausted) = self.number();
        let inserted = self.insert(inserts).await?;
        let mut met = inserted.met;
        met.extend(&exhausted);
        self.look_up(&met, &inserted.own).await?;
        self.refuse_open(&exhausted, refusal::seq_exhausted);

        self.settle_sequences();
        self.repeat();
        self.activate(&open, concern).await
    }

    fn key(&self, at: usize) -> String {
        keys::of_session(&self.batch[at].key)
    }

    fn is_open(&self, at: usize) -> bool {
        self.outcomes[at].is_none()
    }

    fn refuse_open(&mut self, places: &[usize], refusal: impl Fn(&SessionId) -> Error) {
        for &at in places {
            if self.is_open(at) {
                self.outcomes[at] = Some(Err(refusal(&self.batch[at].key.id)));
            }
        }
    }

    /// Reads how the sessions stand, and sorts the events: refused at once, told by an earlier one of the batch, new,
    /// or of an ended session; gives the last.
    async fn sort(&mut self, open: &[usize]) -> Result<Vec<usize>> {
        let keys: Vec<String> = open.iter().map(|&at| self.key(at)).collect();
        let mut distinct = keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let standings: HashMap<_, _> = sessions::standings(self.call, distinct)
            .await?
            .into_iter()
            .collect();
        let (mut ended, mut seen) = (Vec::new(), HashMap::new());
        for (&at, k) in open.iter().zip(keys) {
            let Append { key, event, .. } = &self.batch[at];
            let (status, life) = match standings.get(&k) {
                Some(Standing::Session(status, life)) => (*status, *life),
                standing => {
                    let refusal = match standing {
                        Some(_) => refusal::session_erased(&key.id),
                        None => refusal::session_not_found(&key.id),
                    };
                    self.outcomes[at] = Some(Err(refusal));
                    continue;
                }
            };
            match seen.entry((k.clone(), &event.id)) {
                Entry::Occupied(first) => {
                    self.again.push((at, *first.get()));
                    continue;
                }
                Entry::Vacant(vacant) => vacant.insert(at),
            };
            let events = keys::of_events(&k, life);
            let session = self.sessions.entry(k).or_insert(Session {
                life,
                status,
                events,
                new: Vec::new(),
                taken: None,
            });
            if status.has_ended() {
                ended.push(at);
            } else {
                session.new.push(at);
            }
        }
        Ok(ended)
    }

    /// Asks for the greatest numbers of sessions that this process does not know.
    async fn learn_sequences(&self) -> Result<()> {
        let mut unknown = Vec::new();
        for session in self.sessions.values().filter(|session| !session.new.is_empty()) {
            if self.sequences.knows(&session.events) {
                continue;
            }
            if session.status == Status::Initiated {
                // No event yet, or one whose append was cut short; the clock is ahead of that.
                self.sequences.learn(&session.events, None);
            } else {
                unknown.push(session.events.clone());
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let lasts = last_sequences(self.call, unknown.clone()).await?;
        for session in unknown {
            self.sequences.learn(&session, lasts.get(&session).copied());
        }
        Ok(())
    }

    /// The events whose number hangs on whether others of the batch are new: where numbers have to be raised, one that
    /// turns out to be a replay must not have raised another's. With proposals from one clock there are none.
    fn ambiguous(&self) -> Vec<usize> {
        let several = self.sessions.values().filter(|session| session.new.len() > 1);
        let ambiguous = several.filter(|session| {
            let proposals: Vec<i64> = session.new.iter().map(|&at| self.batch[at].seq).collect();
            !self.sequences.would_give(&session.events, &proposals)
        });
        ambiguous
            .flat_map(|session| session.new.iter().copied())
            .collect()
    }

    /// The key of an event, and the key that its session's events share.
    fn names(&self, at: usize) -> (String, String) {
        let events = &self.sessions[&self.key(at)].events;
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
            let proposals: Vec<i64> = places.iter().map(|&at| self.batch[at].seq).collect();
            let taken = self.sequences.take(&session.events, &proposals);
            exhausted.extend(&places[taken.seqs.len()..]);
            for (at, &seq) in places.into_iter().zip(&taken.seqs) {
                let Append { key, event, now, .. } = &self.batch[at];
                let event = Event {
                    id: event.id.clone(),
                    session: key.id.clone(),
                    seq,
                    event_type: event.event_type.clone(),
                    payload: event.payload.clone(),
                    timestamp: event.timestamp.unwrap_or(*now),
                };
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
            let events = &self.sessions[&self.key(insert.at)].events;
            documents::event(events, &insert.event)
        };
        let documents = inserts.iter().map(document).collect::<Result<Vec<_>>>()?;
        let (refused, again) = insert_many(self.call, documents).await?;
        let mut inserted = Inserted::default();
        for (place, insert) in inserts.into_iter().enumerate() {
            let Insert { at, event } = insert;
            match refused.get(&place) {
                None => {
                    self.outcomes[at] = Some(Ok(Appended {
                        event,
                        replayed: false,
                    }))
                }
                Some(&DUPLICATE_KEY) => {
                    inserted.met.push(at);
                    if again {
                        inserted.own.insert(at, event.seq);
                    }
                }
                Some(&code) => self.outcomes[at] = Some(Err(Fault::of_code(code).into())),
            }
        }
        Ok(inserted)
    }

    /// Gives back numbers that no event got.
    fn settle_sequences(&self) {
        for session in self.sessions.values() {
            let Some(taken) = &session.taken else { continue };
            let created = session.new.iter().filter_map(|&at| match &self.outcomes[at] {
                Some(Ok(appended)) if !appended.replayed => Some(appended.event.seq),
                _ => None,
            });
            self.sequences.settle(&session.events, taken, created.max());
        }
    }

    /// Settles the events whose id stands earlier in the batch, by what became of that one.
    fn repeat(&mut self) {
        for &(at, first) in &self.again {
            let stored = self.stored.get(&first);
            self.outcomes[at] = match &self.outcomes[first] {
                Some(Ok(appended)) => Some(compare(appended.event.clone(), &self.batch[at])),
                Some(Err(error)) => Some(match stored {
                    Some(stored) => compare(stored.clone(), &self.batch[at]),
                    None => Err(error.share()),
                }),
                None => None,
            };
        }
    }

    /// Makes sessions active that have an event now. So does a replay: the append that stored the event may have been
    /// cut short.
    async fn activate(&self, open: &[usize], concern: &Document) -> Result<()> {
        let mut activated = Vec::new();
        let settled = open
            .iter()
            .filter(|&&at| matches!(&self.outcomes[at], Some(Ok(_))));
        for k in settled.map(|&at| self.key(at)) {
            let Some(session) = self.sessions.get(&k) else {
                continue;
            };
            if session.status == Status::Initiated {
                activated.push((k, session.life));
            }
        }
        activated.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        activated.dedup();
        if activated.is_empty() {
            return Ok(());
        }
        sessions::activate(self.call, activated, concern.clone()).await
    }
}

fn compare(stored: Event, append: &Append) -> Outcome {
    if stored.is_replayed_by(&append.event.event_type, &append.event.payload) {
        Ok(Appended {
            event: stored,
            replayed: true,
        })
    } else {
        Err(refusal::event_id_reused(&append.key.id, &append.event.id))
    }
}

#[derive(Default)]
struct Inserted {
    /// Events that met their id.
    met: Vec<usize>,
    /// The numbers of those that an earlier try of the same insert may have stored.
    own: HashMap<usize, i64>,
}

/// Inserts the documents, and gives the codes of those that were refused by their place, and whether an earlier try
/// may have stored some.
async fn insert_many(call: &Call, documents: Vec<RawDocumentBuf>) -> Result<(HashMap<usize, i32>, bool)> {
    let (events, documents) = (call.events(), Arc::new(documents));
    call.run(move |attempt| {
        let (events, documents) = (events.clone(), Arc::clone(&documents));
        async move {
            let inserted = events
                .insert_many(documents.iter())
                .ordered(false)
                .comment(Bson::from("colloquy: append"))
                .await;
            let error = match inserted {
                Ok(_) => return Ok((HashMap::new(), attempt.again)),
                Err(error) => error,
            };
            let refused = match error.kind.as_ref() {
                ErrorKind::InsertMany(many) if many.write_concern_error.is_none() => &many.write_errors,
                _ => return Err(error.into()),
            };
            let refused: HashMap<_, _> = refused
                .iter()
                .flatten()
                .map(|refused| (refused.index, refused.code))
                .collect();
            match refused
                .values()
                .map(|&code| Fault::of_code(code))
                .find(Fault::is_passing)
            {
                Some(passing) => Err(passing),
                None => Ok((refused, attempt.again)),
            }
        }
    })
    .await
}

/// The greatest number of each of these sessions that has events: the index tells, without a look at an event.
async fn last_sequences(call: &Call, sessions: Vec<String>) -> Result<HashMap<String, i64>> {
    let events = call.events();
    call.read(move |attempt| {
        let events = events.clone();
        let pipeline = [
            doc! { "$match": { "session": { "$in": &sessions } } },
            doc! { "$group": { "_id": "$session", "last": { "$max": "$seq" } } },
        ];
        async move {
            let mut found = events
                .aggregate(pipeline)
                .hint(Hint::Name(IN_ORDER.to_owned()))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: last seq"))
                .await?;
            let mut lasts = HashMap::new();
            while found.advance().await? {
                let fields = documents::Fields(found.current());
                let last = fields.optional_integer("last")?.ok_or(Fault::Stored("seq"))?;
                lasts.insert(fields.text("_id")?.to_owned(), last);
            }
            Ok(lasts)
        }
    })
    .await
}
