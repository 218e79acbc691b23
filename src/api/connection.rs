//! A connection: small packets sent at once, a place among those allowed, and an end to those that stall.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

use super::listener::Silence;
use crate::telemetry::metrics::{Active, metrics};

/// How long a connection may stall.
#[derive(Debug, Clone, Copy)]
pub struct StallLimits {
    /// A connection without a request for this long is closed; one in HTTP/2 after [`Self::stalled`].
    pub idle: Duration,
    /// Longest from the first byte of a request to the first of its answer, and between two parts of an answer that
    /// the peer takes; a connection that is slower is cut off.
    pub stalled: Duration,
}

/// A connection, its place among those allowed, and how long it may stall.
pub struct Connection {
    stream: TcpStream,
    stall: Stall,
    silence: Option<Silence>,
    _place: OwnedSemaphorePermit,
    _counted: Active,
}

impl Connection {
    /// # Errors
    /// The peer is gone.
    pub fn new(
        stream: TcpStream,
        limits: StallLimits,
        silence: Silence,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            stall: Stall::new(limits),
            silence: Some(silence),
            _place: place,
            _counted: metrics().connection(),
        })
    }
}

/// The time by which a connection must get on. It is set anew by every write that the peer took a part of, and by the
/// first read after one, which is where a request begins; not by the reads that follow, so that a request sent byte
/// by byte does not hold its connection for ever.
struct Stall {
    limits: StallLimits,
    by: Instant,
    /// Wakes the connection no later than `by`. It is left alone while `by` moves on, several times a request, and
    /// set anew once it is over.
    timer: Pin<Box<Sleep>>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was read yet.
    New,
    BetweenRequests,
    InRequest,
    /// HTTP/2, where a connection that is silent may have requests under way.
    Multiplexed,
}

/// What a connection in HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

impl Stall {
    fn new(limits: StallLimits) -> Self {
        Self {
            limits,
            by: Instant::now() + limits.idle,
            timer: Box::pin(tokio::time::sleep(limits.idle)),
            stage: Stage::New,
        }
    }

    fn was_read(&mut self, bytes: &[u8]) {
        let next = match self.stage {
            Stage::New if bytes.starts_with(PREFACE) => Stage::Multiplexed,
            Stage::New | Stage::BetweenRequests => Stage::InRequest,
            Stage::InRequest => return,
            Stage::Multiplexed => Stage::Multiplexed,
        };
        self.enter(next);
    }

    fn was_written(&mut self) {
        self.enter(match self.stage {
            Stage::Multiplexed => Stage::Multiplexed,
            _ => Stage::BetweenRequests,
        });
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        let time = match stage {
            Stage::New | Stage::BetweenRequests => self.limits.idle,
            Stage::InRequest | Stage::Multiplexed => self.limits.stalled,
        };
        self.by = Instant::now() + time;
        if self.by < self.timer.deadline() {
            self.timer.as_mut().reset(self.by);
        }
    }

    /// Waits until the time is over.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.by {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.by);
        }
        Poll::Pending
    }

    /// What a stream that has nothing to say says: wait; that its peer is gone, if nothing was under way; or that the
    /// time is over.
    fn of_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let idle = matches!(self.stage, Stage::New | Stage::BetweenRequests);
        self.poll_over(cx)
            .map(|()| if idle { Ok(()) } else { Err(stalled()) })
    }

    fn of_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.poll_over(cx).map(|()| Err(stalled())),
            Poll::Ready(written) => {
                self.was_written();
                Poll::Ready(written)
            }
        }
    }
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the connection stalled")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.stall.of_read(cx),
            Poll::Ready(read) => {
                self.silence = None;
                self.stall.was_read(&buf.filled()[before..]);
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.stall.of_write(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.stall.of_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
