//! Sessions that nobody completes, ended by the server's own clock; and the records of what archivers did.

use std::time::{Duration, SystemTime};

use colloquy::{
    domain::{JsonObject, Kind, SessionKey, Status, Timestamp},
    store::{
        Append,
        catalog::{CATALOG_BATCH_MAX, RUN_DAYS_MAX},
    },
};

use super::{
    AppendExt, all_events, append, at,
    catalog::{CatalogSubject, archived, both, ended},
    event, key, object, open, session, store_event, together,
};

/// An event that was accepted at `ms` by the server's clock, whatever time its caller gave it.
fn accepted_at(key: &SessionKey, id: &str, ms: i64) -> Append {
    event(key, id).stamped(1).proposing(ms * 1_000)
}

pub async fn a_session_in_use_is_not_ended(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    let idle_since = at(50_000);
    // Opened just now, of a conversation that began long ago.
    for (id, opened_at) in [("fresh", 60_000), ("just then", 50_000), ("used", 10_000)] {
        let key = key(&id.replace(' ', "-"));
        let opened = store
            .open(&key.tenant, session(key.id.as_str()), at(opened_at))
            .await;
        assert!(opened.unwrap().created);
    }
    store_event(&store, accepted_at(&key("used"), "e-0", 50_000)).await;
    ended(&store, &key("ended")).await;
    ended(&store, &key("erased")).await;
    store.erase(&key("erased"), at(99_000)).await.unwrap();
    archived(&catalog, &key("archived")).await;
    for id in ["fresh", "just-then", "used", "ended", "archived"] {
        let before = store.session(&key(id)).await.unwrap();
        let ended = catalog
            .end_if_idle(&key(id), idle_since, "idle", at(70_000))
            .await;
        assert_eq!(ended.unwrap(), None, "{id}");
        assert_eq!(store.session(&key(id)).await.unwrap(), before, "{id}");
    }
    for id in ["erased", "unknown"] {
        let ended = catalog
            .end_if_idle(&key(id), idle_since, "idle", at(70_000))
            .await;
        assert_eq!(ended.unwrap(), None, "{id}");
    }
}

pub async fn an_idle_session_is_ended_once(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for id in ["initiated", "active"] {
        open(&store, &key(id)).await;
    }
    store_event(&store, accepted_at(&key("active"), "e-0", 49_999)).await;
    for id in ["initiated", "active"] {
        let mut expected = store.session(&key(id)).await.unwrap();
        expected.status = Status::Completed;
        expected.ended_at = Some(at(70_000));
        expected.end_reason = Some("nobody spoke".to_owned());
        expected.version += 1;
        let mut answers = Vec::new();
        for now in [70_000, 80_000] {
            let ended = catalog
                .end_if_idle(&key(id), at(50_000), "nobody spoke", at(now))
                .await;
            answers.push(ended.unwrap());
        }
        assert_eq!(answers, [Some(expected.clone()), None]);
        assert_eq!(store.session(&key(id)).await.unwrap(), expected);
    }
    assert_eq!(catalog.due(at(70_001), CATALOG_BATCH_MAX).await.unwrap().len(), 2);
}

pub async fn an_idle_end_that_races_an_append_is_consistent(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for round in 0..20 {
        let key = key(&format!("s-{round}"));
        open(&store, &key).await;
        let outcomes = together(2, |n| {
            let (catalog, store, key) = (catalog.clone(), store.clone(), key.clone());
            async move {
                if n == 0 {
                    let appended = append(&store, accepted_at(&key, "e", 60_000)).await;
                    return appended.map(|_| ()).map_err(|error| error.kind());
                }
                let ended = catalog.end_if_idle(&key, at(50_000), "idle", at(70_000)).await;
                ended.unwrap().map(|_| ()).ok_or(Kind::Internal)
            }
        })
        .await;
        let stored = all_events(&store, &key).await.len();
        let status = store.session(&key).await.unwrap().status;
        match (outcomes[0], outcomes[1]) {
            (Ok(()), Err(_)) => assert_eq!((stored, status), (1, Status::Active)),
            (Err(refused), Ok(())) => {
                assert_eq!(refused, Kind::SessionEnded);
                assert_eq!((stored, status), (0, Status::Completed));
            }
            // A store that settles says so: an append that was under way may land after the end.
            (Ok(()), Ok(())) => {
                assert!(catalog.settle_time() > Duration::ZERO);
                assert_eq!((stored, status.has_ended()), (1, true));
            }
            (Err(refused), Err(_)) => panic!("nobody won: {refused:?}"),
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    at(i64::try_from(since.as_millis()).unwrap())
}

fn record(n: usize) -> JsonObject {
    object(&format!(r#"{{"run":{n},"sessions":[1,2.50]}}"#))
}

pub async fn runs_are_kept_newest_first(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    assert_eq!(catalog.runs(500).await.unwrap(), []);
    let now = now();
    for (n, age_ms) in [(1, 3_000), (2, 1_000), (3, 2_000)] {
        let started_at = now.saturating_add_ms(-age_ms);
        let id = format!("run-{n}");
        catalog.record_run(&id, started_at, &record(n)).await.unwrap();
    }
    assert_eq!(catalog.runs(500).await.unwrap(), [2, 3, 1].map(record));
    assert_eq!(catalog.runs(2).await.unwrap(), [2, 3].map(record));
    let started_at = now.saturating_add_ms(-3_000);
    catalog.record_run("run-1", started_at, &record(4)).await.unwrap();
    assert_eq!(catalog.runs(500).await.unwrap(), [2, 3, 4].map(record));
    store.close().await;
    let (catalog, _) = both(subject).await;
    assert_eq!(catalog.runs(1).await.unwrap(), [record(2)]);
}

pub async fn old_runs_are_dropped(subject: &dyn CatalogSubject) {
    let (catalog, _) = both(subject).await;
    const DAY_MS: i64 = 86_400_000;
    let now = now();
    for (n, days) in [(1, RUN_DAYS_MAX + 1), (2, RUN_DAYS_MAX - 1), (3, 0)] {
        let started_at = now.saturating_add_ms(-days * DAY_MS);
        let id = format!("run-{n}");
        catalog.record_run(&id, started_at, &record(n)).await.unwrap();
    }
    assert_eq!(catalog.runs(500).await.unwrap(), [3, 2].map(record));
}
