//! Maintenance deletes only what it can prove to be of no use, and what a failure left undone is remembered until it is done.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use colloquy::{
    archive::{
        objects::ByteRange,
        segment::{SegmentReader, events_path, manifest_path, segment_of, sessions_path},
    },
    domain::{
        Day, Expected, Kind, Pointer, SegmentName, Session, SessionKey, SessionPatch, Tenant, Timestamp,
    },
    store::catalog::{Adopted, Archived, Standing},
};

use super::{
    flows::Archiving,
    on_servers,
    plan::{Fault, Plan},
    settle::run,
    template,
    world::{LEASE, Told, World, key, time},
};

fn forget_at() -> Timestamp {
    time("2099-01-01T00:00:00Z")
}

fn nothing_goes_wrong() -> Arc<Plan> {
    Arc::new(Plan::watched(|| Box::pin(async { Ok(()) })))
}

async fn paths(world: &World, prefix: &str) -> Vec<String> {
    let listed = world.objects.list(prefix, None, 1_000).await.unwrap();
    listed.into_iter().map(|object| object.path).collect()
}

/// Whether an object that can be read as one of ours, whole or not, holds words of the session.
async fn has_words(world: &World, id: &str) -> bool {
    let reader = SegmentReader::new(Arc::clone(&world.objects), 1 << 20);
    for path in paths(world, "sessions/").await {
        let Some(name) = segment_of(&path) else { continue };
        let Ok(mut rows) = reader.sessions(&name).await else {
            continue;
        };
        while let Ok(Some(row)) = rows.next().await {
            if row.session.id.as_str() == id {
                return true;
            }
        }
    }
    for path in paths(world, "events/").await {
        let Some(name) = segment_of(&path) else { continue };
        let Ok(mut rows) = reader.events(&name).await else {
            continue;
        };
        while let Ok(Some((session, _))) = rows.next().await {
            if session.as_str() == id {
                return true;
            }
        }
    }
    false
}

/// Whatever call of a run fails, and whether or not it was done: as long as bytes of a session lie in the archive, its erasure
/// is pending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_erasure_is_done_while_a_failed_run_has_left_bytes() {
    let template = template(&Archiving).await;
    let steps = super::steps(&Archiving, &template.world()).await;
    let mut left_bytes = 0;
    for (at, call) in steps.iter().enumerate() {
        let writes = ["put ", "finish ", "upload ", "get ", "commit", "release", "renew"];
        if !writes.iter().any(|write| call.starts_with(write)) {
            continue;
        }
        for fault in [Fault::Refuse, Fault::LoseAnswer] {
            let mut world = template.world();
            let plan = Arc::new(Plan::at(at + 1, fault));
            let _ = run(&world.faulty(&plan, Duration::from_secs(600))).await;
            let ids: Vec<String> = world
                .model
                .due()
                .map(|told| told.session.id.to_string())
                .collect();
            for id in &ids {
                world.erase(id).await;
            }
            let pending = world.archive().pending_erasures().await.unwrap();
            for id in &ids {
                if has_words(&world, id).await {
                    left_bytes += 1;
                    assert_ne!(pending.sessions, 0, "{fault:?} at {call}: bytes of {id} are left");
                }
            }
            world.rewrite(call).await;
            for id in &ids {
                assert!(
                    !has_words(&world, id).await,
                    "{fault:?} at {call}: bytes of {id} outlive it"
                );
            }
        }
    }
    assert!(left_bytes > 0, "no case left any bytes");
}

/// What a run that failed noted, although it had written nothing, does not stay for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_written_is_forgotten_by_a_sweep() {
    let world = template(&Archiving).await.world();
    let plan = Arc::new(Plan::at(1, Fault::GoAway));
    for _ in 0..3 {
        let _ = run(&world.without_objects(&plan)).await;
    }
    assert_eq!(
        world.catalog.residual(100).await.unwrap().len(),
        3,
        "each of the three"
    );
    world.archive().sweep(Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(
        world.catalog.residual(100).await.unwrap().len(),
        3,
        "it may still land"
    );
    world.archive().sweep(Duration::ZERO).await.unwrap();
    assert_eq!(world.catalog.residual(100).await.unwrap(), []);
    world.recover("after it").await;
    world.assert_settled("after it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_that_could_not_be_written_is_made_up_for() {
    for mut world in [template(&Archiving).await.world(), on_servers(&Archiving).await] {
        world.recover("filled").await;
        let plan = Arc::new(Plan::at(1, Fault::GoAway));
        let without_objects = world.without_objects(&plan);
        for id in ["short", "long"] {
            world.catalog.erase(&key(id), forget_at()).await.unwrap();
            world.model.0.get_mut(id).expect("a session").is_erased = true;
        }
        let failed = without_objects.note_erasure(&key("short")).await;
        assert_eq!(failed.unwrap_err().kind(), Kind::ArchiveUnavailable);
        // Of the other one nobody is told: its process died before it came to that.
        without_objects.rewrite().await.unwrap_err();
        assert_eq!(paths(&world, "erased/").await, [""; 0]);
        let pending = world.archive().pending_erasures().await.unwrap();
        assert_eq!(pending.sessions, 2);

        // The bytes go, and so do the tombstones. Only the markers tell a store that is rebuilt from an older copy.
        let copies = copies_of(&world, &["short", "long"]).await;
        world.rewrite("made up for").await;
        assert_eq!(paths(&world, "erased/default/").await.len(), 2);
        let restored = world.without_store().await;
        for (told, copy) in copies {
            restored.catalog.adopt(&copy, &told.session).await.unwrap();
        }
        let rebuilt = restored.archive().rebuild(&|_| ()).await.unwrap();
        assert_eq!(rebuilt.erased_again, 2, "{rebuilt}");
        for id in ["short", "long"] {
            let read = restored.catalog.session(&key(id)).await;
            assert_eq!(read.unwrap_err().kind(), Kind::SessionErased, "{id}");
        }
        restored.catalog.close().await;
        world.catalog.close().await;
    }
}

/// Sessions that are archived, as they were told, where the store says that they are or were.
async fn copies_of(world: &World, ids: &[&str]) -> Vec<(Told, Archived)> {
    let mut copies = Vec::new();
    let reader = SegmentReader::new(Arc::clone(&world.objects), 1 << 20);
    for path in paths(world, "sessions/").await {
        let Some(name) = segment_of(&path) else { continue };
        let mut rows = reader.sessions(&name).await.unwrap();
        while let Some(row) = rows.next().await.unwrap() {
            if ids.contains(&row.session.id.as_str()) {
                let told = world.model.0[row.session.id.as_str()].clone();
                let copy = Archived {
                    key: key(row.session.id.as_str()),
                    epoch: row.epoch,
                    pointer: row.pointer,
                };
                copies.push((told, copy));
            }
        }
    }
    assert_eq!(copies.len(), ids.len());
    copies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_object_names_an_erased_session() {
    let mut world = template(&Archiving).await.world();
    world.recover("filled").await;
    world.erase("short").await;
    // As an earlier version marked it.
    let clear = Bytes::from_static(br#"{"erasedAt":"2026-09-01T08:00:00.000Z"}"#);
    for id in ["long", "2026-01-01"] {
        let path = format!("erased/default/{id}/2026-09-01");
        world.objects.put(&path, clear.clone()).await.unwrap();
    }
    for _ in 0..2 {
        world.archive().sweep(Duration::ZERO).await.unwrap();
        let markers = paths(&world, "erased/").await;
        let names = |id: &str| markers.iter().any(|path| path.contains(id));
        assert!(!names("short") && !names("long"), "{markers:?}");
        assert_eq!(markers.len(), 4, "three of them, and the salt: {markers:?}");
        for path in &markers {
            let bytes = world.objects.get(path, ByteRange::All).await.unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("short") && !text.contains("long"), "{text}");
        }
    }
    // It is known all the same.
    let mut restored = world.without_store().await;
    let rebuilt = restored.archive().rebuild(&|_| ()).await.unwrap();
    assert_eq!(rebuilt.copies_erased, 1, "{rebuilt}");
    restored.model.0.retain(|_, told| told.session.status.has_ended());
    restored.assert_reads("rebuilt").await;
    restored.catalog.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_outlives_its_tombstone() {
    let mut world = template(&Archiving).await.world();
    world.recover("filled").await;
    world.erase("short").await;
    world.rewrite("erased").await;
    let long_after = time("2099-01-02T00:00:00Z");
    assert_eq!(
        world.catalog.upkeep(long_after).await.unwrap().tombstones_dropped,
        1
    );
    let standing = world.catalog.standings(&[key("short")]).await.unwrap();
    assert_eq!(standing, [Standing::Unknown]);
    let swept = world.archive().sweep(Duration::ZERO).await.unwrap();
    assert_eq!(
        (swept.markers, paths(&world, "erased/default/").await.len()),
        (0, 1)
    );
}

/// A store that was set back deletes nothing that it does not know, whatever it is asked to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_maintenance_deletes_a_copy_that_the_store_does_not_know() {
    for world in [template(&Archiving).await.world(), on_servers(&Archiving).await] {
        // The same sessions, hot and shorter: what an older backup has.
        let mut older = world.without_store().await;
        older.fill().await;
        let patch = SessionPatch {
            language: Some(Some("de".parse().unwrap())),
            ..SessionPatch::default()
        };
        let patched = older.catalog.patch(&key("long"), &patch, &Expected::Any).await;
        patched.unwrap();
        world.recover("newer").await;
        let before: BTreeSet<String> = paths(&world, "").await.into_iter().collect();
        let swept = older.archive().sweep(Duration::ZERO).await.unwrap();
        assert_eq!((swept.segments, swept.unknown), (0, 2), "{swept}");
        assert!(!swept.is_good());
        let expired = older.archive().expire(Duration::from_secs(1)).await.unwrap();
        assert_eq!((expired.segments, expired.sessions), (0, 0), "{expired}");
        older.archive().rewrite().await.unwrap();
        let after: BTreeSet<String> = paths(&world, "").await.into_iter().collect();
        assert_eq!(after, before);
        // Then it archives them itself, under epochs that are greater.
        run(&older.archive()).await.unwrap();
        let swept = older.archive().sweep(Duration::ZERO).await.unwrap();
        assert_eq!((swept.segments, swept.unknown), (0, 2), "{swept}");
        let after: BTreeSet<String> = paths(&world, "").await.into_iter().collect();
        assert!(
            after.is_superset(&before) && after.len() == before.len() + 6,
            "{after:?}"
        );
        let rebuilt = older.archive().rebuild(&|_| ()).await.unwrap();
        assert!(rebuilt.is_good(), "{rebuilt}");
        assert_eq!(rebuilt.merged, 4, "{rebuilt}");
        let told = older.model.0.get_mut("long").expect("a session");
        told.session = older.catalog.session(&key("long")).await.unwrap();
        assert_eq!(
            told.session.language,
            Some("de".parse().unwrap()),
            "the later change stays"
        );
        older.recover("rebuilt").await;
        older.assert_settled("rebuilt").await;
        older.catalog.close().await;
        world.catalog.close().await;
    }
}

/// Uploads of others go on, in a place that is theirs as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_leaves_the_uploads_of_others_alone() {
    let world = on_servers(&Archiving).await;
    let large = Bytes::from(vec![7; 9 << 20]);
    let mut theirs = Vec::new();
    for path in [
        "backup/theirs",
        "events/theirs",
        "events/dt=2026-01-01/theirs.parquet",
        "theirs",
    ] {
        let mut upload = world.objects.upload(path).await.unwrap();
        upload.write(large.clone()).await.unwrap();
        theirs.push((path, upload));
    }
    // Nobody finishes this one, as when a process dies.
    let abandoned = events_path(&SegmentName::new(Tenant::default(), Day::of(forget_at())));
    let mut upload = world.objects.upload(&abandoned).await.unwrap();
    upload.write(large.clone()).await.unwrap();
    std::mem::forget(upload);
    world.objects.put("sessions/theirs", large.clone()).await.unwrap();
    let swept = world.archive().sweep(Duration::ZERO).await.unwrap();
    assert_eq!((swept.uploads, swept.strangers), (1, 1), "{swept}");
    for (path, upload) in theirs {
        upload.finish().await.unwrap();
        assert_eq!(world.objects.head(path).await.unwrap().size, large.len() as u64);
    }
    world.catalog.close().await;
}

/// A sweep of segments that are all in use asks the store by pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_costs_statements_by_pages_and_by_garbage() {
    const SEGMENTS: usize = 1_000;
    let world = template(&Archiving).await.world();
    let stub = world.catalog.session(&key("short")).await.unwrap();
    let mut names = Vec::new();
    for nth in 0..SEGMENTS {
        let day = Day::of(time("2024-01-01T00:00:00Z").saturating_add_ms(nth as i64 / 3 * 86_400_000));
        let name = SegmentName::new(Tenant::default(), day);
        let session = Session {
            id: format!("s-{nth}").parse().unwrap(),
            archived: true,
            ..stub.clone()
        };
        let copy = Archived {
            key: SessionKey::new(Tenant::default(), session.id.clone()),
            epoch: 1,
            pointer: Pointer {
                segment: name.clone(),
                first_row: 0,
                rows: 0,
            },
        };
        assert_eq!(
            world.catalog.adopt(&copy, &session).await.unwrap(),
            Adopted::Created
        );
        for path in [sessions_path(&name), events_path(&name), manifest_path(&name)] {
            world.objects.put(&path, Bytes::from_static(b"x")).await.unwrap();
        }
        names.push(name);
    }
    let statements = async |garbage: usize| {
        let plan = nothing_goes_wrong();
        let swept = world.faulty(&plan, LEASE).sweep(Duration::ZERO).await.unwrap();
        assert_eq!(
            (swept.segments, swept.missing, swept.unknown),
            (garbage as u64, 0, 0),
            "{swept}"
        );
        let of_store = |step: &String| {
            let of_objects = ["list", "head", "delete", "get", "put", "discard_unfinished"];
            !of_objects.iter().any(|call| step.starts_with(call))
        };
        plan.steps().into_iter().filter(of_store).count()
    };
    let pages = SEGMENTS.div_ceil(500) + 1;
    let clean = statements(0).await;
    assert!(clean <= pages + 4, "{clean} statements for {SEGMENTS} segments");
    // Of what has no manifest, each is asked for.
    for _ in 0..10 {
        let day = Day::of(time("2024-01-01T00:00:00Z"));
        let path = events_path(&SegmentName::new(Tenant::default(), day));
        world.objects.put(&path, Bytes::from_static(b"x")).await.unwrap();
    }
    let garbage = statements(10).await;
    assert!(
        garbage <= clean + 10 * 4,
        "{garbage} statements for 10 segments that are garbage"
    );
    assert!(
        world.catalog.is_needed(&names[500]).await.unwrap(),
        "what is in use stays"
    );
}

/// Names of segments that pointers lead to are told, where nothing is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_tells_what_the_store_points_to_and_is_not_there() {
    let world = template(&Archiving).await.world();
    world.recover("filled").await;
    let swept = world.archive().sweep(Duration::ZERO).await.unwrap();
    assert!(swept.is_good(), "{swept}");
    let gone = world.archived().await[0].pointer.segment.clone();
    world.objects.delete(&manifest_path(&gone)).await.unwrap();
    let swept = world.archive().sweep(Duration::ZERO).await.unwrap();
    assert_eq!((swept.segments, swept.missing), (0, 1), "{swept}");
}
