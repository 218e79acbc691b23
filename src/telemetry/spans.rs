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
    let context = context_of(span)?;
    Some(context.trace_id().to_string())
}

/// What to send along with a request that is made within a span, as `traceparent`.
pub fn traceparent(span: &Span) -> Option<String> {
    struct Sent(Option<String>);
    impl Injector for Sent {
        fn set(&mut self, key: &str, value: String) {
            if key == TRACEPARENT {
                self.0 = Some(value);
            }
        }
    }
    if !are_on() || span.is_none() {
        return None;
    }
    let mut sent = Sent(None);
    global::get_text_map_propagator(|propagator| propagator.inject_context(&span.context(), &mut sent));
    sent.0
}

/// Where in a trace something was asked for, for work that is done for several at once.
#[derive(Debug, Clone)]
pub struct Origin(SpanContext);

/// The span that is current.
pub fn origin() -> Option<Origin> {
    context_of(&Span::current()).map(Origin)
}

fn context_of(span: &Span) -> Option<SpanContext> {
    if !are_on() {
        return None;
    }
    let context = span.context().span().span_context().clone();
    context.is_valid().then_some(context)
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

/// The context of the span that is current, for whoever records a span after the fact.
pub fn current() -> Context {
    Span::current().context()
}
