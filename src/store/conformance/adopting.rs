//! Adoption: when the store was lost, what the archive holds makes it again, in any order and any number of times.

use std::sync::Arc;

use colloquy::{
    domain::{End, Kind, Pointer, Session, SessionKey, Status},
    store::catalog::{Adopted, Archived, Catalog, Claim, Standing},
};

use super::{
    all_events, at,
    catalog::{
        CatalogSubject, LEASE, archive_as, archived, both, claim, due, ended, hot, pending, pointer, restore,
        segment, standing,
    },
    event, key, object, open, session, store_event, the,
};

/// An archived session with every field set.
pub(super) fn stub(id: &str) -> Session {
    Session {
        user_id: Some(the("$anna|1")),
        status: Status::Failed,
        language: Some(the("en-US")),
        metadata: object(r#"{"z":1,"a":[2.50]}"#),
        started_at: at(-5),
        ended_at: Some(at(9_000)),
        end_reason: Some("hung \"up\"".to_owned()),
        version: 17,
        archived: true,
        ..session(id)
    }
}

pub(super) fn copy(key: &SessionKey, epoch: i64) -> Archived {
    Archived {
        key: key.clone(),
        epoch,
        pointer: Pointer {
            rows: epoch.unsigned_abs(),
            ..pointer(&segment())
        },
    }
}

pub async fn an_adopted_session_is_as_it_was_archived(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let copy = copy(&key, 5);
    for expected in [Adopted::Created, Adopted::Kept, Adopted::Kept] {
        assert_eq!(catalog.adopt(&copy, &stub("s")).await.unwrap(), expected);
    }
    assert_eq!(store.session(&key).await.unwrap(), stub("s"));
    assert_eq!(hot(&store, &key).await, (vec![], Some(copy.pointer.clone())));
    assert_eq!(standing(&catalog, &key).await, Standing::Archived(copy.clone()));
    assert!(catalog.is_needed(&copy.pointer.segment).await.unwrap());
    assert_eq!(due(&catalog).await, []);
    let opened = store.open(&key.tenant, session("s"), at(1)).await.unwrap();
    assert_eq!((opened.session, opened.created), (stub("s"), false));
    store.erase(&key, at(99_000)).await.unwrap();
    assert_eq!(
        pending(&catalog).await,
        (1, vec![copy.pointer.segment]),
        "and no other"
    );
}

/// Claims the session and merges a copy into it; says under which of the two pointers it is then.
async fn merge(catalog: &Arc<dyn Catalog>, copy: &Archived, session: &Session, current: &Archived) {
    let owner = segment();
    let claimed = claim(catalog, &copy.key, Claim::Archived, &owner, LEASE).await;
    assert_eq!(claimed.pointer, Some(current.pointer.clone()));
    let takes_over = current.epoch < copy.epoch;
    let merged = catalog.merge(&claimed, &owner, copy, session, takes_over).await;
    assert!(merged.unwrap());
}

pub async fn a_newer_copy_wins_in_any_order(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let id = format!("s-{}{}{}", order[0], order[1], order[2]);
        let key = key(&id);
        let copies = [1, 2, 3].map(|epoch| copy(&key, epoch));
        let mut newest: Option<&Archived> = None;
        for epoch in order {
            let one = &copies[epoch - 1];
            // It was patched between one copy and the next, while it was hot.
            let version = 16 + one.epoch;
            let stored = Session { version, ..stub(&id) };
            match (catalog.adopt(one, &stored).await.unwrap(), newest) {
                (Adopted::Created, None) => newest = Some(one),
                (Adopted::Apart(there), Some(current)) => {
                    assert_eq!(there.pointer, current.pointer, "{id}");
                    merge(&catalog, one, &stored, current).await;
                    newest = Some(if one.epoch > current.epoch { one } else { current });
                }
                other => panic!("{id}: {other:?}"),
            }
            assert_eq!(catalog.adopt(one, &stored).await.unwrap(), Adopted::Kept, "{id}");
        }
        let Standing::Archived(archived) = standing(&catalog, &key).await else {
            panic!("{id} is not archived");
        };
        assert_eq!(archived.pointer, copies[2].pointer, "{id}");
        let newest = Session {
            version: 19,
            ..stub(&id)
        };
        assert_eq!(store.session(&key).await.unwrap(), newest, "{id}");
        store.erase(&key, at(99_000)).await.unwrap();
        let (_, segments) = pending(&catalog).await;
        assert_eq!(segments, copies.map(|copy| copy.pointer.segment), "{id}");
        for gone in segments {
            catalog.forget_segment(&gone).await.unwrap();
        }
    }
}

pub async fn nothing_is_adopted_over_a_tombstone(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("erased"));
    ended(&store, &key).await;
    store.erase(&key, at(99_000)).await.unwrap();
    // It was written before the erasure, as its epoch tells.
    let copy = copy(&key, 100);
    for _ in 0..2 {
        let adopted = catalog.adopt(&copy, &stub("erased")).await;
        assert_eq!(adopted.unwrap(), Adopted::Kept);
        assert_eq!(standing(&catalog, &key).await, Standing::Erased);
    }
    assert_eq!(pending(&catalog).await, (1, vec![copy.pointer.segment]));
}

pub async fn an_adopted_session_can_be_restored(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    // The events of a session of the same id, from a store of before.
    let other = SessionKey::new(the("other"), the("s"));
    let (_, events) = archived(&catalog, &other).await;
    catalog.adopt(&copy(&key, 5), &stub("s")).await.unwrap();
    let restored = restore(&catalog, &key, &events, 20_000).await;
    let expected = Session {
        archived: false,
        ..stub("s")
    };
    assert_eq!(restored, expected);
    assert_eq!(all_events(&store, &key).await, events);
    let again = archive_as(&catalog, &key, Claim::Hot).await;
    assert!(again.epoch > 5);
    // Of what is found late nobody knows what it holds.
    let late = catalog.adopt(&copy(&key, 4), &stub("s")).await.unwrap();
    assert_eq!(late, Adopted::Apart(again.clone()));
    assert_eq!(standing(&catalog, &key).await, Standing::Archived(again));
}

pub async fn an_erased_copy_is_a_tombstone_from_the_first(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let copies = [copy(&key, 5), copy(&key, 3)];
    for copy in copies.iter().chain(&copies) {
        catalog.adopt_erased(copy, at(8_000), at(99_000)).await.unwrap();
        assert_eq!(standing(&catalog, &key).await, Standing::Erased);
    }
    assert_eq!(store.session(&key).await.unwrap_err().kind(), Kind::SessionErased);
    let opened = store.open(&key.tenant, session("s"), at(1)).await;
    assert_eq!(opened.unwrap_err().kind(), Kind::SessionErased);
    // And it stands until its bytes are gone.
    let opened = store.open(&key.tenant, session("s"), at(99_001)).await;
    assert_eq!(opened.unwrap_err().kind(), Kind::SessionErased);
    let mut segments = copies.map(|copy| copy.pointer.segment);
    segments.sort_by_key(ToString::to_string);
    assert_eq!(pending(&catalog).await, (1, segments.to_vec()));
    for segment in &segments {
        assert!(!catalog.is_needed(segment).await.unwrap());
        catalog.forget_segment(segment).await.unwrap();
    }
    let opened = store.open(&key.tenant, session("s"), at(99_001)).await.unwrap();
    assert!(opened.created);
}

pub async fn an_erased_copy_takes_nothing_but_what_is_older(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    // As a backup has them that was made before they were erased.
    let known = copy(&key("known"), 5);
    catalog.adopt(&known, &stub("known")).await.unwrap();
    for id in ["hot", "active", "moved"] {
        open(&store, &key(id)).await;
        store_event(&store, event(&key(id), "e-0")).await;
    }
    for id in ["hot", "moved"] {
        store.end(&key(id), &End::default(), at(9_000)).await.unwrap();
    }
    let elsewhere = archive_as(&catalog, &key("moved"), Claim::Hot).await;
    let now = known.pointer.segment.begun_at().saturating_add_ms(1_000);
    for id in ["known", "hot", "active", "moved"] {
        let found = match id {
            "known" => known.clone(),
            id => copy(&key(id), 5),
        };
        // Sessions are opened at 1,001 here.
        let erased_at = if id == "known" { now } else { at(1_001) };
        catalog.adopt_erased(&found, erased_at, at(99_000)).await.unwrap();
        assert_eq!(standing(&catalog, &key(id)).await, Standing::Erased, "{id}");
        assert!(pending(&catalog).await.1.contains(&found.pointer.segment), "{id}");
    }
    assert!(pending(&catalog).await.1.contains(&elsewhere.pointer.segment));
    assert_eq!(catalog.unmarked(10).await.unwrap(), [], "the marker is there");
    // The id was used again after the erasure.
    ended(&store, &key("newer")).await;
    let newer = archive_as(&catalog, &key("newer"), Claim::Hot).await;
    ended(&store, &key("hot-again")).await;
    for id in ["newer", "hot-again"] {
        let older = copy(&key(id), 5);
        let before = standing(&catalog, &key(id)).await;
        catalog.adopt_erased(&older, at(1_000), at(99_000)).await.unwrap();
        assert_eq!(standing(&catalog, &key(id)).await, before);
        store.session(&key(id)).await.unwrap();
        assert_eq!(catalog.owed_marker(&key(id)).await.unwrap(), None);
        store.erase(&key(id), at(99_000)).await.unwrap();
        let (_, segments) = pending(&catalog).await;
        assert!(segments.contains(&older.pointer.segment), "{id}");
    }
    // Nor does a copy that counts go, when the id was erased before it.
    ended(&store, &key("counts")).await;
    let counts = archive_as(&catalog, &key("counts"), Claim::Hot).await;
    catalog.adopt_erased(&counts, at(999), at(99_000)).await.unwrap();
    assert_eq!(
        standing(&catalog, &key("counts")).await,
        Standing::Archived(counts)
    );
    assert!(pending(&catalog).await.1.contains(&newer.pointer.segment));
}
