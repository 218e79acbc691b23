//! A connection: small packets sent at once, a permit among those allowed, an end to those that stall, and one that takes
//! no answer along.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, oneshot},
};

use super::{
    exchange::Exchange,
    lingering::Lingering,
    refused,
    stall::{Stall, StallLimits, Wait},
};
use crate::telemetry::metrics::{Active, metrics};

/// A connection, its permit among those allowed, and how long it may stall.
pub struct Connection {
    stream: TcpStream,
    stall: Stall,
    exchange: Arc<Exchange>,
    /// Dropped with the first byte that is read.
    silence: Option<oneshot::Sender<Infallible>>,
    /// What is left to write of a refusal in place of hyper's own.
    refusal: Option<Bytes>,
    was_refused: bool,
    lingering: Option<Box<Lingering>>,
    _permit: OwnedSemaphorePermit,
    _counted: Active,
}

impl Connection {
    /// # Errors
    /// The peer is gone.
    pub fn new(stream: TcpStream, limits: StallLimits, permit: OwnedSemaphorePermit) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let exchange = Arc::new(Exchange::default());
        Ok(Self {
            stream,
            stall: Stall::new(limits, Arc::clone(&exchange)),
            exchange,
            silence: None,
            refusal: None,
            was_refused: false,
            lingering: None,
            _permit: permit,
            _counted: metrics().connection(),
        })
    }

    /// Where the requests on this connection are to be entered.
    pub fn exchange(&self) -> Arc<Exchange> {
        Arc::clone(&self.exchange)
    }

    /// Resolves when the first byte is read, or the connection is gone.
    pub fn first_word(&mut self) -> oneshot::Receiver<Infallible> {
        let (silence, first_word) = oneshot::channel();
        self.silence = Some(silence);
        first_word
    }

    /// Writes nothing more, not even what the system has taken and the peer has not.
    fn cut_off(&self) -> io::Error {
        // At worst the system keeps what it has taken, for a while.
        let _ = self.stream.set_zero_linger();
        io::Error::new(io::ErrorKind::TimedOut, "the connection stalled")
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match write(Pin::new(&mut self.stream), cx) {
            Poll::Pending => {
                ready!(self.stall.poll_write_over(cx));
                Poll::Ready(Err(self.cut_off()))
            }
            Poll::Ready(written) => {
                self.stall.was_written();
                Poll::Ready(written)
            }
        }
    }

    /// Whether bytes came that were not read.
    fn has_more(&self) -> bool {
        // As far as tokio knows: what comes later than that finds the connection closed.
        matches!(self.stream.try_read(&mut [0]), Ok(1))
    }

    /// Writes a problem in place of what hyper is about to write.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, head: &[u8]) -> Poll<io::Result<usize>> {
        self.was_refused = true;
        let mut rest = self.refusal.take().unwrap_or_else(|| refused::typed(head));
        while !rest.is_empty() {
            match self.poll_write_with(cx, |stream, cx| stream.poll_write(cx, &rest)) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => rest.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // hyper comes back with the same bytes.
                    self.refusal = Some(rest);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(head.len()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => {
                match ready!(self.stall.poll_read_over(cx)) {
                    // As if the peer were gone.
                    Wait::Request => Poll::Ready(Ok(())),
                    Wait::Head | Wait::Answer => Poll::Ready(Err(self.cut_off())),
                }
            }
            Poll::Ready(read) => {
                self.silence = None;
                self.stall.was_read(&buf.filled()[before..]);
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends no more, and closes when the peer has the last answer, as far as one can tell.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            let is_unread = this.was_refused || this.exchange.is_unread() || this.stall.look() == Wait::Head;
            if !is_unread && !this.has_more() {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering = this.lingering.get_or_insert_with(|| Box::new(Lingering::begin()));
        lingering.poll(&mut this.stream, cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match refused::by_hyper(bufs) {
            Some(head) => self.poll_refuse(cx, head),
            None => self.poll_write_with(cx, |stream, cx| stream.poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
