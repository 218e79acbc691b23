//! The catalog on MongoDB: what comes too late, what overtakes what, and several processes. The rules that hold
//! for every catalog are in the conformance suite.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use colloquy::{
    domain::{Event, Kind, Pointer, SessionKey, SessionPatch},
    store::{
        Store,
        catalog::{Archived, Catalog, Claim, Commit, Standing, Written},
        mongo::{self, MongoOptions},
    },
};
use futures_util::future::join_all;
use mongodb::{
    Database,
    bson::{DateTime, Document, doc},
};

use super::{
    append, at, catalog, database, event, everything,
    faults::{Broken, unconfirmed},
    key, open, options,
};
use crate::{
    conformance::{
        self,
        catalog::{
            LEASE, archive_as, archived, claim, commit, ended, ids, pointer, restore, segment, standing,
        },
        object,
    },
    engines,
};

/// How long an archiver waits here; the appends that are late wait for much longer.
const SETTLE: Duration = Duration::from_millis(400);
const LATE: Duration = Duration::from_millis(1_500);

fn settling() -> MongoOptions {
    MongoOptions {
        append_settle: SETTLE,
        ..options()
    }
}

async fn two() -> (Arc<dyn Catalog>, Arc<dyn Catalog>, Database) {
    let url = engines::mongodb().await;
    mongo::init(&url, &options(), 1).await.unwrap();
    let (one, other) = (catalog(&url, options()).await, catalog(&url, options()).await);
    (one, other, database(&url).await)
}

fn store(catalog: &Arc<dyn Catalog>) -> Arc<dyn Store> {
    catalog.clone()
}

async fn hot(store: &Arc<dyn Store>, key: &SessionKey) -> (Vec<Event>, Option<Pointer>) {
    let page = store.events(key, &everything(Default::default())).await.unwrap();
    (page.items, page.archived)
}

/// Ends the session, and archives all of it.
async fn archive_away(catalog: &Arc<dyn Catalog>, key: &SessionKey) -> Archived {
    catalog.end(key, &Default::default(), at(9_000)).await.unwrap();
    let (events, _) = hot(&store(catalog), key).await;
    let archived = archive_as(catalog, key, Claim::Hot).await;
    catalog
        .delete_archived(key, archived.epoch, &ids(&events))
        .await
        .unwrap();
    catalog
        .tidied(std::slice::from_ref(&archived), None)
        .await
        .unwrap();
    archived
}

#[tokio::test(flavor = "multi_thread")]
async fn a_straggler_is_served_beside_the_pointer_and_is_looked_at_when_said() {
    let (catalog, other, database) = two().await;
    let s = key("s-1");
    let (archived, _) = archived(&catalog, &s).await;
    catalog
        .tidied(std::slice::from_ref(&archived), Some(Duration::from_millis(50)))
        .await
        .unwrap();
    let straggler = doc! {
        "_id": "ebca:default/s-1/late", "session": "ebca:default/s-1", "eventId": "late", "seq": 7_i64,
        "timestamp": DateTime::now(), "type": "user_speech", "payload": {},
    };
    database.collection("events").insert_one(straggler).await.unwrap();
    for store in [&catalog, &other].map(store) {
        let (items, pointer) = hot(&store, &s).await;
        assert_eq!(
            items.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(),
            ["late"]
        );
        assert_eq!(pointer.as_ref(), Some(&archived.pointer));
        let one = store.event(&s, &items[0].id).await.unwrap();
        assert_eq!((one.event.as_ref(), one.archived), (items.first(), pointer));
    }
    let hot_ones = other.with_hot_events(std::slice::from_ref(&s)).await.unwrap();
    assert_eq!(hot_ones, std::slice::from_ref(&s));
    let untidy = async {
        while other.untidy(10).await.unwrap() != [archived.clone()] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::SOON, untidy).await.unwrap();
    // Whatever is not in the copy is not deleted with it.
    let of_copy = ["e-0", "e-1", "e-2"].map(|id| id.parse().unwrap());
    assert_eq!(
        other.delete_archived(&s, archived.epoch, &of_copy).await.unwrap(),
        0
    );
    assert_eq!(hot(&store(&other), &s).await.0.len(), 1);
}

/// The insert arrives when the archiver is long done, having read the session before it ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_lands_after_the_archiver_read_says_that_the_session_is_archived() {
    let mut broken = Broken::with(settling()).await;
    let other = broken.elsewhere().await;
    for (id, replays) in [("s-1", false), ("s-2", true)] {
        let (writer, s) = (broken.store.clone(), key(id));
        open(&writer, id).await;
        append(&writer, event(id, "first", 1)).await.unwrap();
        broken.hold("insert", "events", LATE).await;
        let late = if replays { "first" } else { "late" };
        let appending = tokio::spawn(async move { append(&writer, event(id, late, 2)).await });
        broken.met().await;
        let copy = archive_away(&other, &s).await;
        assert_eq!(other.untidy(10).await.unwrap(), []);
        let told = appending.await.unwrap();
        assert_eq!(told.unwrap_err().kind(), Kind::SessionArchived, "{id}");
        assert_eq!(broken.failed().await, 1);
        let (items, pointer) = hot(&broken.store, &s).await;
        assert_eq!((items.len(), pointer), (1, Some(copy.pointer.clone())));
        assert_eq!(other.untidy(10).await.unwrap(), std::slice::from_ref(&copy));
        other.tidied(&[copy], None).await.unwrap();
    }
}

/// Under a claim, the archiver may have read already; without one, it will.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_append_counts_unless_the_session_was_claimed_meanwhile() {
    let mut broken = Broken::with(settling()).await;
    let other = broken.elsewhere().await;
    for (id, ends, claims) in [("s-1", false, false), ("s-2", true, false), ("s-3", true, true)] {
        let (writer, s) = (broken.store.clone(), key(id));
        open(&writer, id).await;
        append(&writer, event(id, "first", 1)).await.unwrap();
        broken.hold("insert", "events", LATE).await;
        let appending = tokio::spawn(async move { append(&writer, event(id, "late", 2)).await });
        broken.met().await;
        if ends {
            other.end(&s, &Default::default(), at(9_000)).await.unwrap();
        }
        if claims {
            claim(&other, &s, Claim::Hot, &segment(), LEASE).await;
        }
        match appending.await.unwrap() {
            Ok(appended) => assert!(!claims && !appended.replayed, "{id}"),
            Err(error) => assert_eq!((error.kind(), claims), (Kind::SessionArchived, true), "{id}"),
        }
        assert_eq!(broken.failed().await, 1);
        assert_eq!(
            hot(&broken.store, &s).await.0.len(),
            2,
            "{id}: it stays where it landed"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_looks_for_its_event_while_it_is_archived_is_not_told_that_it_is_new() {
    let mut broken = Broken::new().await;
    let other = broken.elsewhere().await;
    for (id, comes_back) in [("s-1", false), ("s-2", true)] {
        let (writer, s) = (broken.store.clone(), key(id));
        ended(&store(&other), &s).await;
        let (events, _) = hot(&store(&other), &s).await;
        broken.hold("find", "events", Duration::from_secs(1)).await;
        let again = colloquy::store::Append {
            event: conformance::event(&s, "e-1").event,
            ..event(id, "e-1", 2)
        };
        let appending = tokio::spawn(async move { append(&writer, again).await });
        broken.met().await;
        archive_away(&other, &s).await;
        let told = appending.await.unwrap();
        assert_eq!(told.unwrap_err().kind(), Kind::SessionArchived);
        assert_eq!(broken.failed().await, 1);
        if comes_back {
            restore(&other, &s, &events, 20_000).await;
            let again = append(&broken.store, conformance::event(&s, "e-1"))
                .await
                .unwrap();
            assert_eq!((again.replayed, again.event), (true, events[1].clone()));
        }
    }
}

/// The deletion has looked at the session already when the restore begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_restore_overtakes_deletes_nothing_of_it() {
    let mut broken = Broken::new().await;
    let other = broken.elsewhere().await;
    let s = key("s-1");
    ended(&store(&other), &s).await;
    let (events, _) = hot(&store(&other), &s).await;
    let copy = archive_as(&other, &s, Claim::Hot).await;
    // One was deleted already, two lie there still.
    assert_eq!(
        other
            .delete_archived(&s, copy.epoch, &ids(&events[..1]))
            .await
            .unwrap(),
        1
    );
    broken.hold("delete", "events", Duration::from_secs(1)).await;
    let (late, all) = (broken.catalog.clone(), ids(&events));
    let deleting = tokio::spawn(async move { late.delete_archived(&key("s-1"), copy.epoch, &all).await });
    broken.met().await;
    restore(&other, &s, &events, 20_000).await;
    assert_eq!(deleting.await.unwrap().unwrap(), 0);
    assert_eq!(broken.failed().await, 1);
    assert_eq!(hot(&broken.store, &s).await, (events, None));
}

/// One message has at most 16 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn more_is_brought_back_at_a_time_than_one_message_holds() {
    let (catalog, _, _) = two().await;
    let s = key("s-1");
    let (_, events) = archived(&catalog, &s).await;
    let payload = object(&format!(r#"{{"text":"{}"}}"#, "x".repeat(250 * 1024)));
    let large: Vec<_> = (0..80)
        .map(|n| Event {
            id: format!("large-{n:02}").parse().unwrap(),
            seq: n,
            payload: payload.clone(),
            ..events[0].clone()
        })
        .collect();
    restore(&catalog, &s, &large, 20_000).await;
    assert!(
        hot(&store(&catalog), &s).await == (large, None),
        "80 events of 250 KiB"
    );
}

/// A restore whose claim ended goes on with what it was about to write.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_late_restore_writes_does_not_age_what_a_later_one_brought_back() {
    let mut broken = Broken::new().await;
    let other = broken.elsewhere().await;
    let s = key("s-1");
    let (_, events) = archived(&other, &s).await;
    let owner = segment();
    let lost = claim(&broken.catalog, &s, Claim::Archived, &owner, LEASE).await;
    broken.hold("update", "events", Duration::from_secs(1)).await;
    let (late, all, epoch) = (broken.catalog.clone(), events.clone(), lost.epoch);
    let writing = tokio::spawn(async move { late.bring_back(&key("s-1"), epoch, &all).await });
    broken.met().await;
    other.release(&[lost], &owner, Written::Nothing).await.unwrap();
    restore(&other, &s, &events, 20_000).await;
    writing.await.unwrap().unwrap();
    assert_eq!(broken.failed().await, 1);
    let epochs = database(&broken.url()).await.collection::<Document>("events");
    let aged = doc! { "epoch": { "$lte": epoch } };
    assert_eq!(epochs.count_documents(aged).await.unwrap(), 0);
    assert_eq!(hot(&broken.store, &s).await, (events, None));
}

/// The reader has read the events when they begin to come back, and looks at the session when they are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_a_restore_overtakes_reads_once_more() {
    let mut broken = Broken::new().await;
    let other = broken.elsewhere().await;
    for (id, lists) in [("s-1", true), ("s-2", false)] {
        let s = key(id);
        let (_, events) = archived(&other, &s).await;
        let (reader, one) = (broken.store.clone(), events[0].id.clone());
        broken.hold("find", "sessions", Duration::from_secs(1)).await;
        let reading = tokio::spawn(async move {
            if lists {
                hot(&reader, &key(id)).await
            } else {
                let one = reader.event(&key(id), &one).await.unwrap();
                (one.event.into_iter().collect(), one.archived)
            }
        });
        broken.met().await;
        restore(&other, &s, &events, 20_000).await;
        let expected = if lists { events } else { events[..1].to_vec() };
        assert_eq!(reading.await.unwrap(), (expected, None));
        assert_eq!(broken.failed().await, 1);
    }
}

/// It was hot when the patch read it, and is archived when the patch would be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_an_archiver_overtakes_is_refused() {
    let mut broken = Broken::new().await;
    let other = broken.elsewhere().await;
    let s = key("s-1");
    ended(&store(&other), &s).await;
    broken.hold("update", "sessions", Duration::from_secs(1)).await;
    let patcher = broken.store.clone();
    let patching = tokio::spawn(async move {
        let patch = SessionPatch::read(br#"{"userId":"late"}"#).unwrap();
        patcher.patch(&key("s-1"), &patch, &Default::default()).await
    });
    broken.met().await;
    archive_away(&other, &s).await;
    assert_eq!(patching.await.unwrap().unwrap_err().kind(), Kind::SessionArchived);
    assert_eq!(broken.failed().await, 1);
    assert_eq!(other.session(&s).await.unwrap().user_id, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_counts_though_its_answer_was_lost() {
    let mut broken = Broken::new().await;
    let (catalog, s) = (broken.catalog.clone(), key("s-1"));
    ended(&store(&catalog), &s).await;
    let (events, _) = hot(&store(&catalog), &s).await;
    let mut last = 0;
    for (n, how) in [unconfirmed(), doc! { "closeConnection": true }]
        .into_iter()
        .enumerate()
    {
        let lose = async || {
            broken
                .fail(&["update", "delete", "findAndModify"], 3, how.clone())
                .await
        };
        let (writer, restorer) = (segment(), segment());
        lose().await;
        let claimed = claim(&catalog, &s, Claim::Hot, &writer, LEASE).await;
        assert!(claimed.epoch > last, "a new epoch");
        last = claimed.epoch;
        let found = database(&broken.url()).await.collection::<Document>("sessions");
        let found = found.find_one(doc! {}).await.unwrap().unwrap();
        let left = found.get_array("left").map(Vec::len).unwrap_or_default();
        assert_eq!(left, n, "claimed once: who claims again goes to left");
        lose().await;
        assert!(commit(&catalog, &claimed, &writer).await);
        lose().await;
        catalog
            .delete_archived(&s, claimed.epoch, &ids(&events))
            .await
            .unwrap();
        assert_eq!(hot(&store(&catalog), &s).await, (vec![], Some(pointer(&writer))));
        let claimed = claim(&catalog, &s, Claim::Archived, &restorer, LEASE).await;
        lose().await;
        catalog.bring_back(&s, claimed.epoch, &events).await.unwrap();
        lose().await;
        let restored = catalog
            .restored(&s, claimed.epoch, &restorer, at(20_000))
            .await
            .unwrap();
        assert!(!restored.expect("the claim stood").archived);
        assert_eq!(hot(&store(&catalog), &s).await, (events.clone(), None));
    }
    assert!(broken.failed().await > 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn archivers_in_two_processes_share_the_work_and_a_session_goes_to_one() {
    let (one, other, _) = two().await;
    let keys: Vec<_> = (0..40).map(|n| key(&format!("s-{n}"))).collect();
    for key in &keys {
        ended(&store(&one), key).await;
    }
    let archivers = (0..8).map(|n| {
        let (catalog, keys) = (if n % 2 == 0 { &one } else { &other }.clone(), keys.clone());
        tokio::spawn(async move {
            let owner = segment();
            let claimed = catalog.claim(&keys, Claim::Hot, &owner, LEASE).await.unwrap();
            let commits: Vec<_> = claimed
                .into_iter()
                .map(|claimed| Commit {
                    key: claimed.key,
                    epoch: claimed.epoch,
                    version: claimed.version,
                    pointer: pointer(&owner),
                })
                .collect();
            let done = catalog.commit(&commits, &owner).await.unwrap();
            assert!(done.iter().all(|done| *done));
            (owner, commits.len() as u64)
        })
    });
    let mut shares: Vec<_> = join_all(archivers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    shares.retain(|(_, share)| *share > 0);
    shares.sort();
    assert_eq!(shares.iter().map(|(_, share)| share).sum::<u64>(), 40);
    assert_eq!(other.segments(None, 100).await.unwrap(), shares);
    for key in &keys {
        assert!(matches!(standing(&one, key).await, Standing::Archived(_)));
    }
}

/// Whatever a reader meets, each event lies here, or there is a pointer that leads to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_misses_an_event_while_a_session_goes_to_the_archive_and_back() {
    let (writer, reader, _) = two().await;
    let s = key("s-1");
    ended(&store(&writer), &s).await;
    let (events, _) = hot(&store(&writer), &s).await;
    let done = Arc::new(AtomicBool::new(false));
    let readers = [&writer, &reader, &reader].map(|catalog| {
        let (store, s, events, done) = (store(catalog), s.clone(), events.clone(), done.clone());
        tokio::spawn(async move {
            let (mut here, mut there) = (0, 0);
            while !done.load(Ordering::Acquire) {
                let (items, pointer) = hot(&store, &s).await;
                assert!(
                    items.iter().all(|event| events.contains(event)),
                    "none twice, none other"
                );
                assert!(pointer.is_some() || items == events, "{items:?}");
                for event in &events {
                    let one = store.event(&s, &event.id).await.unwrap();
                    assert!(one.archived.is_some() || one.event.as_ref() == Some(event));
                }
                here += usize::from(pointer.is_none());
                there += usize::from(pointer.is_some());
            }
            (here, there)
        })
    });
    for cycle in 0..25 {
        archive_away(&writer, &s).await;
        restore(&writer, &s, &events, 20_000 + cycle).await;
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        let (here, there) = reader.await.unwrap();
        assert!(here > 0 && there > 0, "it met both: {here} and {there}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_session_reads_well() {
    let (catalog, _, database) = two().await;
    let sessions = database.collection::<Document>("sessions");
    let stored = async || sessions.find_one(doc! {}).await.unwrap().unwrap();
    let (s, began) = (key("s-1"), DateTime::now());
    let (first, events) = archived(&catalog, &s).await;
    let found = stored().await;
    let archive = doc! { "segment": first.pointer.segment.to_string(), "firstRow": 7_i64, "rows": 3_i64 };
    assert_eq!(found.get_document("archive").unwrap(), &archive);
    let first_epoch = found.get_i64("epoch").unwrap();
    assert!(first_epoch >= began.timestamp_millis(), "the database's clock");
    assert!(found.get_bool("archived").unwrap());
    assert!(
        found.get_datetime("tidyAt").is_ok() && !found.contains_key("claim") && !found.contains_key("left")
    );

    restore(&catalog, &s, &events, 20_000).await;
    let found = stored().await;
    let left = vec![first.pointer.segment.to_string().into()];
    assert!(found.get_i64("epoch").unwrap() > first_epoch);
    assert!(!found.get_bool("archived").unwrap());
    assert_eq!(found.get_array("left").unwrap(), &left);
    assert_eq!(
        found.get_datetime("restoredAt").unwrap(),
        &DateTime::from_millis(20_000)
    );
    assert!(
        ["archive", "claim", "tidyAt"]
            .iter()
            .all(|gone| !found.contains_key(gone))
    );

    catalog.erase(&s, at(30_000)).await.unwrap();
    let tombstone = stored().await;
    let fields: Vec<_> = tombstone.keys().map(String::as_str).collect();
    assert_eq!(fields, ["_id", "erased", "sweepAt", "epoch", "left"]);
    let last_epoch = tombstone.get_i64("epoch").unwrap();
    // The marker that the archive does not have yet.
    let owed = "default.1970-01-01.00000000000000000000000000000000";
    let left = tombstone.get_array("left").unwrap();
    let names = [owed.to_owned(), first.pointer.segment.to_string()];
    assert!(left.len() == 2 && names.into_iter().all(|name| left.contains(&name.into())));
    catalog.marked(std::slice::from_ref(&s)).await.unwrap();
    // Epochs go on in the next life, so that no commit of this one can be meant for it.
    catalog.forget_segment(&first.pointer.segment).await.unwrap();
    let next = colloquy::domain::Session::opened(Default::default(), "s-1".parse().unwrap(), at(30_000));
    assert!(catalog.open(&s.tenant, next, at(30_000)).await.unwrap().created);
    assert_eq!(stored().await.get_i64("epoch").unwrap(), last_epoch);
}
