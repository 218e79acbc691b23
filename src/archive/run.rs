//! One run of the archiver: what it is asked to do, how far it is, and the record it leaves.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tracing::Instrument;
use uuid::Uuid;

use super::{Archive, Requests, Tally, faults::is_of_segment, ms, now, objects::Objects, pace::Pace};
use crate::{
    domain::{
        Day, Error, JsonObject, Kind, Result, SessionKey, Span, Tenant, Timestamp,
        json::{Fields, ObjectWriter, parsed},
    },
    store::catalog::{Claim, Due},
    telemetry::{metrics::metrics, spans},
};

/// Sessions that a dry run counts.
const DRY_RUN_SESSIONS_MAX: usize = 100_000;

/// Most sessions that a run can be limited to.
pub const SESSIONS_MAX: u64 = 1_000_000_000_000;

/// Passes in a row that archive nothing although something is due, after which a run gives up.
const FRUITLESS_PASSES_MAX: u32 = 5;

/// Longest wait of a process that ends for its runs. What they leave undone another goes on with.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Largest record of a run, in bytes of JSON.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Who asked for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Schedule,
    Command,
    Api,
}

impl Trigger {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Command => "command",
            Self::Api => "api",
        }
    }

    /// Whether a run tidies, too. Of those on schedule there may be one on every server, and tidying is for one at a time.
    fn tidies(self) -> bool {
        self != Self::Schedule
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a run is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunRequest {
    /// Sessions that ended longer ago than this, in place of what is configured.
    pub older_than: Option<Span>,
    /// At most so many sessions.
    pub limit: Option<u64>,
    /// Only say what there is to do: how many sessions are due, up to a hundred thousand.
    pub dry_run: bool,
}

impl RunRequest {
    /// Reads `{olderThan?, limit?, dryRun?}`.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::split(bytes, "")?;
        let older_than = fields.optional("olderThan", parsed);
        let limit = fields.optional("limit", |text| match text.parse() {
            Ok(limit @ 1..=SESSIONS_MAX) => Ok(limit),
            _ => Err("must be a whole number from 1 to 1000000000000".into()),
        });
        let dry_run = fields.optional("dryRun", |text| {
            text.parse().map_err(|_| "must be true or false".into())
        });
        fields.finish(|| {
            Some(Self {
                older_than,
                limit,
                dry_run: dry_run.unwrap_or_default(),
            })
        })
    }
}

/// How far a run is; read while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    sessions: AtomicU64,
    events: AtomicU64,
    payload_bytes: AtomicU64,
    segments: AtomicU64,
    hot_events_deleted: AtomicU64,
    sessions_failed: AtomicU64,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions archived; of a dry run, those that are due.
    pub sessions: u64,
    pub events: u64,
    /// Payload read, in bytes of JSON.
    pub payload_bytes: u64,
    pub segments: u64,
    pub hot_events_deleted: u64,
    /// Sessions that could not be read, and stay where they are.
    pub sessions_failed: u64,
}

impl Progress {
    pub(super) fn read(&self, payload_bytes: usize) {
        self.payload_bytes
            .fetch_add(payload_bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn committed(&self, sessions: u64, events: u64) {
        self.sessions.fetch_add(sessions, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
        self.segments.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn deleted(&self, events: usize) {
        self.hot_events_deleted
            .fetch_add(events as u64, Ordering::Relaxed);
    }

    pub fn so_far(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            sessions: of(&self.sessions),
            events: of(&self.events),
            payload_bytes: of(&self.payload_bytes),
            segments: of(&self.segments),
            hot_events_deleted: of(&self.hot_events_deleted),
            sessions_failed: of(&self.sessions_failed),
        }
    }
}

/// What the phases of a run share: throttles, counts, and which sessions to leave alone.
pub(super) struct Work {
    /// The day of the segment being written.
    pub(super) day: Day,
    pub(super) pace: Arc<Pace>,
    pub(super) deletes: Arc<Pace>,
    pub(super) progress: Arc<Progress>,
    tally: Arc<Tally>,
    skipped: Arc<Mutex<HashSet<SessionKey>>>,
}

impl Work {
    pub(super) fn new(archive: &Archive, progress: Arc<Progress>) -> Self {
        let options = &archive.0.options;
        Self {
            day: Day::of(Timestamp::EPOCH),
            pace: Arc::new(Pace::new(options.sessions_per_s_max)),
            deletes: Arc::new(Pace::new(options.deletes_per_s_max)),
            progress,
            tally: Arc::new(Tally::new(Arc::clone(&archive.0.objects))),
            skipped: Arc::default(),
        }
    }

    /// The same work, on a segment of this day.
    pub(super) fn on(&self, day: Day) -> Self {
        Self {
            day,
            pace: Arc::clone(&self.pace),
            deletes: Arc::clone(&self.deletes),
            progress: Arc::clone(&self.progress),
            tally: Arc::clone(&self.tally),
            skipped: Arc::clone(&self.skipped),
        }
    }

    /// The archive's objects, counting.
    pub(super) fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.tally) as _
    }

    fn skipped(&self) -> std::sync::MutexGuard<'_, HashSet<SessionKey>> {
        // Nothing panics while it holds the lock.
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves sessions alone for the rest of the run that could not be made a segment of.
    fn leave(&self, keys: Vec<SessionKey>, day: Day, error: &Error) {
        let (source, sessions) = (std::error::Error::source(error), keys.len() as u64);
        tracing::error!(%day, sessions, %error, ?source, "sessions can't be archived; they stay where they are");
        self.progress
            .sessions_failed
            .fetch_add(sessions, Ordering::Relaxed);
        self.skipped().extend(keys);
    }

    /// Leaves a session alone for the rest of the run; one that is gone needs no word.
    pub(super) fn skip(&self, key: &SessionKey, error: &Error) {
        if !error.is_of_session() {
            let source = std::error::Error::source(error);
            tracing::error!(session = %key, %error, ?source, "a session can't be archived; it stays where it is");
            self.progress.sessions_failed.fetch_add(1, Ordering::Relaxed);
        }
        self.skipped().insert(key.clone());
    }
}

/// The record of a run, as it is kept and shown.
#[derive(Debug, Clone)]
pub struct RunRecord {
    pub id: String,
    pub status: RunStatus,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub request: RunRequest,
    pub trigger: Trigger,
    pub older_than: Duration,
    pub counts: Counts,
    pub requests: Requests,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// Or its process died.
    Running,
    Completed,
    /// Asked to, because its process was; what is left to do is done by the next.
    Stopped,
    Failed,
}

impl RunStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl RunRecord {
    fn begun(request: RunRequest, trigger: Trigger, older_than: Duration) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            status: RunStatus::Running,
            started_at: now(),
            ended_at: None,
            request,
            trigger,
            older_than,
            counts: Counts::default(),
            requests: Requests::default(),
            error: None,
        }
    }

    /// How long it took, in milliseconds.
    pub fn took_ms(&self) -> Option<i64> {
        self.ended_at
            .map(|ended_at| ended_at.unix_ms() - self.started_at.unix_ms())
    }

    /// Appends it as the API shows it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let integer = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut object = ObjectWriter::new(out);
        object.plain("runId", &self.id);
        object.plain("status", self.status.as_str());
        object.plain("trigger", self.trigger.as_str());
        object.timestamp("startedAt", self.started_at);
        if let Some(ended_at) = self.ended_at {
            object.timestamp("endedAt", ended_at);
        }
        object.integer("olderThanMs", ms(self.older_than));
        if let Some(limit) = self.request.limit {
            object.integer("limit", integer(limit));
        }
        object.boolean("dryRun", self.request.dry_run);
        object.integer("sessions", integer(self.counts.sessions));
        object.integer("events", integer(self.counts.events));
        object.integer("segments", integer(self.counts.segments));
        object.integer("hotEventsDeleted", integer(self.counts.hot_events_deleted));
        object.integer("sessionsFailed", integer(self.counts.sessions_failed));
        object.integer("payloadBytes", integer(self.counts.payload_bytes));
        object.integer("bytesWritten", integer(self.requests.bytes_out));
        object.integer("bytesRead", integer(self.requests.bytes_in));
        object.integer("puts", integer(self.requests.puts));
        object.integer("gets", integer(self.requests.gets));
        object.optional_text("error", self.error.as_deref());
        object.end();
    }

    fn to_object(&self) -> Result<JsonObject> {
        let mut text = Vec::new();
        self.write_json(&mut text);
        let text = String::from_utf8_lossy(&text);
        JsonObject::read(&text, RECORD_BYTES_MAX)
            .map_err(|refusal| Error::new(Kind::Internal, format!("the record of a run {}", refusal.message)))
    }
}

/// A run that was asked to stop.
pub(super) fn stopped() -> Error {
    Error::new(
        Kind::Unavailable,
        "the process is stopping; the next run goes on with it",
    )
}

/// The runs of this process.
pub(super) struct Runs(Arc<Semaphore>);

impl Runs {
    pub(super) fn new(runs_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(runs_max.max(1))))
    }
}

impl Archive {
    /// Archives what is due, and gives the record of it, which is kept whatever came of it.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: this process has as many runs under way as it may. The store can't keep the record.
    pub async fn run(
        &self,
        request: RunRequest,
        trigger: Trigger,
        progress: Arc<Progress>,
    ) -> Result<RunRecord> {
        let (_, finishing) = self.start(request, trigger, progress).await?;
        let broken = |_| {
            Err(Error::new(
                Kind::Internal,
                "the run of the archiver broke off; the log says why",
            ))
        };
        finishing.await.unwrap_or_else(broken)
    }

    /// As [`run`](Self::run), but gives the record as it is when the run begins, and what waits for its end.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn start(
        &self,
        request: RunRequest,
        trigger: Trigger,
        progress: Arc<Progress>,
    ) -> Result<(RunRecord, tokio::task::JoinHandle<Result<RunRecord>>)> {
        let turn = Arc::clone(&self.0.runs.0).try_acquire_owned().map_err(|_| {
            Error::new(
                Kind::Overloaded,
                "as many runs of the archiver are under way as may be; try again when one is over",
            )
        })?;
        let older_than = request.older_than.map_or(self.0.options.after, Span::get);
        let record = RunRecord::begun(request, trigger, older_than);
        self.keep(&record).await?;
        let (archive, mut running) = (self.clone(), record.clone());
        let span = spans::run(&record.id);
        let finishing = async move {
            let work = Work::new(&archive, progress);
            let outcome = archive.drive(&running, &work).await;
            archive.finish(&mut running, outcome, &work);
            metrics().archive_run(running.status.as_str());
            archive.keep(&running).await?;
            drop(turn);
            Ok(running)
        };
        Ok((record, tokio::spawn(finishing.instrument(span))))
    }

    fn finish(&self, record: &mut RunRecord, outcome: Result<()>, work: &Work) {
        record.ended_at = Some(now());
        record.counts = work.progress.so_far();
        record.requests = work.tally.so_far();
        record.status = match outcome {
            Ok(()) => RunStatus::Completed,
            Err(_) if self.is_stopping() => RunStatus::Stopped,
            Err(error) => {
                let source = std::error::Error::source(&error);
                tracing::error!(%error, ?source, "a run of the archiver failed; the next one goes on with it");
                self.0.counters.runs_failed.fetch_add(1, Ordering::Relaxed);
                record.error = Some(error.detail().to_owned());
                RunStatus::Failed
            }
        };
    }

    async fn keep(&self, record: &RunRecord) -> Result<()> {
        let object = record.to_object()?;
        self.0
            .catalog
            .record_run(&record.id, record.started_at, &object)
            .await
    }

    /// The records of the newest runs of all processes, newest first.
    pub async fn runs(&self, limit: usize) -> Result<Vec<JsonObject>> {
        self.0.catalog.runs(limit).await
    }

    /// Waits for the runs of this process, which were asked to [`stop`](Self::stop), as long as that may take.
    pub async fn settle(&self) {
        let all = u32::try_from(self.0.options.runs_max.max(1)).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(STOP_WAIT_MAX, self.0.runs.0.acquire_many(all)).await;
    }

    /// How many sessions a run would archive, up to a hundred thousand.
    pub async fn due(&self, request: RunRequest) -> Result<u64> {
        let older_than = request.older_than.map_or(self.0.options.after, Span::get);
        let before = now().saturating_add_ms(-ms(older_than));
        let wanted = request
            .limit
            .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let due = self
            .0
            .catalog
            .due(before, wanted.min(DRY_RUN_SESSIONS_MAX))
            .await?;
        Ok(due.len() as u64)
    }

    /// Whether a run with nothing more said would find anything to do.
    pub async fn has_work(&self, trigger: Trigger) -> Result<bool> {
        let one = RunRequest {
            limit: Some(1),
            ..RunRequest::default()
        };
        if self.due(one).await? > 0 {
            return Ok(true);
        }
        Ok(trigger.tidies() && !self.0.catalog.untidy(1).await?.is_empty())
    }

    async fn drive(&self, run: &RunRecord, work: &Work) -> Result<()> {
        let before = run.started_at.saturating_add_ms(-ms(run.older_than));
        if run.request.dry_run {
            let due = self.due(run.request).await?;
            work.progress.sessions.store(due, Ordering::Relaxed);
            return Ok(());
        }
        if run.trigger.tidies() {
            self.tidy(work).await?;
        }
        let mut left = run.request.limit.unwrap_or(u64::MAX);
        let mut fruitless = 0;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let wanted = wanted.min(self.0.options.segment_sessions_max);
            let skipped = work.skipped().len();
            let due = self.0.catalog.due(before, wanted + skipped).await?;
            let days = by_day(due, &work.skipped(), wanted);
            if days.is_empty() {
                return Ok(());
            }
            let mut archived = 0;
            for ((_, day), keys) in days {
                match self.pack(keys.clone(), Claim::Hot, &work.on(day)).await {
                    Ok(packed) => archived += packed.sessions,
                    // Erased while it was read; the others are due again.
                    Err(error) if error.is_of_session() => {}
                    // It did not read back as it was written; that is no reason to keep the others waiting.
                    Err(error) if is_of_segment(&error) => work.leave(keys, day, &error),
                    Err(error) => return Err(error),
                }
            }
            left = left.saturating_sub(archived);
            fruitless = if archived == 0 { fruitless + 1 } else { 0 };
            if fruitless == FRUITLESS_PASSES_MAX {
                tracing::warn!(
                    "sessions are due, but others claim them, or claims run out before the commit"
                );
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The first `wanted` sessions that are not to be left alone, by tenant and the day of their end, which make one segment
/// each at least.
fn by_day(
    due: Vec<Due>,
    but: &HashSet<SessionKey>,
    wanted: usize,
) -> BTreeMap<(Tenant, Day), Vec<SessionKey>> {
    let mut days: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let taken = due.into_iter().filter(|due| !but.contains(&due.key)).take(wanted);
    for Due { key, ended_at } in taken {
        days.entry((key.tenant.clone(), Day::of(ended_at)))
            .or_default()
            .push(key);
    }
    days
}
