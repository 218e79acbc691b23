//! A catalog that fails as planned, and that sees to it that no event is deleted of which there is no good copy.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use colloquy::{
    archive::{objects::Objects, segment::SegmentReader},
    domain::{
        Appended, End, Error, Event, EventId, EventQuery, Expected, JsonObject, Kind, Page, Result,
        SegmentName, Session, SessionKey, SessionPatch, SessionQuery, Tenant, Timestamp,
    },
    store::{
        Append, HotEvent, HotEvents, Idle, IdleFound, Opened, Store, Upkeep,
        catalog::{
            Adopted, Affected, Archived, Catalog, Claim, Claimed, Commit, Due, Pending, Standing, Unmarked,
            Written,
        },
        leases::{Leases, Taken},
    },
};

use super::{
    plan::{Fault, Plan},
    world::Model,
};

pub struct FaultyCatalog {
    pub catalog: Arc<dyn Catalog>,
    pub plan: Arc<Plan>,
    /// As they are, for the look at what is about to be deleted.
    pub objects: Arc<dyn Objects>,
    pub model: Model,
}

fn failed(_: Fault) -> Error {
    Error::new(Kind::Unavailable, "planned")
}

impl FaultyCatalog {
    async fn step<T>(
        &self,
        name: impl Into<String>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.plan.step(name.into(), call, failed).await
    }

    /// A deletion counts only under the epoch of the pointer; then the segment must be sealed, and hold each of the events
    /// as it was acknowledged.
    async fn look_at_copies(&self, key: &SessionKey, epoch: i64, ids: &[EventId]) -> Result<()> {
        let standing = async || self.catalog.standings(std::slice::from_ref(key)).await;
        let before = standing().await?;
        let [Standing::Archived(archived)] = before.as_slice() else {
            return Ok(());
        };
        if archived.epoch != epoch {
            return Ok(());
        }
        let pointer = &archived.pointer;
        let reader = SegmentReader::new(Arc::clone(&self.objects), 1 << 20);
        let copies = async {
            reader.manifest(&pointer.segment).await?;
            reader.find(key, pointer, ids).await
        };
        let copies = match copies.await {
            Ok(copies) => copies,
            // It moved on meanwhile, so nothing will be deleted.
            Err(_) if standing().await? != before => return Ok(()),
            Err(error) => {
                self.plan.blame(format!(
                    "events of {key} are deleted, and their copies can't be read: {error:?}"
                ));
                return Ok(());
            }
        };
        for (id, copy) in ids.iter().zip(copies) {
            let told = self.model.event(key, id);
            if copy.is_none() || told.is_some_and(|told| copy.as_ref() != Some(told)) {
                self.plan
                    .blame(format!("{id} of {key} is deleted, and its copy is {copy:?}"));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Store for FaultyCatalog {
    async fn open(&self, tenant: &Tenant, session: Session, now: Timestamp) -> Result<Opened> {
        self.catalog.open(tenant, session, now).await
    }

    async fn session(&self, key: &SessionKey) -> Result<Session> {
        self.step(format!("session {}", key.id), self.catalog.session(key))
            .await
    }

    async fn sessions(&self, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
        self.catalog.sessions(tenant, query).await
    }

    async fn patch(&self, key: &SessionKey, patch: &SessionPatch, expected: &Expected) -> Result<Session> {
        self.catalog.patch(key, patch, expected).await
    }

    async fn end(&self, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
        self.catalog.end(key, end, now).await
    }

    async fn erase(&self, key: &SessionKey, forget_at: Timestamp) -> Result<()> {
        self.step(format!("erase {}", key.id), self.catalog.erase(key, forget_at))
            .await
    }

    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>> {
        self.catalog.append(batch).await
    }

    async fn last_seqs(&self, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
        self.catalog.last_seqs(keys).await
    }

    async fn events(&self, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
        self.step(format!("events {}", key.id), self.catalog.events(key, query))
            .await
    }

    async fn session_with_events(
        &self,
        key: &SessionKey,
        query: &EventQuery,
    ) -> Result<(Session, HotEvents)> {
        let read = self.catalog.session_with_events(key, query);
        self.step(format!("session with events {}", key.id), read).await
    }

    async fn event(&self, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
        self.step(format!("event {}", key.id), self.catalog.event(key, id))
            .await
    }

    async fn ping(&self) -> Result<()> {
        self.catalog.ping().await
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep> {
        self.catalog.upkeep(now).await
    }

    async fn find_idle(&self, idle_since: Timestamp, now: Timestamp, limit: usize) -> Result<IdleFound> {
        self.catalog.find_idle(idle_since, now, limit).await
    }

    async fn end_idle(&self, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>> {
        self.catalog.end_idle(idle, reason, now).await
    }

    async fn close(&self) {
        self.catalog.close().await;
    }
}

#[async_trait]
impl Leases for FaultyCatalog {
    async fn take_lease(&self, name: &str, owner: &str, time: Duration) -> Result<Taken> {
        self.catalog.take_lease(name, owner, time).await
    }

    async fn give_up_lease(&self, name: &str, owner: &str) -> Result<()> {
        self.catalog.give_up_lease(name, owner).await
    }
}

#[async_trait]
impl Catalog for FaultyCatalog {
    fn settle_time(&self) -> Duration {
        self.catalog.settle_time()
    }

    async fn due(&self, before: Timestamp, limit: usize) -> Result<Vec<Due>> {
        self.step("due", self.catalog.due(before, limit)).await
    }

    async fn claim(
        &self,
        keys: &[SessionKey],
        claim: Claim,
        owner: &SegmentName,
        lease: Duration,
    ) -> Result<Vec<Claimed>> {
        let call = self.catalog.claim(keys, claim, owner, lease);
        self.step(format!("claim for {owner}"), call).await
    }

    async fn renew(&self, claimed: &[Claimed], owner: &SegmentName, lease: Duration) -> Result<Vec<bool>> {
        self.step("renew", self.catalog.renew(claimed, owner, lease))
            .await
    }

    async fn release(&self, claimed: &[Claimed], owner: &SegmentName, written: Written) -> Result<()> {
        self.step("release", self.catalog.release(claimed, owner, written))
            .await
    }

    async fn commit(&self, commits: &[Commit], owner: &SegmentName) -> Result<Vec<bool>> {
        let call = self.catalog.commit(commits, owner);
        self.step(format!("commit {owner}"), call).await
    }

    async fn commit_moved(&self, commits: &[Commit], owner: &SegmentName) -> Result<Vec<bool>> {
        let call = self.catalog.commit_moved(commits, owner);
        self.step(format!("commit_moved {owner}"), call).await
    }

    async fn delete_archived(&self, key: &SessionKey, epoch: i64, events: &[EventId]) -> Result<usize> {
        let call = async {
            self.look_at_copies(key, epoch, events).await?;
            self.catalog.delete_archived(key, epoch, events).await
        };
        self.step(format!("delete_archived {}", key.id), call).await
    }

    async fn untidy(&self, limit: usize) -> Result<Vec<Archived>> {
        self.step("untidy", self.catalog.untidy(limit)).await
    }

    async fn with_hot_events(&self, keys: &[SessionKey]) -> Result<Vec<SessionKey>> {
        self.step("with_hot_events", self.catalog.with_hot_events(keys))
            .await
    }

    async fn tidied(&self, sessions: &[Archived], again_after: Option<Duration>) -> Result<()> {
        self.step("tidied", self.catalog.tidied(sessions, again_after))
            .await
    }

    async fn bring_back(&self, key: &SessionKey, epoch: i64, events: &[Event]) -> Result<()> {
        let call = self.catalog.bring_back(key, epoch, events);
        self.step(format!("bring_back {}", key.id), call).await
    }

    async fn restored(
        &self,
        key: &SessionKey,
        epoch: i64,
        owner: &SegmentName,
        now: Timestamp,
    ) -> Result<Option<Session>> {
        let call = self.catalog.restored(key, epoch, owner, now);
        self.step(format!("restored {}", key.id), call).await
    }

    async fn standings(&self, keys: &[SessionKey]) -> Result<Vec<Standing>> {
        self.step("standings", self.catalog.standings(keys)).await
    }

    async fn owed_marker(&self, key: &SessionKey) -> Result<Option<i64>> {
        self.step("owed_marker", self.catalog.owed_marker(key)).await
    }

    async fn unmarked(&self, limit: usize) -> Result<Vec<Unmarked>> {
        self.step("unmarked", self.catalog.unmarked(limit)).await
    }

    async fn marked(&self, keys: &[SessionKey]) -> Result<()> {
        self.step("marked", self.catalog.marked(keys)).await
    }

    async fn known(&self, segment: &SegmentName, keys: &[SessionKey]) -> Result<Vec<bool>> {
        self.step("known", self.catalog.known(segment, keys)).await
    }

    async fn is_needed(&self, segment: &SegmentName) -> Result<bool> {
        self.step("is_needed", self.catalog.is_needed(segment)).await
    }

    async fn segments(&self, after: Option<&SegmentName>, limit: usize) -> Result<Vec<(SegmentName, u64)>> {
        self.step("segments", self.catalog.segments(after, limit)).await
    }

    async fn pointed_to(
        &self,
        after: Option<&SegmentName>,
        until: Option<&SegmentName>,
        limit: usize,
    ) -> Result<Vec<SegmentName>> {
        let call = self.catalog.pointed_to(after, until, limit);
        self.step("pointed_to", call).await
    }

    async fn residual(&self, limit: usize) -> Result<Vec<SegmentName>> {
        self.step("residual", self.catalog.residual(limit)).await
    }

    async fn archived_in(&self, segment: &SegmentName, limit: usize) -> Result<Vec<Archived>> {
        self.step("archived_in", self.catalog.archived_in(segment, limit))
            .await
    }

    async fn expire(&self, archived: &[Archived], forget_at: Timestamp) -> Result<Vec<bool>> {
        self.step("expire", self.catalog.expire(archived, forget_at))
            .await
    }

    async fn pending(&self) -> Result<Pending> {
        self.step("pending", self.catalog.pending()).await
    }

    async fn affected(&self, after: Option<&SegmentName>, limit: usize) -> Result<Vec<Affected>> {
        self.step("affected", self.catalog.affected(after, limit)).await
    }

    async fn forget_segment(&self, segment: &SegmentName) -> Result<()> {
        self.step("forget_segment", self.catalog.forget_segment(segment))
            .await
    }

    async fn adopt(&self, copy: &Archived, session: &Session) -> Result<Adopted> {
        let call = self.catalog.adopt(copy, session);
        self.step(format!("adopt {}", session.id), call).await
    }

    async fn merge(
        &self,
        claimed: &Claimed,
        owner: &SegmentName,
        copy: &Archived,
        session: &Session,
        takes_over: bool,
    ) -> Result<bool> {
        let call = self.catalog.merge(claimed, owner, copy, session, takes_over);
        self.step(format!("merge {}", session.id), call).await
    }

    async fn adopt_erased(&self, copy: &Archived, erased_at: Timestamp, forget_at: Timestamp) -> Result<()> {
        let call = self.catalog.adopt_erased(copy, erased_at, forget_at);
        self.step(format!("adopt erased {}", copy.key.id), call).await
    }

    async fn erase_older(
        &self,
        key: &SessionKey,
        erased_at: Timestamp,
        forget_at: Timestamp,
    ) -> Result<bool> {
        let call = self.catalog.erase_older(key, erased_at, forget_at);
        self.step(format!("erase older {}", key.id), call).await
    }

    async fn walk(&self, after: Option<&SessionKey>, limit: usize) -> Result<Vec<SessionKey>> {
        self.step("walk", self.catalog.walk(after, limit)).await
    }

    async fn record_run(&self, id: &str, started_at: Timestamp, record: &JsonObject) -> Result<()> {
        self.step("record_run", self.catalog.record_run(id, started_at, record))
            .await
    }

    async fn runs(&self, limit: usize) -> Result<Vec<JsonObject>> {
        self.catalog.runs(limit).await
    }
}
