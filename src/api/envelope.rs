//! What is around every request: its id, the check of its query string, one line in the log, and errors that all
//! look the same.

use std::{
    hash::{BuildHasher, RandomState},
    panic::AssertUnwindSafe,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::FutureExt;
use poem::{
    Endpoint, Request, Response, Result,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::{
    answers::Answers,
    body::BodyLimits,
    problem::{Code, Problem},
    router::{self, Operation, Route, Router},
};
use crate::{
    domain::{Error, FieldError, error::FAULTS_TOLD_MAX},
    telemetry::{
        metrics::{Active, metrics},
        spans::{self, Caller},
    },
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The status of a request whose caller hung up before there was an answer, as nginx has it; nobody is sent it.
const ABANDONED: u16 = 499;

/// Longest request id that is taken from a caller, in characters.
const REQUEST_ID_LENGTH_MAX: usize = 128;

/// The request's id: the caller's own where it sent a usable one.
#[derive(Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// One for a request that sent none.
    pub fn made_up() -> Self {
        let mut text = Uuid::encode_buffer();
        let text = made_up().as_hyphenated().encode_lower(&mut text);
        // Hexadecimal digits and hyphens are a value that every header takes.
        Self(HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("-")))
    }

    pub fn as_str(&self) -> &str {
        // It is made of graphic ASCII, which is what `to_str` asks for.
        self.0.to_str().unwrap_or_default()
    }

    /// Sets what every answer has: this id, and that nobody may keep it. A proxy that did would serve it stale (I3).
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.0.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// What is known of a request once it is matched, for whoever reads its parameters and its body. One thing and not
/// four, because each costs a box and a place in a map.
#[derive(Clone)]
pub struct RequestContext {
    pub id: RequestId,
    pub route: &'static Route,
    /// The query string, decoded: no name twice, none that the operation does not take.
    pub query: Vec<(String, String)>,
    pub body: BodyLimits,
}

impl RequestContext {
    /// # Errors
    /// The endpoint was called past the envelope.
    pub fn of(request: &Request) -> Result<&Self, Problem> {
        let missing = || Problem::new(Code::Internal, "the server was put together without an envelope");
        request.data::<Self>().ok_or_else(missing)
    }
}

/// Wraps the whole API.
pub struct Envelope {
    router: &'static Router,
    body: BodyLimits,
    answers: Answers,
    slow: Duration,
}

impl Envelope {
    /// A request that takes longer than `slow` is logged however well it went.
    pub fn new(router: &'static Router, body: BodyLimits, answers: Answers, slow: Duration) -> Self {
        Self {
            router,
            body,
            answers,
            slow,
        }
    }
}

impl Endpoint for Envelope {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let started = Instant::now();
        let id = request_id(&request);
        let method = known(request.method());
        // A path that is no route's is whatever a stranger made up: it is no label, and is not logged.
        let route = self.router.route(request.uri().path());
        let template = route.map(|route| route.template.as_str());
        let routine = is_routine(template);
        let traced = match routine {
            true => Span::none(),
            false => spans::request(method, template, request.uri().path(), caller(&request)),
        };
        let trace_id = spans::trace_id(&traced).or_else(|| trace_id(&request).map(str::to_owned));

        // At this level so that whatever is logged has the ids, however little is.
        let logged = tracing::error_span!(parent: &traced, "request", request_id = id.as_str(), trace_id);
        let mut exchange = Exchange {
            started,
            slow: if routine { Duration::MAX } else { self.slow },
            method,
            route: template.unwrap_or("-"),
            id: &id,
            trace_id,
            traced: traced.clone(),
            status: ABANDONED,
            _active: metrics().request_active(),
        };
        // Boxed: each span around it would be a copy of it otherwise, and it is large.
        let answering = Box::pin(self.answer(request, route, &id)).instrument(logged);
        let mut response = answering.instrument(traced.clone()).await;
        exchange.status = response.status().as_u16();

        let headers = response.headers_mut();
        id.mark(headers);
        if let Some(value) = spans::traceparent(&traced).and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(TRACEPARENT, value);
        }
        Ok(response)
    }
}

/// Probes and scrapes come every few seconds for ever: they are no traces, and what goes well is hardly logged.
fn is_routine(route: Option<&str>) -> bool {
    route.is_some_and(|route| is_probe(route) || route == "/metrics")
}

fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz")
}

/// A request under way. It is told of when this is dropped, since a caller that hangs up takes along whatever still
/// waits for an answer.
struct Exchange<'a> {
    started: Instant,
    slow: Duration,
    method: &'static str,
    route: &'static str,
    id: &'a RequestId,
    trace_id: Option<String>,
    traced: Span,
    status: u16,
    _active: Active,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let (status, took) = (self.status, self.started.elapsed());
        spans::answered(&self.traced, status);
        metrics().request(self.method, self.route, status, took);
        let _in_trace = self.traced.enter();
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    target: "colloquy::http",
                    method = %self.method,
                    route = self.route,
                    status,
                    duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                    request_id = %self.id.as_str(),
                    trace_id = self.trace_id,
                    "request"
                )
            };
        }
        // A line costs as much as everything else that is done for a small request outside the store.
        match status < 400 && took < self.slow {
            true => log!(debug),
            false => log!(info),
        }
    }
}

impl Envelope {
    /// The response, whatever happens.
    async fn answer(&self, mut request: Request, route: Option<&'static Route>, id: &RequestId) -> Response {
        let refuse = |problem: &Problem| {
            problem.respond(id.as_str(), route.map_or("GET, HEAD", |route| &route.allowed))
        };
        let Some(route) = route else {
            return refuse(&Problem::from(&router::not_found(request.uri().path())));
        };
        let Some(operation) = route.operation(request.method()) else {
            return refuse(&Problem::from(&router::not_allowed()));
        };
        // A probe that is refused would have the process killed, and metrics tell why it is full.
        let (is_probe, reserve) = (is_probe(&route.template), is_routine(Some(&route.template)));
        let room = if is_probe {
            Ok(())
        } else {
            self.answers.room(reserve)
        };
        match room.and_then(|()| self.checked(&request, route, operation, id)) {
            Ok(context) => request.set_data(context),
            Err(problem) => return refuse(&problem),
        };
        let is_safe = request.method().is_safe();
        match AssertUnwindSafe(operation.call(request)).catch_unwind().await {
            // What was done is told, whatever that takes.
            Ok(Ok(response)) if is_probe || !is_safe => response,
            Ok(Ok(response)) => match self.answers.admit(response, reserve) {
                Ok(response) => response,
                Err(problem) => refuse(&problem),
            },
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

    /// Refuses what the operation does not take: parameters, and `If-Match` where it is not honoured, since to go on as if
    /// it had matched is what it is there to prevent.
    fn checked(
        &self,
        request: &Request,
        route: &'static Route,
        operation: &Operation,
        id: &RequestId,
    ) -> Result<RequestContext, Problem> {
        if !operation.honours_if_match && request.headers().contains_key(header::IF_MATCH) {
            let rule = "is not honoured by this operation; leave it out";
            return Err(Error::parameter("If-Match", rule).into());
        }
        Ok(RequestContext {
            id: id.clone(),
            route,
            query: query_string(request, &operation.query)?,
            body: self.body.clone(),
        })
    }
}

/// Refuses parameters that the operation does not take, by name, and any that stands twice.
fn query_string(request: &Request, known: &[String]) -> Result<Vec<(String, String)>, Problem> {
    let Some(text) = request.uri().query().filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
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
        true => Ok(pairs),
        false => Err(Error::of_fields(crate::domain::Kind::InvalidParameter, faults).into()),
    }
}

pub fn request_id(request: &Request) -> RequestId {
    let usable = |text: &&str| {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        (1..=REQUEST_ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed)
    };
    let sent = request.headers().get(REQUEST_ID);
    if let Some(sent) = sent.filter(|sent| sent.to_str().ok().filter(usable).is_some()) {
        return RequestId(sent.clone());
    }
    RequestId::made_up()
}

/// A UUIDv7. Nobody needs it to be secret, so it is from keys that each thread asked the system for once; `now_v7` makes
/// two system calls for each.
fn made_up() -> Uuid {
    let random = || RandomState::new().hash_one(());
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&random().to_le_bytes());
    bytes[8..].copy_from_slice(&random().to_le_bytes()[..2]);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

/// The method as telemetry knows it: what a stranger made up is no label.
pub(super) fn known(method: &Method) -> &'static str {
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
        traceparent: text(request, TRACEPARENT),
        tracestate: text(request, TRACESTATE),
    }
}

fn text(request: &Request, name: HeaderName) -> Option<&str> {
    request.headers().get(name)?.to_str().ok()
}

/// The trace id of a W3C `traceparent`, so that the log can be joined with the caller's traces.
fn trace_id(request: &Request) -> Option<&str> {
    let mut parts = text(request, TRACEPARENT)?.split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    (hex(version, 2) && hex(trace_id, 32) && trace_id.bytes().any(|b| b != b'0')).then_some(trace_id)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        future::pending,
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use poem::{EndpointExt, endpoint::make};
    use tokio::sync::Semaphore;

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
        let never = make(|_| pending::<Result<Response>>()).boxed();
        let endpoints = HashMap::from([("/v1/sessions".to_owned(), HashMap::from([(Method::GET, never)]))]);
        let limits = BodyLimits {
            bytes_max: 1,
            wait_max: Duration::MAX,
            room: Arc::new(Semaphore::new(1)),
        };
        let answers = Answers::new(usize::MAX);
        let router = Box::leak(Box::new(Router::new(endpoints, &[])));
        let never = Envelope::new(router, limits, answers, Duration::MAX);
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
