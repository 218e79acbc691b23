//! The file: whose it is, what version, and who else has it.

use std::fs::File;

use xxhash_rust::xxh3::xxh3_64;

use super::*;

fn refusal(folder: &Folder) -> String {
    let Err(error) = folder.open(SqliteOptions::default()) else {
        panic!("it was opened");
    };
    assert_eq!(error.kind(), Kind::Unavailable);
    let path = folder.path().canonicalize().unwrap();
    assert!(error.detail().contains(path.to_str().unwrap()), "{error}");
    error.detail().to_owned()
}

#[tokio::test]
async fn a_second_open_is_refused_and_told_by_whom() {
    let folder = Folder::new();
    let store = folder.store();
    let pid = std::process::id().to_string();
    assert!(refusal(&folder).contains(&pid));
    // Another name of the same file meets the same lock.
    let link = folder.0.path().join("link.db");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    let linked = SqliteStore::open(&link, SqliteOptions::default());
    assert!(linked.is_err_and(|error| error.detail().contains(&pid)));
    store.close().await;
    // Closed, though not yet dropped.
    folder.store().close().await;
    drop(store);
}

#[tokio::test]
async fn a_dropped_store_finishes_and_lets_go() {
    let folder = Folder::new();
    let store = folder.store();
    open(&store, "s").await;
    {
        let late = append(&store, event("s", "late", "x"));
        tokio::pin!(late);
        // Once polled it is queued, and nobody waits for it; the writer may be done with it already.
        let _ = futures_util::poll!(late.as_mut());
    }
    drop(store);
    let lock = File::open(folder.0.path().join("colloquy.db.lock")).unwrap();
    lock.lock().unwrap();
    drop(lock);
    assert_eq!(count_events(&folder.store(), "s").await, 1);
}

#[tokio::test]
async fn closing_leaves_one_file_and_the_lock() {
    let folder = Folder::new();
    let store = folder.store();
    open(&store, "s").await;
    store.close().await;
    let mut names: Vec<_> = fs::read_dir(folder.0.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["colloquy.db", "colloquy.db.lock"]);
}

#[test]
fn a_file_that_is_not_a_database_is_left_alone() {
    for content in [&b"hello"[..], &[b'x'; 100], &[0; 5000]] {
        let folder = Folder::new();
        fs::write(folder.path(), content).unwrap();
        let refusal = refusal(&folder);
        assert!(refusal.contains("not a SQLite database"), "{refusal}");
        assert_eq!(fs::read(folder.path()).unwrap(), content);
    }
}

#[test]
fn a_database_of_another_application_is_left_alone() {
    for made in [
        "CREATE TABLE theirs (x)",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 7; PRAGMA user_version = 1; CREATE TABLE sessions (x)",
        "PRAGMA application_id = 0x436c7179; CREATE TABLE theirs (x)",
        "PRAGMA application_id = 0x436c7179; PRAGMA user_version = -1",
    ] {
        let folder = Folder::new();
        folder.stranger().execute_batch(made).unwrap();
        let before = fs::read(folder.path()).unwrap();
        assert!(refusal(&folder).contains("another application"), "{made}");
        assert_eq!(fs::read(folder.path()).unwrap(), before, "{made}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let folder = Folder::new();
    folder.store().close().await;
    let newer = schema::MIGRATIONS.len() + 1;
    let set = format!("PRAGMA user_version = {newer}");
    folder.stranger().execute_batch(&set).unwrap();
    let before = fs::read(folder.path()).unwrap();
    let refusal = refusal(&folder);
    assert!(refusal.contains("newer colloquy"), "{refusal}");
    assert!(refusal.contains(&format!("schema {newer}")), "{refusal}");
    assert_eq!(fs::read(folder.path()).unwrap(), before);
}

#[test]
fn a_folder_in_the_place_of_the_file_is_an_error_not_a_panic() {
    let folder = Folder::new();
    fs::create_dir(folder.path()).unwrap();
    assert!(refusal(&folder).contains("can't open"));
}

#[tokio::test]
async fn folders_on_the_way_are_made() {
    let folder = Folder::new();
    let path = folder.0.path().join("a/b/../c/colloquy.db");
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    open(&store, "s").await;
    store.close().await;
    assert!(path.exists());
}

/// The schema that a released version wrote, for ever: a change of it must be another step.
#[test]
fn a_released_step_never_changes() {
    const RELEASED: &[u64] = &[SCHEMA_V1, SCHEMA_V2, SCHEMA_V3, SCHEMA_V4];
    const SCHEMA_V1: u64 = 5_549_101_087_225_368_512;
    const SCHEMA_V2: u64 = 11_739_960_834_379_132_098;
    const SCHEMA_V3: u64 = 2_330_293_885_407_959_049;
    const SCHEMA_V4: u64 = 16_877_808_494_378_298_717;
    let steps = schema::MIGRATIONS.iter();
    let steps: Vec<_> = steps.map(|step| xxh3_64(step.as_bytes())).collect();
    assert_eq!(steps, RELEASED);
}

/// What each released version held, with a session, an ended one and a tombstone.
const CONTENT: &[&str] = &[
    include_str!("content_v1.sql"),
    include_str!("content_v2.sql"),
    include_str!("content_v3.sql"),
    include_str!("content_v4.sql"),
];

/// A database as that version left it.
pub(super) fn left_by_version(version: usize) -> Folder {
    let folder = Folder::new();
    let old = folder.stranger();
    for step in &schema::MIGRATIONS[..version] {
        old.execute_batch(step).unwrap();
    }
    old.execute_batch(CONTENT[version - 1]).unwrap();
    old.pragma_update(None, "user_version", i64::try_from(version).unwrap())
        .unwrap();
    old.pragma_update(None, "application_id", schema::APPLICATION_ID)
        .unwrap();
    folder
}

#[tokio::test]
async fn a_database_of_every_version_is_brought_up_to_date() {
    assert_eq!(CONTENT.len(), schema::MIGRATIONS.len());
    for version in 1..=CONTENT.len() {
        let folder = left_by_version(version);
        let store = folder.store();
        let live = store.session(&key("live")).await.unwrap();
        assert_eq!(live.metadata.as_str(), r#"{"a":1}"#);
        assert_eq!(count_events(&store, "live").await, 2);
        let next = append(&store, event("live", "next", "x")).await.unwrap();
        assert_eq!(next.event.seq, 1_001);
        let ended = store.session(&key("ended")).await.unwrap();
        assert_eq!(ended.end_reason.as_deref(), Some("hung up"));
        let erased = store.session(&key("erased")).await.unwrap_err();
        assert_eq!(erased.kind(), Kind::SessionErased);
        store.close().await;

        let version: i64 = folder
            .stranger()
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(usize::try_from(version), Ok(schema::MIGRATIONS.len()));
        folder.store().close().await;
    }
}

#[tokio::test]
async fn what_durability_and_erasure_rest_on_is_set() {
    let folder = Folder::new();
    let store = folder.store();
    let number = |connection: &rusqlite::Connection, name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
    };
    let writer = store.writer.write(0, move |connection| {
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        assert_eq!(mode, "wal");
        assert_eq!(number(connection, "synchronous")?, 2);
        assert_eq!(number(connection, "secure_delete")?, 1);
        assert_eq!(number(connection, "wal_autocheckpoint")?, 0);
        assert_eq!(number(connection, "cache_size")?, -8192);
        assert_eq!(number(connection, "mmap_size")?, 0);
        Ok(())
    });
    writer.await.unwrap();
    let path = folder.0.path().join("colloquy.db");
    let beside = schema::open_write_back(&path, &SqliteOptions::default()).unwrap();
    assert_eq!(number(&beside, "synchronous").unwrap(), 2);
    assert_eq!(number(&beside, "wal_autocheckpoint").unwrap(), 0);
    let reader = store.readers.read(move |connection| {
        assert_eq!(number(connection, "query_only")?, 1);
        assert_eq!(number(connection, "cache_size")?, -2048);
        Ok(connection.execute("DELETE FROM sessions", [])?)
    });
    assert!(reader.await.is_err());
}

#[tokio::test]
async fn a_stored_value_that_does_not_read_back_is_an_error_not_a_panic() {
    let folder = Folder::new();
    let store = folder.store();
    open(&store, "s").await;
    append(&store, event("s", "e", "x")).await.unwrap();
    for damage in [
        "UPDATE events SET type = 'NOT A TYPE'",
        "UPDATE events SET timestamp = 9223372036854775807",
        "UPDATE events SET event_id = 'a/b'",
        "UPDATE events SET payload = CAST(x'ff' AS TEXT)",
        "UPDATE sessions SET status = 'asleep'",
    ] {
        let work = move |connection: &rusqlite::Connection| Ok(connection.execute_batch(damage)?);
        store.writer.write(0, work).await.unwrap();
        let page = store.events(&key("s"), &everything()).await;
        assert_eq!(page.unwrap_err().kind(), Kind::Internal, "{damage}");
    }
    let session = store.session(&key("s")).await;
    assert_eq!(session.unwrap_err().kind(), Kind::Internal);
    let late = append(&store, event("s", "f", "x")).await;
    assert_eq!(late.unwrap_err().kind(), Kind::Internal);
}
