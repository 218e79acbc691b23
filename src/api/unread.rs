//! What an answer leaves unread of its request: a refusal is given before the body was read, and must arrive all the same
//! (I7).
//!
//! A connection that is closed with bytes unread is reset, and the peer may lose the answer that is on its way, or never
//! look for it, since its own sending failed. So the answer is sent at once and the rest of the body is read behind it and
//! thrown away, within bounds; then the connection serves on. What is past the bounds, or may never come (`Expect:
//! 100-continue`), ends the connection, which [lingers](super::lingering). In HTTP/2 the end of the body ends the stream alone.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body as _, Incoming};
use poem::{
    Body,
    http::{HeaderMap, HeaderValue, header},
};

use super::exchange::UnderWay;

/// The bounds of what is read and thrown away behind an answer (I9).
#[derive(Debug, Clone, Copy)]
pub struct UnreadLimits {
    /// Most bytes.
    pub bytes_max: u64,
    /// Longest time.
    pub wait_max: Duration,
}

/// Most bytes of a body that are read behind an answer so that its connection can serve on. More than any body that is
/// taken at the default limits, so that a connection outlives every refusal of what would have been a good body.
pub const UNREAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How a request came.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub is_http2: bool,
    /// The caller may wait for leave to send the body.
    pub expects: bool,
}

/// The body of a request, as the endpoint reads it.
struct Lent(Shared);

/// The same body, for after the answer.
pub struct Unread(Shared);

#[derive(Clone)]
struct Shared(Arc<Mutex<Source>>);

struct Source {
    body: Incoming,
    is_begun: bool,
    is_ended: bool,
}

impl Unread {
    /// The body to be read, and what is to be [settled](Self::settle) of it; `None` where it is empty.
    pub fn lend(body: Incoming) -> (Body, Option<Self>) {
        if body.is_end_stream() {
            return (Body::empty(), None);
        }
        let shared = Shared(Arc::new(Mutex::new(Source {
            body,
            is_begun: false,
            is_ended: false,
        })));
        (Body::from_bytes_stream(Lent(shared.clone())), Some(Self(shared)))
    }

    /// Sees to what is left of the body when its request has an answer with these headers.
    pub fn settle(self, answer: &mut HeaderMap, asked: Asked, limits: UnreadLimits, request: UnderWay) {
        let (is_whole, is_begun, left) = {
            let source = self.0.lock();
            (
                source.is_whole(),
                source.is_begun,
                source.body.size_hint().lower(),
            )
        };
        if is_whole {
            return;
        }
        request.left_unread();
        if asked.is_http2 || answer.contains_key(header::CONNECTION) {
            return;
        }
        if left > limits.bytes_max || (asked.expects && !is_begun) {
            answer.insert(header::CONNECTION, HeaderValue::from_static("close"));
            return;
        }
        tokio::spawn(async move {
            // Too slow: the connection ends when the body is dropped.
            let _ = tokio::time::timeout(limits.wait_max, self.0.discard(limits.bytes_max)).await;
            if self.0.lock().is_whole() {
                request.read();
            }
        });
    }
}

impl Source {
    fn is_whole(&self) -> bool {
        self.is_ended || self.body.is_end_stream()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Source> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_bytes(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut source = self.lock();
        source.is_begun = true;
        loop {
            let frame = std::task::ready!(Pin::new(&mut source.body).poll_frame(cx));
            let end = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Poll::Ready(Some(Ok(bytes))),
                    // Trailers say nothing to us.
                    Err(_) => continue,
                },
                Some(Err(error)) => Some(Err(io::Error::other(error))),
                None => None,
            };
            source.is_ended = true;
            return Poll::Ready(end);
        }
    }

    /// Reads to the end, or to the limit.
    async fn discard(&self, bytes_max: u64) {
        let mut left = bytes_max;
        while let Some(Ok(bytes)) = poll_fn(|cx| self.poll_bytes(cx)).await {
            match left.checked_sub(bytes.len() as u64) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

impl Stream for Lent {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_bytes(cx)
    }
}
