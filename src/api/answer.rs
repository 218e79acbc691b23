//! What operations answer: the response itself, and its entry in the specification.
//!
//! [`Operation`] says once what an operation can answer; the specification is made from it, and
//! [`Answer`] can only be built for it.

use std::marker::PhantomData;

use bytes::Bytes;
use poem::{
    IntoResponse, Response,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};

use super::{
    problem::{self, Code, Problem},
    shape::{self, Schema},
};

pub const JSON: &str = "application/json";

/// One operation of the API, as far as its answers go.
pub trait Operation: Send + Sync + 'static {
    /// Its name in the specification and in generated clients.
    const ID: &'static str;
    /// The shape of the body of a success.
    type Body: Schema;
    /// The successes.
    const SUCCESSES: &'static [Success];
    /// Whether it asks the store, which may be busy or away.
    const ASKS_STORE: bool;
    /// The problems it can answer with, beyond those that any request can meet.
    const PROBLEMS: &'static [Code];
}

/// One success of an operation.
pub struct Success {
    pub status: u16,
    pub description: &'static str,
    pub headers: &'static [Header],
}

/// A header of a response.
#[derive(Clone, Copy)]
pub struct Header {
    pub name: &'static str,
    pub description: &'static str,
    pub example: &'static str,
}

pub const ETAG: Header = Header {
    name: "ETag",
    description: "The session's version in quotes, to send back in If-Match.",
    example: "\"1\"",
};
pub const ETAG_ALONE: Header = Header {
    description: "With `limit=0` only: the session's version in quotes, to send back in If-Match.",
    ..ETAG
};
pub const LOCATION: Header = Header {
    name: "Location",
    description: "The path of what was created.",
    example: "/v1/sessions/call-42/events/turn-001",
};
pub const REPLAYED: Header = Header {
    name: "Idempotency-Replayed",
    description: "`true`: it was there already, and this is what is stored.",
    example: "true",
};
const REQUEST_ID: Header = Header {
    name: "X-Request-Id",
    description: "Names the request in the log: the one sent, or one made up.",
    example: "01992c5e-7d3a-7cc1-a8f0-2b1d4c6e8f00",
};
const RETRY_AFTER: Header = Header {
    name: "Retry-After",
    description: "Seconds after which to try again.",
    example: problem::RETRY_AFTER_S,
};

/// The problems any operation can answer with.
const ALWAYS: &[Code] = &[Code::InvalidParameter, Code::Internal];

/// The problems that any operation can answer with that asks the store.
const OF_STORE: &[Code] = &[Code::Overloaded, Code::StoreUnavailable];

/// All problems of an operation, by status.
pub fn problems_of<O: Operation>() -> Vec<Code> {
    let of_store = if O::ASKS_STORE { OF_STORE } else { &[] };
    let mut codes: Vec<Code> = O::PROBLEMS
        .iter()
        .chain(ALWAYS)
        .chain(of_store)
        .copied()
        .collect();
    codes.sort_by_key(|code| (code.status(), code.as_str()));
    codes
}

/// A success of operation `O`, rendered.
pub struct Answer<O> {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    operation: PhantomData<O>,
}

impl<O: Operation> Answer<O> {
    pub fn new(status: StatusCode, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut body = Vec::with_capacity(512);
        write(&mut body);
        Self::ready(status, body.into())
    }

    /// One whose body was rendered before.
    pub fn ready(status: StatusCode, body: Bytes) -> Self {
        debug_assert!(
            O::SUCCESSES
                .iter()
                .any(|success| success.status == status.as_u16())
        );
        Self {
            status,
            headers: Vec::new(),
            body,
            operation: PhantomData,
        }
    }

    /// A success without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self::new(status, |_| ())
    }

    #[must_use]
    pub fn header(mut self, header: Header, value: impl TryInto<HeaderValue>) -> Self {
        // What is no header is none of ours: their values are ids, paths of ids, and numbers.
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok();
        self.headers.extend(name.zip(value.try_into().ok()));
        self
    }
}

impl<O: Operation> IntoResponse for Answer<O> {
    fn into_response(self) -> Response {
        let response = Response::builder().status(self.status);
        let mut response = match self.body.is_empty() {
            true => response.finish(),
            false => {
                let mut response = response.body(self.body);
                let json = HeaderValue::from_static(JSON);
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
        };
        response.headers_mut().extend(self.headers);
        response
    }
}

impl<O: Operation> ApiResponse for Answer<O> {
    fn meta() -> MetaResponses {
        let mut responses: Vec<MetaResponse> = O::SUCCESSES.iter().map(success_meta::<O>).collect();
        let codes = problems_of::<O>();
        responses.extend(codes.chunk_by(|a, b| a.status() == b.status()).map(problem_meta));
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        O::Body::register(registry);
        shape::Problem::register(registry);
    }
}

/// A [`Problem`] adds nothing to the specification: the operation has named all of them.
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: Vec::new(),
        }
    }

    fn register(_registry: &mut Registry) {}
}

fn success_meta<O: Operation>(success: &Success) -> MetaResponse {
    let content = match O::Body::NAME {
        "" => Vec::new(),
        _ => vec![MetaMediaType {
            content_type: JSON,
            schema: O::Body::reference(),
        }],
    };
    let headers = [REQUEST_ID]
        .iter()
        .chain(success.headers)
        .map(header_meta)
        .collect();
    meta(success.status, success.description, content, headers)
}

fn problem_meta(codes: &[Code]) -> MetaResponse {
    let lines: Vec<String> = codes
        .iter()
        .map(|code| format!("`{}`: {}.", code.as_str(), code.title()))
        .collect();
    // The specification wants its texts for ever; it is made a handful of times in a process.
    let description = lines.join(" ").leak();
    let content = vec![MetaMediaType {
        content_type: problem::CONTENT_TYPE,
        schema: shape::Problem::reference(),
    }];
    let status = codes[0].status();
    let mut headers = vec![header_meta(&REQUEST_ID)];
    if status == 503 {
        headers.push(header_meta(&RETRY_AFTER));
    }
    meta(status, description, content, headers)
}

fn meta(
    status: u16,
    description: &'static str,
    content: Vec<MetaMediaType>,
    headers: Vec<MetaHeader>,
) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content,
        headers,
    }
}

fn header_meta(header: &Header) -> MetaHeader {
    let schema = MetaSchema {
        example: Some(header.example.into()),
        ..MetaSchema::new("string")
    };
    MetaHeader {
        name: header.name.to_owned(),
        description: Some(header.description.to_owned()),
        required: false,
        deprecated: false,
        schema: MetaSchemaRef::Inline(Box::new(schema)),
    }
}
