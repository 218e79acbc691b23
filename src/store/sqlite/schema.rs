//! The database file: what it must look like, how it is opened, and how an older one is brought up to date.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{
    SqliteOptions,
    fault::{Fault, Result},
};
use crate::domain::{Error, Kind};

/// "Clqy", in the database's header: the file is Colloquy's.
pub(super) const APPLICATION_ID: i32 = 0x436c_7179;

/// The steps from an empty file to the newest schema; after step n, `user_version` is n. A step that was released
/// never changes.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema_v1.sql"),
    include_str!("schema_v2.sql"),
    include_str!("schema_v3.sql"),
    include_str!("schema_v4.sql"),
];

/// Prepared statements kept by a connection: more than there are, so that none is prepared twice.
const STATEMENTS_MAX: usize = 128;

/// Opens the writer's connection, on a file that is made or brought up to date first.
pub(super) fn open_writer(path: &Path, options: &SqliteOptions) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, flags, options, options.writer_cache_bytes)?;
    let version = check_identity(&connection, path)?;
    set_durability(&connection, options)?;
    migrate(&mut connection, version)?;
    Ok(connection)
}

/// Opens the connection that writes the log back into the database.
pub(super) fn open_write_back(path: &Path, options: &SqliteOptions) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // It has no use for a cache: pages go from one file to the other.
    let connection = connect(path, flags, options, 0)?;
    set_syncs(&connection)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // It knows that there is a log once it has read something.
    probe(&connection)?;
    Ok(connection)
}

/// Opens a connection that can't write.
pub(super) fn open_reader(path: &Path, options: &SqliteOptions) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags, options, options.reader_cache_bytes)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags, options: &SqliteOptions, cache_bytes: usize) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(options.busy_wait_max)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Negative means KiB rather than pages.
    let cache_kib = i64::try_from(cache_bytes / 1024).unwrap_or(i64::MAX);
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // No memory map: an I/O error in one is a signal that ends the process, not an error.
    connection.pragma_update(None, "mmap_size", 0)?;
    // Nothing of a conversation in temporary files.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Settings that durability and erasure rest on.
fn set_durability(connection: &Connection, options: &SqliteOptions) -> Result<()> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        let detail = format!(
            "the database can't use a write-ahead log (its journal is in mode {mode}): put it on a local disk"
        );
        return Err(Error::new(Kind::Unavailable, detail).into());
    }
    set_syncs(connection)?;
    // What is erased is overwritten with zeros.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Not in the middle of a commit: see `write_back`.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    let wal_bytes_max = i64::try_from(options.wal_bytes_max).unwrap_or(i64::MAX);
    connection.pragma_update(None, "journal_size_limit", wal_bytes_max)?;
    Ok(())
}

fn set_syncs(connection: &Connection) -> Result<()> {
    // FULL syncs the log at every commit; NORMAL could lose acknowledged commits with the power.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // On macOS a plain fsync does not reach the disk.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    Ok(())
}

/// How many pages the log has at this size.
pub(super) fn pages(connection: &Connection, bytes: usize) -> Result<u64> {
    let page_bytes: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    Ok((bytes as u64 / u64::from(page_bytes.max(1))).max(1))
}

/// Writes back as much of the log as can be without waiting for anyone; gives how many of its pages are by now.
pub(super) fn write_back(connection: &Connection) -> Result<u64> {
    let pages = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2))?;
    Ok(u64::try_from(pages).unwrap_or(0))
}

/// The version of the schema in the file; 0 for an empty one.
///
/// Writes nothing, so that a file that is not ours is left as it is.
fn check_identity(connection: &Connection, path: &Path) -> Result<usize> {
    let path = path.display();
    let refuse = |detail: String| Err(Error::new(Kind::Unavailable, detail).into());
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = number("application_id")?;
    let version = number("user_version")?;
    let things: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match usize::try_from(version) {
        Ok(0) if application == 0 && things == 0 => Ok(0),
        Ok(version @ 1..) if application == APPLICATION_ID && version <= MIGRATIONS.len() => Ok(version),
        Ok(1..) if application == APPLICATION_ID => refuse(format!(
            "{path} was written by a newer colloquy (schema {version}; this one knows up to {}): \
             run that version or a later one",
            MIGRATIONS.len()
        )),
        _ => refuse(format!(
            "{path} is the database of another application: give colloquy a file of its own"
        )),
    }
}

fn migrate(connection: &mut Connection, from: usize) -> Result<()> {
    for (done, step) in MIGRATIONS.iter().enumerate().skip(from) {
        let step_transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step_transaction.execute_batch(step)?;
        let version = i64::try_from(done + 1).unwrap_or(i64::MAX);
        step_transaction.pragma_update(None, "user_version", version)?;
        step_transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        step_transaction.commit()?;
    }
    Ok(())
}

/// Writes the whole log back into the database and empties it, so that nothing deleted is left in it; waits for
/// readers at most `wait_max`. Says whether it came to its end.
pub(super) fn truncate_wal(connection: &Connection, wait_max: Duration, busy_wait_max: Duration) -> bool {
    let checkpoint = || {
        connection.busy_timeout(wait_max)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
    };
    let busy = checkpoint();
    let restored = connection.busy_timeout(busy_wait_max);
    matches!((busy, restored), (Ok(0), Ok(())))
}

/// Writes the whole database anew, without the space that is free in it.
pub(super) fn compact(connection: &Connection) -> Result<()> {
    // The copy made on the way is as large as the database: too large for memory.
    connection.pragma_update(None, "temp_store", "FILE")?;
    let compacted = connection.execute_batch("VACUUM");
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(compacted?)
}

/// What an error at opening says, since whoever reads it is at the machine.
pub(super) fn cannot_open(path: &Path, fault: Fault) -> Error {
    let path = path.display();
    let detail = match fault {
        Fault::Refused(error) => return error,
        Fault::Sqlite(ref error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            format!("{path} is not a SQLite database: move it away, or give another path")
        }
        ref other => format!("can't open {path}: {other}"),
    };
    Error::new(Kind::Unavailable, detail).with_source(fault)
}

/// Reads from the file the least that shows that it can be read.
pub(super) fn probe(connection: &Connection) -> Result<()> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(())
}
