//! The catalog: what older databases say to it, and how much it does at a time.

use super::{opening::left_by_version, *};
use crate::{
    domain::{Pointer, SegmentName},
    store::catalog::{Archived, Catalog, Claim, Pending, Standing},
};

fn segment(n: u8) -> SegmentName {
    format!("default.1970-01-01.0198c0de7d1a7000800000000000000{n}")
        .parse()
        .unwrap()
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
    let idle = async |since| {
        let ended = store.end_if_idle(&key("live"), at(since), "idle", at(900)).await;
        ended.unwrap().is_some()
    };
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
    let pending = Pending {
        sessions: 1,
        segments: vec![segment(1)],
    };
    assert_eq!(store.pending(10).await.unwrap(), pending);
    assert_eq!(store.runs(10).await.unwrap()[0].as_str(), r#"{"sessions":1}"#);
    // Opened at 501 by the server's clock.
    let idle = async |since| {
        let ended = store.end_if_idle(&key("live"), at(since), "idle", at(900)).await;
        ended.unwrap().is_some()
    };
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
    assert_eq!(store.pending(10).await.unwrap().sessions, 6_000);
    let before = store.commits();
    store.forget_segment(&segment(1)).await.unwrap();
    assert_eq!(store.commits() - before, 3);
    assert_eq!(store.pending(10).await.unwrap(), Pending::default());
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
