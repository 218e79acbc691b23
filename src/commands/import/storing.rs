//! Stores conversations: opens the session, appends the events, ends it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Counts, Import, ImportError, Job, told};
use crate::domain::{
    Appended, Conversation, Error, Kind, NewEvent, Session, SessionId, SessionKey, event::BATCH_EVENTS_MAX,
};

/// Bytes of payload in one batch of events.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest that a call is repeated while the store is overloaded.
const OVERLOADED_MAX: Duration = Duration::from_secs(60);

/// How long to wait before calling an overloaded store again.
const OVERLOADED_PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn work(import: Arc<Import>, mut jobs: mpsc::Receiver<Job>) -> Result<(), ImportError> {
    let mut last = None;
    while let Some(job) = jobs.recv().await {
        let (line, bytes) = (job.line, job.bytes);
        let stored = import.store(job, last).await;
        last = Some(stored.map_err(|error| ImportError::Store(line, error))?);
        import.advance(bytes);
    }
    Ok(())
}

/// What became of a line, for the part of the same conversation that follows it. Parts come one right after the other, so a
/// worker remembers one.
struct Part {
    session: SessionId,
    /// A whole conversation is one part.
    number: u32,
    /// Whether the part before it was stored just before.
    follows: bool,
    /// Whether all events of it and of the parts before it are in.
    is_in: bool,
    /// The fields that were told to differ from what is stored.
    differing: Vec<&'static str>,
}

impl Part {
    fn after(last: Option<Self>, conversation: &Conversation) -> Self {
        let number = conversation.part.unwrap_or(1);
        match last {
            Some(last) if last.session == conversation.id && number > 1 && last.number == number - 1 => {
                Self {
                    number,
                    follows: true,
                    ..last
                }
            }
            _ => Self {
                session: conversation.id.clone(),
                number,
                follows: false,
                is_in: number == 1,
                differing: Vec::new(),
            },
        }
    }
}

impl Import {
    /// Stores the conversation of a line, or the part of one.
    ///
    /// # Errors
    /// Only what makes going on pointless.
    async fn store(&self, job: Job, last: Option<Part>) -> Result<Part, Error> {
        let Job {
            line,
            mut conversation,
            ..
        } = job;
        let mut part = Part::after(last, &conversation);
        let key = SessionKey::new(self.tenant.clone(), conversation.id.clone());
        let Some((session, created)) = self.open(line, &conversation).await? else {
            part.is_in = false;
            return Ok(part);
        };
        let mut differing = match created {
            true => Vec::new(),
            false => conversation.differs_from_opened(&session),
        };
        let mut refused = 0;
        for batch in batches(std::mem::take(&mut conversation.events)) {
            refused += self.append(line, &key, batch).await?;
        }
        part.is_in &= refused == 0;
        let mut is_refused = false;
        if conversation.end.is_some() {
            match self.end(line, &key, session, &conversation, &part).await? {
                Some(ended) => differing.extend(conversation.differs_from_ended(&ended)),
                // Where events were refused, they are counted already.
                None => is_refused = refused == 0,
            }
        }
        if !differing.is_empty() && differing != part.differing {
            let fields = differing.join(", ");
            let words = format!(
                "session {} is stored with another {fields}; what is stored stays",
                key.id
            );
            self.tell(line, &words);
            part.differing = differing;
            is_refused = true;
        }
        let counts = &self.summary.sessions;
        if is_refused {
            Counts::add(&counts.refused, 1);
        } else if created {
            Counts::add(&counts.new, 1);
        } else if !part.follows {
            // One that follows was counted with the first part.
            Counts::add(&counts.replayed, 1);
        }
        Ok(part)
    }

    /// Opens the session; gives it, and whether this made it. `None`, having told why, where it can't be.
    async fn open(&self, line: u64, conversation: &Conversation) -> Result<Option<(Session, bool)>, Error> {
        let mut new = conversation.session.clone();
        new.id = Some(conversation.id.clone());
        match patiently(|| self.service.open(&self.tenant, new.clone())).await {
            Ok(opened) => Ok(Some((opened.session, opened.created))),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                Counts::add(&self.summary.sessions.refused, 1);
                Counts::add(&self.summary.events.refused, conversation.events.len());
                self.tell(line, &told(&error));
                Ok(None)
            }
        }
    }

    /// Appends a batch; gives how many of it are not in.
    async fn append(&self, line: u64, key: &SessionKey, batch: Vec<NewEvent>) -> Result<usize, Error> {
        let counts = &self.summary.events;
        let outcomes = match patiently(|| self.service.append_batch(key, batch.clone())).await {
            Ok(outcomes) => outcomes,
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                Counts::add(&counts.refused, batch.len());
                self.tell(line, &format!("{} events: {error}", batch.len()));
                return Ok(batch.len());
            }
        };
        let mut refused = 0;
        for (event, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                // Its timestamp does not make it another event, and is not changed either.
                Ok(Appended {
                    event: stored,
                    replayed: true,
                }) if event.timestamp.is_some_and(|at| at != stored.timestamp) => {
                    Counts::add(&counts.refused, 1);
                    self.tell(
                        line,
                        &format!(
                            "event {} is stored with another timestamp; what is stored stays",
                            event.id
                        ),
                    );
                }
                Ok(appended) if appended.replayed => Counts::add(&counts.replayed, 1),
                Ok(_) => Counts::add(&counts.new, 1),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    refused += 1;
                    Counts::add(&counts.refused, 1);
                    self.tell(line, &format!("event {}: {error}", event.id));
                }
            }
        }
        Ok(refused)
    }

    /// Ends the session, unless something of it is missing; `None`, having told why, where it goes on.
    async fn end(
        &self,
        line: u64,
        key: &SessionKey,
        stored: Session,
        conversation: &Conversation,
        part: &Part,
    ) -> Result<Option<Session>, Error> {
        let Some(end) = conversation.end.as_ref().filter(|_| !stored.status.has_ended()) else {
            return Ok(Some(stored));
        };
        let why = match part {
            Part { is_in: true, .. } => match patiently(|| self.service.complete(key, end)).await {
                Ok(ended) => return Ok(Some(ended)),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => told(&error),
            },
            Part {
                number,
                follows: false,
                ..
            } if *number > 1 => {
                format!("part {number} does not come right after part {}", number - 1)
            }
            _ => "not all of its events are in".to_owned(),
        };
        self.tell(line, &format!("the session is left open, since {why}"));
        Ok(None)
    }
}

/// Calls again while the store is overloaded, which it is with the other conversations of this import.
async fn patiently<T, C>(mut call: impl FnMut() -> C) -> Result<T, Error>
where
    C: Future<Output = Result<T, Error>>,
{
    let started = Instant::now();
    loop {
        match call().await {
            Err(error) if error.kind() == Kind::Overloaded && started.elapsed() < OVERLOADED_MAX => {
                tokio::time::sleep(OVERLOADED_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Splits events into batches that keep within both limits.
fn batches(events: Vec<NewEvent>) -> impl Iterator<Item = Vec<NewEvent>> {
    let mut events = events.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(event) = events.peek() {
            bytes += event.payload.as_str().len();
            if batch.len() == BATCH_EVENTS_MAX || (bytes > BATCH_BYTES_MAX && !batch.is_empty()) {
                break;
            }
            batch.extend(events.next());
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// Whether the store is at fault, or the whole archive, rather than the conversation.
fn is_fatal(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Unavailable | Kind::Overloaded | Kind::ArchiveUnavailable | Kind::Internal
    )
}
