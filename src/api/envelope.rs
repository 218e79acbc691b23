//! What is around every request: its id, the check of its query string, one line in the log, and errors that all
//! look the same.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt;
use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    http::{HeaderValue, Method, header},
};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::{
    extract::QueryString,
    problem::{Code, Problem},
    spec::RouteTable,
};
use crate::{
    domain::{Error, FieldError, error::FAULTS_TOLD_MAX},
    telemetry::{
        metrics::{Active, metrics},
        spans::{self, Caller},
    },
};

const REQUEST_ID: &str = "X-Request-Id";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The status of a request whose caller hung up before there was an answer, as nginx has it; nobody is sent it.
const ABANDONED: u16 = 499;

/// Longest request id that is taken from a caller, in characters.
const REQUEST_ID_LENGTH_MAX: usize = 128;

/// The request's id: the caller's own where it sent a usable one.
#[derive(Clone)]
pub struct RequestId(pub Arc<str>);

/// Wraps the whole API.
pub struct Envelope {
    routes: Arc<RouteTable>,
}

impl Default for Envelope {
    fn default() -> Self {
        Self {
            routes: Arc::new(RouteTable::default()),
        }
    }
}

impl<E: Endpoint> Middleware<E> for Envelope {
    type Output = Enveloped<E>;

    fn transform(&self, inner: E) -> Self::Output {
        Enveloped {
            inner,
            routes: Arc::clone(&self.routes),
        }
    }
}

pub struct Enveloped<E> {
    inner: E,
    routes: Arc<RouteTable>,
}

impl<E: Endpoint> Endpoint for Enveloped<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let started = Instant::now();
        let id = request_id(&request);
        let method = known(request.method());
        let path = request.uri().path().to_owned();
        // A path that is no route's is whatever a stranger made up: it is no label, and is not logged.
        let route = self.routes.template(&path);
        let traced = match is_routine(route) {
            true => Span::none(),
            false => spans::request(method, route, &path, caller(&request)),
        };
        let trace_id = spans::trace_id(&traced).or_else(|| trace_id(&request).map(str::to_owned));
        request.set_data(id.clone());

        // At this level so that whatever is logged has the ids, however little is.
        let logged = tracing::error_span!(parent: &traced, "request", request_id = %id.0, trace_id);
        let mut exchange = Exchange {
            started,
            method,
            route,
            id: &id,
            trace_id,
            traced: traced.clone(),
            status: ABANDONED,
            _active: metrics().request_active(),
        };
        let answering = self.answer(request, &id).instrument(logged);
        let mut response = answering.instrument(traced.clone()).await;
        exchange.status = response.status().as_u16();

        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&id.0) {
            headers.insert(REQUEST_ID, value);
        }
        // A proxy that kept an answer would serve it stale (I3).
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(value) = spans::traceparent(&traced).and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(TRACEPARENT, value);
        }
        Ok(response)
    }
}

/// Probes and scrapes come every few seconds for ever: they are no traces, and what goes well is hardly logged.
fn is_routine(route: Option<&str>) -> bool {
    matches!(route, Some("/healthz" | "/readyz" | "/metrics"))
}

/// A request under way. It is told of when this is dropped, since a caller that hangs up takes along whatever still
/// waits for an answer.
struct Exchange<'a> {
    started: Instant,
    method: &'static str,
    route: Option<&'a str>,
    id: &'a RequestId,
    trace_id: Option<String>,
    traced: Span,
    status: u16,
    _active: Active,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let (status, took) = (self.status, self.started.elapsed());
        let route = self.route.unwrap_or("-");
        spans::answered(&self.traced, status);
        metrics().request(self.method, route, status, took);
        let _in_trace = self.traced.enter();
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    target: "colloquy::http",
                    method = %self.method,
                    route,
                    status,
                    duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                    request_id = %self.id.0,
                    trace_id = self.trace_id,
                    "request"
                )
            };
        }
        match is_routine(self.route) && status == 200 {
            true => log!(debug),
            false => log!(info),
        }
    }
}

impl<E: Endpoint> Enveloped<E> {
    /// The response, whatever happens.
    async fn answer(&self, mut request: Request, id: &RequestId) -> Response {
        let path = request.uri().path().to_owned();
        let refuse = |problem: &Problem| problem.respond(&id.0, &self.routes.allowed(&path));
        if let Err(problem) = self.precondition(&request) {
            return refuse(&problem);
        }
        match self.query_string(&request) {
            Ok(query) => request.set_data(query),
            Err(problem) => return refuse(&problem),
        };
        match AssertUnwindSafe(self.inner.call(request)).catch_unwind().await {
            Ok(Ok(output)) => output.into_response(),
            Ok(Err(error)) => match error.downcast_ref::<Problem>() {
                Some(problem) => refuse(problem),
                None => refuse(&Problem::from(&error)),
            },
            Err(_panic) => {
                tracing::error!("a request panicked; this is a bug");
                refuse(&Problem::new(
                    Code::Internal,
                    "the request failed; the log has more under the request id",
                ))
            }
        }
    }

    /// Refuses `If-Match` where it is not honoured: to go on as if it had matched is what it is there to prevent.
    fn precondition(&self, request: &Request) -> Result<(), Problem> {
        let (method, path) = (request.method(), request.uri().path());
        let honoured = method.is_safe() || self.routes.takes_header(method, path, "If-Match");
        match honoured || !request.headers().contains_key(header::IF_MATCH) {
            true => Ok(()),
            false => {
                Err(Error::parameter("If-Match", "is not honoured by this operation; leave it out").into())
            }
        }
    }

    /// Refuses parameters that the operation does not take, by name, and any that stands twice.
    fn query_string(&self, request: &Request) -> Result<QueryString, Problem> {
        let Some(text) = request.uri().query().filter(|text| !text.is_empty()) else {
            return Ok(QueryString::default());
        };
        let Some(known) = self.routes.query_names(request.method(), request.uri().path()) else {
            return Ok(QueryString::default());
        };
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        let mut faults = Vec::new();
        for (at, (name, _)) in pairs.iter().enumerate() {
            let message = if !known.contains(name) {
                "is not a parameter of this operation"
            } else if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                "is given twice"
            } else {
                continue;
            };
            let field = crate::domain::json::abridged(name).into_owned();
            faults.push(FieldError {
                field,
                message: message.to_owned(),
            });
            if faults.len() == FAULTS_TOLD_MAX {
                break;
            }
        }
        match faults.is_empty() {
            true => Ok(QueryString(pairs)),
            false => Err(Error::of_fields(crate::domain::Kind::InvalidParameter, faults).into()),
        }
    }
}

fn request_id(request: &Request) -> RequestId {
    let usable = |text: &&str| {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        (1..=REQUEST_ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed)
    };
    match request.header(REQUEST_ID).filter(usable) {
        Some(sent) => RequestId(sent.into()),
        None => RequestId(Uuid::now_v7().to_string().into()),
    }
}

/// The method as telemetry knows it: what a stranger made up is no label.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}

/// What the caller says of its trace.
fn caller(request: &Request) -> Caller<'_> {
    Caller {
        traceparent: request.header(TRACEPARENT),
        tracestate: request.header(TRACESTATE),
    }
}

/// The trace id of a W3C `traceparent`, so that the log can be joined with the caller's traces.
fn trace_id(request: &Request) -> Option<&str> {
    let mut parts = request.header(TRACEPARENT)?.split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    (hex(version, 2) && hex(trace_id, 32) && trace_id.bytes().any(|b| b != b'0')).then_some(trace_id)
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        io::{self, Write},
        sync::Mutex,
        time::Duration,
    };

    use poem::endpoint::make;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_request_whose_caller_hangs_up_is_told_of_all_the_same() {
        let never = Envelope::default().transform(make(|_| pending::<Result<Response>>()));
        let lines = Lines::default();
        let writer = {
            let lines = lines.clone();
            move || lines.clone()
        };
        let subscriber = tracing_subscriber::fmt()
            .with_writer(writer)
            .with_ansi(false)
            .finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let request = Request::builder().uri("/v1/sessions".parse().unwrap()).finish();
        let waited = tokio::time::timeout(Duration::from_millis(5), never.call(request)).await;
        assert!(waited.is_err(), "nobody answers");
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let expected = "method=GET route=\"/v1/sessions\" status=499";
        assert!(lines.contains(expected), "{lines}");
    }
}
