//! What operations take as bodies, each read straight into a domain type.
//!
//! However a body is framed, packed or paced, what it may cost is bounded: in size before and after it is unpacked, in
//! time, and in what all bodies under way take together (I9).

use std::{io::Read, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use futures_util::StreamExt;
use poem::{Request, RequestBody, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaMediaType, MetaRequest, Registry},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    answer::JSON,
    envelope::RequestContext,
    problem::{Code, Problem},
    shape::{self, Schema},
};
use crate::archive::RunRequest;
use crate::domain::{End, EventBatch, NewEvent, NewSession, SessionPatch, error::Result as DomainResult};

/// The body of a request, and the room it takes among those under way.
pub struct Body<T> {
    pub value: T,
    _room: OwnedSemaphorePermit,
}

/// A type that the body of a request is read into.
pub trait RequestContent: Sized + Send {
    type Shape: Schema;
    /// An empty body means `{}`.
    const OPTIONAL: bool = false;
    const CONTENT_TYPES: &'static [&'static str] = &[JSON];

    fn read(bytes: &[u8]) -> DomainResult<Self>;
}

/// The bounds of a request's body (I9).
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Largest body, in bytes, before and after decompression.
    pub bytes_max: usize,
    /// Longest that a body may take to arrive.
    pub wait_max: Duration,
    /// Room for the bodies of all requests under way, in KiB.
    pub room: Arc<Semaphore>,
}

impl RequestContent for RunRequest {
    type Shape = shape::NewArchiveRun;
    const OPTIONAL: bool = true;

    fn read(bytes: &[u8]) -> DomainResult<Self> {
        Self::read(bytes)
    }
}

impl RequestContent for NewSession {
    type Shape = shape::NewSession;
    const OPTIONAL: bool = true;

    fn read(bytes: &[u8]) -> DomainResult<Self> {
        Self::read(bytes, "")
    }
}

impl RequestContent for SessionPatch {
    type Shape = shape::SessionPatch;
    const CONTENT_TYPES: &'static [&'static str] = &["application/merge-patch+json", JSON];

    fn read(bytes: &[u8]) -> DomainResult<Self> {
        Self::read(bytes)
    }
}

impl RequestContent for End {
    type Shape = shape::Completion;
    const OPTIONAL: bool = true;

    fn read(bytes: &[u8]) -> DomainResult<Self> {
        Self::read(bytes)
    }
}

impl RequestContent for NewEvent {
    type Shape = shape::NewEvent;

    fn read(bytes: &[u8]) -> DomainResult<Self> {
        Self::read(bytes, "")
    }
}

impl RequestContent for EventBatch {
    type Shape = shape::EventBatch;

    fn read(bytes: &[u8]) -> DomainResult<Self> {
        Self::read(bytes)
    }
}

impl<'a, T: RequestContent> ApiExtractor<'a> for Body<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::Shape::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let media = |content_type: &&'static str| MetaMediaType {
            content_type,
            schema: T::Shape::reference(),
        };
        Some(MetaRequest {
            description: None,
            content: T::CONTENT_TYPES.iter().map(media).collect(),
            required: !T::OPTIONAL,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> Result<Self> {
        let limits = &RequestContext::of(request)?.body;
        let encoding = content_encoding(request)?;
        if announced(request).is_some_and(|bytes| bytes > limits.bytes_max as u64) {
            return Err(too_large(limits.bytes_max).into());
        }
        let received = tokio::time::timeout(limits.wait_max, receive(body, limits)).await;
        let (bytes, room) = received.map_err(|_| {
            Problem::new(
                Code::RequestTimeout,
                format!("the body took longer than {:?} to arrive", limits.wait_max),
            )
        })??;
        if T::OPTIONAL && bytes.is_empty() {
            return Ok(Self {
                value: T::read(b"{}").map_err(Problem::from)?,
                _room: room,
            });
        }
        check_content_type(request, T::CONTENT_TYPES)?;
        let bytes = match encoding {
            Encoding::Identity => bytes,
            Encoding::Gzip => gunzip(&bytes, limits.bytes_max)?,
        };
        Ok(Self {
            value: T::read(&bytes).map_err(Problem::from)?,
            _room: room,
        })
    }
}

enum Encoding {
    Identity,
    Gzip,
}

fn content_encoding(request: &Request) -> Result<Encoding, Problem> {
    let name = request
        .headers()
        .get(header::CONTENT_ENCODING)
        .map(|value| value.to_str().unwrap_or("?"));
    let is = |name: &str, known: [&str; 2]| known.iter().any(|known| name.eq_ignore_ascii_case(known));
    match name {
        None => Ok(Encoding::Identity),
        Some(name) if is(name, ["", "identity"]) => Ok(Encoding::Identity),
        Some(name) if is(name, ["gzip", "x-gzip"]) => Ok(Encoding::Gzip),
        Some(_) => Err(Problem::new(
            Code::UnsupportedMediaType,
            "the Content-Encoding is not understood; send the body as it is, or gzip",
        )),
    }
}

fn check_content_type(request: &Request, accepted: &[&str]) -> Result<(), Problem> {
    let sent = request.content_type().unwrap_or_default();
    // What nearly everybody sends.
    if accepted.contains(&sent) {
        return Ok(());
    }
    let essence = sent
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let charset = sent.to_ascii_lowercase().split_once("charset=").map(|(_, rest)| {
        rest.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .trim_matches('"')
            .to_owned()
    });
    let utf8 = charset.is_none_or(|charset| charset == "utf-8" || charset == "utf8");
    if accepted.contains(&essence.as_str()) && utf8 {
        return Ok(());
    }
    let wanted = accepted.join(" or ");
    let detail = match sent {
        "" => format!("the request has no Content-Type; send {wanted}"),
        _ => format!("the Content-Type is not understood; send {wanted}, in UTF-8"),
    };
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

/// Reads the body whole, and takes the room for it as it comes. The limit is on the bytes that arrive, whatever
/// Content-Length says; one that says more is refused before any have. The server reads the rest of what is refused.
async fn receive(
    body: &mut RequestBody,
    limits: &BodyLimits,
) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
    let full = || {
        Problem::new(
            Code::Overloaded,
            "too many bodies are under way; try again shortly",
        )
    };
    let take = |kib| Arc::clone(&limits.room).try_acquire_many_owned(kib);
    let mut room = take(0).map_err(|_| full())?;
    let Ok(body) = body.take() else {
        return Ok((Bytes::new(), room));
    };
    let mut stream = body.into_bytes_stream();
    let mut received = Received::default();
    let mut length: usize = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Code::BadRequest, "the body broke off"))?;
        length += chunk.len();
        if length > limits.bytes_max {
            return Err(too_large(limits.bytes_max));
        }
        let kib = length.div_ceil(1024) - room.num_permits();
        room.merge(take(u32::try_from(kib).unwrap_or(u32::MAX)).map_err(|_| full())?);
        received.push(chunk);
    }
    Ok((received.whole(), room))
}

/// The length that the request gives its body, in bytes.
fn announced(request: &Request) -> Option<u64> {
    let value = request.headers().get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// What came of a body so far. One that comes in one piece, as most do, is not copied.
#[derive(Default)]
struct Received {
    first: Bytes,
    all: BytesMut,
}

impl Received {
    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = chunk;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&chunk);
    }

    fn whole(self) -> Bytes {
        match self.all.is_empty() {
            true => self.first,
            false => self.all.freeze(),
        }
    }
}

/// Members of a gzip body. Few clients send more than one, and a hundred thousand empty ones would keep a core busy
/// for nothing.
const GZIP_MEMBERS_MAX: usize = 16;

/// Unpacks no more than the limit and one byte, however well the bytes are packed.
fn gunzip(packed: &[u8], bytes_max: usize) -> Result<Bytes, Problem> {
    let refused = |detail: &str| Problem::new(Code::BadRequest, detail);
    let (mut rest, mut bytes) = (packed, Vec::new());
    for _ in 0..GZIP_MEMBERS_MAX {
        let room = u64::try_from(bytes_max - bytes.len()).unwrap_or(u64::MAX);
        let mut member = GzDecoder::new(rest).take(room.saturating_add(1));
        member
            .read_to_end(&mut bytes)
            .map_err(|_| refused("the body says it is gzip, and is not"))?;
        if bytes.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        rest = member.into_inner().into_inner();
        if rest.is_empty() {
            return Ok(bytes.into());
        }
    }
    Err(refused("the gzip body has too many members"))
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Code::ContentTooLarge,
        format!("the body is larger than the limit of {bytes_max} bytes"),
    )
}
