//! What a trace is made of. A span is made with a name that the code gives, so there are few of them; what differs
//! from one to the next is in attributes with the names of the semantic conventions
//! (<https://opentelemetry.io/docs/specs/semconv/>), and no attribute holds what a caller said in a conversation.
//!
//! All have the target [`TARGET`] and the level TRACE, which no log shows unless asked to, so that they cost nothing
//! where no trace is sent.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::{SpanContext, TraceContextExt},
};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span that may become part of a trace.
pub const TARGET: &str = "otel";

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

static ON: AtomicBool = AtomicBool::new(false);

/// From now on spans are recorded.
pub(super) fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

fn are_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// What a caller says of the trace that its request is part of, in the headers of W3C Trace Context.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    pub traceparent: Option<&'a str>,
    pub tracestate: Option<&'a str>,
}

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => self.traceparent,
            TRACESTATE => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// The span of a request to the service, part of its caller's trace. `route` is the template.
pub fn request(method: &str, route: Option<&str>, path: &str, caller: Caller<'_>) -> Span {
    if !are_on() {
        return Span::none();
    }
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    let span = tracing::trace_span!(
        target: TARGET,
        parent: None,
        "request",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = route.map(|_| path),
        url.scheme = "http",
    );
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&caller));
    // Fails only for a span that was entered already.
    let _ = span.set_parent(parent);
    span
}

/// Says how a request ended.
pub fn answered(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// The id of the trace that a span is part of.
pub fn trace_id(span: &Span) -> Option<String> {
    if span.is_none() {
        return None;
    }
    Some(valid(&span.context())?.trace_id().to_string())
}

/// What names a span to others, as `traceparent`.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_none() {
        None
    } else {
        injected(&span.context())
    }
}

/// What to send along with a request that is made now, as `traceparent`.
pub fn current_traceparent() -> Option<String> {
    injected(&Context::current())
}

fn injected(context: &Context) -> Option<String> {
    struct Sent(Option<String>);
    impl Injector for Sent {
        fn set(&mut self, key: &str, value: String) {
            if key == TRACEPARENT {
                self.0 = Some(value);
            }
        }
    }
    valid(context)?;
    let mut sent = Sent(None);
    global::get_text_map_propagator(|propagator| propagator.inject_context(context, &mut sent));
    sent.0
}

/// Where in a trace something was asked for, for work that is done for several at once.
#[derive(Debug, Clone)]
pub struct Origin(SpanContext);

/// The span that is current, in whichever layers.
pub fn origin() -> Option<Origin> {
    valid(&Context::current()).map(Origin)
}

fn valid(context: &Context) -> Option<SpanContext> {
    let context = context.span().span_context().clone();
    (are_on() && context.is_valid()).then_some(context)
}

/// The span of a shared write, the root of a trace of its own, with links to the requests in it.
pub fn flush<'a>(events: usize, bytes: usize, origins: impl Iterator<Item = &'a Origin>) -> Span {
    if !are_on() {
        return Span::none();
    }
    let span = tracing::trace_span!(
        target: TARGET,
        parent: None,
        "append flush",
        colloquy.events = events,
        colloquy.bytes = bytes,
    );
    for origin in origins {
        span.add_link(origin.0.clone());
    }
    span
}

/// The span of a run of the archiver, the root of a trace of its own.
pub fn run(id: &str) -> Span {
    tracing::trace_span!(target: TARGET, parent: None, "archive run", colloquy.archive.run = id)
}
