//! `colloquy archive …`: what an operator asks of the archive, with progress on the way and a summary at the end.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    progress::{Progress, counted},
    upkeep::Round,
};
use crate::{
    archive::{self, Archive, Rebuilt, RunRecord, RunRequest, RunStatus, Trigger, Verified},
    domain::{Result, SessionId, SessionKey, Span, Tenant},
    service::Service,
};

/// How often the progress of a run is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// What to do.
#[derive(Debug, Clone)]
pub enum Task {
    Run(RunRequest),
    List { limit: usize },
    Verify,
    Restore(SessionId),
    Rewrite,
    Sweep { grace: Duration },
    Expire { retention: Span },
    Rebuild,
    Upkeep(Round),
}

/// How it went: words for standard output, and whether all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub words: String,
    pub good: bool,
}

impl Report {
    fn good(words: impl ToString) -> Self {
        Self::unless(false, words)
    }

    /// All is well unless something is wrong.
    fn unless(is_wrong: bool, words: impl ToString) -> Self {
        Self {
            words: words.to_string(),
            good: !is_wrong,
        }
    }
}

/// Does what is asked.
///
/// # Errors
/// The store or the archive can't be reached, or as the task says.
pub async fn perform(service: &Service, task: Task) -> Result<Report> {
    let archive = service.archive()?;
    Ok(match task {
        Task::Run(request) => run(archive, request).await?,
        Task::List { limit } => Report::good(list(archive, limit).await?),
        Task::Verify => verify(archive).await?,
        Task::Restore(id) => {
            let session = service.restore(&SessionKey::new(Tenant::default(), id)).await?;
            Report::good(format!(
                "session {} is hot: it can be read and changed as before",
                session.id
            ))
        }
        Task::Rewrite => {
            let done = archive.rewrite().await?;
            Report::unless(!done.faults.is_empty(), done)
        }
        Task::Sweep { grace } => {
            let swept = archive.sweep(grace).await?;
            Report::unless(!swept.is_good(), swept)
        }
        Task::Expire { retention } => {
            let done = archive.expire(retention.get()).await?;
            Report::unless(!done.faults.is_empty(), done)
        }
        Task::Rebuild => rebuild(archive).await?,
        Task::Upkeep(round) => upkeep(service, round).await?,
    })
}

async fn run(archive: &Archive, request: RunRequest) -> Result<Report> {
    // A dry run is this count.
    let total = match request.dry_run {
        true => None,
        false => Some(archive.due(request).await?),
    };
    let progress = Arc::new(archive::Progress::default());
    let bar = Progress::of_things(total);
    let running = archive.run(request, Trigger::Command, Arc::clone(&progress));
    tokio::pin!(running);
    let mut shown = 0;
    let record = loop {
        tokio::select! {
            record = &mut running => break record?,
            () = tokio::time::sleep(SHOWN_EVERY) => {
                let counts = progress.so_far();
                bar.advance(counts.sessions - shown, || {
                    format!("{}, {}", counted(counts.sessions, "session"), counted(counts.events, "event"))
                });
                shown = counts.sessions;
            }
        }
    };
    bar.finish();
    Ok(Report {
        words: summary(&record),
        good: record.status == RunStatus::Completed && record.counts.sessions_failed == 0,
    })
}

fn summary(record: &RunRecord) -> String {
    let counts = &record.counts;
    let sessions = counted(counts.sessions, "session");
    if record.request.dry_run {
        return format!("{sessions} would be archived");
    }
    let mut words = format!(
        "archived {sessions} with {} in {}\n",
        counted(counts.events, "event"),
        counted(counts.segments, "segment")
    );
    // Writing to a string can't fail.
    let _ = write!(
        words,
        "  payload read {}, written {} ({} to objects, {} from them); hot events deleted: {}\n  took {} s",
        bytes(counts.payload_bytes),
        bytes(record.requests.bytes_out),
        counted(record.requests.puts, "put"),
        counted(record.requests.gets, "get"),
        counts.hot_events_deleted,
        seconds(record.took_ms().unwrap_or_default()),
    );
    if counts.sessions_failed > 0 {
        let _ = write!(
            words,
            "\n  {} could not be read and stay where they are; the log says why",
            counted(counts.sessions_failed, "session")
        );
    }
    match (&record.error, record.status) {
        (Some(error), _) => words += &format!("\n  stopped early: {error}"),
        (None, RunStatus::Stopped) => words += "\n  stopped early, as asked to; run it again to go on",
        _ => {}
    }
    words
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 1_024.0 && unit < UNITS.len() - 1 {
        amount /= 1_024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{amount:.1} {}", UNITS[unit]),
    }
}

async fn list(archive: &Archive, limit: usize) -> Result<String> {
    let mut words = String::new();
    for run in archive.runs(limit).await? {
        // Our own records, so they read back; one that does not is shown as it is.
        let Ok(run) = serde_json::from_str::<Value>(run.as_str()) else {
            let _ = writeln!(words, "{}", run.as_str());
            continue;
        };
        let text = |name: &str| run[name].as_str().unwrap_or("-").to_owned();
        let number = |name: &str| run[name].as_u64().unwrap_or_default();
        let _ = write!(
            words,
            "{}  {:9}  {:8}  {}, {}, {}, written {}",
            text("startedAt"),
            text("status"),
            text("trigger"),
            counted(number("sessions"), "session"),
            counted(number("events"), "event"),
            counted(number("segments"), "segment"),
            bytes(number("bytesWritten")),
        );
        if run["dryRun"].as_bool() == Some(true) {
            words += "  (dry run)";
        }
        if let Some(error) = run["error"].as_str() {
            let _ = write!(words, "  {error}");
        }
        words.push('\n');
    }
    if words.is_empty() {
        words += "no run was ever made\n";
    }
    let pending = archive.pending_erasures().await?.sessions;
    let _ = write!(
        words,
        "erased sessions whose bytes are still in the archive: {pending}"
    );
    if pending > 0 {
        words += " (colloquy archive rewrite takes them out)";
    }
    Ok(words)
}

async fn verify(archive: &Archive) -> Result<Report> {
    let bar = Progress::of_things(None);
    let verified = archive
        .verify(&|so_far: &Verified| {
            bar.advance(1, || {
                format!(
                    "{}, {}",
                    counted(so_far.segments, "segment"),
                    counted(so_far.events, "event")
                )
            });
        })
        .await;
    bar.finish();
    let verified = verified?;
    Ok(Report {
        words: verified.to_string(),
        good: verified.is_good(),
    })
}

async fn rebuild(archive: &Archive) -> Result<Report> {
    let bar = Progress::of_things(None);
    let rebuilt = archive
        .rebuild(&|so_far: &Rebuilt| {
            bar.advance(1, || {
                format!(
                    "{}, {}",
                    counted(so_far.segments, "segment"),
                    counted(so_far.sessions, "session")
                )
            });
        })
        .await;
    bar.finish();
    let rebuilt = rebuilt?;
    Ok(Report {
        words: rebuilt.to_string(),
        good: rebuilt.is_good(),
    })
}

async fn upkeep(service: &Service, round: Round) -> Result<Report> {
    let (mut lines, mut good) = (Vec::new(), true);
    round
        .perform(service, |chore, done| {
            lines.push(match done {
                Ok(done) => format!("{chore}: {}", done.as_deref().unwrap_or("nothing to do")),
                Err(error) => {
                    let source = std::error::Error::source(&error);
                    tracing::error!(%error, ?source, "{chore} failed");
                    good = false;
                    format!("{chore}: failed: {}", error.detail())
                }
            });
        })
        .await?;
    if service.archive()?.is_stopping() {
        lines.push("stopped early, as asked to; run it again to go on".to_owned());
        good = false;
    }
    Ok(Report {
        words: lines.join("\n"),
        good,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(5 * 1024 * 1024 * 1024), "5.0 GiB");
        assert_eq!(seconds(12_034), "12.034");
    }
}
