//! The hot store: where sessions and events live until they are archived.
//!
//! [`Store`] is the contract, in words; the suite in `store/conformance/` is the contract as a test, and runs on
//! every implementation. A store keeps the invariants on its own, with what its database guarantees: the use
//! cases above it may run in any number of processes at once and hold no locks.

use async_trait::async_trait;

use crate::domain::{
    Appended, End, Event, EventId, EventQuery, Expected, NewEvent, Page, Pointer, Result, Session,
    SessionKey, SessionPatch, SessionQuery, Tenant, Timestamp,
};

pub mod catalog;
pub mod leases;
pub mod mongo;
pub(crate) mod refusal;
pub mod settings;
pub mod sqlite;

/// A part of a store that may fail by itself, as a shard of a cluster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Place(pub u32);

/// An event on its way into a session.
#[derive(Debug, Clone)]
pub struct Append {
    pub key: SessionKey,
    pub event: NewEvent,
    /// The sequence number proposed; see [`Store::append`].
    pub seq: i64,
    /// The number is reserved: no other event of the session gets it, through whatever replica, and it is greater than
    /// those of all events acknowledged before the append began.
    pub reserved: bool,
}

/// The outcome of [`Store::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The session as it is stored.
    pub session: Session,
    /// This call stored it; of any number of concurrent calls with one key, exactly one is told so.
    pub created: bool,
}

/// What the store has of a page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotEvents {
    pub items: Vec<Event>,
    /// There are more hot ones behind these.
    pub has_more: bool,
    /// The session is archived: what is asked for is what lies there, and besides it these.
    pub archived: Option<Pointer>,
}

impl From<Page<Event>> for HotEvents {
    fn from(page: Page<Event>) -> Self {
        Self {
            items: page.items,
            has_more: page.has_more,
            archived: None,
        }
    }
}

/// What the store has of an event: itself, where it lies if not here, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotEvent {
    pub event: Option<Event>,
    /// The session is archived: a copy that lies there is the event, and this one is not.
    pub archived: Option<Pointer>,
}

impl From<Event> for HotEvent {
    fn from(event: Event) -> Self {
        Self {
            event: Some(event),
            archived: None,
        }
    }
}

/// What a round of [`Store::upkeep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// Events deleted on behalf of erased sessions.
    pub events_deleted: usize,
    /// Tombstones whose time was over.
    pub tombstones_dropped: usize,
}

/// A session that [`Store::find_idle`] found idle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    pub key: SessionKey,
    /// As it was asked for.
    pub idle_since: Timestamp,
    /// What the store recognises its finding by; empty where it needs nothing of the kind.
    pub mark: String,
}

/// What [`Store::find_idle`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdleFound {
    pub sessions: Vec<Idle>,
    /// There may be more. The next call does not give the same again, unless they were used, or left alone for a minute.
    pub has_more: bool,
}

/// A durable store of sessions and events.
///
/// What every method promises:
///
/// - **Durable (I1).** `Ok` from a method that writes means that the write survives the loss of power.
/// - **Visible (I3).** A call that begins after another returned `Ok` sees what it wrote.
/// - **Atomic (I6).** A method that returns `Err` with a kind that blames the caller changed nothing. With
///   [`Kind::Unavailable`] or [`Kind::Internal`](crate::domain::Kind) it may or may not have; calling again with
///   the same arguments is always safe and settles it.
/// - **Tenants never meet (I8).** Only the tenant in the key is read or written.
///
/// Every method that takes a key, but for `erase`, fails with [`Kind::SessionErased`] while the key's tombstone stands,
/// and, but for `open` and `erase`, with [`Kind::SessionNotFound`] when there is no session. A tombstone stands until
/// its `forget_at`; `open` and `upkeep` are told what time it is, and a method that is not may take one to stand until
/// either of those two has removed it.
///
/// [`Kind::Unavailable`]: crate::domain::Kind::Unavailable
/// [`Kind::SessionErased`]: crate::domain::Kind::SessionErased
/// [`Kind::SessionNotFound`]: crate::domain::Kind::SessionNotFound
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores `session` unless its key is taken, in which case the stored one comes back untouched.
    ///
    /// `now` tells whether a tombstone still stands.
    async fn open(&self, tenant: &Tenant, session: Session, now: Timestamp) -> Result<Opened>;

    /// The session.
    async fn session(&self, key: &SessionKey) -> Result<Session>;

    /// A page of a tenant's sessions, newest first: by `(startedAt, sessionId)`, descending. Erased ones are not
    /// listed.
    async fn sessions(&self, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>>;

    /// Applies [`Session::patch`] atomically: of two concurrent patches neither is lost.
    ///
    /// # Errors
    /// As [`Session::patch`].
    async fn patch(&self, key: &SessionKey, patch: &SessionPatch, expected: &Expected) -> Result<Session>;

    /// Applies [`Session::end`] atomically: the first call decides, every other one gets its outcome. Where `end` does not
    /// say when, the end is not before the start, nor before any event that had its timestamp from the store and was
    /// acknowledged before the call.
    async fn end(&self, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session>;

    /// Erases the session, its events and all their content. From the moment this returns, nothing of it can be
    /// read, and its id is refused until `forget_at`. Repeating it does not move `forget_at`; erasing what never was
    /// leaves no trace; both are `Ok`.
    async fn erase(&self, key: &SessionKey, forget_at: Timestamp) -> Result<()>;

    /// Appends events, each on its own: one outcome an event, in the order given.
    ///
    /// For each event, in this order: an event with its id and the same type and payload is in the session
    /// already: it comes back, `replayed`; one with that id and another type or payload is there:
    /// [`Kind::EventIdReused`](crate::domain::Kind::EventIdReused); the session has ended:
    /// [`Kind::SessionEnded`](crate::domain::Kind::SessionEnded); else it is stored, exactly once whatever else
    /// runs at the same time (I2), and an `initiated` session becomes `active`.
    ///
    /// What holds for the stored `seq`:
    /// - It is the one proposed, or a greater one: where the session has an event with that `seq` or a greater one, it is
    ///   greater than all of them, and it is not less than [`Session::seq_min`]. Where none is left, the event fails with
    ///   [`Kind::Internal`](crate::domain::Kind::Internal): proposals come from a clock, so it takes a broken one.
    /// - Events that one store stored in one session have different numbers. They increase in the order given within
    ///   a call, and from a call that was answered to one that begins afterwards.
    /// - A number that is [reserved](Append::reserved) may be stored as it is although a greater one was stored since it was
    ///   reserved. Where all numbers of a session are reserved, no two of its events share one.
    /// - The others are unique for one store alone. Several processes that write to one session at the same time may
    ///   give the same number; one that begins after another was answered gives a greater one to an event without a
    ///   timestamp, so far as the processes' clocks are less than a day apart.
    ///
    /// The stored timestamp is [`NewEvent::timestamp_with`] the stored `seq`.
    ///
    /// # Errors
    /// As a whole only when nothing is known of any event, such as a lost connection or a failed commit. An event of which
    /// nothing is known fails by itself, with [`Kind::Unavailable`](crate::domain::Kind::Unavailable), where others of the
    /// call are settled.
    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>>;

    /// Where the session lies, as far as is known without asking. Sessions of different places fail apart from each other, so it
    /// pays to append to them apart. Nothing else hangs on it, and it may change at any time.
    fn place(&self, _: &SessionKey) -> Place {
        Place::default()
    }

    /// For each session the number that the `seq` of its next event must exceed: that of its last event, or the one before
    /// [`Session::seq_min`]. `None`: any will do, or the session is not there, as an append then says.
    async fn last_seqs(&self, keys: &[SessionKey]) -> Result<Vec<Option<i64>>>;

    /// A page of a session's events in `(timestamp, seq, eventId)` order or its reverse (I4), at a cost that does not
    /// grow with the depth of the page; and where to look for more, of an archived session. Every event of the session that
    /// was acknowledged before the call is among those that lie here and those that the pointer leads to.
    async fn events(&self, key: &SessionKey, query: &EventQuery) -> Result<HotEvents>;

    /// The session with a page of its events, both as of one moment: the session is not older than any of the events, and
    /// `archived` when they have a pointer. Otherwise as [`session`](Self::session) and [`events`](Self::events), at the
    /// cost of the latter.
    async fn session_with_events(&self, key: &SessionKey, query: &EventQuery)
    -> Result<(Session, HotEvents)>;

    /// One event; or, of an archived session, where to look for it.
    ///
    /// # Errors
    /// [`Kind::EventNotFound`](crate::domain::Kind::EventNotFound), of a session that is not archived.
    async fn event(&self, key: &SessionKey, id: &EventId) -> Result<HotEvent>;

    /// Whether the store can serve right now, asked of the database itself.
    async fn ping(&self) -> Result<()>;

    /// One bounded round of what is left to do after the fact: the events of erased sessions, tombstones whose time
    /// is over. Safe to run at any time and in any number of processes; to be called again while it reports work.
    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep>;

    /// Looks at up to `limit` sessions, of any tenant, that have not ended and that may not have been used since
    /// `idle_since`, those unused longest first. Gives those that indeed were neither opened nor appended to since, by the
    /// server's clock whatever times their callers gave. `now` is the server's time.
    ///
    /// Takes a while: where appends may land late, as long as one that is under way may take. Asks every shard.
    async fn find_idle(&self, idle_since: Timestamp, now: Timestamp, limit: usize) -> Result<IdleFound>;

    /// Ends a session that was found idle: `completed`, `now`, with `reason`. Gives what it is then; `None` where it has
    /// ended otherwise or was used meanwhile.
    ///
    /// When it is ended so, no append to it has been acknowledged that was accepted at or after `idle_since`.
    async fn end_idle(&self, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>>;

    /// Finishes what was accepted and closes; later calls fail with
    /// [`Kind::Unavailable`](crate::domain::Kind::Unavailable).
    async fn close(&self);
}
