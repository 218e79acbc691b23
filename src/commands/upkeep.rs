//! A round of what keeps the archive in order: ends idle sessions where that is asked for, archives what is due, takes erased bytes out, deletes
//! days past their retention and what nothing leads to. `colloquy archive upkeep` does it once. Servers do its parts on
//! schedule: archiving each, the others one server at a time.
//!
//! Any number of processes may do it at once: the store says who does what.

use std::{fmt, sync::Arc, time::Duration};

use super::progress::counted;
use crate::{
    archive::{Faults, Progress, RunRecord, RunRequest, RunStatus, Trigger},
    domain::{Error, Kind, Result},
    service::Service,
};

/// What [`Round::look_after`] consists of, in its order.
pub const OF_ARCHIVE: [&str; 4] = [TIDYING, REWRITING, RETENTION, SWEEPING];

pub const IDLE: &str = "ending idle sessions";
pub const ARCHIVING: &str = "archiving";
pub const TIDYING: &str = "tidying";
const REWRITING: &str = "rewriting segments";
const RETENTION: &str = "retention";
const SWEEPING: &str = "sweeping the archive";

/// How a round is done.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// `None`: archived days are kept for ever.
    pub retention: Option<Duration>,
    /// `None`: no session is ended for being idle.
    pub idle_timeout: Option<Duration>,
    pub sweep_grace: Duration,
    pub trigger: Trigger,
}

/// What was done, where anything was.
pub type Done = Result<Option<String>>;

impl Round {
    /// Does everything, and tells what came of it. A chore that fails keeps none of the others back; a process that is
    /// stopping begins none. Tidying is the first part of archiving here.
    ///
    /// # Errors
    /// [`Kind::ArchiveUnavailable`]: there is no archive. All else is told.
    pub async fn perform(&self, service: &Service, mut tell: impl FnMut(&'static str, Done)) -> Result<()> {
        let archive = service.archive()?;
        tell(IDLE, self.end_idle(service).await);
        if !archive.is_stopping() {
            tell(ARCHIVING, self.archive(service).await);
        }
        self.take_out(service, tell).await
    }

    /// The upkeep of what is archived: all but the end of idle sessions and archiving. Told as by
    /// [`perform`](Self::perform).
    ///
    /// # Errors
    /// As [`perform`](Self::perform).
    pub async fn look_after(
        &self,
        service: &Service,
        mut tell: impl FnMut(&'static str, Done),
    ) -> Result<()> {
        if !service.archive()?.is_stopping() {
            tell(TIDYING, tidy(service).await);
        }
        self.take_out(service, tell).await
    }

    /// Deletes what is to go from the archive.
    async fn take_out(&self, service: &Service, mut tell: impl FnMut(&'static str, Done)) -> Result<()> {
        let archive = service.archive()?;
        if !archive.is_stopping() {
            tell(REWRITING, rewrite(service).await);
        }
        if !archive.is_stopping() {
            tell(RETENTION, self.expire(service).await);
        }
        if !archive.is_stopping() {
            tell(SWEEPING, self.sweep(service).await);
        }
        Ok(())
    }

    async fn end_idle(&self, service: &Service) -> Done {
        let Some(timeout) = self.idle_timeout else {
            return Ok(None);
        };
        let ended = service.end_idle(timeout).await?;
        Ok((ended > 0).then(|| format!("{ended} ended")))
    }

    /// Archives what is due.
    ///
    /// # Errors
    /// What a run is recorded to have failed by.
    pub async fn archive(&self, service: &Service) -> Done {
        let archive = service.archive()?;
        // A run leaves a record, so there is one only where there is something to do.
        if !archive.has_work(self.trigger).await? {
            return Ok(None);
        }
        let progress = Arc::new(Progress::default());
        of_run(&archive.run(RunRequest::default(), self.trigger, progress).await?)
    }

    async fn expire(&self, service: &Service) -> Done {
        let Some(retention) = self.retention else {
            return Ok(None);
        };
        let done = service.archive()?.expire(retention).await?;
        of_segments(done.segments > 0, &done.faults, &done)
    }

    async fn sweep(&self, service: &Service) -> Done {
        let done = service.archive()?.sweep(self.sweep_grace).await?;
        match done.is_good() {
            true => Ok(done.is_noteworthy().then(|| done.to_string())),
            false => Err(failed(done.to_string())),
        }
    }
}

async fn tidy(service: &Service) -> Done {
    let done = service.archive()?.tidy_due().await?;
    match done.sessions_failed {
        0 => {
            let moved = counted(done.sessions, "session");
            Ok((done.sessions > 0).then(|| format!("{moved} with late events moved to new segments")))
        }
        failed_ones => Err(failed(format!(
            "{} could not be tidied; the log says why",
            counted(failed_ones, "session")
        ))),
    }
}

async fn rewrite(service: &Service) -> Done {
    let done = service.archive()?.rewrite_due().await?;
    of_segments(done.segments > 0, &done.faults, &done)
}

/// Each segment that is damaged is told by itself; what was done with the others is not undone by it.
fn of_segments(is_any: bool, faults: &Faults, done: &impl fmt::Display) -> Done {
    for fault in faults.told() {
        tracing::error!(segment = %fault.segment, "a segment of the archive can't be worked on: {}", fault.what);
    }
    match faults.is_empty() {
        true => Ok(is_any.then(|| done.to_string())),
        false => Err(failed(done.to_string())),
    }
}

/// A run keeps its record whatever came of it, so that one may be of a failure.
fn of_run(record: &RunRecord) -> Done {
    let counts = record.counts;
    let words = format!(
        "{}, {}",
        counted(counts.sessions, "session"),
        counted(counts.events, "event")
    );
    match (&record.error, record.status, counts.sessions_failed) {
        (Some(error), ..) => Err(failed(format!("{words}; stopped early: {error}"))),
        (None, RunStatus::Completed, 1..) => {
            let left = counted(counts.sessions_failed, "session");
            Err(failed(format!(
                "{words}; {left} could not be read and stay where they are"
            )))
        }
        _ => Ok((counts.sessions > 0).then_some(words)),
    }
}

fn failed(words: String) -> Error {
    Error::new(Kind::ArchiveUnavailable, words)
}
