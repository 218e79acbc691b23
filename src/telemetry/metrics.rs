//! Every instrument of the process, by its name in OpenTelemetry; Prometheus sees `_` in place of dots, and units and
//! `_total` at the end. What each means to an operator is in docs/OPERATIONS.md.
//!
//! Labels have few values, all of them names that the code gives.

use std::{
    sync::{LazyLock, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{PeriodicReader, SdkMeterProvider},
};
use prometheus::{Encoder, Registry, TextEncoder};

use super::otlp::{ExporterError, Exporters};

/// What [`text`] is in.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Buckets of times in seconds, from what a read of the cache takes to what a caller waits at most.
const SECONDS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Buckets of what the archiver takes for a phase, in seconds.
const PHASE_SECONDS: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// Buckets of how many events share a write.
const EVENTS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

static PROVIDER: OnceLock<(SdkMeterProvider, Registry)> = OnceLock::new();

/// Before [`begin`] every instrument counts for nobody.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(&meter()));

/// The instruments of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

fn meter() -> Meter {
    global::meter("colloquy")
}

/// Makes instruments count, for `/metrics` and for whoever is to be sent them.
pub(super) fn begin(exporters: &mut Exporters) -> Result<(), ExporterError> {
    let registry = Registry::new();
    let shown = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .without_target_info()
        .build()?;
    let mut provider = SdkMeterProvider::builder()
        .with_resource(exporters.resource())
        .with_reader(shown);
    if let Some(sent) = exporters.metrics() {
        provider = provider.with_reader(PeriodicReader::builder(sent).build());
    }
    let provider = provider.build();
    global::set_meter_provider(provider.clone());
    // Without /proc there is nothing to be said of the process.
    let _ = registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ));
    let _ = PROVIDER.set((provider, registry));
    let version = KeyValue::new("version", env!("CARGO_PKG_VERSION"));
    meter()
        .u64_gauge("colloquy.build_info")
        .with_description("1, with the version that runs.")
        .build()
        .record(1, &[version]);
    Ok(())
}

/// Sends what is left; `None` where nothing was begun.
pub(super) fn end(time_max: Duration) -> Option<OTelSdkResult> {
    let (provider, _) = PROVIDER.get()?;
    Some(provider.shutdown_with_timeout(time_max))
}

/// Every metric as it stands, in Prometheus's text format
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub fn text() -> Vec<u8> {
    let mut out = Vec::with_capacity(16 * 1024);
    if let Some((_, registry)) = PROVIDER.get() {
        // Writing to a vector can't fail, and what was registered is of one kind each.
        if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut out) {
            tracing::error!(%error, "the metrics could not be written");
        }
    }
    out
}

/// What is observed whenever somebody looks: values, each with its labels.
pub type Observed<T> = Vec<(T, Vec<KeyValue>)>;

/// A label of a metric.
pub fn label(name: &'static str, value: &'static str) -> KeyValue {
    KeyValue::new(name, value)
}

/// A gauge that is asked for.
pub fn observe_gauge(
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    look: impl Fn() -> Observed<f64> + Send + Sync + 'static,
) {
    meter()
        .f64_observable_gauge(name)
        .with_unit(unit)
        .with_description(description)
        .with_callback(move |observer| {
            for (value, labels) in look() {
                observer.observe(value, &labels);
            }
        })
        .build();
}

/// A counter that is kept elsewhere, and asked for.
pub fn observe_counter(
    name: &'static str,
    description: &'static str,
    look: impl Fn() -> Observed<u64> + Send + Sync + 'static,
) {
    meter()
        .u64_observable_counter(name)
        .with_description(description)
        .with_callback(move |observer| {
            for (value, labels) in look() {
                observer.observe(value, &labels);
            }
        })
        .build();
}

/// What is recorded when it happens.
pub struct Metrics {
    requests: Histogram<f64>,
    requests_active: UpDownCounter<i64>,
    connections: UpDownCounter<i64>,
    requests_shed: Counter<u64>,
    events_appended: Counter<u64>,
    groups: Histogram<u64>,
    flushes: Histogram<f64>,
    appends_refused: Counter<u64>,
    database_calls: Histogram<f64>,
    objects_requests: Histogram<f64>,
    archive_phases: Histogram<f64>,
    archive_runs: Counter<u64>,
    archive_bytes: Counter<u64>,
    archive_last_run: Gauge<f64>,
    chore_failures: Counter<u64>,
    chore_rounds: Counter<u64>,
    chore_owner: Gauge<u64>,
}

impl Metrics {
    fn new(meter: &Meter) -> Self {
        let seconds = |name: &'static str, description: &'static str, buckets: &[f64]| {
            let histogram = meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description);
            histogram.with_boundaries(buckets.to_vec()).build()
        };
        let counter = |name: &'static str, description: &'static str| {
            meter.u64_counter(name).with_description(description).build()
        };
        let level = |name: &'static str, description: &'static str| {
            meter
                .i64_up_down_counter(name)
                .with_description(description)
                .build()
        };
        let metrics = Self {
            requests: seconds(
                "http.server.request.duration",
                "Time from a request's head to its answer's, by the route's template.",
                &SECONDS,
            ),
            requests_active: level("http.server.active_requests", "Requests under way."),
            connections: level("colloquy.connections", "Connections open."),
            requests_shed: counter(
                "colloquy.requests_shed",
                "Requests refused because too many were in flight, by kind.",
            ),
            events_appended: counter(
                "colloquy.events_appended",
                "Events that were to be appended, by what became of them.",
            ),
            groups: meter
                .u64_histogram("colloquy.append.group_events")
                .with_description("Events that shared a write.")
                .with_boundaries(EVENTS.to_vec())
                .build(),
            flushes: seconds(
                "colloquy.append.flush.duration",
                "Time that a shared write took.",
                &SECONDS,
            ),
            appends_refused: counter(
                "colloquy.append.refused",
                "Requests with appends refused because the queue was full.",
            ),
            database_calls: seconds(
                "db.client.operation.duration",
                "Time that calls of databases took, by system and operation; error_type is empty where it went well.",
                &SECONDS,
            ),
            objects_requests: seconds(
                "colloquy.objects.request.duration",
                "Time that requests to the place of the archive's objects took.",
                &SECONDS,
            ),
            archive_phases: seconds(
                "colloquy.archive.phase.duration",
                "Time that a phase of the archiver's work took.",
                &PHASE_SECONDS,
            ),
            archive_runs: counter(
                "colloquy.archive.runs",
                "Runs of the archiver that ended, by how.",
            ),
            archive_bytes: counter("colloquy.archive.bytes", "Bytes that were written to segments."),
            archive_last_run: meter
                .f64_gauge("colloquy.archive.last_run_timestamp")
                .with_unit("s")
                .with_description("When this process last archived what was due without a failure.")
                .build(),
            chore_failures: counter(
                "colloquy.chore_failures",
                "Chores that failed; each is tried again at its time.",
            ),
            chore_rounds: counter("colloquy.chore.rounds", "Rounds of chores that this process did."),
            chore_owner: meter
                .u64_gauge("colloquy.chore.owner")
                .with_description(
                    "Whether this process does the chores that one process at a time does, by their lease.",
                )
                .build(),
        };
        metrics.begin_at_zero();
        metrics
    }

    /// A counter that first shows with a 1 in it hides that something happened for the first time.
    fn begin_at_zero(&self) {
        for outcome in ["created", "replayed", "conflict", "rejected"] {
            self.events_appended.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        for status in ["completed", "failed", "stopped"] {
            self.archive_runs.add(0, &[KeyValue::new("status", status)]);
        }
        for kind in ["read", "write"] {
            self.requests_shed.add(0, &[KeyValue::new("kind", kind)]);
        }
        self.appends_refused.add(0, &[]);
        self.archive_bytes.add(0, &[]);
        self.requests_active.add(0, &[]);
        self.connections.add(0, &[]);
    }

    /// A request was answered.
    pub fn request(&self, method: &'static str, route: &'static str, status: u16, took: Duration) {
        let labels = [
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route),
            KeyValue::new("http.response.status_code", i64::from(status)),
        ];
        self.requests.record(took.as_secs_f64(), &labels);
    }

    /// Counts a request as under way until what is given is dropped.
    pub fn request_active(&self) -> Active {
        Active::begin(self.requests_active.clone())
    }

    /// A request was refused because too many were in flight: a `read` or a `write`.
    pub fn shed(&self, kind: &'static str) {
        self.requests_shed.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// Counts a connection as open until what is given is dropped.
    pub fn connection(&self) -> Active {
        Active::begin(self.connections.clone())
    }

    /// So many events were to be appended, and this became of them: `created`, `replayed`, `conflict` or `rejected`.
    pub fn appended(&self, outcome: &'static str, events: u64) {
        if events > 0 {
            let labels = [KeyValue::new("outcome", outcome)];
            self.events_appended.add(events, &labels);
        }
    }

    /// A shared write of so many events ended.
    pub fn flushed(&self, events: usize, is_good: bool, took: Duration) {
        self.groups.record(u64::try_from(events).unwrap_or(u64::MAX), &[]);
        let outcome = if is_good { "ok" } else { "failed" };
        self.flushes
            .record(took.as_secs_f64(), &[KeyValue::new("outcome", outcome)]);
    }

    /// The append queue was full.
    pub fn append_refused(&self) {
        self.appends_refused.add(1, &[]);
    }

    /// A call of a database ended; `statement` as in [`calls::database`](super::calls::database).
    pub(super) fn database_call(
        &self,
        system: &'static str,
        statement: &'static str,
        error: &'static str,
        took: Duration,
    ) {
        let labels = [
            KeyValue::new("db.system.name", system),
            KeyValue::new("db.operation.name", statement),
            KeyValue::new("error.type", error),
        ];
        self.database_calls.record(took.as_secs_f64(), &labels);
    }

    pub(super) fn objects_request(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        let labels = [
            KeyValue::new("operation", operation),
            KeyValue::new("outcome", outcome),
        ];
        self.objects_requests.record(took.as_secs_f64(), &labels);
    }

    pub(super) fn archive_phase(&self, phase: &'static str, took: Duration) {
        let labels = [KeyValue::new("phase", phase)];
        self.archive_phases.record(took.as_secs_f64(), &labels);
    }

    /// A run of the archiver ended, and is recorded with this status.
    pub fn archive_run(&self, status: &'static str) {
        self.archive_runs.add(1, &[KeyValue::new("status", status)]);
    }

    /// A segment was written.
    pub fn archive_written(&self, bytes: u64) {
        self.archive_bytes.add(bytes, &[]);
    }

    /// Archiving on schedule ended well.
    pub fn archive_round(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.archive_last_run.record(now.as_secs_f64(), &[]);
    }

    /// A chore may be done from now on.
    pub fn chore_begun(&self, chore: &'static str) {
        let labels = [KeyValue::new("chore", chore)];
        self.chore_failures.add(0, &labels);
        self.chore_rounds.add(0, &labels);
    }

    /// This process did a round of a chore.
    pub fn chore_done(&self, chore: &'static str, is_good: bool) {
        let labels = [KeyValue::new("chore", chore)];
        self.chore_rounds.add(1, &labels);
        self.chore_failures.add(u64::from(!is_good), &labels);
    }

    /// Whether this process has the lease of a chore.
    pub fn chore_owned(&self, lease: &'static str, is_owner: bool) {
        self.chore_owner
            .record(u64::from(is_owner), &[KeyValue::new("lease", lease)]);
    }
}

/// Something that is counted while it lasts.
pub struct Active(UpDownCounter<i64>);

impl Active {
    fn begin(level: UpDownCounter<i64>) -> Self {
        level.add(1, &[]);
        Self(level)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}
