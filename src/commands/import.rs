//! `colloquy import`: conversations from JSON Lines into the store, through the use cases.
//!
//! One line is one conversation. A line with a fault is refused whole and told by its number; the others go on. A
//! conversation is ended only when all of its events are in, so that a refused event can be mended and imported
//! again. Importing is safe to repeat, as every write is.
//!
//! Memory is bounded by the bytes in flight, not by the input. Lines go to workers by their session's id, so
//! that two lines of one session keep their order.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use super::progress::{Progress, counted};
use crate::{
    domain::{Conversation, Error, Kind, NewEvent, SessionKey, Tenant, event::BATCH_EVENTS_MAX},
    service::Service,
};

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

/// Bytes of lines that may be on their way at once; a single longer line goes alone.
const BYTES_IN_FLIGHT_MAX: usize = 64 * 1024 * 1024;

/// Bytes of payload in one batch of events.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest that a call is repeated while the store is overloaded.
const OVERLOADED_MAX: Duration = Duration::from_secs(60);

/// How long to wait before calling an overloaded store again.
const OVERLOADED_PAUSE: Duration = Duration::from_millis(10);

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
    read: Box<dyn Read + Send>,
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

/// Reads line by line and hands conversations to the workers; runs on a thread that may block.
fn read_lines(
    import: &Import,
    input: Box<dyn Read + Send>,
    limits: ImportLimits,
    queues: &[mpsc::Sender<Job>],
    runtime: &Handle,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX));
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let mut line = Vec::new();
    for number in 1.. {
        // The line's own end does not count.
        let bytes_max = limits.line_bytes_max + 1;
        let bytes = read_line(&mut input, &mut line, bytes_max)?;
        if bytes == 0 {
            break;
        }
        if bytes > bytes_max {
            import.refuse_line(
                number,
                bytes,
                &format!("is longer than {} bytes", limits.line_bytes_max),
            );
            continue;
        }
        if line.trim_ascii().is_empty() {
            import.advance(bytes);
            continue;
        }
        let share = u32::try_from(bytes.min(BYTES_IN_FLIGHT_MAX)).unwrap_or(u32::MAX);
        let room = runtime
            .block_on(Arc::clone(&room).acquire_many_owned(share))
            .map_err(io::Error::other)?;
        let conversation = match Conversation::read(line.trim_ascii()) {
            Ok(conversation) => conversation,
            Err(error) => {
                import.refuse_line(number, bytes, &told(&error));
                continue;
            }
        };
        let job = Job {
            line: number,
            bytes,
            _room: room,
            conversation,
        };
        // A queue is closed only when its worker stopped, which says why by itself.
        if queues[worker_of(&job.conversation, queues.len())]
            .blocking_send(job)
            .is_err()
        {
            break;
        }
    }
    Ok(())
}

fn worker_of(conversation: &Conversation, workers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    conversation.id.hash(&mut hasher);
    // The remainder is less than `workers`, which is a `usize`.
    usize::try_from(hasher.finish() % workers as u64).unwrap_or_default()
}

/// Reads a line into `line`, keeping no more than `bytes_max` of it; gives its whole length, 0 at the end.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
    line.clear();
    let mut length = 0;
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let (end, used) = match available.iter().position(|&byte| byte == b'\n') {
            Some(at) => (true, at + 1),
            None => (available.is_empty(), available.len()),
        };
        length += used;
        if length <= bytes_max {
            line.extend_from_slice(&available[..used]);
        }
        input.consume(used);
        if end {
            return Ok(length);
        }
    }
}

async fn work(import: Arc<Import>, mut jobs: mpsc::Receiver<Job>) -> Result<(), ImportError> {
    while let Some(job) = jobs.recv().await {
        let (line, bytes) = (job.line, job.bytes);
        import
            .store(job)
            .await
            .map_err(|error| ImportError::Store(line, error))?;
        import.advance(bytes);
    }
    Ok(())
}

impl Import {
    /// Stores a conversation: opens its session, appends its events, ends it.
    async fn store(&self, job: Job) -> Result<(), Error> {
        let Job {
            line, conversation, ..
        } = job;
        let Conversation {
            id,
            mut session,
            events,
            end,
        } = conversation;
        let key = SessionKey::new(self.tenant.clone(), id.clone());
        session.id = Some(id);
        let opened = match patiently(|| self.service.open(&self.tenant, session.clone())).await {
            Ok(opened) => opened,
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                Counts::add(&self.summary.sessions.refused, 1);
                Counts::add(&self.summary.events.refused, events.len());
                self.tell(line, &told(&error));
                return Ok(());
            }
        };
        let counts = &self.summary.sessions;
        Counts::add(
            if opened.created {
                &counts.new
            } else {
                &counts.replayed
            },
            1,
        );
        let mut refused = 0;
        for batch in batches(events) {
            refused += self.append(line, &key, batch).await?;
        }
        match end {
            Some(_) if opened.session.status.has_ended() => Ok(()),
            Some(_) if refused > 0 => {
                self.tell(
                    line,
                    "the session is left open, since not all of its events are in",
                );
                Ok(())
            }
            Some(end) => patiently(|| self.service.complete(&key, &end)).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Appends a batch; gives how many of it were refused.
    async fn append(&self, line: u64, key: &SessionKey, batch: Vec<NewEvent>) -> Result<usize, Error> {
        let ids: Vec<_> = batch.iter().map(|event| event.id.clone()).collect();
        let mut refused = 0;
        let outcomes = patiently(|| self.service.append_batch(key, batch.clone())).await?;
        for (id, outcome) in ids.iter().zip(outcomes) {
            let counts = &self.summary.events;
            match outcome {
                Ok(appended) if appended.replayed => Counts::add(&counts.replayed, 1),
                Ok(_) => Counts::add(&counts.new, 1),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    refused += 1;
                    Counts::add(&counts.refused, 1);
                    self.tell(line, &format!("event {id}: {error}"));
                }
            }
        }
        Ok(refused)
    }

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

/// Calls again while the store is overloaded, which it is with the other conversations of this import.
async fn patiently<T, C>(mut call: impl FnMut() -> C) -> Result<T, Error>
where
    C: Future<Output = Result<T, Error>>,
{
    let started = Instant::now();
    loop {
        match call().await {
            Err(error) if error.kind() == Kind::Overloaded && started.elapsed() < OVERLOADED_MAX => {
                tokio::time::sleep(OVERLOADED_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Splits events into batches that keep within both limits.
fn batches(events: Vec<NewEvent>) -> impl Iterator<Item = Vec<NewEvent>> {
    let mut events = events.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(event) = events.peek() {
            bytes += event.payload.as_str().len();
            if batch.len() == BATCH_EVENTS_MAX || (bytes > BATCH_BYTES_MAX && !batch.is_empty()) {
                break;
            }
            batch.extend(events.next());
        }
        (!batch.is_empty()).then_some(batch)
    })
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

/// Whether the store is at fault rather than the conversation.
fn is_fatal(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Unavailable | Kind::Overloaded | Kind::Internal
    )
}

fn interrupted(error: &tokio::task::JoinError) -> ImportError {
    ImportError::Store(
        0,
        Error::new(Kind::Internal, format!("a worker was interrupted: {error}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_too_long_is_passed_over_without_being_kept() {
        let text = format!("short\n{}\nlast", "x".repeat(100));
        let mut input = BufReader::with_capacity(7, text.as_bytes());
        let mut line = Vec::new();
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 6);
        assert_eq!(line, b"short\n");
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 101);
        assert!(line.len() <= 20);
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 4);
        assert_eq!(line, b"last");
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 0);
    }
}
