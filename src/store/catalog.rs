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
//! An epoch is the database's clock in milliseconds, or one more than the session's last epoch where that is greater. So an
//! older backup of the database that takes the place of a newer one does not give the same epochs again, and a late commit
//! or deletion from before the exchange matches nothing.
//!
//! A session that was archived keeps its document, without its events. `left` lists the segments that may still hold
//! bytes of the session that no pointer leads to: earlier copies, and copies that were being written when it was erased or
//! when their writer gave up. `left` is also what a deletion of a segment has to prove; see [`Catalog::known`].

use std::time::Duration;

use async_trait::async_trait;

use super::{Store, leases::Leases};
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

/// What the copies are that a [`Commit`] points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Of what the store had: its hot events are to be looked at.
    Made,
    /// Of other copies, event for event. When to look at hot events stays as it was.
    Moved,
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

/// Whether the owner of a claim that is given up may have written any object of the segment that the claim names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Nothing,
    /// An object may be there, or may still land. The segment goes to the session's `left`.
    Maybe,
}

/// What [`Catalog::adopt`] made of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// It was not there.
    Created,
    /// It was hot. The pointer leads to this copy now, and the hot events stay beside it.
    Moved,
    /// The store knows this copy, or the session was erased after it was made. Nothing is missing.
    Kept,
    /// The pointer leads to another copy, and neither is known to hold all events of the other. Nothing was changed:
    /// the events of one have to be [brought back](Catalog::bring_back) before the copies are [merged](Catalog::merge).
    Apart(Archived),
    /// The id is refused because of an erasure, and the copy was made after that. Nothing was changed; the copy can be
    /// adopted when the tombstone is gone.
    Refused,
}

/// An erased session whose erasure marker is still to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmarked {
    pub key: SessionKey,
    /// Of the erasure: greater than those of all copies that were made before it.
    pub epoch: i64,
}

/// What is left to do for sessions that were erased after they had been archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Erased sessions whose bytes may be in the archive still.
    pub sessions: u64,
    /// When the first of them was erased, by the database's clock; the epoch where that is not known. `None` where there
    /// is none.
    pub since: Option<Timestamp>,
}

/// A segment that may hold bytes of erased sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affected {
    pub segment: SegmentName,
    /// Erased sessions that may have bytes in it; at least one.
    pub sessions: u64,
    /// When the first of them was erased, by the database's clock; the epoch where that is not known.
    pub since: Timestamp,
}

/// A store whose sessions can be archived. Its [`Leases`] say which process looks after it.
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
pub trait Catalog: Store + Leases {
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

    /// Gives claims of `owner` up, where they stand: of sessions that no commit of `owner` was tried for. `written` says whether
    /// the owner goes to their `left`.
    async fn release(&self, claimed: &[Claimed], owner: &SegmentName, written: Written) -> Result<()>;

    /// Points sessions to their copies, where the claim of `owner` under that epoch stands and the session is still at the
    /// version that was copied, so that a store that is lost loses no change of it: from then on they are
    /// archived, and unclaimed. A pointer that was there before goes to `left`. Each is also put among the
    /// [`untidy`](Self::untidy), due at once. Says of each whether it was done; done before under the same epoch with
    /// the same pointer counts.
    async fn commit(&self, commits: &[Commit], owner: &SegmentName) -> Result<Vec<bool>>;

    /// As [`commit`](Self::commit), of copies that hold what the copies before them held, event for event
    /// ([`Copies::Moved`]). When the hot events of each are to be looked at next stays as it was.
    async fn commit_moved(&self, commits: &[Commit], owner: &SegmentName) -> Result<Vec<bool>>;

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

    /// Erased sessions whose erasure marker is still to be written to the archive: up to `limit`. A session that may have
    /// bytes in the archive is one of them from the very write that [erases](Store::erase) it, and its tombstone stands
    /// until [`marked`](Self::marked). Asks every shard.
    async fn unmarked(&self, limit: usize) -> Result<Vec<Unmarked>>;

    /// The epoch of the erasure, where the session is one of the [`unmarked`](Self::unmarked).
    async fn owed_marker(&self, key: &SessionKey) -> Result<Option<i64>>;

    /// The erasure markers of these sessions were written.
    async fn marked(&self, keys: &[SessionKey]) -> Result<()>;

    /// Of each session, whether the store knows of the copy in `segment`: its pointer leads there, its `left` names the
    /// segment, or its last claim does. In the order of `keys`.
    ///
    /// What the store knows of it has taken along: every event of the copy is also where the pointer leads, or hot, or was
    /// erased. Of any other copy the store can't tell. It may hold the only copy of an event, as when an older backup of
    /// the database was restored, and must not be deleted. Once this is true it stays so until
    /// [`forget_segment`](Self::forget_segment).
    async fn known(&self, segment: &SegmentName, keys: &[SessionKey]) -> Result<Vec<bool>>;

    /// Whether a pointer leads to the segment, or a claim stands in order to write it. Once that is false it stays so.
    async fn is_needed(&self, segment: &SegmentName) -> Result<bool>;

    /// The segments that pointers lead to, with how many: up to `limit` that come after `after`, in the order of their
    /// names as text. Asks every shard.
    async fn segments(&self, after: Option<&SegmentName>, limit: usize) -> Result<Vec<(SegmentName, u64)>>;

    /// The segments that pointers lead to whose names come after `after` and not after `until`, as text: up to `limit`, in
    /// order. `None` is no bound. Cheaper than [`segments`](Self::segments), since it does not count. Asks every shard.
    async fn pointed_to(
        &self,
        after: Option<&SegmentName>,
        until: Option<&SegmentName>,
        limit: usize,
    ) -> Result<Vec<SegmentName>>;

    /// The segments that any `left` names: up to `limit`, in no order. Asks every shard.
    async fn residual(&self, limit: usize) -> Result<Vec<SegmentName>>;

    /// Archived sessions whose pointer leads to the segment: up to `limit`, in no order. Asks every shard.
    async fn archived_in(&self, segment: &SegmentName, limit: usize) -> Result<Vec<Archived>>;

    /// Erases sessions as [`erase`](Store::erase) does, each with one statement that is conditional: it must still be archived
    /// in that segment under that epoch, and nobody may have claimed it. So one that was restored meanwhile, or is being
    /// restored, stays. Says of each whether it is erased now.
    async fn expire(&self, archived: &[Archived], forget_at: Timestamp) -> Result<Vec<bool>>;

    /// What is left to do for erased sessions. Asks every shard.
    async fn pending(&self) -> Result<Pending>;

    /// The segments that may hold those bytes: up to `limit` that come after `after`, in the order of their names as text.
    /// Asks every shard.
    async fn affected(&self, after: Option<&SegmentName>, limit: usize) -> Result<Vec<Affected>>;

    /// Takes a segment that is gone off every `left`. Asks every shard.
    async fn forget_segment(&self, segment: &SegmentName) -> Result<()>;

    /// Takes in a copy of a session that was found in the archive: the store was lost, or an older backup of it was
    /// restored. `session` is as it was stored, archived. Where the session is hot, it is archived from then on as
    /// [`reconciled`] says, a claim that stands is taken off it, and its hot events are looked at soon: those that the copy
    /// lacks are late events.
    async fn adopt(&self, copy: &Archived, session: &Session) -> Result<Adopted>;

    /// Ends the merging of two copies of a session, where the claim of `owner` stands that was taken for it, and after the
    /// events that only the losing copy has were brought back. The pointer leads to `copy` then if that `takes_over`, and
    /// where it led otherwise; the other segment goes to `left`. The session is as [`reconciled`] says. Says whether it was
    /// done.
    async fn merge(
        &self,
        claimed: &Claimed,
        owner: &SegmentName,
        copy: &Archived,
        session: &Session,
        takes_over: bool,
    ) -> Result<bool>;

    /// Takes in a copy that was found of a session that was erased at `erased_at`: nobody sees it for a moment. What is not
    /// there becomes a tombstone until `forget_at`, and so does a session that is [older](Self::erase_older) than the
    /// erasure; of anything else, the copy's segment goes to `left`.
    async fn adopt_erased(&self, copy: &Archived, erased_at: Timestamp, forget_at: Timestamp) -> Result<()>;

    /// Erases a session again that was erased at `erased_at` before the store was set back: if it was opened at or before that
    /// time, by the server's clock. Where the store does not know when it was opened, the time that its segment was begun
    /// counts, and else the time that the session says it started. Says whether it was erased.
    async fn erase_older(&self, key: &SessionKey, erased_at: Timestamp, forget_at: Timestamp)
    -> Result<bool>;

    /// Sessions that are not erased, after `after`: up to `limit`, in an order that the store chooses. Asks every shard.
    async fn walk(&self, after: Option<&SessionKey>, limit: usize) -> Result<Vec<SessionKey>>;

    /// Keeps the record of a run, in place of an earlier one with its id; and drops those that are older than 90 days.
    async fn record_run(&self, id: &str, started_at: Timestamp, record: &JsonObject) -> Result<()>;

    /// The records of the newest runs, newest first.
    async fn runs(&self, limit: usize) -> Result<Vec<JsonObject>>;
}

/// Most entries of a list that a method of [`Catalog`] takes.
pub const CATALOG_BATCH_MAX: usize = 500;

/// Days that the record of a run is kept.
pub const RUN_DAYS_MAX: i64 = 90;

/// A session of which a copy was found that the store did not know of, as it is from then on: archived, with everything that
/// either of the two has.
///
/// The one with the greater version counts, the copy where they are equal; it has ended as the copy has where it had not.
/// The version of what is shown is greater than the stored one unless nothing differs.
pub fn reconciled(copy: &Session, stored: &Session) -> Session {
    let mut session = match stored.version > copy.version {
        true => stored.clone(),
        false => copy.clone(),
    };
    if !session.status.has_ended() {
        session.status = copy.status;
        session.ended_at = copy.ended_at;
        session.end_reason.clone_from(&copy.end_reason);
    }
    session.archived = true;
    let as_stored = Session {
        archived: true,
        ..stored.clone()
    };
    if session != as_stored {
        session.version = session.version.max(stored.version.saturating_add(1));
    }
    session
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{NewSession, Status};

    fn session(version: i64, status: Status, end_reason: Option<&str>) -> Session {
        let opened = Session::opened(NewSession::default(), "s".parse().unwrap(), Timestamp::EPOCH);
        Session {
            version,
            status,
            end_reason: end_reason.map(str::to_owned),
            ended_at: status.has_ended().then_some(Timestamp::EPOCH),
            archived: false,
            ..opened
        }
    }

    #[test]
    fn of_two_states_of_a_session_the_newer_counts_and_the_end_stays() {
        let copy = Session {
            archived: true,
            ..session(5, Status::Failed, Some("copy"))
        };
        assert_eq!(reconciled(&copy, &session(3, Status::Active, None)), copy);
        assert_eq!(reconciled(&copy, &session(5, Status::Failed, Some("copy"))), copy);
        let tie = reconciled(&copy, &session(5, Status::Completed, Some("stored")));
        assert_eq!((tie.version, tie.end_reason.as_deref()), (6, Some("copy")));
        let newer = reconciled(&copy, &session(8, Status::Active, None));
        assert_eq!((newer.version, newer.status), (9, Status::Failed));
        assert_eq!(newer.end_reason.as_deref(), Some("copy"));
        let ended = reconciled(&copy, &session(8, Status::Completed, Some("stored")));
        assert_eq!((ended.version, ended.end_reason.as_deref()), (8, Some("stored")));
        assert!(ended.archived);
    }
}
