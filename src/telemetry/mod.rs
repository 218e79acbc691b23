//! What the process tells of itself: logs, metrics and traces.
//!
//! - [`logs`]: lines on stderr.
//! - [`metrics`]: every instrument, by name; `/metrics` shows them to Prometheus.
//! - [`spans`]: what a trace is made of: requests, use cases, shared writes, calls of backends.
//! - [`calls`]: times calls of backends, for both.
//! - [`otlp`]: sends all three to a collector, where the standard `OTEL_*` variables ask for it.
//!
//! Lower layers only name what happened. No payload and no secret goes into any of the three: what is recorded are
//! names that the code gives, counts, times, and the ids of requests, sessions and traces.

use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

pub mod calls;
pub mod logs;
pub mod metrics;
pub mod otlp;
pub mod spans;

pub use logs::{LogFilter, LogFormat};
use otlp::Exporters;

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("logging is already set up in this process")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
    #[error("{0}")]
    Exporter(#[from] otlp::ExporterError),
}

/// The telemetry of this process. To be [ended](Self::end) when it stops, or what was gathered last is lost.
#[must_use]
pub struct Telemetry(Exporters);

/// Sets up logs, metrics and traces for this process, those of the `log` crate included. Not to be called on a thread
/// of an asynchronous runtime: exporters have clients that block.
///
/// # Errors
/// The process has a subscriber already, or an `OTEL_*` variable asks for what can't be done.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<Telemetry, InitError> {
    let mut exporters = Exporters::from_environment()?;
    metrics::begin(&mut exporters)?;
    tracing_subscriber::registry()
        .with(logs::layer(format, filter))
        .with(exporters.traces())
        .with(exporters.logs(filter))
        .try_init()?;
    Ok(Telemetry(exporters))
}

impl Telemetry {
    /// Sends what is left, for a few seconds at most. Not to be called on a thread of an asynchronous runtime.
    pub fn end(self) {
        self.0.end();
    }
}
