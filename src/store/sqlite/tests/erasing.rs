//! Erasure: in bounded steps, finished after a crash, and gone from the disk.

use rusqlite::Connection;

use super::*;

/// Erases as far as the first commit: what a crash right after it leaves.
async fn bury(store: &SqliteStore, id: &str, forget_at: i64) {
    let key = key(id);
    let work = move |connection: &Connection| erasure::bury(connection, &key, at(forget_at));
    let remains = store.writer.write(0, work).await.unwrap();
    assert!(matches!(remains, Remains::Events(_)));
}

async fn count_rows(store: &SqliteStore, table: &'static str) -> i64 {
    let work = move |connection: &Connection| {
        let count = format!("SELECT count(*) FROM {table}");
        Ok(connection.query_row(&count, [], |row| row.get(0))?)
    };
    store.readers.read(work).await.unwrap()
}

async fn fill(store: &SqliteStore, id: &str, count: usize, text: &str) {
    open(store, id).await;
    let batch = (0..count).map(|n| event(id, &format!("e-{n}"), text));
    let outcomes = store.append(batch.collect()).await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
}

fn small_steps() -> SqliteOptions {
    SqliteOptions {
        purge_events_max: 10,
        ..SqliteOptions::default()
    }
}

#[tokio::test]
async fn an_erasure_that_a_crash_cut_short_is_finished_by_upkeep() {
    let folder = Folder::new();
    let store = folder.open(small_steps()).unwrap();
    fill(&store, "s", 25, "x").await;
    fill(&store, "kept", 25, "x").await;
    bury(&store, "s", 10_000).await;
    let hidden = store.events(&key("s"), &everything()).await;
    assert_eq!(hidden.unwrap_err().kind(), Kind::SessionErased);
    store.close().await;

    let store = folder.open(small_steps()).unwrap();
    let mut rounds = Vec::new();
    loop {
        let round = store.upkeep(at(0)).await.unwrap();
        if round == Upkeep::default() {
            break;
        }
        rounds.push(round.events_deleted);
    }
    assert_eq!(rounds, [10, 10, 5]);
    assert_eq!(count_rows(&store, "events").await, 25);
    assert_eq!(count_rows(&store, "erasures").await, 0);
    assert_eq!(count_events(&store, "kept").await, 25);
}

#[tokio::test]
async fn an_erasure_that_a_crash_cut_short_is_finished_by_erasing_again() {
    let folder = Folder::new();
    let store = folder.open(small_steps()).unwrap();
    fill(&store, "s", 25, "x").await;
    bury(&store, "s", 10_000).await;
    store.erase(&key("s"), at(99_000)).await.unwrap();
    assert_eq!(count_rows(&store, "events").await, 0);
    let fresh = Store::open(&store, &Tenant::default(), session("s"), at(10_000)).await;
    assert!(fresh.unwrap().created, "the first erasure's time counts");
}

#[tokio::test]
async fn leftovers_of_an_erased_session_neither_show_nor_block() {
    let folder = Folder::new();
    let store = folder.open(small_steps()).unwrap();
    fill(&store, "s", 25, "x").await;
    bury(&store, "s", 10_000).await;
    // The tombstone is gone, by upkeep or by being replaced, while events are left.
    for round in 0..2 {
        if round == 1 {
            let dropped = store.upkeep(at(10_000)).await.unwrap();
            assert_eq!(dropped.tombstones_dropped, 1);
        }
        let opened = Store::open(&store, &Tenant::default(), session("s"), at(10_000)).await;
        assert!(opened.unwrap().created);
        assert_eq!(count_events(&store, "s").await, 0);
        let again = append(&store, event("s", "e-1", "another text")).await;
        assert!(!again.unwrap().replayed);
        bury(&store, "s", 10_000).await;
    }
    while store.upkeep(at(10_000)).await.unwrap() != Upkeep::default() {}
    for table in ["events", "sessions", "erasures"] {
        assert_eq!(count_rows(&store, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_step_of_erasure_is_bounded_in_bytes_too() {
    let folder = Folder::new();
    let options = SqliteOptions {
        purge_bytes_max: 25_000,
        ..SqliteOptions::default()
    };
    let store = folder.open(options).unwrap();
    fill(&store, "s", 10, &"x".repeat(10_000)).await;
    bury(&store, "s", 10_000).await;
    let round = store.upkeep(at(0)).await.unwrap();
    assert_eq!(round.events_deleted, 3);
}

#[tokio::test]
async fn erasing_a_large_session_stalls_no_writer() {
    let folder = Folder::new();
    let store = Arc::new(folder.open(small_steps()).unwrap());
    fill(&store, "s", 500, "x").await;
    open(&store, "other").await;
    let eraser = Arc::clone(&store);
    let erasing = tokio::spawn(async move { eraser.erase(&key("s"), at(10_000)).await });
    let mut between = 0;
    while !erasing.is_finished() {
        let one = event("other", &format!("e-{between}"), "x");
        append(&store, one).await.unwrap();
        between += 1;
    }
    erasing.await.unwrap().unwrap();
    assert!(between >= 5, "{between} writes while 50 steps were done");
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn what_is_erased_leaves_the_disk() {
    const SECRETS: [&str; 6] = [
        "secret-metadata",
        "secret-user",
        "secret-reason",
        "secret-small-payload",
        "secret-large-payload",
        "secret-event",
    ];
    let folder = Folder::new();
    let store = folder.store();
    for id in ["before", "s", "after"] {
        fill(&store, id, 20, "kept").await;
    }
    let mut planted = session("planted");
    planted.user_id = Some("secret-user".parse().unwrap());
    planted.metadata = JsonObject::read(r#"{"m":"secret-metadata"}"#, 100).unwrap();
    let opened = Store::open(&store, &Tenant::default(), planted, at(1)).await;
    opened.unwrap();
    let large = "secret-large-payload".repeat(10_000);
    for (id, text) in [
        ("secret-event", "secret-small-payload"),
        ("e-2", "secret-small-payload"),
        ("e-3", &large),
    ] {
        append(&store, event("planted", id, text)).await.unwrap();
    }
    let end = End {
        reason: Some("secret-reason".to_owned()),
        ..End::default()
    };
    store.end(&key("planted"), &end, at(9)).await.unwrap();
    let before = folder.bytes();
    assert!(SECRETS.iter().all(|secret| contains(&before, secret)));

    store.erase(&key("planted"), at(10_000)).await.unwrap();
    store.upkeep(at(20)).await.unwrap();
    let open = folder.bytes();
    store.close().await;
    let closed = folder.bytes();
    for secret in SECRETS {
        assert!(!contains(&open, secret), "{secret} while open");
        assert!(!contains(&closed, secret), "{secret} when closed");
    }
    assert!(contains(&closed, "kept"));
}

/// Rows of all sizes, of sessions side by side, half of them erased while the rest goes on: SQLite rearranges pages
/// all the time, and may leave copies behind.
#[tokio::test]
async fn compaction_removes_the_last_copies_of_what_was_erased() {
    const SESSIONS: usize = 60;
    let folder = Folder::new();
    let store = folder.store();
    let name = |n: usize| format!("s{n}x");
    for n in 0..SESSIONS {
        open(&store, &name(n)).await;
    }
    for round in 0..SESSIONS {
        let batch = (0..40).map(|m| {
            let n = (round * 7 + m * 11) % SESSIONS;
            let text = format!("P{n}P").repeat(1 + (round * 31 + m * 17) % 200);
            event(
                &name(n),
                &format!("E{n}E{}", (round * 40 + m) * 7919 % 2400),
                &text,
            )
        });
        store.append(batch.collect()).await.unwrap();
        if round % 2 == 1 {
            store.erase(&key(&name(round)), at(10_000)).await.unwrap();
        }
    }
    store.upkeep(at(20)).await.unwrap();
    let before = fs::metadata(folder.path()).unwrap().len();
    store.compact().await.unwrap();
    let bytes = folder.bytes();
    for n in 0..SESSIONS {
        let there = ["P", "E"].map(|mark| contains(&bytes, &format!("{mark}{n}{mark}")));
        assert_eq!(there, [n % 2 == 0; 2], "session {n}");
    }
    assert!(fs::metadata(folder.path()).unwrap().len() < before);
    assert!(count_events(&store, &name(0)).await > 0);
    append(&store, event(&name(0), "next", "x")).await.unwrap();
}
