//! The cache: sessions and their newest events, ready to be sent. Optional, and never authoritative.
//!
//! A cache may forget anything at any moment, and may be away. What it must not do is answer with less than a reader was
//! promised (I3): a read that starts after a write was acknowledged shows that write, on any replica. So a write is
//! told to the cache twice, [before](Cache::begin) it goes to the store and [after](Cache::finish) it came back, and is
//! acknowledged only then; and what a reader found in the store is kept only if [no write began](Cache::fill) since.
//!
//! [`NoCache`] knows nothing. [`MemoryCache`] is for a store that one process has to itself. [`RedisCache`] is shared by
//! all replicas; all replicas of a store must use the same. Either keeps answers as they were sent (`pages`), to send them
//! again without copying.

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{Appended, Event, EventFilter, EventPosition, Limit, Order, Session, SessionKey};

mod memory;
mod pages;
mod redis;

pub use memory::MemoryCache;
pub use pages::Place;
pub use redis::{RedisCache, RedisOptions, RedisUrl, link};

/// A cache in front of a store.
///
/// No method fails: a cache that can't do its part has the store asked instead.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// Announces a write to a session that wants these sequence numbers. To be called before the store is asked, and to be
    /// followed by [`finish`](Self::finish) once that answered, whatever it said.
    async fn begin(&self, key: &SessionKey, wanted: Wanted) -> Begun;

    /// Takes note of what the store made of a write. Once this returns, no read that begins will miss it: only then may
    /// the write be acknowledged.
    async fn finish(&self, begun: Begun, change: Change<'_>);

    /// [`begin`](Self::begin), for writes to several sessions at once; what is given is in their order.
    async fn begin_all(&self, writes: &[(SessionKey, Wanted)]) -> Vec<Begun> {
        let mut begun = Vec::with_capacity(writes.len());
        for (key, wanted) in writes {
            begun.push(self.begin(key, *wanted).await);
        }
        begun
    }

    /// Reserves sequence numbers for writes that began with [`Numbers::AboveStore`]; gives the first of each, or `None` where
    /// there are none to be had.
    async fn reserve_all(&self, writes: &[Reserve]) -> Vec<Option<i64>> {
        vec![None; writes.len()]
    }

    /// [`finish`](Self::finish), for several at once.
    async fn finish_all(&self, ended: Vec<(Begun, Change<'_>)>) {
        for (begun, change) in ended {
            self.finish(begun, change).await;
        }
    }

    /// Looks for an exact answer.
    async fn read(&self, key: &SessionKey, query: &Query) -> Lookup;

    /// Keeps what was read in the store after [`read`](Self::read) gave `lease`, unless a write began since.
    async fn fill(&self, lease: Lease, found: Found<'_>);

    /// Keeps an answer as it was rendered, in the place that [`read`](Self::read) gave for it.
    fn keep(&self, place: Place, rendered: Rendered);

    /// How many of the newest events of a session [`fill`](Self::fill) wants; `None`: it is never called.
    fn wants(&self) -> Option<Limit>;

    /// How often reads ended in which way since the process began, by outcome: `hit`, `hit_copy` where the answer lay
    /// ready as it was sent before, `miss`, `bypass_` and why.
    fn outcomes(&self) -> Vec<(&'static str, u64)>;

    /// How it is, for people and probes.
    fn health(&self) -> Health;

    /// Sessions with writes that other replicas could not be told of yet.
    fn unmarked(&self) -> usize;

    /// Finishes what must be said to other replicas.
    async fn close(&self);
}

/// The sequence numbers that a write needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// How many; none by default.
    pub count: usize,
    /// The replica's own clock, in microseconds since 1970.
    pub own_us: i64,
}

/// Where the sequence numbers of a write come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numbers {
    /// From the replica's own clock: the cache reserves none, or can't be reached.
    #[default]
    Own,
    /// They are reserved, as many as were wanted, from this one on.
    Reserved(i64),
    /// From [`Cache::reserve_all`], which must be told what the store has.
    AboveStore,
}

/// A write that numbers are to be reserved for.
#[derive(Debug, Clone)]
pub struct Reserve {
    pub key: SessionKey,
    pub wanted: Wanted,
    /// What [`Store::last_seqs`](crate::store::Store::last_seqs) said after the write was announced.
    pub above: Option<i64>,
}

/// A write that was announced, or could not be.
#[derive(Debug)]
pub struct Begun {
    key: SessionKey,
    token: String,
    /// The cache knows of it.
    marked: bool,
    /// There is something that the change must be applied to.
    cached: bool,
    pub numbers: Numbers,
    /// Which write it is, of those that began in this process; where that is counted.
    nth: u64,
}

impl Begun {
    /// The cache does not know of it.
    fn unmarked(key: SessionKey, token: String) -> Self {
        Self {
            key,
            token,
            marked: false,
            cached: false,
            numbers: Numbers::Own,
            nth: 0,
        }
    }
}

/// What the store made of a write.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// It was refused, or there was nothing to change.
    Nothing,
    /// Nobody knows, at least of a part of it: the store did not answer. That part is not going to be acknowledged, and may
    /// still be carried out.
    Unknown {
        /// Another part was carried out, and is going to be acknowledged.
        acknowledged: bool,
    },
    /// The session is another, or gone.
    Replaced,
    /// The session is new.
    Opened {
        /// As [`Session::seq_min`].
        seq_min: Option<i64>,
    },
    /// The session is now this.
    Session(&'a Session),
    /// These events are in the session.
    Events(&'a [&'a Appended]),
}

/// What is asked of a cache.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub shape: Shape,
    /// The answer must not be older than the event that got this `seq`. An entry does not show how old it is, whatever it
    /// holds: only a page with that very event is such an answer, and any other is left to the store.
    pub min_seq: Option<i64>,
    /// Who asks will [fill](Cache::fill) the cache if there is nothing, and wants a lease for it.
    pub fill: bool,
}

/// What an answer holds, of whichever session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    pub filter: EventFilter,
    pub order: Order,
    pub limit: Limit,
    pub after: Option<EventPosition>,
    /// The session itself, too.
    pub session: bool,
}

/// What a cache has to say to a [`Query`].
#[derive(Debug)]
pub enum Lookup {
    /// What the store would answer, as it was sent before.
    Same(Rendered),
    /// What the store would answer. With a place, [`Cache::keep`] it as it is sent.
    Hit { page: Page, place: Option<Place> },
    /// Ask the store. With a lease, [`Cache::fill`] then; with a place, [`Cache::keep`] the answer as it is sent, unless
    /// the session is archived.
    Miss {
        lease: Option<Lease>,
        place: Option<Place>,
    },
    /// Ask the store, and keep nothing.
    Bypass,
}

/// A whole answer, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub body: Bytes,
    /// The session's, where the answer holds the session.
    pub version: i64,
}

/// The JSON of what was asked for, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Empty where it was not wanted.
    pub session: Bytes,
    pub version: i64,
    /// One after the other, with commas between.
    pub events: Bytes,
    /// Where the next page goes on, if there is one.
    pub next: Option<EventPosition>,
}

/// The right to keep what is read in the store from now on.
#[derive(Debug)]
pub struct Lease {
    key: SessionKey,
    token: String,
    generation: String,
}

/// What the store knows of a session.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    pub session: &'a Session,
    /// The newest ones, newest first.
    pub events: &'a [Event],
    /// There are no others.
    pub complete: bool,
}

/// How a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is none.
    Off,
    /// It can be reached.
    Ok,
    /// It can't be reached; everything goes to the store.
    Degraded,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
}

/// No cache: the store answers everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

#[async_trait]
impl Cache for NoCache {
    async fn begin(&self, key: &SessionKey, _wanted: Wanted) -> Begun {
        Begun::unmarked(key.clone(), String::new())
    }

    async fn finish(&self, _begun: Begun, _change: Change<'_>) {}

    async fn finish_all(&self, _ended: Vec<(Begun, Change<'_>)>) {}

    async fn read(&self, _key: &SessionKey, _query: &Query) -> Lookup {
        Lookup::Bypass
    }

    async fn fill(&self, _lease: Lease, _found: Found<'_>) {}

    fn keep(&self, _place: Place, _rendered: Rendered) {}

    fn wants(&self) -> Option<Limit> {
        None
    }

    fn outcomes(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn health(&self) -> Health {
        Health::Off
    }

    fn unmarked(&self) -> usize {
        0
    }

    async fn close(&self) {}
}
