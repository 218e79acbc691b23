//! The records of what archivers did.

use std::time::SystemTime;

use colloquy::{
    domain::{JsonObject, Timestamp},
    store::catalog::RUN_DAYS_MAX,
};

use super::{
    at,
    catalog::{CatalogSubject, both},
    object,
};

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
