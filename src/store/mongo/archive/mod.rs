//! What the archive asks of this store: [`Catalog`], one document a statement like all
//! else here.
//!
//! - `claims`: who may archive or restore a session at the moment.
//! - `commits`: pointers, and the hot events that they make superfluous.
//! - `restore`: events on their way back.
//! - `adoption`: copies that are found in the archive, when the store was lost or set back.
//! - `expiry`: archived sessions whose time is over, many at a time.
//! - `listing`: what there is to do, and which segments are in use. All of it asks every shard.
//! - `runs`: the records of what was done.
//!
//! Whether a claim stands is asked in the condition of the very statement that depends on it, of the database's own
//! clock (`$$NOW`). Changes of many sessions are one command with one statement a session (`bulk`); what came of each
//! is read back, and since every condition holds once, that settles repeated tries too.
//!
//! `$$NOW` is the clock of the router that the statement goes through, and after an election that of another server. Two
//! of them may be apart by the option `clocks_apart_max`, `A` for short.
//!
//! - **Q1. The owner of a claim may do under it what it may until `until`** ([`claim_stands`]): renew, commit, restore, merge.
//! - **Q2. Everybody else takes it to stand until `until + A`** ([`claim_is_over`]): who claims, looks for work, expires,
//!   withdraws, or asks whether a segment is needed. So when a claim is over by any clock, it does not stand by any other.
//!   Without this: a sweep asks through a router whose clock is ahead whether a segment is needed, and hears that no claim
//!   stands; the archiver commits through a router whose clock is behind; the sweep deletes what the pointer leads to.
//! - **Q3. A deletion takes a claim that is over off the session before it relies on that**, whatever the clocks say.

use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};

use super::{MongoStore, bulk::Bulk, call::Call, fault::Result};
use crate::{
    domain::{self, Event, EventId, JsonObject, SegmentName, Session, SessionKey, Timestamp},
    store::catalog::{
        Adopted, Affected, Archived, Catalog, Claim, Claimed, Commit, Copies, Due, Pending, Standing,
        Unmarked, Written,
    },
};

mod adoption;
mod claims;
mod commits;
mod expiry;
mod listing;
mod restore;
mod runs;

#[async_trait]
impl Catalog for MongoStore {
    fn settle_time(&self) -> Duration {
        self.options.append_settle
    }

    async fn due(&self, before: Timestamp, limit: usize) -> domain::Result<Vec<Due>> {
        let call = self.calls.begin().await?;
        Ok(listing::due(&call, before, limit).await?)
    }

    async fn claim(
        &self,
        keys: &[SessionKey],
        claim: Claim,
        owner: &SegmentName,
        lease: Duration,
    ) -> domain::Result<Vec<Claimed>> {
        let call = self.calls.begin().await?;
        Ok(claims::claim(&call, &self.concern, keys, claim, owner, lease).await?)
    }

    async fn renew(
        &self,
        claimed: &[Claimed],
        owner: &SegmentName,
        lease: Duration,
    ) -> domain::Result<Vec<bool>> {
        let call = self.calls.begin().await?;
        Ok(claims::renew(&call, &self.concern, claimed, owner, lease).await?)
    }

    async fn release(
        &self,
        claimed: &[Claimed],
        owner: &SegmentName,
        written: Written,
    ) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(claims::release(&call, &self.concern, claimed, owner, written).await?)
    }

    async fn commit(&self, commits: &[Commit], owner: &SegmentName) -> domain::Result<Vec<bool>> {
        let call = self.calls.begin().await?;
        Ok(commits::commit(&call, &self.concern, commits, owner, Copies::Made).await?)
    }

    async fn commit_moved(&self, commits: &[Commit], owner: &SegmentName) -> domain::Result<Vec<bool>> {
        let call = self.calls.begin().await?;
        Ok(commits::commit(&call, &self.concern, commits, owner, Copies::Moved).await?)
    }

    async fn delete_archived(
        &self,
        key: &SessionKey,
        epoch: i64,
        events: &[EventId],
    ) -> domain::Result<usize> {
        let call = self.calls.begin().await?;
        Ok(commits::delete_archived(&call, key, epoch, events).await?)
    }

    async fn untidy(&self, limit: usize) -> domain::Result<Vec<Archived>> {
        let call = self.calls.begin().await?;
        Ok(listing::untidy(&call, limit).await?)
    }

    async fn with_hot_events(&self, keys: &[SessionKey]) -> domain::Result<Vec<SessionKey>> {
        let call = self.calls.begin().await?;
        Ok(commits::with_hot_events(&call, keys).await?)
    }

    async fn tidied(&self, sessions: &[Archived], again_after: Option<Duration>) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(commits::tidied(&call, &self.concern, sessions, again_after).await?)
    }

    async fn bring_back(&self, key: &SessionKey, epoch: i64, events: &[Event]) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(restore::bring_back(&call, &self.concern, key, epoch, events).await?)
    }

    async fn restored(
        &self,
        key: &SessionKey,
        epoch: i64,
        owner: &SegmentName,
        now: Timestamp,
    ) -> domain::Result<Option<Session>> {
        let call = self.calls.begin().await?;
        Ok(restore::restored(&call, key, epoch, owner, now).await?)
    }

    async fn standings(&self, keys: &[SessionKey]) -> domain::Result<Vec<Standing>> {
        let call = self.calls.begin().await?;
        Ok(commits::standings(&call, keys).await?)
    }

    async fn owed_marker(&self, key: &SessionKey) -> domain::Result<Option<i64>> {
        let call = self.calls.begin().await?;
        Ok(adoption::owed_marker(&call, key).await?)
    }

    async fn unmarked(&self, limit: usize) -> domain::Result<Vec<Unmarked>> {
        let call = self.calls.begin().await?;
        Ok(listing::unmarked(&call, limit).await?)
    }

    async fn marked(&self, keys: &[SessionKey]) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(listing::marked(&call, &self.concern, keys).await?)
    }

    async fn known(&self, segment: &SegmentName, keys: &[SessionKey]) -> domain::Result<Vec<bool>> {
        let call = self.calls.begin().await?;
        Ok(commits::known(&call, segment, keys).await?)
    }

    async fn is_needed(&self, segment: &SegmentName) -> domain::Result<bool> {
        let call = self.calls.begin().await?;
        Ok(listing::is_needed(&call, segment).await?)
    }

    async fn segments(
        &self,
        after: Option<&SegmentName>,
        limit: usize,
    ) -> domain::Result<Vec<(SegmentName, u64)>> {
        let call = self.calls.begin().await?;
        Ok(listing::segments(&call, after, limit).await?)
    }

    async fn pointed_to(
        &self,
        after: Option<&SegmentName>,
        until: Option<&SegmentName>,
        limit: usize,
    ) -> domain::Result<Vec<SegmentName>> {
        let call = self.calls.begin().await?;
        Ok(listing::pointed_to(&call, after, until, limit).await?)
    }

    async fn residual(&self, limit: usize) -> domain::Result<Vec<SegmentName>> {
        let call = self.calls.begin().await?;
        Ok(listing::residual(&call, limit).await?)
    }

    async fn archived_in(&self, segment: &SegmentName, limit: usize) -> domain::Result<Vec<Archived>> {
        let call = self.calls.begin().await?;
        Ok(listing::archived_in(&call, segment, limit).await?)
    }

    async fn expire(&self, archived: &[Archived], forget_at: Timestamp) -> domain::Result<Vec<bool>> {
        let call = self.calls.begin().await?;
        Ok(expiry::expire(&call, &self.concern, archived, forget_at, &self.options).await?)
    }

    async fn pending(&self) -> domain::Result<Pending> {
        let call = self.calls.begin().await?;
        Ok(listing::pending(&call).await?)
    }

    async fn affected(&self, after: Option<&SegmentName>, limit: usize) -> domain::Result<Vec<Affected>> {
        let call = self.calls.begin().await?;
        Ok(listing::affected(&call, after, limit).await?)
    }

    async fn forget_segment(&self, segment: &SegmentName) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(listing::forget_segment(&call, &self.concern, segment).await?)
    }

    async fn adopt(&self, copy: &Archived, session: &Session) -> domain::Result<Adopted> {
        let call = self.calls.begin().await?;
        Ok(adoption::adopt(&call, copy, session).await?)
    }

    async fn merge(
        &self,
        claimed: &Claimed,
        owner: &SegmentName,
        copy: &Archived,
        session: &Session,
        takes_over: bool,
    ) -> domain::Result<bool> {
        let call = self.calls.begin().await?;
        Ok(adoption::merge(&call, claimed, owner, copy, session, takes_over).await?)
    }

    async fn adopt_erased(
        &self,
        copy: &Archived,
        erased_at: Timestamp,
        forget_at: Timestamp,
    ) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(adoption::adopt_erased(&call, copy, erased_at, forget_at, &self.options).await?)
    }

    async fn erase_older(
        &self,
        key: &SessionKey,
        erased_at: Timestamp,
        forget_at: Timestamp,
    ) -> domain::Result<bool> {
        let call = self.calls.begin().await?;
        Ok(adoption::erase_older(&call, key, erased_at, forget_at, &self.options).await?)
    }

    async fn walk(&self, after: Option<&SessionKey>, limit: usize) -> domain::Result<Vec<SessionKey>> {
        let call = self.calls.begin().await?;
        Ok(listing::walk(&call, after, limit).await?)
    }

    async fn record_run(&self, id: &str, started_at: Timestamp, record: &JsonObject) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(runs::record(&call, id, started_at, record).await?)
    }

    async fn runs(&self, limit: usize) -> domain::Result<Vec<JsonObject>> {
        let call = self.calls.begin().await?;
        Ok(runs::newest(&call, limit).await?)
    }
}

/// Whether there is a claim and it stands for its owner, as an expression (Q1). A date is greater than what is not there.
fn claim_stands() -> Document {
    doc! { "$gt": ["$claim.until", "$$NOW"] }
}

/// Whether there is no claim that anybody may still act under, as an expression (Q2).
fn claim_is_over(call: &Call) -> Document {
    doc! { "$not": [claim_may_stand(call)] }
}

/// The opposite of [`claim_is_over`].
fn claim_may_stand(call: &Call) -> Document {
    let apart_ms = i64::try_from(call.clocks_apart_max().as_millis()).unwrap_or(i64::MAX);
    doc! { "$gt": [{ "$add": ["$claim.until", apart_ms.min(FROM_NOW_MS_MAX)] }, "$$NOW"] }
}

/// `value` where the condition holds, else nothing that [`left_with`] would take.
pub(super) fn when(condition: Document, value: Bson) -> Bson {
    doc! { "$cond": [condition, value, Bson::Null] }.into()
}

/// The session's `left` with what there is of these names besides; not a field at all where it would be empty.
pub(super) fn left_with(names: Vec<Bson>) -> Bson {
    let there = doc! { "$filter": { "input": names, "cond": { "$ne": ["$$this", Bson::Null] } } };
    let left = doc! { "$setUnion": [{ "$ifNull": ["$left", []] }, there] };
    unless_empty(left)
}

/// As [`left_with`]; with the marker that is owed, unless it is empty.
pub(super) fn left_or_marker(names: Vec<Bson>) -> Bson {
    let there = doc! { "$filter": { "input": names, "cond": { "$ne": ["$$this", Bson::Null] } } };
    let left = doc! { "$setUnion": [{ "$ifNull": ["$left", []] }, there] };
    let owed = vec![SegmentName::owed_marker().to_string()];
    let marker = doc! { "$cond": [{ "$eq": ["$$left", []] }, "$$REMOVE", { "$setUnion": ["$$left", owed] }] };
    doc! { "$let": { "vars": { "left": left }, "in": marker } }.into()
}

/// An epoch that is greater than the session's, and than any that was given before the store was set back.
pub(super) fn next_epoch() -> Bson {
    let next = doc! { "$add": [{ "$ifNull": ["$epoch", 0_i64] }, 1_i64] };
    doc! { "$max": [next, { "$toLong": "$$NOW" }] }.into()
}

fn unless_empty(names: Document) -> Bson {
    let unless_empty = doc! { "$cond": [{ "$eq": ["$$names", []] }, "$$REMOVE", "$$names"] };
    doc! { "$let": { "vars": { "names": names }, "in": unless_empty } }.into()
}

/// Has the hot events of those of these sessions that are archived looked at soon.
pub(super) async fn make_untidy(call: &Call, keys: Vec<String>, concern: &Document) -> Result<()> {
    let statement = |k: String| {
        let filter = doc! { "_id": k, "archived": true };
        statement(filter, vec![doc! { "$set": { "tidyAt": "$$NOW" } }])
    };
    update(call, concern, "colloquy: untidy", keys.into_iter().map(statement)).await
}

/// A statement that changes the session with the `_id` that is in the filter.
fn statement(filter: Document, pipeline: Vec<Document>) -> Document {
    // Its other fields have indexes, too.
    doc! { "q": filter, "u": pipeline, "hint": "_id_" }
}

async fn update(
    call: &Call,
    concern: &Document,
    comment: &'static str,
    statements: impl Iterator<Item = Document>,
) -> Result<()> {
    let bulk = Bulk {
        collection: super::SESSIONS,
        comment,
        statements: statements.collect(),
    };
    bulk.run(call, concern).await?;
    Ok(())
}

/// The session with this key, while the claim of `owner` under `epoch` stands.
fn while_claimed(k: String, epoch: i64, owner: &SegmentName) -> Document {
    doc! { "_id": k, "epoch": epoch, "claim.owner": owner.to_string(), "$expr": claim_stands() }
}

/// The database's clock and so much more, as an expression.
fn from_now(time: Duration) -> Document {
    let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    doc! { "$add": ["$$NOW", ms.min(FROM_NOW_MS_MAX)] }
}

/// A hundred years: further dates could not be stored.
const FROM_NOW_MS_MAX: i64 = 100 * 365 * 86_400_000;
