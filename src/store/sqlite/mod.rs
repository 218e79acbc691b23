//! The embedded store: one SQLite file, for a laptop or a single node.
//!
//! - One thread writes, and callers that write at the same time share a commit; see `writer`. A commit is synced
//!   to the disk before anyone is answered (I1).
//! - A few connections read, each read in a snapshot that is as new as the call (I3); see `reader`.
//! - One process has the file at a time; see `lock`.
//! - Who may archive a session, and where its events went, is in the same rows and so in the same transactions; see
//!   `catalog`.
//! - What is erased is overwritten with zeros; see `erasure`, and [`SqliteStore::compact`] for what SQLite may miss.
//!
//! Whether a tombstone still stands is judged where the caller says what time it is, in [`Store::open`] and
//! [`Store::upkeep`]. Every other call takes a tombstone to stand until one of those two has removed it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::{Append, HotEvent, HotEvents, Idle, IdleFound, Opened, Store, Upkeep};
use crate::domain::{
    Appended, End, Error, EventId, EventQuery, Expected, Kind, Page, Result, Session, SessionKey,
    SessionPatch, SessionQuery, Tenant, Timestamp,
};

mod adoption;
mod catalog;
mod claims;
mod clock;
mod copies;
mod entries;
mod erasure;
mod events;
mod fault;
mod idle;
mod leases;
mod leftovers;
mod lock;
mod reader;
mod row;
mod runs;
mod schema;
mod sessions;
#[cfg(test)]
mod tests;
mod write_back;
mod writer;

use clock::Clock;
use erasure::Remains;
use lock::Lock;
use reader::Readers;
use writer::Writer;

/// The limits of a [`SqliteStore`]. Where a number must be at least one, a zero counts as one.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Connections that read, hence reads at the same time; at least one.
    pub readers: usize,
    /// Longest wait of a read for a connection, after which it is [`Kind::Overloaded`].
    pub read_wait_max: Duration,
    /// Writes that may wait for the writer; at least one.
    pub queue_jobs_max: usize,
    /// What waiting writes may hold in memory, in bytes, by KiB; a larger one waits to be alone.
    pub queue_bytes_max: usize,
    /// Longest wait of a write for a place in the queue, after which it is [`Kind::Overloaded`].
    pub queue_wait_max: Duration,
    /// Longest wait of a queued write for its commit, after which it is [`Kind::Unavailable`]; it may be committed
    /// all the same.
    pub answer_wait_max: Duration,
    /// Writes that share a commit; at least one.
    pub group_jobs_max: usize,
    /// What a group may write, in bytes, but for the last write that joins it.
    pub group_bytes_max: usize,
    /// Longest wait for a lock that another program holds on the file.
    pub busy_wait_max: Duration,
    /// Size of the write-ahead log, in bytes, from which it is written back into the database.
    pub wal_checkpoint_bytes: usize,
    /// Size of the write-ahead log, in bytes, from which the writer waits for readers to be able to empty it.
    pub wal_bytes_max: usize,
    /// Longest wait of the writer for readers, when it empties the log.
    pub checkpoint_wait_max: Duration,
    /// Page cache of the writer, in bytes.
    pub writer_cache_bytes: usize,
    /// Page cache of each reader, in bytes.
    pub reader_cache_bytes: usize,
    /// Events of an erased session deleted in one commit; at least one.
    pub purge_events_max: usize,
    /// Payloads of an erased session deleted in one commit, in bytes, but for the last one.
    pub purge_bytes_max: usize,
    /// Tombstones dropped in one round of upkeep.
    pub upkeep_tombstones_max: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            readers: 4,
            read_wait_max: Duration::from_secs(5),
            queue_jobs_max: 1024,
            queue_bytes_max: 64 * MIB,
            queue_wait_max: Duration::from_secs(5),
            answer_wait_max: Duration::from_secs(30),
            group_jobs_max: 256,
            group_bytes_max: 8 * MIB,
            busy_wait_max: Duration::from_secs(5),
            wal_checkpoint_bytes: 64 * MIB,
            wal_bytes_max: 128 * MIB,
            checkpoint_wait_max: Duration::from_millis(100),
            writer_cache_bytes: 8 * MIB,
            reader_cache_bytes: 2 * MIB,
            purge_events_max: 500,
            purge_bytes_max: 4 * MIB,
            upkeep_tombstones_max: 500,
        }
    }
}

impl SqliteOptions {
    /// With every number that must be at least one so.
    fn at_least_one(mut self) -> Self {
        for number in [
            &mut self.readers,
            &mut self.queue_jobs_max,
            &mut self.group_jobs_max,
            &mut self.purge_events_max,
        ] {
            *number = (*number).max(1);
        }
        self
    }
}

/// A store in a SQLite file.
///
/// Dropping it without [`Store::close`] is safe: what was accepted is still written, by a thread that then closes
/// the file, but nobody waits for it.
pub struct SqliteStore {
    // Readers close first, so that the writer, closing last, leaves no log behind.
    readers: Readers,
    /// Answers [`Store::ping`], so that whether the store is well is not asked behind those who keep it busy.
    pulse: Readers,
    writer: Writer,
    /// Tells which claims stand.
    clock: Arc<Clock>,
    leases: leases::Held,
    /// Something was erased that may still be in the write-ahead log.
    log_holds_erased: AtomicBool,
    options: SqliteOptions,
}

impl SqliteStore {
    /// Opens the database at `path`, which is made, folder and all, or brought up to date where needed. Blocks.
    ///
    /// # Errors
    /// [`Kind::Unavailable`], in words for whoever runs the process: another process has the file, or it is not
    /// a database, not Colloquy's, of a newer version, or out of reach.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self> {
        let options = options.at_least_one();
        let path = settle(path).map_err(|error| {
            let detail = format!("can't open {}: {error}", path.display());
            Error::new(Kind::Unavailable, detail).with_source(error)
        })?;
        let lock = Arc::new(Lock::acquire(&path)?);
        let connection =
            schema::open_writer(&path, &options).map_err(|fault| schema::cannot_open(&path, fault))?;
        let beside =
            schema::open_write_back(&path, &options).map_err(|fault| schema::cannot_open(&path, fault))?;
        let readers = Readers::open(path.clone(), &options, &lock)?;
        let one = SqliteOptions {
            readers: 1,
            ..options.clone()
        };
        let pulse = Readers::open(path.clone(), &one, &lock)?;
        let mut wal = path.into_os_string();
        wal.push("-wal");
        let writer = Writer::start(connection, beside, wal.into(), &options, lock)?;
        Ok(Self {
            readers,
            pulse,
            writer,
            clock: Arc::default(),
            leases: leases::Held::default(),
            log_holds_erased: AtomicBool::new(false),
            options,
        })
    }

    /// Writes the whole file anew: gives free space back to the file system, and removes the last copies of what
    /// was erased.
    ///
    /// SQLite overwrites a deleted row with zeros where it stands. But when it rearranges a page it may leave, in the
    /// part of the page that is not in use, a copy of a row that it moved; if that row is erased later, the copy
    /// stays until something else is written over it. Nothing can read it but a look at the raw file. Where that
    /// matters, compact from time to time after erasing.
    ///
    /// Reads go on; writes wait, about a second for every 100 MB. It needs free space twice the size of the file,
    /// part of it where temporary files are kept (`SQLITE_TMPDIR`, `TMPDIR`, `/var/tmp`, `/tmp`).
    ///
    /// # Errors
    /// [`Kind::Unavailable`], such as for want of space; nothing is changed then.
    pub async fn compact(&self) -> Result<()> {
        self.writer.compact().await
    }

    /// Deletes what an erasure leaves behind.
    async fn purge(&self, remains: Remains) -> Result<()> {
        if let Remains::Events(session) = remains {
            let mut finished = false;
            while !finished {
                let options = self.options.clone();
                let purge = move |connection: &_| erasure::purge(connection, session, &options);
                finished = self.writer.write(0, purge).await?.finished;
            }
        }
        if remains != Remains::Nothing {
            self.log_holds_erased.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Commits since it was opened: far fewer than writes when many callers write at the same time.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }
}

/// The absolute path, free of links, so that every way to name the file meets the same lock; its folder exists.
fn settle(path: &Path) -> io::Result<PathBuf> {
    if let Ok(existing) = path.canonicalize() {
        return Ok(existing);
    }
    let path = std::path::absolute(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    };
    create_durably(folder)?;
    Ok(folder.canonicalize()?.join(name))
}

/// Creates a folder so that it survives the loss of power: the entry in its parent is synced as well.
fn create_durably(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(folder);
    if parent != folder {
        create_durably(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn open(&self, tenant: &Tenant, session: Session, now: Timestamp) -> Result<Opened> {
        let (tenant, bytes) = (tenant.clone(), session.metadata.as_str().len());
        let work = move |connection: &_| sessions::open(connection, &tenant, session, now);
        self.writer.write(bytes, work).await
    }

    async fn session(&self, key: &SessionKey) -> Result<Session> {
        let key = key.clone();
        let work = move |connection: &_| sessions::load(connection, &key);
        self.readers.read(work).await.map(|(_, session)| session)
    }

    async fn sessions(&self, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
        let (tenant, query) = (tenant.clone(), query.clone());
        let work = move |connection: &_| sessions::list(connection, &tenant, &query);
        self.readers.read(work).await
    }

    async fn patch(&self, key: &SessionKey, patch: &SessionPatch, expected: &Expected) -> Result<Session> {
        let (key, patch, expected) = (key.clone(), patch.clone(), expected.clone());
        let metadata = patch.metadata.as_ref().and_then(Option::as_ref);
        let bytes = metadata.map_or(0, |metadata| metadata.as_str().len());
        let work = move |connection: &_| sessions::patch(connection, &key, &patch, &expected);
        self.writer.write(bytes, work).await
    }

    async fn end(&self, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
        let (key, end) = (key.clone(), end.clone());
        let work = move |connection: &_| sessions::end(connection, &key, &end, now);
        self.writer.write(0, work).await
    }

    async fn erase(&self, key: &SessionKey, forget_at: Timestamp) -> Result<()> {
        let key = key.clone();
        let erase = move |connection: &_| erasure::erase(connection, &key, forget_at);
        let remains = self.writer.write(0, erase).await?;
        self.purge(remains).await
    }

    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>> {
        /// About what an event takes beside its payload: its ids, its rows in two indexes.
        const EVENT_BYTES: usize = 256;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let payload = |append: &Append| append.event.payload.as_str().len() + EVENT_BYTES;
        let bytes = batch.iter().map(payload).sum();
        let work = move |connection: &_| events::append(connection, batch);
        self.writer.write(bytes, work).await
    }

    async fn last_seqs(&self, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
        let keys = keys.to_vec();
        let work = move |connection: &_| sessions::last_seqs(connection, &keys);
        self.readers.read(work).await
    }

    async fn events(&self, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
        let (key, query) = (key.clone(), query.clone());
        let work = move |connection: &_| events::page(connection, &key, &query);
        self.readers.read(work).await
    }

    async fn session_with_events(
        &self,
        key: &SessionKey,
        query: &EventQuery,
    ) -> Result<(Session, HotEvents)> {
        let (key, query) = (key.clone(), query.clone());
        let work = move |connection: &_| {
            let (_, session) = sessions::load(connection, &key)?;
            Ok((session, events::page(connection, &key, &query)?))
        };
        self.readers.read(work).await
    }

    async fn event(&self, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
        let (key, id) = (key.clone(), id.clone());
        let work = move |connection: &_| events::get(connection, &key, &id);
        self.readers.read(work).await
    }

    async fn ping(&self) -> Result<()> {
        if !self.writer.is_open() {
            return Err(fault::closed());
        }
        self.pulse.read(schema::probe).await
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep> {
        let options = self.options.clone();
        let work = move |connection: &_| erasure::upkeep(connection, now, &options);
        let (done, finished) = self.writer.write(0, work).await?;
        // Once for all that was erased meanwhile, since it makes writers wait. At best: what readers keep in the log
        // now is overwritten as the log is.
        let erased = self.log_holds_erased.swap(false, Ordering::Relaxed);
        if (finished || erased) && !self.writer.truncate_wal().await {
            self.log_holds_erased.store(true, Ordering::Relaxed);
        }
        Ok(done)
    }

    async fn find_idle(&self, idle_since: Timestamp, now: Timestamp, limit: usize) -> Result<IdleFound> {
        let look = move |connection: &_| idle::find(connection, idle_since, now, limit);
        let (found, used) = self.readers.read(look).await?;
        if !used.is_empty() {
            let move_on = move |connection: &_| idle::move_on(connection, &used);
            self.writer.write(0, move_on).await?;
        }
        Ok(found)
    }

    async fn end_idle(&self, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>> {
        let (idle, reason) = (idle.clone(), reason.to_owned());
        let work = move |connection: &_| idle::end(connection, &idle, &reason, now);
        self.writer.write(0, work).await
    }

    async fn close(&self) {
        self.writer.stop_taking();
        self.pulse.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}
