//! What the archive keeps in the store: who may archive a session at the moment, and where its events went.
//!
//! A session is archived in three writes: it is [claimed](Catalog::claim), a pointer to its copy is
//! [committed](Catalog::commit), its hot events are [deleted](Catalog::delete_archived). What makes this safe with any
//! number of archivers, each of which may stop at any moment and go on much later:
//!
//! - Every claim, restore and erasure gives the session a new **epoch**, greater than all before. A commit names the
//!   epoch of its claim, so it does nothing once somebody else has claimed, restored or erased the session.
//! - A claim ends by itself, by the database's clock. A commit after that does nothing even if nobody else came: so
//!   what has neither a pointer nor a claim that stands will never get one.
//! - A deletion names the epoch of the commit, and touches no event that a later epoch brought back.
//!
//! A session that was archived keeps its document, without its events. `left` lists the segments that may still hold
//! bytes of the session that no pointer leads to: earlier copies, and copies that were being written when it was erased.

use std::time::Duration;

use async_trait::async_trait;

use super::Store;
use crate::domain::{
    Event, EventId, JsonObject, Pointer, Result, SegmentName, Session, SessionKey, Timestamp,
};

/// A session that may be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub key: SessionKey,
    pub ended_at: Timestamp,
}

/// Which sessions a claim takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Ended ones whose events are in the store.
    Hot,
    /// Archived ones.
    Archived,
}

/// A session that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub key: SessionKey,
    /// Given by this claim.
    pub epoch: i64,
    /// The session's, when it was claimed.
    pub version: i64,
    /// Of an archived session.
    pub pointer: Option<Pointer>,
}

/// A pointer to be committed under a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub key: SessionKey,
    pub epoch: i64,
    /// Of the session as it was copied.
    pub version: i64,
    pub pointer: Pointer,
}

/// An archived session, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    pub key: SessionKey,
    pub epoch: i64,
    pub pointer: Pointer,
}

/// What the store knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// There is no session, or its tombstone was dropped.
    Unknown,
    /// Its events are in the store.
    Hot,
    Archived(Archived),
    Erased,
}

/// What [`Catalog::adopt`] made of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// It was not there.
    Created,
    /// An older copy was there; the pointer now leads to this one.
    Moved,
    /// This or a newer copy was there, or the session is hot, or erased.
    Kept,
}

/// What is left to do for sessions that were erased after they had been archived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pending {
    /// Erased sessions whose bytes are not gone from the archive yet.
    pub sessions: u64,
    /// The segments that may hold them, some of them where there are many.
    pub segments: Vec<SegmentName>,
}

/// A store whose sessions can be archived.
///
/// The promises of [`Store`] about durability, visibility and errors hold here too. `Ok` from a method that takes
/// several sessions means that each was tried; repeating any call is safe. The lists that methods take have at most
/// [`CATALOG_BATCH_MAX`] entries.
///
/// What the methods of [`Store`] do with an archived session:
/// - `session` and `sessions` show it, with `archived` true and everything else, `version` too, as before;
/// - `events` and `event` give what there is hot, and the pointer;
/// - `append` refuses each of its events with [`Kind::SessionArchived`](crate::domain::Kind), stored or not: only the
///   archive can tell whether one is a replay. A store whose appends may land after their session ended says so in
///   [`settle_time`](Self::settle_time);
/// - `patch` refuses it with the same kind; `end` gives it back unchanged;
/// - `erase` puts its segment, and the owner of a claim that was not given up, on the tombstone's `left`. While there
///   is an entry the tombstone stands, even past its time.
#[async_trait]
pub trait Catalog: Store {
    /// How long after its claim a session's hot events may still grow: appends that were under way when it ended.
    /// What lands later than that was not acknowledged as new. Zero where an append and an end exclude each other.
    fn settle_time(&self) -> Duration;

    /// Ended sessions whose events are in the store, that nobody has claimed, that ended before `before` and were not
    /// restored at or after it: up to `limit`, oldest end first. Tenants mix. Asks every shard.
    async fn due(&self, before: Timestamp, limit: usize) -> Result<Vec<Due>>;

    /// Claims those of the sessions that are as `claim` says and that nobody has claimed, for `lease` from now by the
    /// database's clock. Says which; in the order of `keys`. Whoever had a claim that ended by itself goes to `left`: they may
    /// have written a copy into a segment that lives on.
    async fn claim(
        &self,
        keys: &[SessionKey],
        claim: Claim,
        owner: &SegmentName,
        lease: Duration,
    ) -> Result<Vec<Claimed>>;

    /// Makes claims of `owner` last `lease` from now, where they stand. Says of each whether it does.
    async fn renew(&self, claimed: &[Claimed], owner: &SegmentName, lease: Duration) -> Result<Vec<bool>>;

    /// Gives claims of `owner` up, where they stand: of sessions that are in no segment of that name which any pointer leads to.
    async fn release(&self, claimed: &[Claimed], owner: &SegmentName) -> Result<()>;

    /// Points sessions to their copies, where the claim of `owner` under that epoch stands and the session is still at the
    /// version that was copied, so that a store that is lost loses no change of it: from then on they are
    /// archived, and unclaimed. A pointer that was there before goes to `left`. Each is also put among the
    /// [`untidy`](Self::untidy), due at once. Says of each whether it was done; done before under the same epoch with
    /// the same pointer counts.
    async fn commit(&self, commits: &[Commit], owner: &SegmentName) -> Result<Vec<bool>>;

    /// Deletes hot events of a session that is archived under `epoch`, but none that a restore under a later epoch
    /// brought back. Gives how many were there.
    async fn delete_archived(&self, key: &SessionKey, epoch: i64, events: &[EventId]) -> Result<usize>;

    /// Archived sessions whose hot events are to be looked at now: up to `limit`, those due longest first. Asks every shard.
    async fn untidy(&self, limit: usize) -> Result<Vec<Archived>>;

    /// Those of these archived sessions that have hot events.
    async fn with_hot_events(&self, keys: &[SessionKey]) -> Result<Vec<SessionKey>>;

    /// When to look at the hot events of these archived sessions next: after that time, or, with `None`, never.
    /// One that is archived under another epoch by now is left alone.
    async fn tidied(&self, sessions: &[Archived], again_after: Option<Duration>) -> Result<()>;

    /// Stores events of a session that is claimed in order to be restored under `epoch`, in place of hot copies that
    /// have their ids. Of one session, at most
    /// [`BATCH_EVENTS_MAX`](crate::domain::event::BATCH_EVENTS_MAX) at a time. The session is put among the
    /// [`untidy`](Self::untidy), in case the restore is given up.
    async fn bring_back(&self, key: &SessionKey, epoch: i64, events: &[Event]) -> Result<()>;

    /// Takes the pointer away, after all events were brought back, where the claim of `owner` under `epoch` stands:
    /// from then on the session is hot. The pointer goes to `left`. `None` where the claim does not stand.
    async fn restored(
        &self,
        key: &SessionKey,
        epoch: i64,
        owner: &SegmentName,
        now: Timestamp,
    ) -> Result<Option<Session>>;

    /// How these keys stand, in their order.
    async fn standings(&self, keys: &[SessionKey]) -> Result<Vec<Standing>>;

    /// Whether the session was erased and bytes of it may still be in the archive.
    async fn is_pending(&self, key: &SessionKey) -> Result<bool>;

    /// Whether a pointer leads to the segment, or a claim stands in order to write it. Once that is false it stays so.
    async fn is_needed(&self, segment: &SegmentName) -> Result<bool>;

    /// The segments that pointers lead to, with how many: up to `limit` that come after `after`, in the order of their
    /// names as text. Asks every shard.
    async fn segments(&self, after: Option<&SegmentName>, limit: usize) -> Result<Vec<(SegmentName, u64)>>;

    /// What is left to do for erased sessions; up to `limit` segments. Asks every shard.
    async fn pending(&self, limit: usize) -> Result<Pending>;

    /// Takes a segment that is gone off every `left`. Asks every shard.
    async fn forget_segment(&self, segment: &SegmentName) -> Result<()>;

    /// Takes in a session that was found in the archive, when the store was lost: `session` as it was stored, archived.
    /// An older copy's segment goes to `left`, and so does this one's where a newer copy is there.
    async fn adopt(&self, archived: &Archived, session: &Session) -> Result<Adopted>;

    /// Takes in a copy that was found of a session that had been erased before the store was lost: nobody sees it for
    /// a moment. What is not there becomes a tombstone until `forget_at`, and so does what a pointer to this very copy
    /// leads to; of anything else, the copy's segment goes to `left`.
    async fn adopt_erased(&self, archived: &Archived, forget_at: Timestamp) -> Result<()>;

    /// Ends a session that has not ended and was neither opened nor appended to since `idle_since`, by the server's
    /// clock; says what it is then, `None` where it was not so. The end is `completed`, `now`, with `reason`.
    async fn end_if_idle(
        &self,
        key: &SessionKey,
        idle_since: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Session>>;

    /// Keeps the record of a run, in place of an earlier one with its id; and drops those that are older than 90 days.
    async fn record_run(&self, id: &str, started_at: Timestamp, record: &JsonObject) -> Result<()>;

    /// The records of the newest runs, newest first.
    async fn runs(&self, limit: usize) -> Result<Vec<JsonObject>>;
}

/// Most entries of a list that a method of [`Catalog`] takes.
pub const CATALOG_BATCH_MAX: usize = 500;

/// Days that the record of a run is kept.
pub const RUN_DAYS_MAX: i64 = 90;
