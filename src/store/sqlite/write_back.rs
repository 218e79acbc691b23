//! Writing the log back into the database, beside the writer.
//!
//! A commit is at the end of the write-ahead log, and is written to where it belongs later. SQLite by itself does that
//! within a commit, and whoever waits for that or the next one waits for tens of megabytes. Here a thread does it, on a
//! connection of its own, while commits go on: a checkpoint that is called passive waits for nobody, and nobody waits for it
//! (<https://www.sqlite.org/wal.html#ckpt>).
//!
//! The log starts over at its front once all of it is written back, but while commits go on, something always has come
//! since. So the thread goes on until little is left, and the writer does that between two commits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

use super::{fault::Result, schema};

/// The part of a log to be written back that is little, and that the writer writes back itself.
const LITTLE: u64 = 16;

/// The part of it by which a log that could not start over has to grow before it is looked at again.
const GROWN: u64 = 8;

/// The thread, for as long as this lives.
pub(super) struct WriteBack {
    shared: Arc<Shared>,
    /// `None` at the end.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Size of the log, in pages, from which it is written back.
    from_pages: u64,
    /// Size of the log at which something is to be done again.
    due_pages: u64,
    /// Size of the log when it was last looked at.
    seen_pages: u64,
}

struct Shared {
    little_pages: u64,
    /// Of the log, after the newest commit.
    log_pages: AtomicU64,
    /// Little is left for the writer.
    little_left: AtomicBool,
    /// Held by who writes back: SQLite refuses a second one.
    turn: Mutex<()>,
}

impl WriteBack {
    /// Starts the thread, with a connection of its own beside the writer's.
    pub(super) fn start(writer: &mut Connection, own: Connection, from_pages: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            little_pages: (from_pages / LITTLE).max(1),
            log_pages: AtomicU64::new(0),
            little_left: AtomicBool::new(false),
            turn: Mutex::new(()),
        });
        let committed = Arc::clone(&shared);
        writer.wal_hook(Some(move |_: &mut _, pages| {
            let pages = u64::try_from(pages).unwrap_or(0);
            committed.log_pages.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        let (wake, woken) = sync_channel(1);
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("sqlite-log".to_owned())
            .spawn(move || of_thread.serve(&own, &woken));
        if let Err(error) = &thread {
            tracing::warn!(%error, "the store's log has no thread of its own");
        }
        Ok(Self {
            shared,
            wake: Some(wake),
            thread: thread.ok(),
            from_pages,
            due_pages: from_pages,
            seen_pages: 0,
        })
    }

    /// To be called by the writer between two commits.
    pub(super) fn tend(&mut self, writer: &Connection) {
        let log_pages = self.shared.log_pages.load(Ordering::Relaxed);
        if log_pages < self.seen_pages {
            // It has started over.
            self.due_pages = self.from_pages;
            self.shared.little_left.store(false, Ordering::Relaxed);
        }
        self.seen_pages = log_pages;
        if self.shared.little_left.swap(false, Ordering::Relaxed) {
            self.shared.write_back(writer);
        } else if log_pages >= self.due_pages {
            // Full: it is about to look anyway.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        } else {
            return;
        }
        // Readers may keep the log from starting over all the same.
        self.due_pages = log_pages + self.from_pages / GROWN;
    }

    /// Waits until the thread pauses, and keeps it from going on for as long as what is given lives.
    pub(super) fn pause(&self) -> impl Drop + '_ {
        self.shared.turn()
    }

    /// Ends the thread, and waits until it has closed its connection.
    pub(super) fn end(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, own: &Connection, woken: &Receiver<()>) {
        while woken.recv().is_ok() {
            let mut left_before = u64::MAX;
            while let Some(done) = self.write_back(own) {
                let left = self.log_pages.load(Ordering::Relaxed).saturating_sub(done);
                if left <= self.little_pages {
                    self.little_left.store(true, Ordering::Relaxed);
                    break;
                }
                // Commits come faster, or a reader holds on to an old state: later.
                if left >= left_before {
                    break;
                }
                left_before = left;
            }
        }
    }

    /// Writes back what can be without waiting; gives how many pages of the log are.
    fn write_back(&self, connection: &Connection) -> Option<u64> {
        let _turn = self.turn();
        match schema::write_back(connection) {
            Ok(pages) => Some(pages),
            Err(error) => {
                tracing::warn!(%error, "the log was not written back");
                None
            }
        }
    }
}
