//! What can be interrupted: the phases of the archiver, and each kind of upkeep.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use colloquy::{
    archive::Archive,
    domain::{Day, Event, Kind, Result, SegmentName},
    store::catalog::{Claim, Written},
};

use super::{
    settle::{PATIENCE, run},
    world::{World, append, key, time},
};

/// The session that is restored.
pub const RESTORED: &str = "long";

#[async_trait]
pub trait Flow: Sync {
    fn name(&self) -> &'static str;

    /// Whether all sessions of the model are there in the end, so that a store can be rebuilt from them.
    fn leaves_all(&self) -> bool {
        true
    }

    /// Brings a world that was filled to where the work begins.
    async fn prepare(&self, world: &mut World);

    async fn work(&self, archive: &Archive) -> Result<()>;

    /// Whether everyone reads what they should, at any moment from the beginning of the work on.
    async fn reads(&self, world: &World) -> Result<(), String> {
        world.reads().await
    }

    /// Does all that is left to do, and looks at what came of it.
    async fn finish(&self, world: &World, what: &str) {
        world.recover(what).await;
        world.assert_settled(what).await;
    }
}

/// A run with nothing before it.
pub struct Archiving;

#[async_trait]
impl Flow for Archiving {
    fn name(&self) -> &'static str {
        "archiving"
    }

    async fn prepare(&self, _: &mut World) {}

    async fn work(&self, archive: &Archive) -> Result<()> {
        run(archive).await
    }
}

/// A run that finds events that came late, and copies that an earlier one did not come to delete.
pub struct Folding;

#[async_trait]
impl Flow for Folding {
    fn name(&self) -> &'static str {
        "folding"
    }

    async fn prepare(&self, world: &mut World) {
        world.recover("folding").await;
        let copies = world.model.0["another-day"].events.clone();
        leave_hot(world, "another-day", &copies).await;
        for id in ["empty", "long"] {
            let late = Event {
                seq: 90,
                ..event(id, 2, "late")
            };
            leave_hot(world, id, std::slice::from_ref(&late)).await;
            let told = world.model.0.get_mut(id).expect("a session");
            told.events.push(late);
            told.events.sort_by_key(|event| (event.timestamp, event.seq));
        }
    }

    async fn work(&self, archive: &Archive) -> Result<()> {
        run(archive).await
    }
}

/// An event with the payload and the time of the session's `nth`.
fn event(session: &str, nth: usize, id: &str) -> Event {
    let append = append(session, nth);
    Event {
        id: id.parse().expect("an id"),
        session: append.key.id,
        seq: append.seq,
        event_type: append.event.event_type,
        payload: append.event.payload,
        timestamp: append.event.timestamp.expect("a time"),
    }
}

/// Leaves hot events with an archived session, as a restore does that is given up.
async fn leave_hot(world: &World, id: &str, events: &[Event]) {
    let key = key(id);
    let owner = SegmentName::new(key.tenant.clone(), Day::of(time("2024-01-01T00:00:00Z")));
    let keys = std::slice::from_ref(&key);
    let lease = Duration::from_secs(600);
    let claimed = world
        .catalog
        .claim(keys, Claim::Archived, &owner, lease)
        .await
        .unwrap();
    world
        .catalog
        .bring_back(&key, claimed[0].epoch, events)
        .await
        .unwrap();
    world
        .catalog
        .release(&claimed, &owner, Written::Nothing)
        .await
        .unwrap();
}

/// A restore; one that dies is given up.
pub struct Restoring;

#[async_trait]
impl Flow for Restoring {
    fn name(&self) -> &'static str {
        "restoring"
    }

    async fn prepare(&self, world: &mut World) {
        world.recover("restoring").await;
    }

    async fn work(&self, archive: &Archive) -> Result<()> {
        archive.restore(&key(RESTORED)).await.map(|_| ())
    }
}

/// A restore; one that dies is asked for again.
pub struct RestoringAgain;

#[async_trait]
impl Flow for RestoringAgain {
    fn name(&self) -> &'static str {
        "restoring again"
    }

    async fn prepare(&self, world: &mut World) {
        world.recover("restoring").await;
    }

    async fn work(&self, archive: &Archive) -> Result<()> {
        archive.restore(&key(RESTORED)).await.map(|_| ())
    }

    async fn finish(&self, world: &World, what: &str) {
        if !world.model.0[RESTORED].is_erased {
            let restored = world.archive().restore(&key(RESTORED)).await;
            let restored = restored.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert!(!restored.archived, "{what}");
            let hot = world
                .catalog
                .events(&key(RESTORED), &crate::conformance::everything())
                .await
                .unwrap();
            assert_eq!(hot.archived, None, "{what}");
            assert_eq!(
                hot.items, world.model.0[RESTORED].events,
                "{what}: all of it is hot"
            );
        }
        world.recover(what).await;
        world.assert_settled(what).await;
    }
}

/// Taking the bytes of an erased session out.
pub struct Rewriting;

#[async_trait]
impl Flow for Rewriting {
    fn name(&self) -> &'static str {
        "rewriting"
    }

    async fn prepare(&self, world: &mut World) {
        world.recover("rewriting").await;
        world.erase("short").await;
    }

    async fn work(&self, archive: &Archive) -> Result<()> {
        archive.rewrite().await.map(|_| ())
    }

    async fn finish(&self, world: &World, what: &str) {
        world.rewrite(what).await;
        world.assert_no_words_of("short", what).await;
        world.recover(what).await;
        world.assert_settled(what).await;
    }
}

/// Sweeping up a segment that all sessions have left.
pub struct Sweeping;

#[async_trait]
impl Flow for Sweeping {
    fn name(&self) -> &'static str {
        "sweeping"
    }

    async fn prepare(&self, world: &mut World) {
        world.recover("sweeping").await;
        for id in ["empty", "long", "short"] {
            world.archive().restore(&key(id)).await.unwrap();
        }
        world.recover("sweeping").await;
    }

    async fn work(&self, archive: &Archive) -> Result<()> {
        archive.sweep(Duration::ZERO).await.map(|_| ())
    }
}

/// Deleting the first of the two days.
pub struct Expiring;

impl Expiring {
    const EXPIRED: [&str; 3] = ["empty", "long", "short"];

    async fn expire(archive: &Archive) -> Result<()> {
        let between = time("2024-03-01T00:00:00Z").unix_ms();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ms = i64::try_from(now.expect("a clock").as_millis()).expect("a time");
        let retention = Duration::from_millis(u64::try_from(now_ms - between).expect("the past"));
        archive.expire(retention).await.map(|_| ())
    }

    /// The world as it is by now: those of the day that are gone are.
    async fn so_far(world: &World) -> World {
        let mut world = world.clone();
        for id in Self::EXPIRED {
            let session = world.catalog.session(&key(id)).await;
            let told = world.model.0.get_mut(id).expect("a session");
            told.is_erased = session.is_err_and(|error| error.kind() == Kind::SessionErased);
        }
        world
    }
}

#[async_trait]
impl Flow for Expiring {
    fn name(&self) -> &'static str {
        "expiring"
    }

    fn leaves_all(&self) -> bool {
        false
    }

    async fn prepare(&self, world: &mut World) {
        world.recover("expiring").await;
    }

    async fn work(&self, archive: &Archive) -> Result<()> {
        Self::expire(archive).await
    }

    /// Each session reads as ever until it is gone.
    async fn reads(&self, world: &World) -> Result<(), String> {
        Self::so_far(world).await.reads().await
    }

    async fn finish(&self, world: &World, what: &str) {
        // A claim of somebody who was restoring ends by itself, and what was restored is archived again before it goes.
        let began = Instant::now();
        let world = loop {
            Self::expire(&world.archive()).await.unwrap();
            let world = Self::so_far(world).await;
            if Self::EXPIRED.iter().all(|id| world.model.0[*id].is_erased) {
                break world;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{what}: {:?}",
                world.standings().await
            );
            world.recover(what).await;
        };
        // A segment that went by half is no day's any more; a rewrite takes what is left of it.
        world.rewrite(what).await;
        let pending = world.archive().pending_erasures().await.unwrap();
        assert_eq!(pending.sessions, 0, "{what}: {pending:?}");
        for id in Self::EXPIRED {
            world.assert_no_words_of(id, what).await;
        }
        world.recover(what).await;
        world.assert_settled(what).await;
    }
}

/// Taking everything in that a lost store knew.
pub struct Rebuilding;

#[async_trait]
impl Flow for Rebuilding {
    fn name(&self) -> &'static str {
        "rebuilding"
    }

    fn leaves_all(&self) -> bool {
        false
    }

    async fn prepare(&self, world: &mut World) {
        world.recover("rebuilding").await;
        // So that there are two copies of one, and one that must not come back.
        world.archive().restore(&key(RESTORED)).await.unwrap();
        world.recover("rebuilding").await;
        world.erase("short").await;
        world.model.0.retain(|_, told| told.is_due());
        world.lose_store().await;
    }

    async fn work(&self, archive: &Archive) -> Result<()> {
        archive.rebuild(&|_| ()).await.map(|_| ())
    }

    /// Each session reads as ever from when it is there again.
    async fn reads(&self, world: &World) -> Result<(), String> {
        let mut there = world.clone();
        let standings = world.standings().await;
        let mut standings = standings.iter();
        there.model.0.retain(|_, _| {
            let standing = standings.next();
            !matches!(standing, Some(colloquy::store::catalog::Standing::Unknown))
        });
        there.reads().await
    }

    async fn finish(&self, world: &World, what: &str) {
        self.work(&world.archive()).await.unwrap();
        let gone = world.catalog.session(&key("short")).await;
        assert_eq!(
            gone.map_err(|error| error.kind()),
            Err(Kind::SessionErased),
            "{what}"
        );
        world.assert_reads(what).await;
        world.recover(what).await;
    }
}
