//! Upkeep when something is wrong with one segment, with the time, or when somebody wants a session at the same moment: it
//! goes on with all else, and says so.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use colloquy::{
    archive::{
        Archive, ArchiveOptions,
        objects::{ByteRange, IsOurs, ObjectError, ObjectMeta, Objects, Upload},
        segment::{events_path, manifest_path, sessions_path},
    },
    domain::{Day, Kind, Pointer, SegmentName, SessionKey, Tenant, Timestamp},
    store::catalog::{Claim, Commit, Standing},
};
use tempfile::TempDir;

use super::world::{Model, World, key, time};

/// The only sessions of their day in [`World::fill`], and what is in the other.
const ALONE: &str = "another-day";
const TOGETHER: [&str; 3] = ["empty", "long", "short"];

async fn archived() -> World {
    let mut world = World::in_folder(TempDir::new().unwrap(), Model::default());
    world.fill().await;
    world.recover("before").await;
    world
}

async fn segment_of(world: &World, id: &str) -> SegmentName {
    let standing = world.catalog.standings(&[key(id)]).await.unwrap().remove(0);
    match standing {
        Standing::Archived(archived) => archived.pointer.segment,
        other => panic!("{id}: {other:?}"),
    }
}

/// How an object can be broken.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Missing,
    Nonsense,
    CutShort,
    OtherBits,
}

const DAMAGES: [Damage; 4] = [
    Damage::Missing,
    Damage::Nonsense,
    Damage::CutShort,
    Damage::OtherBits,
];

async fn damage(world: &World, path: &str, damage: Damage) {
    let bytes = world.objects.get(path, ByteRange::All).await.unwrap();
    world.objects.delete(path).await.unwrap();
    let broken = match damage {
        Damage::Missing => return,
        Damage::Nonsense => Bytes::from_static(b"no file of ours"),
        Damage::CutShort => bytes.slice(..bytes.len() / 2),
        Damage::OtherBits => bytes.iter().map(|byte| byte ^ 0x55).collect(),
    };
    world.objects.put(path, broken).await.unwrap();
}

#[tokio::test]
async fn a_damaged_segment_keeps_no_other_from_being_rewritten() {
    for path in [events_path, sessions_path] {
        for how in DAMAGES {
            let mut world = archived().await;
            let (broken, sound) = (segment_of(&world, "long").await, segment_of(&world, ALONE).await);
            assert!(broken.to_string() < sound.to_string(), "it comes first");
            world.erase("short").await;
            world.erase(ALONE).await;
            damage(&world, &path(&broken), how).await;
            let archive = world.archive();
            for round in 0..2 {
                let done = archive.rewrite().await.unwrap();
                let told: Vec<_> = done.faults.told().iter().map(|fault| &fault.segment).collect();
                assert_eq!(told, [&broken], "{how:?}, round {round}: {done}");
                assert_eq!(done.pending, 1, "{how:?}: {done}");
                assert_eq!(done.segments, u64::from(round == 0), "{how:?}: {done}");
            }
            let counted = archive.counters().into_iter();
            let counted = counted.filter(|(name, ..)| *name == "colloquy.archive.segments_failed");
            assert_eq!(counted.map(|(.., count)| count).sum::<u64>(), 2);
            assert_eq!(world.catalog.segments(None, 10).await.unwrap().len(), 1);
        }
    }
}

/// Nothing of a damaged segment is lost by what could not be done: as soon as it is whole again, it is rewritten.
#[tokio::test]
async fn a_segment_that_is_mended_is_rewritten_with_all_that_is_in_it() {
    let mut world = archived().await;
    let path = events_path(&segment_of(&world, "long").await);
    let whole = world.objects.get(&path, ByteRange::All).await.unwrap();
    world.erase("short").await;
    damage(&world, &path, Damage::OtherBits).await;
    assert_eq!(world.archive().rewrite().await.unwrap().faults.count(), 1);
    world.objects.delete(&path).await.unwrap();
    world.objects.put(&path, whole).await.unwrap();
    world.assert_reads("mended").await;
    world.rewrite("mended").await;
    world.assert_no_words_of("short", "mended").await;
    world.recover("mended").await;
    world.assert_settled("mended").await;
}

#[tokio::test]
async fn a_damaged_segment_expires_as_the_others_do() {
    for path in [events_path, sessions_path, manifest_path] {
        for how in DAMAGES {
            let world = archived().await;
            let broken = segment_of(&world, "long").await;
            damage(&world, &path(&broken), how).await;
            let done = world.archive().expire(Duration::from_hours(24)).await.unwrap();
            let expected = (2, 4, 0);
            assert_eq!(
                (done.segments, done.sessions, done.faults.count()),
                expected,
                "{how:?} of {}: {done}",
                path(&broken)
            );
            for id in TOGETHER.into_iter().chain([ALONE]) {
                let gone = world.catalog.session(&key(id)).await;
                assert_eq!(gone.unwrap_err().kind(), Kind::SessionErased, "{how:?}: {id}");
            }
            for prefix in ["sessions/", "events/", "manifests/", "clock/"] {
                assert_eq!(world.objects.list(prefix, None, 10).await.unwrap(), [], "{how:?}");
            }
            assert_eq!(
                world.archive().pending_erasures().await.unwrap().sessions,
                0,
                "{how:?}"
            );
        }
    }
}

#[tokio::test]
async fn verification_tells_each_damaged_segment_once() {
    for path in [events_path, sessions_path, manifest_path] {
        for how in DAMAGES {
            let world = archived().await;
            let broken = segment_of(&world, "long").await;
            damage(&world, &path(&broken), how).await;
            let verified = world.archive().verify(&|_| ()).await.unwrap();
            let told: Vec<_> = verified
                .faults
                .told()
                .iter()
                .map(|fault| &fault.segment)
                .collect();
            assert_eq!(told, [&broken], "{how:?} of {}: {verified}", path(&broken));
            assert_eq!(verified.segments, 1, "the other was read: {verified}");
        }
    }
}

/// More segments than are looked up at a time can't be rewritten, and all of them come before the one that can.
#[tokio::test]
async fn segments_that_are_stuck_do_not_starve_the_others() {
    const STUCK: usize = 501;
    let mut world = archived().await;
    let day = Day::of(Timestamp::EPOCH);
    for nth in 0..STUCK {
        // One session is led to a segment that is lost, the other one was.
        let lost = SegmentName::new(Tenant::default(), day);
        let keys = ["kept", "erased"].map(|id| key(&format!("{id}-{nth}")));
        for key in &keys {
            store_ended(&world, key).await;
        }
        let lease = Duration::from_hours(1);
        let claimed = world
            .catalog
            .claim(&keys, Claim::Hot, &lost, lease)
            .await
            .unwrap();
        let commits: Vec<_> = claimed
            .into_iter()
            .map(|claimed| Commit {
                key: claimed.key,
                epoch: claimed.epoch,
                version: claimed.version,
                pointer: Pointer {
                    segment: lost.clone(),
                    first_row: 0,
                    rows: 0,
                },
            })
            .collect();
        assert_eq!(world.catalog.commit(&commits, &lost).await.unwrap(), [true, true]);
        world
            .catalog
            .erase(&keys[1], time("2100-01-01T00:00:00Z"))
            .await
            .unwrap();
    }
    world.erase("short").await;
    let done = world.archive().rewrite().await.unwrap();
    assert_eq!((done.segments, done.sessions_moved), (1, 2), "{}", done.pending);
    assert_eq!(done.faults.count(), STUCK as u64);
    assert_eq!(done.pending, STUCK as u64);
    world.assert_no_words_of("short", "stuck").await;
    world.assert_reads("stuck").await;
}

async fn store_ended(world: &World, key: &SessionKey) {
    use colloquy::domain::{End, NewSession, Session};
    let at = time("1970-01-01T01:00:00Z");
    let session = Session::opened(NewSession::default(), key.id.clone(), at);
    world.catalog.open(&key.tenant, session, at).await.unwrap();
    world.catalog.end(key, &End::default(), at).await.unwrap();
}

fn archive_of(world: &World, objects: Arc<dyn Objects>, options: ArchiveOptions) -> Archive {
    let cache = Arc::new(colloquy::cache::NoCache);
    Archive::new(Arc::clone(&world.catalog), cache, objects, options)
}

/// Objects in a place whose clock is another, or that were written at another time.
struct OtherTime {
    objects: Arc<dyn Objects>,
    /// What its clock is ahead.
    clock_ms: i64,
    /// How much later than they were the objects seem to have been written that were there before.
    written_ms: i64,
    has_own_clock: bool,
}

impl OtherTime {
    fn shifted(&self, mut object: ObjectMeta) -> ObjectMeta {
        let ms = match object.path.starts_with("clock/") {
            true => self.clock_ms,
            false => self.written_ms,
        };
        object.written_at = object.written_at.saturating_add_ms(ms);
        object
    }
}

#[async_trait]
impl Objects for OtherTime {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.objects.put(path, bytes).await
    }

    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError> {
        self.objects.upload(path).await
    }

    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.objects.get(path, range).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError> {
        Ok(self.shifted(self.objects.head(path).await?))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        let listed = self.objects.list(prefix, after, limit).await?;
        Ok(listed.into_iter().map(|object| self.shifted(object)).collect())
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectError> {
        self.objects.delete(path).await
    }

    async fn discard_unfinished(
        &self,
        prefix: &str,
        is_ours: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError> {
        self.objects.discard_unfinished(prefix, is_ours, age).await
    }

    fn has_own_clock(&self) -> bool {
        self.has_own_clock
    }

    async fn check(&self) -> Result<String, ObjectError> {
        self.objects.check().await
    }
}

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

/// A machine that is ten years ahead of the place of its objects is, for all that it can tell, beside a place that is ten
/// years behind.
#[tokio::test]
async fn nothing_is_deleted_where_two_clocks_disagree() {
    for clock_ms in [-10 * YEAR_MS, -HOUR_MS - 60_000, HOUR_MS + 60_000, 10 * YEAR_MS] {
        let world = archived().await;
        let objects = OtherTime {
            objects: Arc::clone(&world.objects),
            clock_ms,
            written_ms: clock_ms,
            has_own_clock: true,
        };
        let archive = archive_of(&world, Arc::new(objects), ArchiveOptions::default());
        let refused = archive.expire(Duration::from_hours(24)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable, "{clock_ms}: {refused:?}");
        assert!(
            refused
                .detail()
                .starts_with("nothing is deleted by its age: this machine's clock says 20"),
            "{refused}"
        );
        world.assert_reads("clocks").await;
        world.assert_settled("clocks").await;
        assert_eq!(world.objects.list("clock/", None, 10).await.unwrap(), []);
    }
}

#[tokio::test]
async fn clocks_that_are_a_little_apart_agree() {
    for clock_ms in [60_000 - HOUR_MS, HOUR_MS - 60_000] {
        let world = archived().await;
        let objects = OtherTime {
            objects: Arc::clone(&world.objects),
            clock_ms,
            written_ms: clock_ms,
            has_own_clock: true,
        };
        let archive = archive_of(&world, Arc::new(objects), ArchiveOptions::default());
        let done = archive.expire(Duration::from_hours(24)).await.unwrap();
        assert_eq!((done.segments, done.sessions), (2, 4), "{clock_ms}: {done}");
    }
}

/// In a directory the two clocks are one. If by that clock nothing was archived for as long as days are kept, it may as well
/// be wrong, and it would take all there is.
#[tokio::test]
async fn one_clock_alone_does_not_take_the_whole_archive() {
    for (has_own_clock, written_ms, goes) in [
        (false, -10 * YEAR_MS, false),
        (false, -25 * HOUR_MS, false),
        (false, -23 * HOUR_MS, true),
        (true, -10 * YEAR_MS, true),
    ] {
        let world = archived().await;
        let objects = OtherTime {
            objects: Arc::clone(&world.objects),
            clock_ms: 0,
            written_ms,
            has_own_clock,
        };
        let archive = archive_of(&world, Arc::new(objects), ArchiveOptions::default());
        let done = archive.expire(Duration::from_hours(24)).await;
        assert_eq!(done.is_ok(), goes, "{written_ms}: {done:?}");
        match done {
            Ok(done) => assert_eq!(done.sessions, 4),
            Err(error) => {
                assert!(error.detail().contains("no other clock"), "{error}");
                world.assert_reads("one clock").await;
            }
        }
    }
}

/// Each restore that was acknowledged is there afterwards, hot and whole, and no other session of the day is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_takes_no_session_that_was_restored_meanwhile() {
    let (mut restored, mut expired) = (0, 0);
    for _ in 0..10 {
        let world = archived().await;
        let restores = TOGETHER.into_iter().chain([ALONE]).map(|id| {
            let archive = world.archive();
            tokio::spawn(async move { (id, archive.restore(&key(id)).await) })
        });
        let restores: Vec<_> = restores.collect();
        let done = world.archive().expire(Duration::from_hours(24)).await.unwrap();
        assert!(done.faults.is_empty(), "{done}");
        for restore in restores {
            let (id, outcome) = restore.await.unwrap();
            let hot = world
                .catalog
                .events(&key(id), &crate::conformance::everything())
                .await;
            match outcome {
                Ok(session) => {
                    assert!(!session.archived, "{id}");
                    let hot = hot.unwrap();
                    assert_eq!(
                        (hot.items, hot.archived),
                        (world.model.0[id].events.clone(), None),
                        "{id}"
                    );
                    restored += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::SessionErased, "{id}: {error:?}");
                    assert_eq!(hot.unwrap_err().kind(), Kind::SessionErased, "{id}");
                    expired += 1;
                }
            }
        }
    }
    println!("restored {restored}, expired {expired}");
    assert_eq!(restored + expired, 40);
}

/// A cache in front shows a session no longer than it is there.
#[tokio::test]
async fn a_session_that_expires_is_out_of_the_cache_at_once() {
    let world = archived().await;
    let cache: Arc<dyn colloquy::cache::Cache> = Arc::new(colloquy::cache::MemoryCache::new(1 << 20));
    let (service, archive) = world.with_cache(&cache);
    for _ in 0..2 {
        assert!(service.session(&key("long")).await.unwrap().archived);
    }
    archive.expire(Duration::from_hours(24)).await.unwrap();
    let gone = service.session(&key("long")).await;
    assert_eq!(gone.unwrap_err().kind(), Kind::SessionErased);
}

#[tokio::test]
async fn on_schedule_a_segment_is_rewritten_for_its_share_or_for_its_oldest_erasure() {
    let hour = Duration::from_hours(1);
    for (percent, after, goes) in [
        (34, hour, false),
        (33, hour, true),
        (0, hour, true),
        (100, Duration::ZERO, true),
    ] {
        // One of three was erased.
        let mut world = archived().await;
        world.erase("short").await;
        let options = ArchiveOptions {
            rewrite_percent_min: percent,
            rewrite_after: after,
            ..ArchiveOptions::default()
        };
        let archive = archive_of(&world, Arc::clone(&world.objects), options);
        let backlog = archive.backlog().await.unwrap();
        assert_eq!(backlog.erasures_pending, 1);
        assert_eq!(backlog.erasure_overdue > Duration::ZERO, after.is_zero());
        let done = archive.rewrite_due().await.unwrap();
        let expected = if goes { (1, 2, 0) } else { (0, 0, 1) };
        assert_eq!(
            (done.segments, done.sessions_moved, done.pending),
            expected,
            "{percent} %, {after:?}: {done}"
        );
        world.assert_reads("on schedule").await;
        assert_eq!(
            archive.rewrite().await.unwrap().pending,
            0,
            "by hand it is done at once"
        );
        world.assert_no_words_of("short", "by hand").await;
    }
}

/// A tombstone stands until the bytes are gone, so they go before its time is over.
#[tokio::test]
async fn an_erased_session_does_not_wait_for_its_rewrite_longer_than_its_tombstone_stands() {
    let mut world = archived().await;
    world.erase("short").await;
    let options = ArchiveOptions {
        rewrite_percent_min: 100,
        rewrite_after: Duration::from_hours(24),
        tombstone: Duration::ZERO,
        ..ArchiveOptions::default()
    };
    let archive = archive_of(&world, Arc::clone(&world.objects), options);
    assert_eq!(archive.rewrite_due().await.unwrap().pending, 0);
}

/// What nobody finished to write has no use for a share, and no cost.
#[tokio::test]
async fn a_segment_that_was_never_written_keeps_no_erasure_pending() {
    let mut world = World::in_folder(TempDir::new().unwrap(), Model::default());
    world.fill().await;
    let owner = SegmentName::new(Tenant::default(), Day::of(time("2024-01-01T00:00:00Z")));
    let lease = Duration::from_hours(1);
    world
        .catalog
        .claim(&[key("short")], Claim::Hot, &owner, lease)
        .await
        .unwrap();
    world.erase("short").await;
    assert_eq!(world.archive().pending_erasures().await.unwrap().sessions, 1);
    let options = ArchiveOptions {
        rewrite_percent_min: 100,
        ..ArchiveOptions::default()
    };
    let archive = archive_of(&world, Arc::clone(&world.objects), options);
    let done = archive.rewrite_due().await.unwrap();
    assert_eq!((done.pending, done.faults.count()), (0, 0), "{done}");
}
