//! What goes wrong, as a client sees it: RFC 9457 `application/problem+json`.
//!
//! This is the only place that knows status codes of failures. A [`Code`] is for programs to match and never
//! changes its meaning; `detail` is for people and may. Nothing of the inside of the service is ever told: the
//! source of a failure of our own goes to the log, under the request id that the client got.

use std::fmt;

use poem::{
    IntoResponse, Response,
    error::{ParsePathError, ResponseError},
    http::{HeaderValue, StatusCode, header},
};

use crate::domain::{Error, FieldError, Kind, json::ObjectWriter};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// The rule that such a path or query string breaks.
pub const NOT_UTF8: &str = "is not UTF-8 once it is decoded";

/// Seconds after which a client may try again what failed with 503.
pub const RETRY_AFTER_S: &str = "1";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal $code:literal $title:literal;)*) => {
        /// Every failure the API can answer with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The word a program matches.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Identifies the kind of problem, as RFC 9457 asks of `type`.
            pub const fn type_uri(self) -> &'static str {
                match self { $(Self::$name => concat!("urn:colloquy:problem:", $code),)* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    MalformedJson = 400 "malformed-json" "The body is not JSON";
    InvalidParameter = 400 "invalid-parameter" "A parameter breaks a rule";
    InvalidCursor = 400 "invalid-cursor" "The cursor does not fit the query";
    BadRequest = 400 "bad-request" "The request can't be understood";
    RouteNotFound = 404 "route-not-found" "There is nothing at this path";
    SessionNotFound = 404 "session-not-found" "There is no such session";
    EventNotFound = 404 "event-not-found" "There is no such event";
    MethodNotAllowed = 405 "method-not-allowed" "The path does not take this method";
    RequestTimeout = 408 "request-timeout" "The body did not arrive in time";
    SessionEnded = 409 "session-ended" "The session has ended";
    SessionArchived = 409 "session-archived" "The session is archived";
    EventIdReused = 409 "event-id-reused" "The event id is taken by another event";
    SessionErased = 410 "session-erased" "The session was erased";
    VersionMismatch = 412 "version-mismatch" "The session has moved on";
    ContentTooLarge = 413 "content-too-large" "Something is larger than its limit";
    UnsupportedMediaType = 415 "unsupported-media-type" "The body is in a form that is not understood";
    ValidationFailed = 422 "validation-failed" "The body breaks a rule";
    HeadTooLarge = 431 "head-too-large" "The head of the request is too large";
    Internal = 500 "internal-error" "Something went wrong on our side";
    Overloaded = 503 "overloaded" "Too much is waiting";
    StoreUnavailable = 503 "store-unavailable" "The store can't be reached";
    Draining = 503 "draining" "The server is stopping";
    ArchiveUnavailable = 503 "archive-unavailable" "The archive can't be reached";
    ArchiveDamaged = 500 "archive-damaged" "The archive is damaged";
}

impl From<Kind> for Code {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::MalformedJson => Self::MalformedJson,
            Kind::Invalid => Self::ValidationFailed,
            Kind::TooLarge => Self::ContentTooLarge,
            Kind::InvalidParameter => Self::InvalidParameter,
            Kind::InvalidCursor => Self::InvalidCursor,
            Kind::SessionNotFound => Self::SessionNotFound,
            Kind::EventNotFound => Self::EventNotFound,
            Kind::SessionErased => Self::SessionErased,
            Kind::SessionEnded => Self::SessionEnded,
            Kind::SessionArchived => Self::SessionArchived,
            Kind::EventIdReused => Self::EventIdReused,
            Kind::VersionMismatch => Self::VersionMismatch,
            Kind::Overloaded => Self::Overloaded,
            Kind::Unavailable => Self::StoreUnavailable,
            Kind::ArchiveUnavailable => Self::ArchiveUnavailable,
            Kind::ArchiveDamaged => Self::ArchiveDamaged,
            Kind::Internal => Self::Internal,
        }
    }
}

/// One failure, on its way to a client.
#[derive(Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: String,
    pub errors: Vec<FieldError>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// Appends the problem as JSON.
    pub fn write(&self, out: &mut Vec<u8>, request_id: &str) {
        let mut object = ObjectWriter::new(out);
        object.plain("type", self.code.type_uri());
        object.plain("title", self.code.title());
        object.integer("status", self.code.status());
        object.plain("code", self.code.as_str());
        object.text("detail", &self.detail);
        if !self.errors.is_empty() {
            object.array("errors", &self.errors, |out, error| {
                let mut object = ObjectWriter::new(out);
                object.text("field", &error.field);
                object.text("message", &error.message);
                object.end();
            });
        }
        object.text("requestId", request_id);
        object.end();
    }

    /// The whole response; `allowed` are the methods of the path, for a 405.
    pub fn respond(&self, request_id: &str, allowed: &str) -> Response {
        let mut body = Vec::with_capacity(256);
        self.write(&mut body, request_id);
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::builder().status(status).body(body);
        let fixed = HeaderValue::from_static;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, fixed(CONTENT_TYPE));
        match self.code {
            Code::MethodNotAllowed => {
                if let Ok(allowed) = HeaderValue::from_str(allowed) {
                    headers.insert(header::ALLOW, allowed);
                }
            }
            // The rest of the body may never come.
            Code::RequestTimeout => {
                headers.insert(header::CONNECTION, fixed("close"));
            }
            Code::UnsupportedMediaType => {
                headers.insert(header::ACCEPT_ENCODING, fixed("gzip"));
            }
            code if code.status() == 503 => {
                headers.insert(header::RETRY_AFTER, fixed(RETRY_AFTER_S));
            }
            _ => {}
        }
        response
    }
}

impl From<Error> for Problem {
    /// Failures of our own are logged here, where they are handled; the client gets no more than their kind.
    fn from(error: Error) -> Self {
        let code = Code::from(error.kind());
        if code == Code::Overloaded {
            // The request's own line says 503; a flood of errors would help nobody who is overloaded.
            tracing::debug!(error = %error, "refused");
        } else if code.status() >= 500 {
            let source = std::error::Error::source(&error);
            tracing::error!(code = code.as_str(), error = %error, source = ?source, "request failed");
        }
        Self {
            code,
            detail: error.detail().to_owned(),
            errors: error.fields().to_vec(),
        }
    }
}

/// What poem itself refuses, as one of ours.
impl From<&poem::Error> for Problem {
    fn from(error: &poem::Error) -> Self {
        if error.is::<ParsePathError>() {
            return Error::parameter("path", NOT_UTF8).into();
        }
        match error.status().as_u16() {
            404 => Self::new(
                Code::RouteNotFound,
                "there is nothing at this path; /docs lists what there is",
            ),
            405 => Self::new(
                Code::MethodNotAllowed,
                "the path does not take this method; see Allow",
            ),
            413 => Self::new(Code::ContentTooLarge, "the request is too large"),
            415 => Self::new(
                Code::UnsupportedMediaType,
                "the body is in a form that is not understood",
            ),
            400..500 => Self::new(Code::BadRequest, error.to_string()),
            _ => {
                tracing::error!(error = %error, "request failed");
                Self::new(
                    Code::Internal,
                    "the request failed; the log has more under the request id",
                )
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Used only where no envelope is around the endpoint; the envelope knows the request id and does better.
    fn as_response(&self) -> Response {
        self.respond("", "").into_response()
    }
}
