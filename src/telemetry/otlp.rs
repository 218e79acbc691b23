//! The way to a collector: OTLP over HTTP with protobuf, as the standard variables say
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! A signal is sent where `OTEL_EXPORTER_OTLP_ENDPOINT` is set, or its own
//! `OTEL_EXPORTER_OTLP_{TRACES,METRICS,LOGS}_ENDPOINT`; unless `OTEL_SDK_DISABLED` is `true`, or
//! `OTEL_{TRACES,METRICS,LOGS}_EXPORTER` is `none`. Headers, time-outs, samplers, batches and resource attributes are
//! read by the SDK itself.
//!
//! A collector that is away costs no request anything: what can't be sent in time is dropped, and the log says so.

use std::{
    env,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{ExporterBuildError, LogExporter, MetricExporter, SpanExporter};
use opentelemetry_sdk::{
    Resource, error::OTelSdkResult, logs::SdkLoggerProvider, propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::{logs::LogFilter, metrics, spans};

/// Longest that sending what is left takes at the end.
const END_TIME_MAX: Duration = Duration::from_secs(3);

/// What can't be exported as asked.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    #[error("{0} is {1:?}: only http/protobuf is spoken (a collector listens for it on port 4318)")]
    Protocol(&'static str, String),
    #[error("{0} is {1:?}: must be otlp or none")]
    Exporter(&'static str, String),
    #[error("OTLP for {0}: {1}")]
    Build(&'static str, #[source] ExporterBuildError),
    #[error("metrics: {0}")]
    Metrics(#[from] opentelemetry_sdk::error::OTelSdkError),
}

/// A kind of telemetry, and the variables that speak of it.
struct Signal {
    name: &'static str,
    exporter: &'static str,
    endpoint: &'static str,
    protocol: &'static str,
}

const TRACES: Signal = Signal {
    name: "traces",
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
};
const METRICS: Signal = Signal {
    name: "metrics",
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
};
const LOGS: Signal = Signal {
    name: "logs",
    exporter: "OTEL_LOGS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

impl Signal {
    /// Whether it is to be sent.
    fn is_wanted(&self) -> Result<bool, ExporterError> {
        if given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(false);
        }
        let asked = match given(self.exporter).as_deref() {
            Some("none") => return Ok(false),
            Some("otlp") => true,
            Some(other) => return Err(ExporterError::Exporter(self.exporter, other.to_owned())),
            None => false,
        };
        if !asked && given(ENDPOINT).is_none() && given(self.endpoint).is_none() {
            return Ok(false);
        }
        for name in [self.protocol, PROTOCOL] {
            match given(name) {
                Some(protocol) if protocol != "http/protobuf" => {
                    return Err(ExporterError::Protocol(name, protocol));
                }
                Some(_) => break,
                None => {}
            }
        }
        Ok(true)
    }

    fn failed(&self) -> impl FnOnce(ExporterBuildError) -> ExporterError + use<> {
        let name = self.name;
        move |error| ExporterError::Build(name, error)
    }
}

/// A variable that is set; an empty one counts as unset, as the specification wants.
fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// What sends each signal that is to be sent.
pub(super) struct Exporters {
    resource: Resource,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<MetricExporter>,
}

impl Exporters {
    /// # Errors
    /// A variable asks for what can't be done.
    pub(super) fn from_environment() -> Result<Self, ExporterError> {
        let wanted = [TRACES.is_wanted()?, METRICS.is_wanted()?, LOGS.is_wanted()?];
        if wanted.contains(&true) {
            // An endpoint may be https; that somebody chose a provider before does no harm.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let resource = resource();
        let [traces, metrics, logs] = wanted;
        Ok(Self {
            traces: traces.then(|| tracer_provider(&resource)).transpose()?,
            metrics: metrics.then(metric_exporter).transpose()?,
            logs: logs.then(|| logger_provider(&resource)).transpose()?,
            resource,
        })
    }

    /// Takes the exporter of metrics out.
    pub(super) fn metrics(&mut self) -> Option<MetricExporter> {
        self.metrics.take()
    }

    pub(super) fn resource(&self) -> Resource {
        self.resource.clone()
    }

    /// The layer that makes traces of our spans, and of no library's.
    pub(super) fn traces<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let provider = self.traces.as_ref()?;
        spans::switch_on();
        global::set_text_map_propagator(TraceContextPropagator::new());
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("colloquy"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        let ours = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target() == spans::TARGET;
        Some(layer.with_filter(filter_fn(ours)))
    }

    /// The layer that sends what is logged, by the filter of the log, but for what the exporters themselves say.
    pub(super) fn logs<S>(&self, filter: &LogFilter) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let bridge = OpenTelemetryTracingBridge::builder(self.logs.as_ref()?)
            .with_tracing_span_attributes(
                opentelemetry_appender_tracing::layer::TracingSpanAttributes::allowlist(["request_id"]),
            )
            .build();
        let others = |metadata: &Metadata<'_>| {
            let exporting = ["opentelemetry", "hyper", "reqwest", "h2"];
            !exporting
                .iter()
                .any(|target| metadata.target().starts_with(target))
        };
        Some(
            bridge
                .with_filter(filter_fn(others))
                .with_filter(filter.env_filter()),
        )
    }

    /// Sends what is left of all signals side by side, and waits no longer for a collector that does not answer, though
    /// an exporter might.
    pub(super) fn end(self) {
        type End = Box<dyn FnOnce() -> Option<OTelSdkResult> + Send>;
        let ends: [(&str, End); 3] = [
            (
                "traces",
                Box::new(move || Some(self.traces?.shutdown_with_timeout(END_TIME_MAX))),
            ),
            (
                "logs",
                Box::new(move || Some(self.logs?.shutdown_with_timeout(END_TIME_MAX))),
            ),
            ("metrics", Box::new(|| metrics::end(END_TIME_MAX))),
        ];
        let (ended, all_ended) = mpsc::channel();
        for (name, end) in ends {
            let ended = ended.clone();
            thread::spawn(move || {
                // Nobody listens any more when time is up.
                let _ = ended.send((name, end()));
            });
        }
        drop(ended);
        let until = Instant::now() + END_TIME_MAX;
        while let Ok((name, ended)) = all_ended.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if let Some(Err(error)) = ended {
                tracing::warn!(%error, "the last {name} could not be sent");
            }
        }
    }
}

/// Who sends; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have the last word.
fn resource() -> Resource {
    let instance = uuid::Uuid::new_v4().to_string();
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance),
    ];
    let standard: [Box<dyn opentelemetry_sdk::resource::ResourceDetector>; 2] = [
        Box::new(opentelemetry_sdk::resource::TelemetryResourceDetector),
        Box::new(opentelemetry_sdk::resource::EnvResourceDetector::new()),
    ];
    let named = given("OTEL_SERVICE_NAME");
    let resource = Resource::builder_empty()
        .with_service_name("colloquy")
        .with_attributes(own)
        .with_detectors(&standard);
    match named {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

fn tracer_provider(resource: &Resource) -> Result<SdkTracerProvider, ExporterError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .build()
        .map_err(TRACES.failed())?;
    Ok(SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_batch_exporter(exporter)
        .build())
}

fn logger_provider(resource: &Resource) -> Result<SdkLoggerProvider, ExporterError> {
    let exporter = LogExporter::builder()
        .with_http()
        .build()
        .map_err(LOGS.failed())?;
    Ok(SdkLoggerProvider::builder()
        .with_resource(resource.clone())
        .with_batch_exporter(exporter)
        .build())
}

fn metric_exporter() -> Result<MetricExporter, ExporterError> {
    MetricExporter::builder()
        .with_http()
        .build()
        .map_err(METRICS.failed())
}
