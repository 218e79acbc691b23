//! The catalog: what older databases say to it, and how much it does at a time.

use super::{opening::left_by_version, *};
use crate::{
    domain::{Pointer, SegmentName},
    store::catalog::{Affected, Archived, Catalog, Claim, Pending, Standing},
};

fn segment(n: u8) -> SegmentName {
    format!("default.1970-01-01.0198c0de7d1a7000800000000000000{n}")
        .parse()
        .unwrap()
}

/// Whether the session is idle since then, and was ended.
async fn is_ended_as_idle(store: &SqliteStore, since: i64) -> bool {
    let found = store.find_idle(at(since), at(900), 10).await.unwrap().sessions;
    let Some(idle) = found.first() else { return false };
    assert_eq!(idle.key, key("live"));
    store.end_idle(idle, "idle", at(900)).await.unwrap().is_some()
}

/// Its start is what its caller said, and all that is known: it counts as the time at which the file was brought up to date.
#[tokio::test]
async fn a_session_of_version_1_that_begins_in_years_is_idle_in_the_end() {
    let folder = left_by_version(1);
    let begins = "UPDATE sessions SET started_at = 4000000000000 WHERE session_id = 'live'";
    folder.stranger().execute_batch(begins).unwrap();
    let before = now();
    let store = folder.store();
    assert_eq!(store.find_idle(before, before, 10).await.unwrap().sessions, []);
    let later = now().saturating_add_ms(1);
    assert_eq!(store.find_idle(later, later, 10).await.unwrap().sessions.len(), 1);
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    at(i64::try_from(since.as_millis()).unwrap())
}

#[tokio::test]
async fn sessions_of_version_1_can_be_archived() {
    let folder = left_by_version(1);
    let store = folder.store();
    let due = store.due(at(701), 10).await.unwrap();
    assert_eq!(due.len(), 1);
    let owner = segment(1);
    let claimed = store
        .claim(&[key("ended")], Claim::Hot, &owner, Duration::from_secs(60))
        .await;
    assert_eq!(claimed.unwrap().len(), 1);
    // When it was opened is not known: its start counts.
    let idle = async |since| is_ended_as_idle(&store, since).await;
    assert!(!idle(500).await);
    assert!(idle(501).await);
}

#[tokio::test]
async fn what_the_archive_kept_in_version_2_is_there() {
    let folder = left_by_version(2);
    let store = folder.store();
    let archived = Archived {
        key: key("archived"),
        epoch: 5,
        pointer: Pointer {
            segment: segment(2),
            first_row: 12,
            rows: 3,
        },
    };
    let page = store.events(&key("archived"), &everything()).await.unwrap();
    assert_eq!(page.archived.as_ref(), Some(&archived.pointer));
    assert_eq!(page.items.len(), 1);
    assert_eq!(store.untidy(10).await.unwrap(), std::slice::from_ref(&archived));
    let standings = store.standings(&[key("archived"), key("ended")]).await;
    assert_eq!(standings.unwrap(), [Standing::Archived(archived), Standing::Hot]);
    // Its claim ended long ago, and it was restored at 800.
    assert!(!store.is_needed(&segment(3)).await.unwrap());
    assert_eq!(store.due(at(800), 10).await.unwrap(), []);
    assert_eq!(store.due(at(801), 10).await.unwrap().len(), 1);
    assert_eq!(store.pending().await.unwrap().sessions, 1);
    // When it was erased is not known: long ago, then.
    let affected = Affected {
        segment: segment(1),
        sessions: 1,
        since: at(0),
    };
    let found = store.affected(None, 10).await.unwrap();
    assert!(found[0].since < at(1_000), "{found:?}");
    assert_eq!(
        found,
        [Affected {
            since: found[0].since,
            ..affected
        }]
    );
    assert_eq!(store.runs(10).await.unwrap()[0].as_str(), r#"{"sessions":1}"#);
    // Opened at 501 by the server's clock.
    let idle = async |since| is_ended_as_idle(&store, since).await;
    assert!(!idle(501).await);
    assert!(idle(502).await);
}

#[tokio::test]
async fn a_segment_of_many_sessions_is_forgotten_in_bounded_steps() {
    const FILL: &str = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 12000) \
         INSERT INTO leftovers (session, segment, erased) SELECT n, ?1, n % 2 FROM n";
    let folder = Folder::new();
    let store = folder.store();
    let name = segment(1).to_string();
    let fill = move |connection: &rusqlite::Connection| Ok(connection.execute(FILL, [name])?);
    store.writer.write(0, fill).await.unwrap();
    assert_eq!(store.pending().await.unwrap().sessions, 6_000);
    let before = store.commits();
    store.forget_segment(&segment(1)).await.unwrap();
    assert_eq!(store.commits() - before, 3);
    assert_eq!(store.pending().await.unwrap(), Pending::default());
}

#[tokio::test]
async fn a_pointer_that_does_not_read_back_is_an_error_not_a_panic() {
    for damage in [
        "UPDATE sessions SET segment = 'elsewhere' WHERE archived = 1",
        "UPDATE sessions SET rows = -1 WHERE archived = 1",
        "UPDATE sessions SET first_row = NULL WHERE archived = 1",
    ] {
        let folder = left_by_version(2);
        let store = folder.store();
        let work = move |connection: &rusqlite::Connection| Ok(connection.execute_batch(damage)?);
        store.writer.write(0, work).await.unwrap();
        let page = store.events(&key("archived"), &everything()).await;
        assert_eq!(page.unwrap_err().kind(), Kind::Internal, "{damage}");
        let untidy = store.untidy(10).await;
        assert_eq!(untidy.unwrap_err().kind(), Kind::Internal, "{damage}");
    }
}
