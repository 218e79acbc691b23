//! Who may believe what lies in Redis, and when a write that could not be marked there may be acknowledged.
//!
//! A replica that can't reach Redis goes on writing, and other replicas, which can, would go on answering from entries
//! that it could not invalidate. So each replica *vouches*, every few milliseconds and for a few more: "every write that I
//! have acknowledged is marked in Redis".
//!
//! - A replica [believes](Vouching::view) Redis only while all replicas vouch.
//! - A replica that [could not mark](Vouching::unmarked) a write stops vouching until it has made up for it in Redis, and
//!   acknowledges it [when it has](Vouching::acknowledgeable), or else when its last word has run out.
//! - One that is silent for longer is given up. With it goes the generation: all entries there are, since what it could
//!   not mark is not known.
//! - A registry that is new (Redis was restarted or flushed, another process took over) has a new generation too, and is
//!   believed only after a while in which all replicas found back to it.
//!
//! So I3 holds while replicas and Redis die, stop, come back and lose all they had. It does not for: a replica that
//! goes on writing while it is cut off from a Redis that others reach, for longer than `absence_max`, or from its start,
//! or just when Redis restarts; and in a cluster, a node that failed over and lost its last writes, unless it was the one
//! with the registry. Then an answer may be as old as an entry gets.
//!
//! The idea is that of leases, as in Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed
//! file cache consistency", SOSP 1989; here the writers hold them.
//!
//! Times are Redis's where replicas compare them, and this process's monotonic clock where it waits. What is sent is
//! absolute, so that a call which Redis gets to late, stopped for a while perhaps, extends nothing. From an answer "it
//! is R" that was asked for at `sent` and came at `received`, follows at any later moment `m` of this process:
//! `R + (m - received) <= Redis's time <= R + (m - sent)`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use redis::Value;
use tokio::{sync::Notify, time::Instant};

use super::{
    entry,
    link::{Call, Fault, Link, Script, Wire},
};

/// Sessions made up for side by side.
const MADE_UP_AT_ONCE: usize = 64;

/// So many calls in a row that took too long are no accident.
const TIMEOUTS_MAX: u32 = 3;

/// A wire on which so many rounds in a row came to nothing is given up.
const SILENT_ROUNDS_MAX: u32 = 3;

/// The times of the protocol, and its one bound.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// For how long a replica vouches at a time.
    pub(super) lease: Duration,
    /// After how long a silence a replica is given up.
    pub(super) absence_max: Duration,
    /// How long a new registry waits for the replicas.
    pub(super) gathering: Duration,
    /// Sessions with unmarked writes that are remembered one by one; past that, all entries go.
    pub(super) unmarked_max: usize,
    /// How long a call may take.
    pub(super) call_time_max: Duration,
}

pub(super) struct Vouching {
    replica: String,
    registry: [String; 1],
    terms: Terms,
    state: Mutex<State>,
    made_up: Notify,
    /// Calls in a row that took too long.
    timeouts: AtomicU32,
}

struct State {
    /// The wire, and whether the last call on it was answered.
    wire: Option<Arc<dyn Wire>>,
    answers: bool,
    /// It failed, and was said to.
    failed: bool,
    /// What is known of the process at the other end of the wire.
    process: Option<Process>,
    /// When the last word that was sent, in whatever shape it arrived, has run out.
    word_ends: Instant,
    view: Option<View>,
    /// By session; in order, so that what is done about them can be repeated.
    unmarked: BTreeMap<Vec<String>, Unmarked>,
    /// There were too many to remember; which was the last of those.
    overflowed: Option<u64>,
    marks: u64,
    /// Rounds in a row that came to nothing.
    silent_rounds: u32,
    /// When a call that took too long was last counted.
    timed_out: Option<Instant>,
}

/// So much of the id of a process of Redis tells it from others.
const PROCESS_CHARS: usize = 16;

struct Process {
    run: Vec<u8>,
    now_us: i64,
    received: Instant,
}

/// A session that was written to unmarked.
#[derive(Clone)]
struct Unmarked {
    token: String,
    /// Which of such writes was the last.
    mark: u64,
}

/// A write that is remembered as unmarked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remembered {
    mark: u64,
    word_ends: Instant,
}

/// What may be believed, and until when.
#[derive(Clone)]
pub(super) struct View {
    pub(super) wire: Arc<dyn Wire>,
    pub(super) generation: String,
    until: Instant,
}

/// Why nothing may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Redis does not answer.
    Unreachable,
    /// A replica does not vouch, this one or another, or the registry is new.
    Suspended,
}

/// What a replica has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Join,
    Vouch,
    /// And all entries go.
    Reset,
    Leave,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Vouch => "vouch",
            Self::Reset => "reset",
            Self::Leave => "leave",
        }
    }
}

impl State {
    /// Whether a write with this mark was made up for; if its session was written to again, then that, too.
    fn made_up_for(&self, mark: u64) -> bool {
        let remembered = self.unmarked.values().any(|unmarked| unmarked.mark >= mark);
        !remembered && self.overflowed.is_none_or(|overflowed| overflowed < mark)
    }
}

impl Vouching {
    pub(super) fn new(replica: String, prefix: &str, terms: Terms) -> Self {
        Self {
            replica,
            registry: [format!("{prefix}:replicas")],
            terms,
            state: Mutex::new(State {
                wire: None,
                answers: false,
                failed: false,
                process: None,
                word_ends: Instant::now(),
                view: None,
                unmarked: BTreeMap::new(),
                overflowed: None,
                marks: 0,
                silent_rounds: 0,
                timed_out: None,
            }),
            made_up: Notify::new(),
            timeouts: AtomicU32::new(0),
        }
    }

    pub(super) fn replica(&self) -> &str {
        &self.replica
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wire, unless the last call on it failed.
    pub(super) fn wire(&self) -> Option<Arc<dyn Wire>> {
        let state = self.lock();
        state.wire.clone().filter(|_| state.answers)
    }

    /// The wire, even if the last call on it failed: for what may come late.
    pub(super) fn last_wire(&self) -> Option<Arc<dyn Wire>> {
        self.lock().wire.clone()
    }

    /// A name for the process at the other end of the wire: another one where that was restarted or failed over.
    pub(super) fn process(&self) -> String {
        let state = self.lock();
        let run = state.process.as_ref().map(|process| process.run.as_slice());
        String::from_utf8_lossy(run.unwrap_or_default())
            .chars()
            .take(PROCESS_CHARS)
            .collect()
    }

    /// How many sessions are remembered as unmarked.
    pub(super) fn unmarked_sessions(&self) -> usize {
        self.lock().unmarked.len()
    }

    /// What may be believed by a read that began before now.
    pub(super) fn view(&self) -> Result<View, Doubt> {
        let (now, state) = (Instant::now(), self.lock());
        if !state.answers {
            return Err(Doubt::Unreachable);
        }
        let vouches = state.unmarked.is_empty() && state.overflowed.is_none();
        let view = state.view.as_ref().filter(|_| vouches);
        let view = view.filter(|view| now < view.until);
        view.cloned().ok_or(Doubt::Suspended)
    }

    /// A call went through.
    pub(super) fn went_through(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }

    /// A call failed. One that took too long may be by itself, and one that Redis refused says nothing of others; with
    /// several in a row, or a lost connection, nothing is asked of this wire until it answers again.
    pub(super) fn failed(&self, fault: &Fault) {
        match fault {
            Fault::Lost(_) => self.closed(fault),
            Fault::TimedOut if self.is_one_too_many() => self.closed(fault),
            Fault::TimedOut | Fault::Refused(_) | Fault::Senseless => {
                tracing::debug!(error = %fault, source = ?std::error::Error::source(fault), "a call of the cache failed");
            }
        }
    }

    /// Whether a call that took too long is one too many in a row. Those that were under way together are one: a moment
    /// without the processor is enough for all of them.
    fn is_one_too_many(&self) -> bool {
        let (now, mut state) = (Instant::now(), self.lock());
        let is_another = |last| now.duration_since(last) >= self.terms.call_time_max;
        let more = u32::from(state.timed_out.is_none_or(is_another));
        if more > 0 {
            state.timed_out = Some(now);
        }
        self.timeouts.fetch_add(more, Ordering::Relaxed) + more >= TIMEOUTS_MAX
    }

    fn closed(&self, fault: &Fault) {
        let mut state = self.lock();
        state.answers = false;
        if !std::mem::replace(&mut state.failed, true) {
            tracing::warn!(error = %fault, source = ?std::error::Error::source(fault), "the cache fails; asking the store alone");
        }
        state.view = None;
    }

    /// Takes note of a write that Redis does not know of: from here on no word is sent, until it has been made up for.
    pub(super) fn unmarked(&self, keys: Vec<String>, token: String) -> Remembered {
        let mut state = self.lock();
        state.marks += 1;
        let mark = state.marks;
        if state.unmarked.len() < self.terms.unmarked_max || state.unmarked.contains_key(&keys) {
            state.unmarked.insert(keys, Unmarked { token, mark });
        } else {
            state.overflowed = Some(mark);
        }
        Remembered {
            mark,
            word_ends: state.word_ends,
        }
    }

    /// Waits until a write may be acknowledged: it was made up for, or nobody believes Redis any more, and nobody will
    /// until it is.
    pub(super) async fn acknowledgeable(&self, write: Remembered) {
        let made_up = async {
            loop {
                let told = self.made_up.notified();
                if self.lock().made_up_for(write.mark) {
                    return;
                }
                told.await;
            }
        };
        // Past its end, all the same.
        let _ = tokio::time::timeout_at(write.word_ends, made_up).await;
    }

    /// One round of a replica's duties: to be connected, to make up for unmarked writes, to vouch.
    ///
    /// # Errors
    /// As the call that failed; nothing is asked of the wire until a round succeeds.
    pub(super) async fn round(&self, link: &dyn Link) -> Result<(), Fault> {
        let done = self.try_round(link).await;
        if let Err(fault) = &done {
            self.closed(fault);
            let mut state = self.lock();
            state.silent_rounds += 1;
            if matches!(fault, Fault::Lost(_)) || state.silent_rounds >= SILENT_ROUNDS_MAX {
                state.wire = None;
            }
        }
        done
    }

    async fn try_round(&self, link: &dyn Link) -> Result<(), Fault> {
        let (connected, answers) = {
            let state = self.lock();
            (state.wire.clone(), state.answers)
        };
        let wire = match connected {
            Some(wire) => wire,
            None => link.connect().await?,
        };
        if !answers {
            // A word that may get no answer would only make writes wait for its end.
            self.say(&wire, Word::Join).await?;
        }
        self.make_up(&wire).await?;
        self.say(&wire, Word::Vouch).await
    }

    /// Forgets, in Redis, what was written to unmarked.
    async fn make_up(&self, wire: &Arc<dyn Wire>) -> Result<(), Fault> {
        let (unmarked, overflowed) = {
            let state = self.lock();
            let each = |(keys, unmarked): (&Vec<String>, &Unmarked)| (keys.clone(), unmarked.clone());
            (
                state.unmarked.iter().map(each).collect::<Vec<_>>(),
                state.overflowed,
            )
        };
        for chunk in unmarked.chunks(MADE_UP_AT_ONCE) {
            let forget = chunk.iter().map(|(keys, unmarked)| Call {
                script: Script::Forget,
                keys,
                args: vec![unmarked.token.clone().into_bytes()],
            });
            let forgotten = wire.call_all(forget.collect()).await;
            forgotten.into_iter().collect::<Result<Vec<_>, _>>()?;
            let mut state = self.lock();
            for (keys, made_up) in chunk {
                // Unless it was written to again meanwhile.
                if state
                    .unmarked
                    .get(keys)
                    .is_some_and(|now| now.mark == made_up.mark)
                {
                    state.unmarked.remove(keys);
                }
            }
        }
        if overflowed.is_some() {
            self.say(wire, Word::Reset).await?;
            let mut state = self.lock();
            if state.overflowed == overflowed {
                state.overflowed = None;
            }
        }
        self.made_up.notify_waiters();
        Ok(())
    }

    /// Says goodbye: nobody needs to wait for this replica's word any more. Not while it has something to make up for:
    /// then the others had better give it up.
    pub(super) async fn leave(&self) -> Result<(), Fault> {
        let Some(wire) = self.wire() else { return Ok(()) };
        self.make_up(&wire).await?;
        self.say(&wire, Word::Leave).await
    }

    async fn say(&self, wire: &Arc<dyn Wire>, word: Word) -> Result<(), Fault> {
        let sent = Instant::now();
        let Some((run, until_us)) = self.give_word(word, sent) else {
            return Ok(());
        };
        let args = vec![
            self.replica.clone().into_bytes(),
            word.as_str().into(),
            until_us.to_string().into_bytes(),
            run,
            self.terms.absence_max.as_micros().to_string().into_bytes(),
            self.terms.gathering.as_micros().to_string().into_bytes(),
        ];
        let call = Call {
            script: Script::Vouch,
            keys: &self.registry,
            args,
        };
        let reply = Reply::read(wire.call(call).await?).ok_or(Fault::Senseless)?;
        self.learn(wire, word, reply, sent);
        Ok(())
    }

    /// What is sent with a word: the process it is meant for, and until when it holds there. `None`: it must not be given.
    fn give_word(&self, word: Word, sent: Instant) -> Option<(Vec<u8>, i64)> {
        let mut state = self.lock();
        let Some(process) = state.process.as_ref().filter(|_| word != Word::Join) else {
            return Some((Vec::new(), 0));
        };
        let (run, now_us) = (
            process.run.clone(),
            process.now_us + micros(sent - process.received),
        );
        match word {
            Word::Vouch if !state.unmarked.is_empty() || state.overflowed.is_some() => None,
            Word::Vouch => {
                state.word_ends = sent + self.terms.lease;
                Some((run, now_us + micros(self.terms.lease)))
            }
            // Keeps its place, and vouches for nothing.
            Word::Join | Word::Reset | Word::Leave => Some((run, now_us)),
        }
    }

    fn learn(&self, wire: &Arc<dyn Wire>, word: Word, reply: Reply, sent: Instant) {
        let received = Instant::now();
        let mut state = self.lock();
        if !std::mem::replace(&mut state.answers, true) && std::mem::take(&mut state.failed) {
            tracing::info!("the cache answers again");
        }
        state.wire = Some(Arc::clone(wire));
        state.silent_rounds = 0;
        if word == Word::Join {
            // Who looked just before this replica joined does not know of it for as long.
            state.word_ends = received + self.terms.lease;
        }
        let others_until = reply.others_us.map(|us| {
            let ahead = u64::try_from(us - reply.now_us).unwrap_or(0);
            sent + Duration::from_micros(ahead)
        });
        // Nor does this one know who joins from now on, so it believes no longer than they wait.
        let until = sent + self.terms.lease;
        // An answer from before the registry is open may not know of everybody yet.
        let is_open = reply.open_us <= reply.now_us;
        state.view = (word == Word::Vouch && is_open).then(|| View {
            wire: Arc::clone(wire),
            generation: reply.generation,
            until: others_until.map_or(until, |others| others.min(until)),
        });
        state.process = Some(Process {
            run: reply.run,
            now_us: reply.now_us,
            received,
        });
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What `vouch.lua` gives; times in microseconds of Redis's clock.
struct Reply {
    now_us: i64,
    generation: String,
    open_us: i64,
    others_us: Option<i64>,
    run: Vec<u8>,
}

impl Reply {
    fn read(value: Value) -> Option<Self> {
        let Value::Array(items) = value else { return None };
        let [now, generation, open, others, run] = items.try_into().ok()?;
        Some(Self {
            now_us: entry::integer(now)?,
            generation: String::from_utf8(entry::bytes(generation)?).ok()?,
            open_us: entry::integer(open)?,
            others_us: entry::integer(others),
            run: entry::bytes(run)?,
        })
    }
}

#[cfg(test)]
mod tests;
