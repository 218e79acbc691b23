//! The readers: a few connections that can't write, used on threads where blocking is allowed.
//!
//! A read is one transaction that begins after the call does, so it sees the newest commit, and everything it looks
//! at is of one instant.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rusqlite::Connection;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    SqliteOptions,
    fault::{self, Fault, closed},
    lock::Lock,
    schema,
};
use crate::{
    domain::{Error, Kind, Result},
    in_flight,
    telemetry::calls::{self, System},
};

pub(super) struct Readers {
    pool: Arc<Pool>,
}

struct Pool {
    /// One permit a connection; closed with the store.
    gate: Arc<Semaphore>,
    idle: Mutex<Vec<Reader>>,
    path: PathBuf,
    options: SqliteOptions,
    lock: Weak<Lock>,
}

/// A connection, and the right to have one.
struct Reader {
    connection: Connection,
    _lock: Arc<Lock>,
}

impl Readers {
    pub(super) fn open(path: PathBuf, options: &SqliteOptions, lock: &Arc<Lock>) -> Result<Self> {
        let pool = Pool {
            gate: Arc::new(Semaphore::new(options.readers)),
            idle: Mutex::default(),
            path,
            options: options.clone(),
            lock: Arc::downgrade(lock),
        };
        let readers = (0..options.readers).map(|_| pool.connect());
        *pool.idle() = readers
            .collect::<fault::Result<_>>()
            .map_err(|fault| schema::cannot_open(&pool.path, fault))?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Runs `work` in a read transaction.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> fault::Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = Arc::clone(&self.pool.gate).acquire_owned();
        let turn = match timeout(self.pool.options.read_wait_max, turn).await {
            Ok(turn) => turn.map_err(|_| closed())?,
            Err(_) => {
                return Err(Error::new(
                    Kind::Overloaded,
                    "too many reads are waiting; try again shortly",
                ));
            }
        };
        let pool = Arc::clone(&self.pool);
        let outcome = in_flight::spawn_blocking(move || {
            // Declared first, so given back last: whoever is next finds the connection.
            let _turn = turn;
            pool.read(work)
        });
        let read = async {
            match outcome.await {
                Ok(outcome) => outcome.map_err(Error::from),
                Err(stopped) if stopped.is_panic() => Err(Fault::Panicked.into()),
                Err(_) => Err(closed()),
            }
        };
        calls::database(System::Sqlite, "read", fault::name, read).await
    }

    /// Waits for the reads under way, as long as a read may wait for its turn, and closes the connections.
    pub(super) async fn close(&self) {
        let Pool { gate, options, .. } = self.pool.as_ref();
        let all = u32::try_from(options.readers).unwrap_or(u32::MAX);
        let _all = timeout(options.read_wait_max, gate.acquire_many(all)).await;
        gate.close();
        self.pool.idle().clear();
    }
}

impl Pool {
    fn read<T>(&self, work: impl FnOnce(&Connection) -> fault::Result<T>) -> fault::Result<T> {
        let idle = self.idle().pop();
        let reader = match idle {
            Some(reader) => reader,
            // One was lost to a panic, or by what is below.
            None => self.connect()?,
        };
        let outcome = reader
            .connection
            .unchecked_transaction()
            .map_err(Fault::from)
            .and_then(|snapshot| work(&snapshot));
        let mut idle = self.idle();
        // A snapshot that could not be given up would show the next reader the past.
        if reader.connection.is_autocommit() && !self.gate.is_closed() {
            idle.push(reader);
        }
        outcome
    }

    fn connect(&self) -> fault::Result<Reader> {
        Ok(Reader {
            _lock: self.lock.upgrade().ok_or_else(closed)?,
            connection: schema::open_reader(&self.path, &self.options)?,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
