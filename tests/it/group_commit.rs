//! Group commit in front of a store that is slow, fails, panics or can't count: what it promises to each caller.
//!
//! The faults can't be had from a real store on demand, so this is one of the few places that drive the library.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use colloquy::{
    cache::NoCache,
    domain::{
        Appended, End, Error, EventId, EventQuery, Expected, Kind, NewEvent, Page, Result, Session,
        SessionKey, SessionPatch, SessionQuery, Tenant, Timestamp,
    },
    service::{Appends, GroupCommit, GroupLimits},
    store::{Append, HotEvent, HotEvents, Idle, IdleFound, Opened, Place, Store, Upkeep},
};
use futures_util::FutureExt;
use tokio::sync::Semaphore;

/// What the store does with a call.
#[derive(Clone, Copy)]
enum Deed {
    Store,
    Fail(Kind),
    Panic,
    Miscount,
    /// Does not answer before the test says so.
    Hang,
    /// Nothing is known of the events named `lost`; the others are stored.
    LoseSome,
}

/// Given the event ids of a call.
type Script = Box<dyn Fn(&[String]) -> Deed + Send + Sync>;

/// A store that does with each call what its script says, once the gate lets the call through.
struct Scripted {
    script: Script,
    /// The event ids of each call, in the order of the calls.
    calls: Mutex<Vec<Vec<String>>>,
    entered: Semaphore,
    gate: Semaphore,
    hanging: Semaphore,
}

impl Scripted {
    fn new(script: impl Fn(&[String]) -> Deed + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            calls: Mutex::default(),
            entered: Semaphore::new(0),
            gate: Semaphore::new(0),
            hanging: Semaphore::new(0),
        })
    }

    /// Whatever holds the event `bad` meets `deed`; all else is stored.
    fn poisoned(deed: Deed) -> Arc<Self> {
        Self::new(move |ids| match ids.iter().any(|id| id == "bad") {
            true => deed,
            false => Deed::Store,
        })
    }

    fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().expect("no panic in here").clone()
    }

    /// Waits until a call is at the gate.
    async fn entered(&self) {
        let entered = tokio::time::timeout(PATIENCE, self.entered.acquire()).await;
        entered.expect("the store is called").expect("open").forget();
    }

    /// Lets every call through from now on.
    fn open_gate(&self) {
        self.gate.add_permits(1_000);
    }
}

#[async_trait]
impl Store for Scripted {
    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>> {
        let ids: Vec<_> = batch.iter().map(|append| append.event.id.to_string()).collect();
        self.calls.lock().expect("no panic in here").push(ids.clone());
        self.entered.add_permits(1);
        self.gate.acquire().await.expect("open").forget();
        let mut outcomes: Vec<_> = batch.into_iter().map(stored).collect();
        match (self.script)(&ids) {
            Deed::Store => Ok(outcomes),
            Deed::Hang => {
                self.hanging.acquire().await.expect("open").forget();
                Ok(outcomes)
            }
            Deed::LoseSome => {
                for (outcome, id) in outcomes.iter_mut().zip(&ids) {
                    if id == "lost" {
                        *outcome = Err(Error::new(Kind::Unavailable, "as the test says"));
                    }
                }
                Ok(outcomes)
            }
            Deed::Fail(kind) => Err(Error::new(kind, "as the test says")),
            Deed::Panic => panic!("as the test says"),
            Deed::Miscount => {
                outcomes.pop();
                Ok(outcomes)
            }
        }
    }

    async fn open(&self, _: &Tenant, _: Session, _: Timestamp) -> Result<Opened> {
        unreachable!("group commit only appends")
    }

    async fn session(&self, _: &SessionKey) -> Result<Session> {
        unreachable!("group commit only appends")
    }

    async fn sessions(&self, _: &Tenant, _: &SessionQuery) -> Result<Page<Session>> {
        unreachable!("group commit only appends")
    }

    async fn patch(&self, _: &SessionKey, _: &SessionPatch, _: &Expected) -> Result<Session> {
        unreachable!("group commit only appends")
    }

    async fn end(&self, _: &SessionKey, _: &End, _: Timestamp) -> Result<Session> {
        unreachable!("group commit only appends")
    }

    async fn erase(&self, _: &SessionKey, _: Timestamp) -> Result<()> {
        unreachable!("group commit only appends")
    }

    /// Sessions named `shard-N-…` lie on the shard N.
    fn place(&self, key: &SessionKey) -> Place {
        let mut words = key.id.as_str().split('-').skip(1);
        Place(
            words
                .next()
                .and_then(|shard| shard.parse().ok())
                .unwrap_or_default(),
        )
    }

    async fn last_seqs(&self, _: &[SessionKey]) -> Result<Vec<Option<i64>>> {
        unreachable!("without a cache there is nobody to reserve numbers")
    }

    async fn events(&self, _: &SessionKey, _: &EventQuery) -> Result<HotEvents> {
        unreachable!("group commit only appends")
    }

    async fn session_with_events(&self, _: &SessionKey, _: &EventQuery) -> Result<(Session, HotEvents)> {
        unreachable!("group commit only appends")
    }

    async fn event(&self, _: &SessionKey, _: &EventId) -> Result<HotEvent> {
        unreachable!("group commit only appends")
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn upkeep(&self, _: Timestamp) -> Result<Upkeep> {
        Ok(Upkeep::default())
    }

    async fn find_idle(&self, _: Timestamp, _: Timestamp, _: usize) -> Result<IdleFound> {
        unreachable!("group commit only appends")
    }

    async fn end_idle(&self, _: &Idle, _: &str, _: Timestamp) -> Result<Option<Session>> {
        unreachable!("group commit only appends")
    }

    async fn close(&self) {}
}

/// An event named `ended` is refused on its own; any other is stored.
fn stored(append: Append) -> Result<Appended> {
    if append.event.id.as_str() == "ended" {
        return Err(Error::new(Kind::SessionEnded, "as the test says"));
    }
    Ok(Appended {
        event: append.event.accepted(append.key.id, append.seq),
        replayed: false,
    })
}

/// A bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(10);

const LIMITS: GroupLimits = GroupLimits {
    queue_events_max: 100,
    queue_bytes_max: 10_000,
    group_events_max: 100,
    group_bytes_max: 10_000,
    flush_slots: 1,
    stalled_after: Duration::from_secs(3_600),
    stalled_events_max: 100,
};

fn event_of(id: &str, payload: &str) -> NewEvent {
    let text = format!(r#"{{"eventId":"{id}","type":"system","payload":{{"text":"{payload}"}}}}"#);
    NewEvent::read(text.as_bytes(), "").expect("an event")
}

fn appends(events: Vec<NewEvent>) -> Appends {
    Appends {
        key: SessionKey::new(Tenant::default(), "s".parse().expect("an id")),
        events: events.into(),
    }
}

/// The events of one request.
fn unit(ids: &[&str]) -> Appends {
    appends(ids.iter().map(|id| event_of(id, "")).collect())
}

type Outcomes = Result<Vec<Result<Appended>>>;
type Waiting = Pin<Box<dyn Future<Output = Outcomes> + Send>>;

/// Hands the unit over; what comes back is to be awaited for its outcome.
fn hand_over(commit: &GroupCommit, unit: Appends) -> Waiting {
    let commit = commit.clone();
    let mut waiting: Waiting = Box::pin(async move { commit.append(unit).await });
    assert!(
        (&mut waiting).now_or_never().is_none(),
        "the store has not answered yet"
    );
    waiting
}

async fn outcome(waiting: Waiting) -> Outcomes {
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("every append is answered")
}

/// The unit was stored: one outcome an event, each with its own event.
async fn is_stored(waiting: Waiting, ids: &[&str]) {
    let outcomes = outcome(waiting).await.expect("stored");
    let stored: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.expect("stored").event.id.to_string())
        .collect();
    assert_eq!(stored, ids);
}

async fn fails_with(waiting: Waiting, kind: Kind) {
    assert_eq!(outcome(waiting).await.expect_err("refused").kind(), kind);
}

/// A group commit whose only slot is taken by the unit `first`, which waits at the gate.
async fn busy(store: &Arc<Scripted>, limits: GroupLimits) -> (GroupCommit, Waiting) {
    let commit = GroupCommit::new(
        Arc::clone(store) as Arc<dyn Store>,
        Arc::new(NoCache),
        Arc::default(),
        limits,
    );
    let first = hand_over(&commit, unit(&["first"]));
    store.entered().await;
    (commit, first)
}

#[tokio::test]
async fn an_append_leaves_at_once_when_a_slot_is_free() {
    let store = Scripted::new(|_| Deed::Store);
    let (_commit, first) = busy(&store, LIMITS).await;
    assert_eq!(store.calls(), [["first"]]);
    store.open_gate();
    is_stored(first, &["first"]).await;
}

#[tokio::test]
async fn appends_that_wait_for_a_slot_leave_together_and_in_order() {
    let store = Scripted::new(|_| Deed::Store);
    let (commit, first) = busy(&store, LIMITS).await;
    let second = hand_over(&commit, unit(&["b1", "b2"]));
    let third = hand_over(&commit, unit(&["c1"]));
    assert_eq!(store.calls().len(), 1, "the slot is taken");
    store.open_gate();
    is_stored(first, &["first"]).await;
    is_stored(second, &["b1", "b2"]).await;
    is_stored(third, &["c1"]).await;
    assert_eq!(store.calls(), [vec!["first"], vec!["b1", "b2", "c1"]]);
}

#[tokio::test]
async fn a_unit_is_never_split_and_a_full_group_takes_no_further_one() {
    let store = Scripted::new(|_| Deed::Store);
    let limits = GroupLimits {
        group_events_max: 3,
        ..LIMITS
    };
    let (commit, first) = busy(&store, limits).await;
    let units: [&[&str]; 4] = [
        &["a1", "a2"],
        &["b1", "b2"],
        &["c1", "c2", "c3", "c4", "c5"],
        &["d1"],
    ];
    let waiting: Vec<_> = units.iter().map(|ids| hand_over(&commit, unit(ids))).collect();
    store.open_gate();
    is_stored(first, &["first"]).await;
    for (waiting, ids) in waiting.into_iter().zip(units) {
        is_stored(waiting, ids).await;
    }
    let groups = [
        vec!["first"],
        vec!["a1", "a2", "b1", "b2"],
        vec!["c1", "c2", "c3", "c4", "c5"],
        vec!["d1"],
    ];
    assert_eq!(store.calls(), groups);
}

#[tokio::test]
async fn a_group_is_bounded_in_bytes_too() {
    let store = Scripted::new(|_| Deed::Store);
    let limits = GroupLimits {
        group_bytes_max: 500,
        ..LIMITS
    };
    let (commit, first) = busy(&store, limits).await;
    let large = || appends(vec![event_of("large", &"x".repeat(600))]);
    let waiting = [hand_over(&commit, large()), hand_over(&commit, large())];
    store.open_gate();
    is_stored(first, &["first"]).await;
    for waiting in waiting {
        is_stored(waiting, &["large"]).await;
    }
    assert_eq!(store.calls(), [["first"], ["large"], ["large"]]);
}

#[tokio::test]
async fn no_more_groups_are_under_way_than_there_are_slots() {
    let store = Scripted::new(|_| Deed::Store);
    let limits = GroupLimits {
        flush_slots: 2,
        ..LIMITS
    };
    let (commit, first) = busy(&store, limits).await;
    let second = hand_over(&commit, unit(&["second"]));
    store.entered().await;
    let third = hand_over(&commit, unit(&["third"]));
    tokio::task::yield_now().await;
    assert_eq!(store.calls(), [["first"], ["second"]]);
    store.open_gate();
    for (waiting, id) in [(first, "first"), (second, "second"), (third, "third")] {
        is_stored(waiting, &[id]).await;
    }
    assert_eq!(store.calls(), [["first"], ["second"], ["third"]]);
}

#[tokio::test]
async fn a_poisoned_unit_fails_alone() {
    for deed in [Deed::Fail(Kind::Internal), Deed::Panic, Deed::Miscount] {
        let store = Scripted::poisoned(deed);
        let (commit, first) = busy(&store, LIMITS).await;
        let before = hand_over(&commit, unit(&["before"]));
        let bad = hand_over(&commit, unit(&["bad", "beside"]));
        let after = hand_over(&commit, unit(&["after"]));
        store.open_gate();
        is_stored(first, &["first"]).await;
        is_stored(before, &["before"]).await;
        fails_with(bad, Kind::Internal).await;
        is_stored(after, &["after"]).await;
        let calls = [
            vec!["first"],
            vec!["before", "bad", "beside", "after"],
            vec!["before"],
            vec!["bad", "beside"],
            vec!["after"],
        ];
        assert_eq!(store.calls(), calls);
    }
}

#[tokio::test]
async fn an_event_that_is_refused_is_nobody_elses_failure() {
    let store = Scripted::new(|_| Deed::Store);
    let (commit, first) = busy(&store, LIMITS).await;
    let mixed = hand_over(&commit, unit(&["a", "ended", "b"]));
    let other = hand_over(&commit, unit(&["c"]));
    store.open_gate();
    is_stored(first, &["first"]).await;
    let outcomes = outcome(mixed).await.expect("stored");
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().err().map(Error::kind))
        .collect();
    assert_eq!(kinds, [None, Some(Kind::SessionEnded), None]);
    is_stored(other, &["c"]).await;
    assert_eq!(store.calls().len(), 2, "nothing was driven again");
}

#[tokio::test]
async fn a_store_that_is_away_fails_the_group_at_once() {
    let store = Scripted::poisoned(Deed::Fail(Kind::Unavailable));
    let (commit, first) = busy(&store, LIMITS).await;
    let waiting = [&["a"], &["bad"], &["b"]].map(|ids| hand_over(&commit, unit(ids)));
    store.open_gate();
    is_stored(first, &["first"]).await;
    for waiting in waiting {
        fails_with(waiting, Kind::Unavailable).await;
    }
    assert_eq!(store.calls(), [vec!["first"], vec!["a", "bad", "b"]]);
}

#[tokio::test]
async fn a_store_that_is_away_is_not_asked_for_what_waits_behind_the_group() {
    let store = Scripted::new(|ids| match ids {
        [id] if id == "first" => Deed::Fail(Kind::Unavailable),
        _ => Deed::Store,
    });
    let (commit, first) = busy(&store, LIMITS).await;
    let waiting = [&["a"], &["b"]].map(|ids| hand_over(&commit, unit(ids)));
    store.open_gate();
    fails_with(first, Kind::Unavailable).await;
    for waiting in waiting {
        fails_with(waiting, Kind::Unavailable).await;
    }
    assert_eq!(store.calls(), [["first"]]);
    // It is asked again by whoever comes next, and the queue has its room back.
    is_stored(hand_over(&commit, unit(&["later"])), &["later"]).await;
}

#[tokio::test]
async fn a_store_that_goes_away_while_units_are_driven_again_is_not_asked_for_each() {
    let store = Scripted::new(|ids| match ids {
        [_, _, _] => Deed::Fail(Kind::Internal),
        [id] if id == "b" => Deed::Fail(Kind::Unavailable),
        _ => Deed::Store,
    });
    let (commit, first) = busy(&store, LIMITS).await;
    let [a, b, c] = [&["a"], &["b"], &["c"]].map(|ids| hand_over(&commit, unit(ids)));
    store.open_gate();
    is_stored(first, &["first"]).await;
    is_stored(a, &["a"]).await;
    fails_with(b, Kind::Unavailable).await;
    fails_with(c, Kind::Unavailable).await;
    assert_eq!(
        store.calls(),
        [vec!["first"], vec!["a", "b", "c"], vec!["a"], vec!["b"]]
    );
}

#[tokio::test]
async fn whoever_waits_behind_a_panic_is_served_all_the_same() {
    let store = Scripted::new(|ids| match ids {
        [id] if id == "first" => Deed::Panic,
        _ => Deed::Store,
    });
    let (commit, first) = busy(&store, LIMITS).await;
    let behind = hand_over(&commit, unit(&["behind"]));
    store.open_gate();
    fails_with(first, Kind::Internal).await;
    is_stored(behind, &["behind"]).await;
    commit.drain().await;
}

#[tokio::test]
async fn what_a_caller_sent_is_stored_though_the_caller_went_away() {
    let store = Scripted::new(|_| Deed::Store);
    let (commit, first) = busy(&store, LIMITS).await;
    drop(hand_over(&commit, unit(&["gone"])));
    let second = hand_over(&commit, unit(&["second"]));
    drop(first);
    store.open_gate();
    is_stored(second, &["second"]).await;
    assert_eq!(store.calls(), [vec!["first"], vec!["gone", "second"]]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_takes_again_once_there_is_room() {
    let store = Scripted::new(|_| Deed::Store);
    let limits = GroupLimits {
        queue_events_max: 3,
        queue_bytes_max: 1_000,
        ..LIMITS
    };
    let (commit, first) = busy(&store, limits).await;
    let waiting = hand_over(&commit, unit(&["a", "b"]));
    commit.room().expect("nobody was refused");
    let too_many = commit.append(unit(&["c", "d"])).await;
    assert_eq!(too_many.expect_err("full").kind(), Kind::Overloaded);
    assert_eq!(commit.room().expect_err("full").kind(), Kind::Overloaded);
    let too_large = commit
        .append(appends(vec![event_of("large", &"x".repeat(1_000))]))
        .await;
    assert_eq!(too_large.expect_err("full").kind(), Kind::Overloaded);
    let last = hand_over(&commit, unit(&["e"]));
    store.open_gate();
    is_stored(first, &["first"]).await;
    is_stored(waiting, &["a", "b"]).await;
    is_stored(last, &["e"]).await;
    commit.room().expect("what was in the way has left");
    is_stored(
        Box::pin(async move { commit.append(unit(&["c", "d"])).await }),
        &["c", "d"],
    )
    .await;
    assert_eq!(
        store.calls(),
        [vec!["first"], vec!["a", "b", "e"], vec!["c", "d"]]
    );
}

#[tokio::test]
async fn who_asks_for_room_in_a_full_queue_is_let_in_once_a_quarter_is_free() {
    let store = Scripted::new(|_| Deed::Store);
    let limits = GroupLimits {
        queue_events_max: 8,
        group_events_max: 1,
        ..LIMITS
    };
    let (commit, first) = busy(&store, limits).await;
    let ids: Vec<String> = (0..8).map(|at| format!("e-{at}")).collect();
    let waiting: Vec<Waiting> = ids.iter().map(|id| hand_over(&commit, unit(&[id]))).collect();
    let too_many = commit.append(unit(&["one-more"])).await;
    assert_eq!(too_many.expect_err("full").kind(), Kind::Overloaded);
    for (left, has_room) in [(8, false), (7, false), (6, true), (5, true)] {
        assert_eq!(commit.waiting().0, left);
        assert_eq!(commit.room().is_ok(), has_room, "{left} wait");
        store.gate.add_permits(1);
        store.entered().await;
    }
    store.open_gate();
    is_stored(first, &["first"]).await;
    for (waiting, id) in waiting.into_iter().zip(&ids) {
        is_stored(waiting, &[id]).await;
    }
}

#[tokio::test]
async fn an_empty_queue_takes_a_unit_larger_than_its_limits() {
    let store = Scripted::new(|_| Deed::Store);
    let limits = GroupLimits {
        queue_events_max: 1,
        queue_bytes_max: 10,
        ..LIMITS
    };
    let (commit, first) = busy(&store, limits).await;
    let large = hand_over(&commit, unit(&["a", "b", "c"]));
    store.open_gate();
    is_stored(first, &["first"]).await;
    is_stored(large, &["a", "b", "c"]).await;
}

#[tokio::test]
async fn draining_waits_for_everything_that_was_accepted() {
    let store = Scripted::poisoned(Deed::Panic);
    let (commit, first) = busy(&store, LIMITS).await;
    let waiting = [&["a"], &["bad"], &["b"]].map(|ids| hand_over(&commit, unit(ids)));
    let mut drained = Box::pin(commit.drain());
    assert!((&mut drained).now_or_never().is_none());
    store.open_gate();
    tokio::time::timeout(PATIENCE, drained).await.expect("drained");
    assert_eq!(store.calls().len(), 5);
    assert!((first).now_or_never().is_some());
    for waiting in waiting {
        assert!(waiting.now_or_never().is_some(), "answered before it was drained");
    }
}

/// The events of one request to a session on this shard.
fn unit_on(shard: u32, ids: &[&str]) -> Appends {
    Appends {
        key: SessionKey::new(
            Tenant::default(),
            format!("shard-{shard}-s").parse().expect("an id"),
        ),
        ..unit(ids)
    }
}

/// Whatever is appended to the shard 1 meets `deed`. Its events are named `a…`, and those of the shard 2 `b…`.
fn shard_1(deed: Deed) -> Arc<Scripted> {
    let store = Scripted::new(move |ids| match ids[0].starts_with('a') {
        true => deed,
        false => Deed::Store,
    });
    store.open_gate();
    store
}

fn group_commit(store: &Arc<Scripted>, limits: GroupLimits) -> GroupCommit {
    let store = Arc::clone(store) as Arc<dyn Store>;
    GroupCommit::new(store, Arc::new(NoCache), Arc::default(), limits)
}

#[tokio::test]
async fn a_shard_that_hangs_holds_up_no_event_of_another() {
    let store = shard_1(Deed::Hang);
    let commit = group_commit(&store, LIMITS);
    let first = hand_over(&commit, unit_on(1, &["a-0"]));
    store.entered().await;
    // Behind the group that hangs, and in between those of the other shard.
    let mut waiting = Vec::new();
    for n in 1..=50 {
        if n % 10 == 0 {
            waiting.push(hand_over(&commit, unit_on(1, &[&format!("a-{n}")])));
        }
        let id = format!("b-{n}");
        is_stored(hand_over(&commit, unit_on(2, &[&id])), &[&id]).await;
    }
    for waiting in &mut waiting {
        assert!(waiting.now_or_never().is_none(), "the shard has not answered yet");
    }
    store.hanging.add_permits(10);
    is_stored(first, &["a-0"]).await;
    for (n, waiting) in waiting.into_iter().enumerate() {
        is_stored(waiting, &[&format!("a-{}", (n + 1) * 10)]).await;
    }
    for call in store.calls() {
        let of_shard_1 = call.iter().filter(|id| id.starts_with('a')).count();
        assert!(of_shard_1 == 0 || of_shard_1 == call.len(), "{call:?}");
    }
    commit.drain().await;
}

#[tokio::test]
async fn a_shard_that_is_away_fails_its_own_events_alone() {
    let store = Scripted::new(|ids| match ids[0].starts_with('a') {
        true => Deed::Fail(Kind::Unavailable),
        false => Deed::Store,
    });
    let commit = group_commit(&store, LIMITS);
    let under_way = [(1, "a-0"), (2, "b-0")].map(|(shard, id)| hand_over(&commit, unit_on(shard, &[id])));
    store.entered().await;
    store.entered().await;
    let behind = [(1, "a-1"), (2, "b-1"), (1, "a-2"), (2, "b-2")]
        .map(|(shard, id)| (id, hand_over(&commit, unit_on(shard, &[id]))));
    store.open_gate();
    let [a, b] = under_way;
    fails_with(a, Kind::Unavailable).await;
    is_stored(b, &["b-0"]).await;
    for (id, waiting) in behind {
        match id.starts_with('a') {
            true => fails_with(waiting, Kind::Unavailable).await,
            false => is_stored(waiting, &[id]).await,
        }
    }
    let mut calls = store.calls();
    calls.sort();
    assert_eq!(calls, [vec!["a-0"], vec!["b-0"], vec!["b-1", "b-2"]]);
}

#[tokio::test]
async fn few_wait_for_a_shard_that_confirms_nothing() {
    let limits = GroupLimits {
        stalled_after: Duration::ZERO,
        stalled_events_max: 3,
        ..LIMITS
    };
    let store = shard_1(Deed::Hang);
    let commit = group_commit(&store, limits.clone());
    let first = hand_over(&commit, unit_on(1, &["a-0"]));
    store.entered().await;
    // As long as it is the only one, there is none to be protected from it.
    let alone: Vec<_> = (1..=5)
        .map(|n| hand_over(&commit, unit_on(1, &[&format!("a-{n}")])))
        .collect();
    is_stored(hand_over(&commit, unit_on(2, &["b-0"])), &["b-0"]).await;
    let refused = commit.append(unit_on(1, &["a-6"])).await;
    assert_eq!(refused.expect_err("too many wait").kind(), Kind::Unavailable);
    commit.room().expect("there is room for the other shard");
    is_stored(hand_over(&commit, unit_on(2, &["b-1"])), &["b-1"]).await;
    store.hanging.add_permits(10);
    is_stored(first, &["a-0"]).await;
    for (n, waiting) in alone.into_iter().enumerate() {
        is_stored(waiting, &[&format!("a-{}", n + 1)]).await;
    }
    // It answers again, so it takes what comes.
    is_stored(hand_over(&commit, unit_on(1, &["a-7"])), &["a-7"]).await;
}

#[tokio::test]
async fn a_shard_has_its_share_of_the_queue_and_no_more() {
    let limits = GroupLimits {
        queue_events_max: 8,
        ..LIMITS
    };
    let store = Scripted::new(|_| Deed::Store);
    let commit = group_commit(&store, limits);
    let mut under_way = Vec::new();
    for (shard, id) in [(1, "a-0"), (2, "b-0")] {
        under_way.push(hand_over(&commit, unit_on(shard, &[id])));
        store.entered().await;
    }
    let hand = |shard, id: String| hand_over(&commit, unit_on(shard, &[&id]));
    let mut waiting: Vec<_> = (1..=4).map(|n| hand(1, format!("a-{n}"))).collect();
    let too_many = commit.append(unit_on(1, &["a-5"])).await;
    assert_eq!(too_many.expect_err("its half is used").kind(), Kind::Overloaded);
    commit.room().expect("the other half is free");
    waiting.extend((1..=4).map(|n| hand(2, format!("b-{n}"))));
    assert_eq!(commit.waiting().0, 8);
    let too_many = commit.append(unit_on(2, &["b-5"])).await;
    assert_eq!(too_many.expect_err("its half is used").kind(), Kind::Overloaded);
    assert_eq!(commit.room().expect_err("both are full").kind(), Kind::Overloaded);
    store.open_gate();
    for waiting in under_way.into_iter().chain(waiting) {
        outcome(waiting).await.expect("stored");
    }
    commit.room().expect("what was in the way has left");
}

#[tokio::test]
async fn an_event_of_which_nothing_is_known_fails_alone() {
    let store = Scripted::poisoned(Deed::LoseSome);
    let (commit, first) = busy(&store, LIMITS).await;
    let mixed = hand_over(&commit, unit(&["bad", "lost", "b"]));
    let other = hand_over(&commit, unit(&["c"]));
    store.open_gate();
    is_stored(first, &["first"]).await;
    let outcomes = outcome(mixed).await.expect("settled one by one");
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().err().map(Error::kind))
        .collect();
    assert_eq!(kinds, [None, Some(Kind::Unavailable), None]);
    is_stored(other, &["c"]).await;
    assert_eq!(store.calls().len(), 2, "nothing was driven again");
}
