//! Answers on their way to callers: how many bytes of them the process holds, and how each gets on (I9).
//!
//! An answer is held from when it is made until the socket has its last byte, or its connection ends; with HTTP/2 a peer
//! decides for how long, since nothing is sent past the window that it opens. So their bytes are counted, in one budget for
//! all connections. While it is used up, requests are refused at once, and so is a large answer that would pass it. What a
//! write answers is never refused: it was done.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use poem::{Response, ResponseParts, http};

use super::{
    exchange::{Taking, UnderWay},
    problem::{Code, Problem},
};

/// An answer of fewer bytes is not refused once it was made.
const LARGE_BYTES: usize = 64 * 1024;

/// Beyond the budget, for what tells operators why it is used up.
const RESERVE_BYTES: usize = 16 * 1024 * 1024;

/// The budget of a process. Clones share it.
#[derive(Clone)]
pub struct Answers(Arc<Budget>);

struct Budget {
    held: AtomicUsize,
    max: usize,
}

/// Bytes of the budget, given back with the last clone.
#[derive(Clone)]
struct Part(#[expect(dead_code, reason = "held for its drop")] Arc<Held>);

struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Answers {
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Budget {
            held: AtomicUsize::new(0),
            max: bytes_max,
        }))
    }

    /// Bytes of answers that were not taken yet.
    pub fn bytes(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// For a request that has not begun; `reserve` for one that must be answered also when the budget is used up.
    ///
    /// # Errors
    /// [`Code::Overloaded`] while it is.
    pub fn room(&self, reserve: bool) -> Result<(), Problem> {
        match self.bytes() < self.max(reserve) {
            true => Ok(()),
            false => Err(full()),
        }
    }

    /// Takes the room of a large answer, which goes along with it.
    ///
    /// # Errors
    /// [`Code::Overloaded`]: there is not enough.
    pub fn admit(&self, response: Response, reserve: bool) -> Result<Response, Problem> {
        let (parts, body) = http::Response::from(response).into_parts();
        let bytes = length(&body);
        let mut response = Response::from_parts(
            ResponseParts {
                status: parts.status,
                version: parts.version,
                headers: parts.headers,
                extensions: parts.extensions,
            },
            poem::Body::from(body),
        );
        if bytes >= LARGE_BYTES {
            let part = self.take(bytes, |held| {
                // A single answer is not refused for ever, however large.
                held == 0 || held.saturating_add(bytes) <= self.max(reserve)
            });
            response.set_data(part.ok_or_else(full)?);
        }
        Ok(response)
    }

    /// The answer as the server sends it, counted until it is taken.
    pub fn count<B>(&self, mut answer: http::Response<B>, request: UnderWay) -> http::Response<Counted<B>>
    where
        B: Body<Data = Bytes>,
    {
        let admitted = answer.extensions_mut().remove::<Part>();
        let part = admitted.or_else(|| self.take(length(answer.body()), |_| true));
        let share = Arc::new(Share {
            taking: request.answer(),
            _part: part,
            _request: request,
        });
        answer.map(|body| Counted { body, share })
    }

    fn max(&self, reserve: bool) -> usize {
        match reserve {
            true => self.0.max.saturating_add(RESERVE_BYTES),
            false => self.0.max,
        }
    }

    fn take(&self, bytes: usize, fits: impl Fn(usize) -> bool) -> Option<Part> {
        let held = &self.0.held;
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            fits(held).then(|| held.saturating_add(bytes))
        })
        .ok()?;
        Some(Part(Arc::new(Held {
            budget: Arc::clone(&self.0),
            bytes,
        })))
    }
}

fn full() -> Problem {
    Problem::new(
        Code::Overloaded,
        "too many bytes of answers wait for their callers to take them; try again shortly",
    )
}

/// The length of a body; what has none that is known is made as it goes, and is never held whole.
fn length(body: &impl Body) -> usize {
    let length = body.size_hint().exact().unwrap_or(0);
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// What an answer holds until its last byte is taken.
struct Share {
    taking: Arc<Taking>,
    _part: Option<Part>,
    _request: UnderWay,
}

/// A body that is counted until it is taken.
pub struct Counted<B> {
    body: B,
    share: Arc<Share>,
}

/// Bytes of a [`Counted`] body. The connection drops them when it has written the last one.
pub struct Portion {
    bytes: Bytes,
    share: Arc<Share>,
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Portion;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Portion>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let portion = |bytes: Bytes| {
            self.share.taking.gave(bytes.len());
            Portion {
                bytes,
                share: Arc::clone(&self.share),
            }
        };
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(portion))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Buf for Portion {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.share.taking.took(count);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::api::exchange::Exchange;

    fn response(bytes: usize) -> Response {
        Response::builder().body(vec![b'x'; bytes])
    }

    #[tokio::test]
    async fn an_answer_is_held_until_its_last_byte_is_taken() {
        let (answers, exchange) = (Answers::new(1 << 20), Arc::new(Exchange::default()));
        let admitted = answers.admit(response(100_000), false).unwrap();
        assert_eq!(answers.bytes(), 100_000);
        let mut counted = answers.count(http::Response::from(admitted), exchange.begin());
        assert_eq!(answers.bytes(), 100_000, "counted once");
        let frame = poll_fn(|cx| Pin::new(counted.body_mut()).poll_frame(cx)).await;
        let Ok(mut portion) = frame.unwrap().unwrap().into_data() else {
            panic!("no data");
        };
        drop(counted);
        assert!(exchange.is_busy() && exchange.still_since().is_some());
        portion.advance(100_000);
        assert!(exchange.still_since().is_none());
        assert_eq!((answers.bytes(), portion.remaining()), (100_000, 0));
        drop(portion);
        assert_eq!(answers.bytes(), 0);
        assert!(!exchange.is_busy());
    }

    #[test]
    fn what_would_pass_the_budget_is_refused_and_what_is_small_or_alone_is_not() {
        let answers = Answers::new(200_000);
        let first = answers.admit(response(300_000), false).unwrap();
        assert_eq!(answers.room(false).unwrap_err().code, Code::Overloaded);
        assert!(answers.room(true).is_ok(), "there is a reserve");
        assert!(answers.admit(response(LARGE_BYTES), false).is_err());
        let small = answers.admit(response(LARGE_BYTES - 1), false).unwrap();
        drop(first);
        assert!(answers.room(false).is_ok());
        let second = answers.admit(response(150_000), false).unwrap();
        assert!(answers.admit(response(LARGE_BYTES), false).is_err());
        drop((small, second));
        assert_eq!(answers.bytes(), 0);
    }
}
