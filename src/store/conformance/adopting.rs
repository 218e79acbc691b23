//! Adoption: when the store was lost, what the archive holds makes it again, in any order and any number of times.

use colloquy::{
    domain::{Kind, Pointer, Session, SessionKey, Status},
    store::catalog::{Adopted, Archived, Claim, Standing},
};

use super::{
    all_events, at,
    catalog::{
        CatalogSubject, archive_as, archived, both, due, ended, hot, pending, pointer, restore, segment,
        standing,
    },
    event, key, object, session, the,
};

/// An archived session with every field set.
fn stub(id: &str) -> Session {
    Session {
        user_id: Some(the("anna")),
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

fn copy(key: &SessionKey, epoch: i64) -> Archived {
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

pub async fn a_newer_copy_wins_in_any_order(subject: &dyn CatalogSubject) {
    use Adopted::{Created, Kept, Moved};
    let (catalog, store) = both(subject).await;
    let orders = [
        ([1, 2, 3], [Created, Moved, Moved]),
        ([1, 3, 2], [Created, Moved, Kept]),
        ([2, 1, 3], [Created, Kept, Moved]),
        ([2, 3, 1], [Created, Moved, Kept]),
        ([3, 1, 2], [Created, Kept, Kept]),
        ([3, 2, 1], [Created, Kept, Kept]),
    ];
    for (order, expected) in orders {
        let id = format!("s-{}{}{}", order[0], order[1], order[2]);
        let key = key(&id);
        let copies = [1, 2, 3].map(|epoch| copy(&key, epoch));
        for (epoch, expected) in order.into_iter().zip(expected) {
            let one = &copies[epoch - 1];
            // It was patched between one copy and the next, while it was hot.
            let version = 16 + one.epoch;
            let stored = Session { version, ..stub(&id) };
            assert_eq!(catalog.adopt(one, &stored).await.unwrap(), expected, "{id}");
            assert_eq!(catalog.adopt(one, &stored).await.unwrap(), Kept, "{id}");
        }
        let newest = Standing::Archived(copies[2].clone());
        assert_eq!(standing(&catalog, &key).await, newest, "{id}");
        assert_eq!(store.session(&key).await.unwrap().version, 19, "{id}");
        store.erase(&key, at(99_000)).await.unwrap();
        let (_, segments) = pending(&catalog).await;
        assert_eq!(segments, copies.map(|copy| copy.pointer.segment), "{id}");
        for gone in segments {
            catalog.forget_segment(&gone).await.unwrap();
        }
    }
}

pub async fn nothing_is_adopted_over_a_hot_session_or_a_tombstone(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    super::open(&store, &key("active")).await;
    super::store_event(&store, event(&key("active"), "e-0")).await;
    ended(&store, &key("ended")).await;
    ended(&store, &key("erased")).await;
    store.erase(&key("erased"), at(99_000)).await.unwrap();
    for id in ["active", "ended"] {
        let before = store.session(&key(id)).await.unwrap();
        let adopted = catalog.adopt(&copy(&key(id), 100), &stub(id)).await;
        assert_eq!(adopted.unwrap(), Adopted::Kept);
        assert_eq!(store.session(&key(id)).await.unwrap(), before);
        assert_eq!(hot(&store, &key(id)).await.1, None);
    }
    let adopted = catalog.adopt(&copy(&key("erased"), 100), &stub("erased")).await;
    assert_eq!(adopted.unwrap(), Adopted::Kept);
    assert_eq!(standing(&catalog, &key("erased")).await, Standing::Erased);
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
    // What was found late is older than what is there.
    let late = catalog.adopt(&copy(&key, 4), &stub("s")).await.unwrap();
    assert_eq!(late, Adopted::Kept);
    assert_eq!(standing(&catalog, &key).await, Standing::Archived(again));
}

pub async fn an_erased_copy_is_a_tombstone_from_the_first(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let copies = [copy(&key, 5), copy(&key, 3)];
    for copy in copies.iter().chain(&copies) {
        catalog.adopt_erased(copy, at(99_000)).await.unwrap();
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

pub async fn an_erased_copy_takes_nothing_but_what_points_to_it(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    // From a backup that was made before it was erased.
    let known = copy(&key("known"), 5);
    catalog.adopt(&known, &stub("known")).await.unwrap();
    catalog.adopt_erased(&known, at(99_000)).await.unwrap();
    assert_eq!(standing(&catalog, &key("known")).await, Standing::Erased);
    // The id was used again after the erasure.
    let newer = copy(&key("newer"), 9);
    catalog.adopt(&newer, &stub("newer")).await.unwrap();
    ended(&store, &key("hot")).await;
    for id in ["newer", "hot"] {
        let older = copy(&key(id), 5);
        let before = standing(&catalog, &key(id)).await;
        catalog.adopt_erased(&older, at(99_000)).await.unwrap();
        assert_eq!(standing(&catalog, &key(id)).await, before);
        store.session(&key(id)).await.unwrap();
        assert!(!catalog.is_pending(&key(id)).await.unwrap());
        store.erase(&key(id), at(99_000)).await.unwrap();
        let (_, segments) = pending(&catalog).await;
        assert!(segments.contains(&older.pointer.segment), "{id}");
    }
}
