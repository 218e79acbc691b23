//! `colloquy import`: conversations from JSON Lines into the store, through the use cases.
//!
//! One line is one conversation, or a part of one. A line with a fault is refused whole and told by its number; the others
//! go on. A conversation is ended only when all of its events are in, so that a refused event can be mended and imported
//! again. Importing is safe to repeat, as every write is. What is stored is never changed by a line that says otherwise; it
//! is told where it does.
//!
//! Memory is bounded by the bytes in flight, not by the input. Lines go to workers by their session's id, so
//! that two lines of one session keep their order.
//!
//! - `lines`: reads them, and hands conversations to the workers.
//! - `storing`: what a worker does with one.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};

use super::progress::{Progress, counted};
use crate::{
    domain::{Conversation, Error, Kind, Tenant},
    service::Service,
};

mod lines;
mod storing;

use lines::read_lines;
use storing::work;

/// Where conversations come from.
#[derive(Debug, Clone)]
pub enum Source {
    Stdin,
    File(PathBuf),
}

/// What bounds an import (I9).
#[derive(Debug, Clone, Copy)]
pub struct ImportLimits {
    /// Conversations being stored at once.
    pub conversations_in_flight: usize,
    /// Longest line, in bytes; a longer one is refused.
    pub line_bytes_max: usize,
}

/// What an import did.
#[derive(Debug, Default)]
pub struct Summary {
    pub sessions: Counts,
    pub events: Counts,
}

#[derive(Debug, Default)]
pub struct Counts {
    new: AtomicU64,
    replayed: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    fn add(count: &AtomicU64, more: usize) {
        count.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn done(&self) -> u64 {
        self.new.load(Ordering::Relaxed) + self.replayed.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [new, replayed, refused] =
            [&self.new, &self.replayed, &self.refused].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{new} new, {replayed} replayed, {refused} refused")
    }
}

impl Summary {
    pub fn refused_any(&self) -> bool {
        self.sessions.refused() + self.events.refused() > 0
    }

    fn so_far(&self) -> String {
        format!(
            "{}, {}",
            counted(self.sessions.done(), "session"),
            counted(self.events.done(), "event")
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sessions: {}\nevents: {}", self.sessions, self.events)
    }
}

/// Why an import stopped before its end; what it stored until then stays, and it is safe to repeat.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{0} can't be read: {1}")]
    Input(String, #[source] io::Error),
    #[error("the import stopped at line {0}: {1}; what was stored so far stays, and importing again is safe")]
    Store(u64, #[source] Error),
}

/// A conversation on its way to the store.
struct Job {
    line: u64,
    conversation: Conversation,
    bytes: usize,
    _room: OwnedSemaphorePermit,
}

/// What reader and workers share.
struct Import {
    service: Service,
    tenant: Tenant,
    summary: Summary,
    progress: Progress,
}

/// Imports everything, then says what it did.
///
/// # Errors
/// Only what makes going on pointless: the input can't be read, or the store fails.
pub async fn import(
    service: Service,
    tenant: Tenant,
    input: Input,
    limits: ImportLimits,
) -> Result<Summary, ImportError> {
    let Input {
        name,
        read: input,
        bytes,
    } = input;
    let import = Arc::new(Import {
        service,
        tenant,
        summary: Summary::default(),
        progress: Progress::new(bytes),
    });
    let mut workers = JoinSet::new();
    let mut queues = Vec::new();
    for _ in 0..limits.conversations_in_flight {
        let (sender, jobs) = mpsc::channel(2);
        queues.push(sender);
        workers.spawn(work(Arc::clone(&import), jobs));
    }
    let reader = {
        let import = Arc::clone(&import);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || read_lines(&import, input, limits, &queues, &runtime))
    };
    let mut stopped = Ok(());
    while let Some(worker) = workers.join_next().await {
        let outcome = worker.unwrap_or_else(|error| Err(interrupted(&error)));
        stopped = stopped.and(outcome);
    }
    let read = reader.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    import.progress.finish();
    stopped?;
    read.map_err(|error| ImportError::Input(name, error))?;
    // Workers and reader are gone, so this is the last reference; if it were not, the counts would be lost.
    Arc::try_unwrap(import)
        .map(|import| import.summary)
        .map_err(|import| {
            ImportError::Input(
                "the summary".to_owned(),
                io::Error::other(import.summary.to_string()),
            )
        })
}

/// An opened source.
pub struct Input {
    name: String,
    read: Box<dyn io::Read + Send>,
    /// How much there is, where that is known.
    bytes: Option<u64>,
}

impl Input {
    /// # Errors
    /// [`ImportError::Input`]: there is no such file, it is a folder, or it may not be read.
    pub fn open(source: Source) -> Result<Self, ImportError> {
        let path = match source {
            Source::File(path) => path,
            Source::Stdin => {
                let name = "standard input".to_owned();
                return Ok(Self {
                    name,
                    read: Box::new(io::stdin()),
                    bytes: None,
                });
            }
        };
        let name = path.display().to_string();
        let opened = std::fs::File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((metadata, _)) if metadata.is_dir() => {
                Err(ImportError::Input(name, io::Error::other("it is a directory")))
            }
            Ok((metadata, file)) => {
                let bytes = metadata.is_file().then_some(metadata.len());
                Ok(Self {
                    name,
                    read: Box::new(file),
                    bytes,
                })
            }
            Err(error) => Err(ImportError::Input(name, error)),
        }
    }
}

impl Import {
    fn refuse_line(&self, line: u64, bytes: usize, reason: &str) {
        Counts::add(&self.summary.sessions.refused, 1);
        self.tell(line, reason);
        self.advance(bytes);
    }

    fn tell(&self, line: u64, reason: &str) {
        self.progress.say(&format!("line {line}: {reason}"));
    }

    fn advance(&self, bytes: usize) {
        self.progress.advance(bytes as u64, || self.summary.so_far());
    }
}

/// All faults of a line, in one line.
fn told(error: &Error) -> String {
    match error.fields() {
        // A line of the file has no lines of its own.
        [] => error.to_string().replace("at line 1, ", "at "),
        faults => {
            let told: Vec<_> = faults
                .iter()
                .map(|fault| format!("{} {}", fault.field, fault.message))
                .collect();
            told.join("; ")
        }
    }
}

fn interrupted(error: &tokio::task::JoinError) -> ImportError {
    ImportError::Store(
        0,
        Error::new(Kind::Internal, format!("a worker was interrupted: {error}")),
    )
}
