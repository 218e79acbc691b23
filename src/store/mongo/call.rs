//! One call of the store: bounded in time and number, and never dropped midway.
//!
//! A future of the driver that is dropped may leave its connection in the middle of a message, so each runs in a
//! task of its own. A call that gives up, or whose caller went away, leaves that task to end by itself: the server
//! ends the statement by its own time limit. Until then the task keeps the call's permit, so that abandoned work counts,
//! and what hangs on a dead connection is cut off after a further minute.

use std::{
    collections::hash_map::RandomState,
    future::Future,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mongodb::{Collection, Database, bson::RawDocumentBuf};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    MongoOptions,
    fault::{self, Fault, Result},
    primary::Primaries,
};
use crate::{
    domain::{self, Error, Kind},
    in_flight,
    telemetry::calls::{self, System},
};

/// How much longer than its call a task of the driver may live.
const ABANDONED_TIME_MAX: Duration = Duration::from_mins(1);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Where calls begin.
pub(super) struct Calls {
    database: Database,
    primaries: Arc<Primaries>,
    permits: Arc<Semaphore>,
    /// For what only asks whether the server is there: that must not wait behind requests.
    pings: Arc<Semaphore>,
    permits_all: u32,
    closed: AtomicBool,
    call_time_max: Duration,
    call_wait_max: Duration,
    attempts_max: u32,
    clocks_apart_max: Duration,
}

impl Calls {
    pub(super) fn new(database: Database, primaries: Arc<Primaries>, options: &MongoOptions) -> Self {
        Self {
            database,
            primaries,
            permits: Arc::new(Semaphore::new(options.pool_max as usize)),
            pings: Arc::new(Semaphore::new(1)),
            permits_all: options.pool_max,
            closed: AtomicBool::new(false),
            call_time_max: options.call_time_max,
            call_wait_max: options.call_wait_max,
            attempts_max: options.attempts_max.max(1),
            clocks_apart_max: options.clocks_apart_max,
        }
    }

    /// Begins a call.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when the store is closed, [`Kind::Overloaded`] when too many calls are under way for too
    /// long.
    pub(super) async fn begin(&self) -> domain::Result<Call> {
        self.begin_of(&self.permits).await
    }

    /// As [`begin`](Self::begin), for a call that only asks whether the server is there.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(super) async fn begin_ping(&self) -> domain::Result<Call> {
        self.begin_of(&self.pings).await
    }

    async fn begin_of(&self, permits: &Arc<Semaphore>) -> domain::Result<Call> {
        if self.closed.load(Ordering::Acquire) {
            return Err(fault::closed());
        }
        let permit = timeout(self.call_wait_max, Arc::clone(permits).acquire_owned()).await;
        let permit = permit
            .map_err(|_| {
                Error::new(
                    Kind::Overloaded,
                    "too many calls wait for the store; try again shortly",
                )
            })?
            .map_err(|_| fault::closed())?;
        Ok(Call {
            database: self.database.clone(),
            primaries: Arc::clone(&self.primaries),
            deadline: Instant::now() + self.call_time_max,
            attempts_max: self.attempts_max,
            clocks_apart_max: self.clocks_apart_max,
            permit: Arc::new(permit),
        })
    }

    /// Refuses new calls, and waits for those under way as long as one may take.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let all = Arc::clone(&self.permits).acquire_many_owned(self.permits_all);
        let _ = timeout(self.call_time_max, all).await;
        self.permits.close();
    }
}

/// A call under way.
pub(super) struct Call {
    database: Database,
    primaries: Arc<Primaries>,
    deadline: Instant,
    attempts_max: u32,
    clocks_apart_max: Duration,
    permit: Arc<OwnedSemaphorePermit>,
}

/// One try of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// The server's limit for the statement.
    pub(super) time_max: Duration,
    /// An earlier try of the same statement failed without telling what it did.
    pub(super) again: bool,
}

impl Call {
    pub(super) fn database(&self) -> Database {
        self.database.clone()
    }

    pub(super) fn sessions(&self) -> Collection<RawDocumentBuf> {
        self.database.collection(super::SESSIONS)
    }

    pub(super) fn events(&self) -> Collection<RawDocumentBuf> {
        self.database.collection(super::EVENTS)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    /// The option `clocks_apart_max`.
    pub(super) fn clocks_apart_max(&self) -> Duration {
        self.clocks_apart_max
    }

    /// Waits until what the primary shows can be believed; gives which it is.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) async fn settle(&self) -> Result<u64> {
        self.primaries.settle(self).await
    }

    /// As [`run`](Self::run), for a statement that reads: what it gives is no older than what was acknowledged before.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) async fn read<T, W>(&self, name: &'static str, statement: impl Fn(Attempt) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        loop {
            let primary = self.settle().await?;
            let read = self.run(name, &statement).await?;
            // Else another one was met on the way, and nobody knows which of them answered.
            if self.primaries.met() == primary {
                return Ok(read);
            }
        }
    }

    /// Runs a statement, and again where that is safe and may help, until the call's time is over. Telemetry knows it by
    /// `name`: the command, and the collection where there is one.
    ///
    /// # Errors
    /// As of the last try; [`Fault::TimedOut`].
    pub(super) async fn run<T, W>(&self, name: &'static str, statement: impl Fn(Attempt) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let mut tries = 0;
        loop {
            let time_max = self.time_left()?;
            let attempt = Attempt {
                time_max,
                again: tries > 0,
            };
            let work = self.finish(statement(attempt), time_max);
            let outcome = calls::database(System::MongoDb, name, Fault::name, work).await;
            tries += 1;
            match outcome {
                Err(fault) if fault.is_passing() && tries < self.attempts_max => {
                    tracing::debug!(%fault, tries, "trying again");
                    self.pause(tries).await.map_err(|_| fault)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits a moment before try number `tries` + 1, longer each time and never twice the same.
    ///
    /// # Errors
    /// [`Fault::TimedOut`] at once, when the call would be over by then.
    pub(super) async fn pause(&self, tries: u32) -> Result<()> {
        let longest = BACKOFF_MIN.saturating_mul(1 << tries.min(10)).min(BACKOFF_MAX);
        let random = RandomState::new().hash_one(tries) % 1_000;
        let pause = longest.mul_f64(0.25 + 0.75 * random as f64 / 1_000.0);
        if pause >= self.time_left()? {
            return Err(Fault::TimedOut);
        }
        sleep(pause).await;
        Ok(())
    }

    pub(super) fn time_left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // The server takes 0 for no limit at all.
        if left < Duration::from_millis(1) {
            Err(Fault::TimedOut)
        } else {
            Ok(left)
        }
    }

    async fn finish<T>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
        time_max: Duration,
    ) -> Result<T>
    where
        T: Send + 'static,
    {
        let permit = Arc::clone(&self.permit);
        let task = in_flight::spawn(async move {
            let outcome = timeout(time_max + ABANDONED_TIME_MAX, work).await;
            drop(permit);
            outcome
        });
        match timeout_at(self.deadline, task).await {
            Ok(Ok(Ok(outcome))) => outcome,
            Ok(Err(_)) => Err(Fault::Panicked),
            Ok(Ok(Err(_))) | Err(_) => Err(Fault::TimedOut),
        }
    }
}
