//! A collector that keeps what it is sent: OTLP over HTTP with protobuf, as `opentelemetry-proto` reads it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    resource::v1::Resource,
    trace::v1::span::SpanKind,
};
use poem::{
    Body, EndpointExt, Route, Server, handler,
    http::HeaderMap,
    listener::{Acceptor, Listener, TcpListener},
    post,
    web::Data,
};
use prost::Message;
use tokio::task::JoinHandle;

/// A running collector; gone when dropped.
pub struct Collector {
    url: String,
    kept: Arc<Mutex<Received>>,
    serving: JoinHandle<()>,
}

/// What was sent.
#[derive(Debug, Default, Clone)]
pub struct Received {
    pub spans: Vec<Span>,
    pub logs: Vec<LogRecord>,
    /// The names of metrics.
    pub metrics: Vec<String>,
    /// What who sent it says of itself, as it said it last.
    pub resource: HashMap<String, String>,
    /// Every byte of every body.
    pub bytes: Vec<u8>,
    /// The header `authorization` of every request.
    pub authorizations: Vec<String>,
}

/// A span, with its attributes as text.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub is_error: bool,
    pub attributes: HashMap<String, String>,
    /// The traces that it has links to.
    pub links: Vec<String>,
}

type Kept = Arc<Mutex<Received>>;

impl Collector {
    pub async fn start() -> Self {
        let kept = Kept::default();
        let app = Route::new()
            .at("/v1/traces", post(traces))
            .at("/v1/metrics", post(metrics))
            .at("/v1/logs", post(logs))
            .data(Arc::clone(&kept));
        let acceptor = TcpListener::bind("127.0.0.1:0")
            .into_acceptor()
            .await
            .expect("a free port");
        let address = acceptor.local_addr()[0].to_string();
        let url = format!("http://{}", address.trim_start_matches("socket://"));
        let serving = tokio::spawn(async move {
            Server::new_with_acceptor(acceptor)
                .run(app)
                .await
                .expect("the collector serves");
        });
        Self { url, kept, serving }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn received(&self) -> Received {
        self.kept.lock().unwrap().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Received {
    /// The one span of this name in this trace.
    pub fn span(&self, trace: &str, name: &str) -> &Span {
        match self.spans_of(trace, name).as_slice() {
            [span] => span,
            spans => panic!(
                "{} spans {name} in {trace}; there are {:#?}",
                spans.len(),
                self.names(trace)
            ),
        }
    }

    pub fn spans_of(&self, trace: &str, name: &str) -> Vec<&Span> {
        let wanted = |span: &&Span| span.trace == trace && span.name == name;
        self.spans.iter().filter(wanted).collect()
    }

    /// What there is in a trace.
    pub fn names(&self, trace: &str) -> Vec<&str> {
        let of_trace = self.spans.iter().filter(|span| span.trace == trace);
        of_trace.map(|span| span.name.as_str()).collect()
    }

    /// Whether `span` is `ancestor` or somewhere below it.
    pub fn is_within(&self, span: &Span, ancestor: &Span) -> bool {
        let parent = |span: &Span| self.spans.iter().find(|other| other.id == span.parent);
        std::iter::successors(Some(span), |span| parent(span)).any(|span| span.id == ancestor.id)
    }
}

#[handler]
async fn traces(kept: Data<&Kept>, headers: &HeaderMap, body: Body) {
    let bytes = body.into_bytes().await.expect("a body");
    let request = ExportTraceServiceRequest::decode(&bytes[..]).expect("spans");
    let mut kept = keep(&kept, headers, &bytes);
    for of_resource in request.resource_spans {
        kept.describe(of_resource.resource);
        let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        kept.spans.extend(spans.map(|span| Span {
            kind: span.kind(),
            is_error: span.status.is_some_and(|status| status.code == 2),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            attributes: texts(span.attributes),
            links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
            name: span.name,
        }));
    }
}

#[handler]
async fn metrics(kept: Data<&Kept>, headers: &HeaderMap, body: Body) {
    let bytes = body.into_bytes().await.expect("a body");
    let request = ExportMetricsServiceRequest::decode(&bytes[..]).expect("metrics");
    let mut kept = keep(&kept, headers, &bytes);
    for of_resource in request.resource_metrics {
        kept.describe(of_resource.resource);
        let metrics = of_resource
            .scope_metrics
            .into_iter()
            .flat_map(|scope| scope.metrics);
        kept.metrics.extend(metrics.map(|metric| metric.name));
    }
}

#[handler]
async fn logs(kept: Data<&Kept>, headers: &HeaderMap, body: Body) {
    let bytes = body.into_bytes().await.expect("a body");
    let request = ExportLogsServiceRequest::decode(&bytes[..]).expect("logs");
    let mut kept = keep(&kept, headers, &bytes);
    for of_resource in request.resource_logs {
        kept.describe(of_resource.resource);
        let logs = of_resource
            .scope_logs
            .into_iter()
            .flat_map(|scope| scope.log_records);
        kept.logs.extend(logs);
    }
}

fn keep<'a>(kept: &'a Kept, headers: &HeaderMap, bytes: &[u8]) -> std::sync::MutexGuard<'a, Received> {
    let mut kept = kept.lock().unwrap();
    kept.bytes.extend_from_slice(bytes);
    let sent = headers.get("authorization").and_then(|value| value.to_str().ok());
    kept.authorizations.push(sent.unwrap_or_default().to_owned());
    kept
}

impl Received {
    fn describe(&mut self, resource: Option<Resource>) {
        self.resource = texts(resource.map(|resource| resource.attributes).unwrap_or_default());
    }
}

pub fn texts(attributes: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|one| (one.key, text(one.value)))
        .collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
