//! The one writer: a thread that owns the connection, and a bounded queue in front of it.
//!
//! A commit costs a sync of the disk whatever is in it, so jobs that wait at the same time share one: the thread
//! takes the first job, begins a transaction, runs it and every job that is queued by then, commits, and only then
//! answers all of them. There is no timer: alone, a job commits at once; the busier the store, the larger the
//! groups.
//!
//! Jobs are carried out in the order in which they came, also those that nobody waits for any more: what came before a job
//! that was answered is decided. `cache/memory.rs` goes by that.
//!
//! Each job runs inside a savepoint, so one that fails or panics takes back its own writes and no others. A commit
//! that fails is the failure of the whole group, whatever its jobs had found, since what they found may have been
//! each other's writes.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use rusqlite::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    SqliteOptions,
    fault::{self, Fault, closed, not_committed},
    lock::Lock,
    schema,
    write_back::WriteBack,
};
use crate::{
    domain::{Error, Kind, Result},
    in_flight::{self, Permit},
    telemetry::calls::{self, System},
};

/// The way to the writer thread.
pub(super) struct Writer {
    /// `None` once closed.
    queue: Mutex<Option<mpsc::Sender<Message>>>,
    /// Room for queued jobs, in KiB of what they are about to write.
    room: Arc<Semaphore>,
    thread: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    commits: Arc<AtomicU64>,
    options: SqliteOptions,
}

enum Message {
    Write(Box<dyn Job>),
    /// Empty the write-ahead log if readers let it.
    TruncateWal(oneshot::Sender<bool>),
    /// Rewrite the whole file.
    Compact(oneshot::Sender<fault::Result<()>>),
}

impl Writer {
    /// Starts the thread; it holds `lock` until it has closed the connection. The log is written back through `beside`.
    pub(super) fn start(
        mut connection: Connection,
        beside: Connection,
        wal: PathBuf,
        options: &SqliteOptions,
        lock: Arc<Lock>,
    ) -> Result<Self> {
        let (queue, jobs) = mpsc::channel(options.queue_jobs_max);
        let commits = Arc::new(AtomicU64::new(0));
        let started = schema::pages(&connection, options.wal_checkpoint_bytes)
            .and_then(|pages| WriteBack::start(&mut connection, beside, pages));
        let thread = Thread {
            write_back: started?,
            connection,
            jobs,
            ahead: None,
            truncations: Vec::new(),
            wal,
            commits: Arc::clone(&commits),
            options: options.clone(),
            _lock: lock,
        };
        let thread = thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || thread.serve())
            .map_err(|error| {
                Error::new(Kind::Unavailable, "can't start the writer thread").with_source(error)
            })?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            room: Arc::new(Semaphore::new(kib(options.queue_bytes_max))),
            thread: tokio::sync::Mutex::new(Some(thread)),
            commits,
            options: options.clone(),
        })
    }

    /// Runs `work`, which writes about `bytes`, and returns what it returned, once that is committed.
    ///
    /// A caller that stops waiting does not stop the work.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> fault::Result<T> + Send + 'static,
    ) -> Result<T> {
        calls::database(System::Sqlite, "write", fault::name, self.commit(bytes, work)).await
    }

    async fn commit<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> fault::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let queued = timeout(self.options.queue_wait_max, async {
            let room = self.take_room(bytes).await?;
            let job = Box::new(Pending {
                work: Some(work),
                outcome: Err(Fault::RolledBack),
                reply,
                bytes,
                _room: room,
                _permit: in_flight::permit(),
            });
            self.send(Message::Write(job)).await
        });
        queued.await.unwrap_or_else(|_| Err(overloaded()))?;
        match timeout(self.options.answer_wait_max, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(Error::new(
                Kind::Unavailable,
                "the store took too long to confirm the write; it may be tried again",
            )),
        }
    }

    /// Empties the write-ahead log; says whether it could.
    pub(super) async fn truncate_wal(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let done = timeout(self.options.answer_wait_max, async {
            self.send(Message::TruncateWal(reply)).await.is_ok() && answer.await.unwrap_or(false)
        });
        done.await.unwrap_or(false)
    }

    /// Rewrites the whole file; waits as long as that takes.
    pub(super) async fn compact(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let sent = timeout(self.options.queue_wait_max, self.send(Message::Compact(reply)));
        sent.await.unwrap_or_else(|_| Err(overloaded()))?;
        answer.await.map_err(|_| closed())?.map_err(Error::from)
    }

    /// Commits since the start.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Whether the thread takes jobs.
    pub(super) fn is_open(&self) -> bool {
        self.sender().is_some_and(|queue| !queue.is_closed())
    }

    /// Lets the thread finish what was accepted, and waits for it.
    pub(super) async fn close(&self) {
        self.stop_taking();
        let mut thread = self.thread.lock().await;
        if let Some(thread) = thread.take() {
            // A thread that panicked has said so already, and there is nothing left to wait for.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// From here on every call is refused; the thread ends when it has done what is queued.
    pub(super) fn stop_taking(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        *queue = None;
    }

    async fn take_room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        // A job larger than the room takes all of it.
        let all = kib(self.options.queue_bytes_max);
        let part = u32::try_from(kib(bytes).min(all)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(part).await;
        room.map_err(|_| closed())
    }

    async fn send(&self, message: Message) -> Result<()> {
        let queue = self.sender().ok_or_else(closed)?;
        queue.send(message).await.map_err(|_| closed())
    }

    fn sender(&self) -> Option<mpsc::Sender<Message>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.clone()
    }
}

/// KiB, rounded up, at least one, and no more than a semaphore counts.
fn kib(bytes: usize) -> usize {
    bytes
        .div_ceil(1024)
        .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
}

fn overloaded() -> Error {
    Error::new(Kind::Overloaded, "too many writes are waiting; try again shortly")
}

/// A queued write, whatever it returns.
trait Job: Send {
    /// Does the work; false when its writes are to be taken back.
    fn run(&mut self, connection: &Connection) -> bool;

    /// Tells the caller: what the work returned or, when the group was not committed, why.
    fn answer(self: Box<Self>, committed: Result<()>);

    fn bytes(&self) -> usize;
}

struct Pending<T, F> {
    work: Option<F>,
    outcome: fault::Result<T>,
    reply: oneshot::Sender<Result<T>>,
    bytes: usize,
    /// Given back when the job is answered.
    _room: OwnedSemaphorePermit,
    _permit: Option<Permit>,
}

impl<T, F> Job for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> fault::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        if let Some(work) = self.work.take() {
            // Whatever state the work left behind is in the transaction, and goes back with its savepoint.
            self.outcome =
                catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or(Err(Fault::Panicked));
        }
        self.outcome.is_ok()
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let outcome = match (self.outcome, committed) {
            (outcome, Ok(())) => outcome.map_err(Error::from),
            // The job at fault knows more than its neighbours.
            (Err(own @ Fault::Sqlite(_)), Err(_)) => Err(not_committed(own)),
            (_, Err(error)) => Err(error),
        };
        // The caller may have stopped waiting.
        let _ = self.reply.send(outcome);
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What the thread owns.
struct Thread {
    // Closes its connection first.
    write_back: WriteBack,
    connection: Connection,
    jobs: mpsc::Receiver<Message>,
    /// Taken from the queue, but not for the group at hand.
    ahead: Option<Message>,
    /// Who waits for the log to be emptied: once for all that asked while a group was running.
    truncations: Vec<oneshot::Sender<bool>>,
    wal: PathBuf,
    commits: Arc<AtomicU64>,
    options: SqliteOptions,
    _lock: Arc<Lock>,
}

impl Thread {
    fn serve(mut self) {
        while let Some(message) = self.ahead.take().or_else(|| self.jobs.blocking_recv()) {
            match message {
                Message::Write(first) => {
                    let mut group = Group::default();
                    let started = Instant::now();
                    let committed = self.commit_group(first, &mut group);
                    let error = if committed.is_ok() { "" } else { "failed" };
                    calls::database_took(System::Sqlite, "commit", error, started.elapsed());
                    group.answer(committed);
                }
                Message::TruncateWal(reply) => self.truncations.push(reply),
                Message::Compact(reply) => {
                    let compacted = schema::compact(&self.connection);
                    self.truncate_wal();
                    let _ = reply.send(compacted);
                }
            }
            self.tend_wal();
        }
        self.write_back.end();
        self.truncate_wal();
        // `connection` closes before `_lock` is given up: fields drop in the order of their declaration.
    }

    /// Runs `first` and what is queued behind it in one transaction; the jobs end up in `group` either way.
    fn commit_group(&mut self, first: Box<dyn Job>, group: &mut Group) -> fault::Result<()> {
        self.roll_back();
        if let Err(fault) = self.execute("BEGIN IMMEDIATE") {
            // It waited as long as it may: those who queued behind it have waited as long.
            group.push(first);
            while let Some(job) = self.next_of_group(group) {
                group.push(job);
            }
            return Err(fault);
        }
        let mut next = Some(first);
        while let Some(mut job) = next {
            let kept = self.run(job.as_mut());
            group.push(job);
            if let Err(fault) = kept {
                self.roll_back();
                return Err(fault);
            }
            next = self.next_of_group(group);
        }
        self.execute("COMMIT").inspect_err(|_| self.roll_back())?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Runs a job in a savepoint. An error means that the transaction is lost, and every job in it.
    fn run(&self, job: &mut dyn Job) -> fault::Result<()> {
        self.execute("SAVEPOINT job")?;
        let keep = job.run(&self.connection);
        if self.connection.is_autocommit() {
            return Err(Fault::RolledBack);
        }
        if !keep {
            self.execute("ROLLBACK TO job")?;
        }
        self.execute("RELEASE job")
    }

    fn next_of_group(&mut self, group: &Group) -> Option<Box<dyn Job>> {
        let SqliteOptions {
            group_jobs_max,
            group_bytes_max,
            ..
        } = self.options;
        if group.jobs.len() >= group_jobs_max || group.bytes >= group_bytes_max {
            return None;
        }
        loop {
            match self.jobs.try_recv() {
                Ok(Message::Write(job)) => return Some(job),
                Ok(Message::TruncateWal(reply)) => self.truncations.push(reply),
                Ok(other) => {
                    self.ahead = Some(other);
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// Ends a transaction that is still open after a failure, so that the next one can begin.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // Should this fail, the next `BEGIN` does, and it is tried again after that.
            let _ = self.execute("ROLLBACK");
        }
    }

    fn execute(&self, statement: &str) -> fault::Result<()> {
        self.connection.prepare_cached(statement)?.execute([])?;
        Ok(())
    }

    /// Sees to it that the log is written back, and empties it when somebody asked for it, or when it is large: readers that never
    /// pause could keep it from starting over at its front, or commits could come faster than they are written back.
    fn tend_wal(&mut self) {
        self.write_back.tend(&self.connection);
        let wal_bytes_max = self.options.wal_bytes_max as u64;
        let is_large = || fs::metadata(&self.wal).is_ok_and(|wal| wal.len() > wal_bytes_max);
        if !self.truncations.is_empty() || is_large() {
            let truncated = self.truncate_wal();
            for reply in self.truncations.drain(..) {
                let _ = reply.send(truncated);
            }
        }
    }

    fn truncate_wal(&self) -> bool {
        let SqliteOptions {
            checkpoint_wait_max,
            busy_wait_max,
            ..
        } = self.options;
        let _paused = self.write_back.pause();
        schema::truncate_wal(&self.connection, checkpoint_wait_max, busy_wait_max)
    }
}

/// Jobs that share a commit.
#[derive(Default)]
struct Group {
    jobs: Vec<Box<dyn Job>>,
    bytes: usize,
}

impl Group {
    fn push(&mut self, job: Box<dyn Job>) {
        self.bytes = self.bytes.saturating_add(job.bytes());
        self.jobs.push(job);
    }

    fn answer(self, committed: fault::Result<()>) {
        let Err(fault) = committed else {
            return self.jobs.into_iter().for_each(|job| job.answer(Ok(())));
        };
        // The source goes to one of them: it is logged once.
        let mut error = not_committed(fault);
        for job in self.jobs {
            let share = error.share();
            job.answer(Err(std::mem::replace(&mut error, share)));
        }
    }
}
