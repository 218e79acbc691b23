//! The writer: groups, failures, limits.

use std::{io::Read, sync::mpsc};

use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::*;

/// Keeps the writer busy until the returned sender is dropped, so that what is queued meanwhile makes one group.
async fn hold(store: &Arc<SqliteStore>) -> mpsc::Sender<()> {
    let (held, let_go) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let holder = Arc::clone(store);
    tokio::spawn(async move {
        let work = move |_: &Connection| {
            let _ = begun.send(());
            let _ = let_go.recv();
            Ok(())
        };
        holder.writer.write(0, work).await
    });
    has_begun.await.unwrap();
    held
}

/// Queues writes behind a held writer, in order, and lets go; their outcomes.
async fn as_one_group<T: Send + 'static>(
    store: &Arc<SqliteStore>,
    writes: Vec<futures_util::future::BoxFuture<'_, T>>,
) -> Vec<T> {
    let held = hold(store).await;
    let mut writes = join_all(writes);
    assert!(futures_util::poll!(&mut writes).is_pending());
    drop(held);
    writes.await
}

fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> futures_util::future::BoxFuture<'a, T> {
    Box::pin(future)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_share_commits() {
    let folder = Folder::new();
    let store = Arc::new(folder.store());
    open(&store, "s").await;
    let before = store.commits();
    let writers = (0..64).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for m in 0..10 {
                let one = event("s", &format!("e-{n}-{m}"), "x");
                append(&store, one).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let commits = store.commits() - before;
    assert!((10..640).contains(&commits), "{commits} commits of 640 writes");
}

#[tokio::test]
async fn what_is_queued_together_is_one_commit() {
    let folder = Folder::new();
    let store = Arc::new(folder.store());
    open(&store, "s").await;
    let before = store.commits();
    let writes = (0..50).map(|n| boxed(append(&store, event("s", &format!("e-{n}"), "x"))));
    let outcomes = as_one_group(&store, writes.collect()).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(store.commits() - before, 1);
    assert_eq!(count_events(&store, "s").await, 50);
}

#[tokio::test]
async fn a_group_stays_within_its_limits() {
    let folder = Folder::new();
    let options = SqliteOptions {
        group_jobs_max: 5,
        ..SqliteOptions::default()
    };
    let store = Arc::new(folder.open(options).unwrap());
    open(&store, "s").await;
    let before = store.commits();
    // The one that holds the writer is the first of the first group.
    let writes = (0..14).map(|n| boxed(append(&store, event("s", &format!("e-{n}"), "x"))));
    as_one_group(&store, writes.collect()).await;
    assert_eq!(store.commits() - before, 3);
}

#[tokio::test]
async fn a_job_that_fails_or_panics_takes_back_its_own_writes_only() {
    let folder = Folder::new();
    let store = Arc::new(folder.store());
    open(&store, "s").await;
    let spoil = |connection: &Connection| {
        connection.execute("DELETE FROM sessions", [])?;
        Err::<(), _>(fault::Fault::Stored("nothing"))
    };
    let panic = |connection: &Connection| -> fault::Result<()> {
        connection.execute("DELETE FROM sessions", [])?;
        panic!("on purpose");
    };
    let kinds = as_one_group(
        &store,
        vec![
            boxed(async { append(&store, event("s", "a", "x")).await.map(drop) }),
            boxed(store.writer.write(0, spoil)),
            boxed(async { append(&store, event("s", "b", "x")).await.map(drop) }),
            boxed(store.writer.write(0, panic)),
            boxed(async { append(&store, event("s", "c", "x")).await.map(drop) }),
        ],
    )
    .await
    .into_iter()
    .map(|outcome| outcome.map_err(|error| error.kind()))
    .collect::<Vec<_>>();
    let internal = Err(Kind::Internal);
    assert_eq!(kinds, [Ok(()), internal, Ok(()), internal, Ok(())]);
    assert_eq!(count_events(&store, "s").await, 3);
}

#[tokio::test]
async fn a_read_that_panics_costs_no_connection() {
    let folder = Folder::new();
    let options = SqliteOptions {
        readers: 1,
        ..SqliteOptions::default()
    };
    let store = folder.open(options).unwrap();
    open(&store, "s").await;
    for _ in 0..3 {
        let read = store
            .readers
            .read(|_| -> fault::Result<()> { panic!("on purpose") });
        assert_eq!(read.await.unwrap_err().kind(), Kind::Internal);
        store.session(&key("s")).await.unwrap();
    }
}

#[tokio::test]
async fn a_commit_that_fails_acknowledges_nothing() {
    let folder = Folder::new();
    let store = Arc::new(folder.store());
    open(&store, "s").await;
    append(&store, event("s", "old", "x")).await.unwrap();
    let schema = |connection: &Connection| {
        connection.execute_batch(
            "CREATE TABLE child (parent INTEGER REFERENCES sessions (id) DEFERRABLE INITIALLY DEFERRED)",
        )?;
        Ok(())
    };
    store.writer.write(0, schema).await.unwrap();
    // Nobody notices before the commit.
    let orphan = |connection: &Connection| {
        connection.execute("INSERT INTO child VALUES (999)", [])?;
        Ok(())
    };
    let outcomes = as_one_group(
        &store,
        vec![
            boxed(async { append(&store, event("s", "a", "x")).await.map(drop) }),
            boxed(store.writer.write(0, orphan)),
            // A replay, a clash with what was never committed, a refusal: all of them unknown now.
            boxed(async { append(&store, event("s", "old", "x")).await.map(drop) }),
            boxed(async { append(&store, event("s", "a", "y")).await.map(drop) }),
            boxed(async { store.end(&key("none"), &End::default(), at(1)).await.map(drop) }),
        ],
    )
    .await;
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), Kind::Unavailable);
    }
    assert_eq!(count_events(&store, "s").await, 1);
    let again = append(&store, event("s", "a", "y")).await.unwrap();
    assert!(!again.replayed);
}

#[tokio::test]
async fn a_full_disk_fails_the_group_and_passes() {
    let folder = Folder::new();
    let store = Arc::new(folder.store());
    open(&store, "s").await;
    let pages_max = |pages: i64| {
        move |connection: &Connection| {
            let set = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            Ok(connection.pragma_update_and_check(None, "max_page_count", pages, set)?)
        }
    };
    // As small as it gets: no less than it has.
    let pages = store.writer.write(0, pages_max(1)).await.unwrap();
    let large = "x".repeat(20_000);
    let outcomes = as_one_group(
        &store,
        vec![
            boxed(append(&store, event("s", "small", "x"))),
            boxed(append(&store, event("s", "large", &large))),
        ],
    )
    .await;
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    }
    assert_eq!(count_events(&store, "s").await, 0);
    store.ping().await.unwrap();
    append(&store, event("s", "small", "x")).await.unwrap();
    store.writer.write(0, pages_max(pages + 100)).await.unwrap();
    append(&store, event("s", "large", &large)).await.unwrap();
    assert_eq!(count_events(&store, "s").await, 2);
}

#[tokio::test]
async fn nothing_is_written_behind_a_transaction_that_sqlite_took_back() {
    let folder = Folder::new();
    let store = folder.store();
    open(&store, "s").await;
    let pages_max = |connection: &Connection| {
        let set = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        Ok(connection.pragma_update_and_check(None, "max_page_count", 1, set)?)
    };
    store.writer.write(0, pages_max).await.unwrap();
    // The first takes the transaction with it; the second would fit, but outside of any.
    let batch = [("large", "x".repeat(20_000)), ("small", "x".to_owned())];
    let batch = batch.map(|(id, text)| event("s", id, &text));
    let error = store.append(batch.to_vec()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(count_events(&store, "s").await, 0);
}

#[tokio::test]
async fn a_poisoned_event_does_not_fail_its_neighbours() {
    let folder = Folder::new();
    let store = folder.store();
    open(&store, "s").await;
    let poison = |connection: &Connection| {
        connection.execute_batch(
            "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.event_id = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'poison'); END",
        )?;
        Ok(())
    };
    store.writer.write(0, poison).await.unwrap();
    let batch = ["a", "poison", "b"].map(|id| event("s", id, "x"));
    let outcomes = store.append(batch.to_vec()).await.unwrap();
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    let error = outcomes[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert!(!error.detail().contains("poison"), "the inside stays inside");
    assert_eq!(count_events(&store, "s").await, 2);
}

#[tokio::test]
async fn a_full_queue_refuses_in_time() {
    let folder = Folder::new();
    let options = SqliteOptions {
        queue_jobs_max: 2,
        queue_wait_max: Duration::from_millis(50),
        ..SqliteOptions::default()
    };
    let store = Arc::new(folder.open(options).unwrap());
    open(&store, "s").await;
    let held = hold(&store).await;
    let mut writes = JoinSet::new();
    for n in 0..5 {
        let store = Arc::clone(&store);
        writes.spawn(async move { append(&store, event("s", &format!("e-{n}"), "x")).await });
    }
    // Three of the five find no place, whichever they are; the others can't end while the writer is held.
    for _ in 0..3 {
        let refused = writes.join_next().await.unwrap().unwrap();
        assert_eq!(refused.unwrap_err().kind(), Kind::Overloaded);
    }
    drop(held);
    assert!(writes.join_all().await.iter().all(Result::is_ok));
    assert_eq!(count_events(&store, "s").await, 2);
}

#[tokio::test]
async fn queued_bytes_are_bounded_and_a_larger_write_waits_to_be_alone() {
    let folder = Folder::new();
    let options = SqliteOptions {
        queue_bytes_max: 10_000,
        queue_wait_max: Duration::from_millis(50),
        ..SqliteOptions::default()
    };
    let store = Arc::new(folder.open(options).unwrap());
    open(&store, "s").await;
    let large = "x".repeat(50_000);
    append(&store, event("s", "alone", &large)).await.unwrap();
    let held = hold(&store).await;
    let refused = append(&store, event("s", "refused", &large)).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Overloaded);
    drop(held);
    append(&store, event("s", "again", &large)).await.unwrap();
    assert_eq!(count_events(&store, "s").await, 2);
}

#[tokio::test]
async fn a_lock_of_another_program_is_waited_for_within_bounds() {
    let folder = Folder::new();
    let options = SqliteOptions {
        busy_wait_max: Duration::from_millis(50),
        ..SqliteOptions::default()
    };
    let store = Arc::new(folder.open(options).unwrap());
    open(&store, "s").await;
    let stranger = folder.stranger();
    stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
    let locked = append(&store, event("s", "e", "x")).await;
    assert_eq!(locked.unwrap_err().kind(), Kind::Unavailable);
    store.session(&key("s")).await.unwrap();
    stranger.execute_batch("ROLLBACK").unwrap();
    append(&store, event("s", "e", "x")).await.unwrap();
}

/// How often the log has started over at its front; SQLite's file format, section 4.1.
fn log_started_over(folder: &Folder) -> u32 {
    let mut log = fs::File::open(folder.0.path().join("colloquy.db-wal")).unwrap();
    let mut head = [0; 16];
    log.read_exact(&mut head).unwrap();
    u32::from_be_bytes(head[12..].try_into().unwrap())
}

#[tokio::test]
async fn the_log_is_written_back_while_commits_go_on_and_starts_over() {
    let folder = Folder::new();
    let options = SqliteOptions {
        wal_checkpoint_bytes: 256 * 1024,
        // What else would empty it.
        wal_bytes_max: 1024 * 1024 * 1024,
        ..SqliteOptions::default()
    };
    let store = Arc::new(folder.open(options).unwrap());
    open(&store, "s").await;
    let before = log_started_over(&folder);
    let text = "x".repeat(1_000);
    let mut appended = 0;
    while log_started_over(&folder) < before + 3 {
        assert!(appended < 10_000, "the log only grows");
        let four = (0..4).map(|n| {
            let (store, text) = (Arc::clone(&store), text.clone());
            tokio::spawn(async move {
                append(&store, event("s", &format!("e-{}", appended + n), &text))
                    .await
                    .unwrap();
            })
        });
        for one in four.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        appended += 4;
    }
    let count = |connection: &Connection| {
        Ok(connection.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i32>(0))?)
    };
    assert_eq!(store.readers.read(count).await.unwrap(), appended);
    store.close().await;
    assert!(!folder.0.path().join("colloquy.db-wal").exists());
    let store = folder.open(SqliteOptions::default()).unwrap();
    assert_eq!(store.readers.read(count).await.unwrap(), appended);
}

#[tokio::test]
async fn the_log_stays_bounded_though_a_reader_never_pauses() {
    let folder = Folder::new();
    let options = SqliteOptions {
        wal_checkpoint_bytes: 64 * 1024,
        wal_bytes_max: 512 * 1024,
        readers: 3,
        ..SqliteOptions::default()
    };
    let store = Arc::new(folder.open(options).unwrap());
    open(&store, "s").await;
    // Each looks at its snapshot for a while, out of step, so that one of them is always in the log.
    let readers: Vec<_> = [3, 5, 7]
        .map(|ms| {
            let store = Arc::clone(&store);
            let look = move |connection: &Connection| {
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
                std::thread::sleep(Duration::from_millis(ms));
                Ok(())
            };
            tokio::spawn(async move { while store.readers.read(look).await.is_ok() {} })
        })
        .into();
    let text = "x".repeat(10_000);
    for n in 0..400 {
        append(&store, event("s", &format!("e-{n}"), &text))
            .await
            .unwrap();
    }
    let wal = fs::metadata(folder.0.path().join("colloquy.db-wal")).unwrap();
    assert!(wal.len() < 1024 * 1024, "{} bytes", wal.len());
    store.close().await;
    for reader in readers {
        reader.await.unwrap();
    }
}
