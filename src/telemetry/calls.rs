//! Calls of backends: each is timed, and a span of the trace it is made in.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tracing::{Instrument, Span, field::Empty};

use super::{metrics::metrics, spans::TARGET};

/// A database system, by its name in the semantic conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    MongoDb,
    Redis,
    Sqlite,
}

impl System {
    fn as_str(self) -> &'static str {
        match self {
            Self::MongoDb => "mongodb",
            Self::Redis => "redis",
            Self::Sqlite => "sqlite",
        }
    }
}

/// Makes a call of a database. `statement` is an operation, and what it is about where that is to be told:
/// `find sessions`. `error` names the type of a failure; those are few.
pub async fn database<T, E>(
    system: System,
    statement: &'static str,
    error: impl Fn(&E) -> &'static str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (operation, collection) = parts(statement);
    let span = tracing::trace_span!(
        target: TARGET,
        "database",
        otel.name = statement,
        otel.kind = "client",
        otel.status_code = Empty,
        error.r#type = Empty,
        db.system.name = system.as_str(),
        db.operation.name = operation,
        db.collection.name = collection,
    );
    let mut timed = Timed {
        span: span.clone(),
        started: Instant::now(),
        ended: ABANDONED,
        failed: true,
        record: |ended, took| metrics().database_call(system.as_str(), statement, ended, took),
    };
    let outcome = call.instrument(span).await;
    timed.ended = outcome.as_ref().err().map_or("", error);
    timed.failed = !timed.ended.is_empty();
    outcome
}

/// What a call is said to have ended in whose caller went away before its end.
const ABANDONED: &str = "abandoned";

/// What [`objects`] is told of a request that failed, as opposed to one with an answer that is not there, or there already.
pub const FAILED: &str = "failed";

/// A call under way. It is recorded when this is dropped, since whoever waits for it may be dropped first.
struct Timed<R: Fn(&'static str, Duration)> {
    span: Span,
    started: Instant,
    ended: &'static str,
    failed: bool,
    record: R,
}

impl<R: Fn(&'static str, Duration)> Drop for Timed<R> {
    fn drop(&mut self) {
        if self.failed {
            self.span.record("error.type", self.ended);
            self.span.record("otel.status_code", "ERROR");
        }
        (self.record)(self.ended, self.started.elapsed());
    }
}

fn parts(statement: &'static str) -> (&'static str, Option<&'static str>) {
    match statement.split_once(' ') {
        Some((operation, collection)) => (operation, Some(collection)),
        None => (statement, None),
    }
}

/// A call of a database that was made where nothing can be awaited, and took so long.
pub fn database_took(system: System, statement: &'static str, error: &'static str, took: Duration) {
    metrics().database_call(system.as_str(), statement, error, took);
}

/// Makes a request to the place of the archive's objects; `outcome` names what came of it.
pub async fn objects<T, E>(
    operation: &'static str,
    outcome: impl Fn(&Result<T, E>) -> &'static str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let span = tracing::trace_span!(
        target: TARGET,
        "objects",
        otel.name = format_args!("objects {operation}"),
        otel.kind = "client",
        otel.status_code = Empty,
        error.r#type = Empty,
        colloquy.objects.operation = operation,
    );
    let mut timed = Timed {
        span: span.clone(),
        started: Instant::now(),
        ended: ABANDONED,
        failed: true,
        record: |ended, took| metrics().objects_request(operation, ended, took),
    };
    let done = call.instrument(span).await;
    timed.ended = outcome(&done);
    timed.failed = timed.ended == FAILED;
    done
}

/// One phase of the archiver's work.
pub async fn phase<T>(phase: &'static str, work: impl Future<Output = T>) -> T {
    let span = tracing::trace_span!(target: TARGET, "phase", otel.name = format_args!("archive {phase}"), colloquy.archive.phase = phase);
    let started = Instant::now();
    let done = work.instrument(span).await;
    metrics().archive_phase(phase, started.elapsed());
    done
}
