//! The archive: ended sessions leave the hot store for object storage, and stay readable through the same API.
//!
//! - [`objects`]: where the files lie: a directory, or S3.
//! - [`segment`]: the files themselves: Parquet, many sessions in each.
//! - `read`: an archived session as its readers see it, which is as before.
//! - `archiver`: the phases in which sessions get there: claim, read, write, verify, commit, delete.
//! - `tidy`: what a run that died left behind, and events that came late.
//! - `moving`: how sessions get from one segment to another.
//! - `restore`, `rewrite`, `retention`, `sweep`, `verify`, `rebuild`: the upkeep of what is there; `discard`: what has to be
//!   proven before a segment is deleted; `merge`: two copies of a session that have to become one; `faults`: what is wrong
//!   with single segments; `clock`: what time it is.
//! - `erasures`: the markers that keep erased sessions from coming back.
//! - `backlog`: whether it answers, and what is left to do.
//! - `run`: one run of the archiver, from its options to its record.
//!
//! Who may do what to a session at a moment is decided in the store alone ([`catalog`](crate::store::catalog)); so any
//! number of processes may do any of this at once, and each of them may die anywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::OnceCell;

use crate::{
    cache::{Cache, Change, Wanted},
    domain::{Error, Kind, Result, SessionKey, Timestamp},
    store::catalog::Catalog,
};

mod archiver;
mod backlog;
mod clock;
mod delete;
mod discard;
mod erasures;
mod faults;
mod listing;
mod merge;
mod moving;
pub mod objects;
mod pace;
mod read;
mod rebuild;
mod restore;
mod retention;
mod rewrite;
mod run;
pub mod segment;
mod sweep;
mod tally;
mod tidy;
mod verify;

pub use backlog::Backlog;
pub use faults::{Fault, Faults};
use objects::{ObjectError, ObjectErrorKind, Objects};
pub use rebuild::Rebuilt;
pub use retention::Expired;
pub use rewrite::Rewritten;
pub use run::{Counts, Progress, RunRecord, RunRequest, RunStatus, SESSIONS_MAX, Trigger};
use segment::{SegmentOptions, SegmentReader};
pub use sweep::Swept;
pub use tally::{Requests, Tally};
pub use verify::Verified;

/// The limits of an [`Archive`].
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// How long after its end a session is archived, where a run does not say.
    pub after: Duration,
    /// Sessions in a segment; at least one.
    pub segment_sessions_max: usize,
    /// Compressed bytes of events after which a segment takes no further session.
    pub segment_bytes_target: u64,
    pub segment: SegmentOptions,
    /// How long a claim of sessions lasts; it is made to last longer while work on them goes on.
    pub lease: Duration,
    /// Sessions of a segment that are read, and whose events are deleted, at the same time; at least one.
    pub sessions_in_flight: usize,
    /// Sessions archived a second, by a run; 0 is as fast as it goes.
    pub sessions_per_s_max: u32,
    /// Hot events deleted a second, by a run; 0 is as fast as it goes.
    pub deletes_per_s_max: u32,
    /// How long the id of an erased session is refused, where the archive erases it.
    pub tombstone: Duration,
    /// Longest that a reader, or whoever erases, waits for the archive.
    pub read_time_max: Duration,
    /// Payload on a page that is read at once, in bytes.
    pub page_payload_bytes_max: usize,
    /// Footers of segments kept in memory, in bytes.
    pub footers_bytes_max: usize,
    /// Share of erased sessions in a segment, in percent, from which it is rewritten on schedule.
    pub rewrite_percent_min: u32,
    /// How long after an erasure its segment is rewritten on schedule, whatever the share.
    pub rewrite_after: Duration,
    /// When a session is looked at once more for events that came late.
    pub tidy_again_after: Duration,
    /// How old an object without a use must be before it is deleted.
    pub sweep_grace: Duration,
    /// Runs of this process at the same time; at least one.
    pub runs_max: usize,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            after: Duration::from_hours(30 * 24),
            segment_sessions_max: 20_000,
            segment_bytes_target: 128 * MIB as u64,
            segment: SegmentOptions::default(),
            lease: Duration::from_mins(10),
            sessions_in_flight: 8,
            sessions_per_s_max: 0,
            deletes_per_s_max: 0,
            tombstone: Duration::from_hours(30 * 24),
            read_time_max: Duration::from_secs(5),
            page_payload_bytes_max: 4 * MIB,
            footers_bytes_max: 32 * MIB,
            rewrite_percent_min: 10,
            rewrite_after: Duration::from_hours(7 * 24),
            tidy_again_after: Duration::from_mins(10),
            sweep_grace: Duration::from_hours(24),
            runs_max: 2,
        }
    }
}

/// The archive of a store. Clones share everything.
#[derive(Clone)]
pub struct Archive(Arc<Inner>);

struct Inner {
    catalog: Arc<dyn Catalog>,
    cache: Arc<dyn Cache>,
    objects: Arc<dyn Objects>,
    reader: SegmentReader,
    options: ArchiveOptions,
    /// What there is to say in `/metrics`.
    counters: Counters,
    runs: run::Runs,
    /// Of the digests in erasure markers; read, or made, when it is first needed.
    salt: OnceCell<erasures::Salt>,
    stopping: AtomicBool,
}

/// What the archive has met and done since the process began.
#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    reads_unavailable: AtomicU64,
    reads_damaged: AtomicU64,
    sessions_archived: AtomicU64,
    events_archived: AtomicU64,
    runs_failed: AtomicU64,
    segments_failed: AtomicU64,
}

impl Archive {
    pub fn new(
        catalog: Arc<dyn Catalog>,
        cache: Arc<dyn Cache>,
        objects: Arc<dyn Objects>,
        options: ArchiveOptions,
    ) -> Self {
        let reader = SegmentReader::new(Arc::clone(&objects), options.footers_bytes_max);
        let runs = run::Runs::new(options.runs_max);
        Self(Arc::new(Inner {
            catalog,
            cache,
            objects,
            reader,
            options,
            counters: Counters::default(),
            runs,
            salt: OnceCell::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// The store, as the archive sees it.
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        Arc::clone(&self.0.catalog)
    }

    /// What it counted since the process began, by the name of the metric without its prefix.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counters = &self.0.counters;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        vec![
            (
                "colloquy.archive.reads",
                "Reads of archived sessions.",
                of(&counters.reads),
            ),
            (
                "colloquy.archive.read_errors_unavailable",
                "Reads of archived sessions that failed because the archive could not be reached.",
                of(&counters.reads_unavailable),
            ),
            (
                "colloquy.archive.read_errors_damaged",
                "Reads of archived sessions that found an object missing or damaged.",
                of(&counters.reads_damaged),
            ),
            (
                "colloquy.archive.sessions",
                "Sessions that this process archived.",
                of(&counters.sessions_archived),
            ),
            (
                "colloquy.archive.events",
                "Events that this process archived.",
                of(&counters.events_archived),
            ),
            (
                "colloquy.archive.runs_failed",
                "Runs of the archiver that failed.",
                of(&counters.runs_failed),
            ),
            (
                "colloquy.archive.segments_failed",
                "Segments that rewriting or retention could not work on, each counted once a round.",
                of(&counters.segments_failed),
            ),
        ]
    }

    /// Asks what is under way to stop where it may: between two sessions. Everything can be gone on with later.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// What is done for somebody who waits, in the time that they do.
    ///
    /// # Errors
    /// [`Kind::ArchiveUnavailable`], once that is over.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| {
            Error::new(
                Kind::ArchiveUnavailable,
                "the archive takes too long to answer; try again shortly",
            )
        };
        tokio::time::timeout(self.0.options.read_time_max, work)
            .await
            .map_err(late)
            .flatten()
    }

    /// Whether it was asked to [`stop`](Self::stop).
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// Runs a write to sessions with the cache in front: told before the store is asked, and told what came of it before
    /// anyone else is, as every write of the service is. Without this a cached session could outlast what it shows.
    async fn changing<T>(
        &self,
        keys: &[&SessionKey],
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let cache = &self.0.cache;
        let writes: Vec<_> = keys.iter().map(|&key| (key.clone(), Wanted::default())).collect();
        let begun = cache.begin_all(&writes).await;
        let outcome = work.await;
        let change = match &outcome {
            Ok(_) => Change::Replaced,
            Err(_) => Change::Unknown { acknowledged: false },
        };
        cache
            .finish_all(begun.into_iter().map(|begun| (begun, change)).collect())
            .await;
        outcome
    }
}

/// The store's clock is what counts where it matters; this one is for ages of days.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    Timestamp::from_unix_ms(ms).unwrap_or(Timestamp::EPOCH)
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl From<ObjectError> for Error {
    fn from(error: ObjectError) -> Self {
        let kind = match error.kind {
            ObjectErrorKind::NotFound | ObjectErrorKind::Damaged => Kind::ArchiveDamaged,
            ObjectErrorKind::AlreadyExists => Kind::Internal,
            ObjectErrorKind::Denied | ObjectErrorKind::Unavailable => Kind::ArchiveUnavailable,
        };
        let detail = match kind {
            Kind::ArchiveDamaged => "an object of the archive is missing or damaged",
            Kind::ArchiveUnavailable => "the archive can't be reached; try again shortly",
            _ => "the archive refused a write",
        };
        Self::new(kind, detail).with_source(error)
    }
}
