//! A round of what keeps the archive in order: ends idle sessions, archives what is due, takes erased bytes out, deletes
//! days past their retention and what nothing leads to. A server does it on schedule, `colloquy archive upkeep` once.
//!
//! Any number of processes may do it at once: the store says who does what.

use std::{sync::Arc, time::Duration};

use super::progress::counted;
use crate::{
    archive::{Progress, RunRecord, RunRequest, RunStatus, Trigger},
    domain::{Error, Kind, Result, Tenant},
    service::Service,
};

/// What a round consists of, in its order.
pub const CHORES: [&str; 5] = [IDLE, ARCHIVING, REWRITING, RETENTION, SWEEPING];

const IDLE: &str = "ending idle sessions";
pub const ARCHIVING: &str = "archiving";
const REWRITING: &str = "rewriting segments";
const RETENTION: &str = "retention";
const SWEEPING: &str = "sweeping the archive";

/// How a round is done.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// `None`: archived days are kept for ever.
    pub retention: Option<Duration>,
    /// `None`: sessions that nobody ends are never ended.
    pub idle_timeout: Option<Duration>,
    pub sweep_grace: Duration,
    pub trigger: Trigger,
}

/// What was done, where anything was.
pub type Done = Result<Option<String>>;

impl Round {
    /// Does each chore, and tells what came of it. One that fails keeps none of the others back; a process that is
    /// stopping begins none.
    ///
    /// # Errors
    /// [`Kind::ArchiveUnavailable`]: there is no archive. All else is told.
    pub async fn perform(&self, service: &Service, mut tell: impl FnMut(&'static str, Done)) -> Result<()> {
        let archive = service.archive()?;
        tell(IDLE, self.end_idle(service).await);
        if !archive.is_stopping() {
            tell(ARCHIVING, self.archive(service).await);
        }
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
        let ended = service.end_idle(&Tenant::default(), timeout).await?;
        Ok((ended > 0).then(|| format!("{ended} ended")))
    }

    async fn archive(&self, service: &Service) -> Done {
        let archive = service.archive()?;
        // A run leaves a record, so there is one only where there is something to do.
        if !archive.has_work().await? {
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
        Ok((done.segments > 0).then(|| done.to_string()))
    }

    async fn sweep(&self, service: &Service) -> Done {
        let done = service.archive()?.sweep(self.sweep_grace).await?;
        Ok((done.segments + done.uploads + done.unknown > 0).then(|| done.to_string()))
    }
}

async fn rewrite(service: &Service) -> Done {
    let done = service.archive()?.rewrite().await?;
    Ok((done.segments + done.pending > 0).then(|| done.to_string()))
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
