//! The server: connections bounded, small packets sent at once, and a way to stop that loses nothing.
//!
//! poem's own acceptor sets no TCP_NODELAY, spins when the process is out of file descriptors, takes any number of
//! connections, and waits for ever for the rest of a request's head, or for a peer to take its answer; this one mends
//! the four.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use poem::{
    Endpoint, Request, Server,
    http::uri::Scheme,
    listener::Acceptor,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

use super::{
    draining::{Draining, Parting},
    listener::{Listener, Silence},
};
use crate::telemetry::metrics::{Active, metrics};

/// What bounds the server (I9).
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Most connections at once; more wait in the system's backlog.
    pub connections_max: usize,
    /// A connection without a request for this long is closed; one in HTTP/2 after [`Self::stalled_connection`].
    pub idle_connection: Duration,
    /// Longest from the first byte of a request to the first of its answer, and between two parts of an answer that
    /// the peer takes; a connection that is slower is cut off.
    pub stalled_connection: Duration,
    /// How long the server goes on as before once it was asked to stop, but for telling everybody.
    pub shutdown_drain: Duration,
    /// How long requests in flight may take after that.
    pub shutdown_grace: Duration,
}

/// How long to wait after a failed accept, so that running out of descriptors does not take all of a core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A bound socket, not yet accepting.
pub struct BoundServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundServer {
    /// Binds `host:port`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is taken, not this machine's, or no address.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves, then drains, then takes no further connection and finishes the requests in flight
    /// within the grace time; gives how many did not make it and were cut off.
    ///
    /// # Errors
    /// None in practice: a failing accept is logged and tried again.
    pub async fn serve<E>(
        self,
        endpoint: E,
        limits: ServerLimits,
        draining: Draining,
        stop: impl Future<Output = ()>,
    ) -> io::Result<usize>
    where
        E: Endpoint + 'static,
    {
        let cut_off = Arc::new(CutOff::default());
        let endpoint = Watched {
            inner: Parting {
                inner: endpoint,
                draining: draining.clone(),
            },
            cut_off: Arc::clone(&cut_off),
        };
        let (listener, closing) = Listener::new(self.listener);
        let stop = async {
            stop.await;
            draining.begin();
            if !limits.shutdown_drain.is_zero() {
                let drain_ms = limits.shutdown_drain.as_millis();
                tracing::info!(drain_ms, "draining: serving on, but ready no more");
                tokio::time::sleep(limits.shutdown_drain).await;
            }
            closing.close().await;
            cut_off.stopping.store(true, Ordering::Relaxed);
        };
        let acceptor = BoundedAcceptor {
            listener,
            address: LocalAddr(self.address.into()),
            places: Arc::new(Semaphore::new(limits.connections_max)),
            idle: limits.idle_connection,
            stalled: limits.stalled_connection,
        };
        Server::new_with_acceptor(acceptor)
            .run_with_graceful_shutdown(endpoint, stop, Some(limits.shutdown_grace))
            .await?;
        Ok(cut_off.requests.load(Ordering::Relaxed))
    }
}

/// Requests that were given up while the server was stopping.
#[derive(Default)]
struct CutOff {
    stopping: AtomicBool,
    requests: AtomicUsize,
}

/// An endpoint whose requests are counted when they are dropped unfinished.
struct Watched<E> {
    inner: E,
    cut_off: Arc<CutOff>,
}

impl<E: Endpoint> Endpoint for Watched<E> {
    type Output = E::Output;

    async fn call(&self, request: Request) -> poem::Result<Self::Output> {
        let mut unfinished = Unfinished {
            cut_off: &self.cut_off,
            finished: false,
        };
        let outcome = self.inner.call(request).await;
        unfinished.finished = true;
        outcome
    }
}

struct Unfinished<'a> {
    cut_off: &'a CutOff,
    finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished && self.cut_off.stopping.load(Ordering::Relaxed) {
            self.cut_off.requests.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct BoundedAcceptor {
    listener: Listener,
    address: LocalAddr,
    places: Arc<Semaphore>,
    idle: Duration,
    stalled: Duration,
}

impl Acceptor for BoundedAcceptor {
    type Io = Connection;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![self.address.clone()]
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let place = || Arc::clone(&self.places).acquire_owned();
        let place = tokio::select! {
            place = place() => place,
            // A server that is full closes its socket in time, too.
            () = self.listener.closed() => place().await,
        };
        let place = place.map_err(io::Error::other)?;
        match self.listener.accept().await {
            Ok((stream, remote, silence)) => {
                stream.set_nodelay(true)?;
                let connection = Connection {
                    stream,
                    stall: Stall::new(self.idle, self.stalled),
                    silence: Some(silence),
                    _place: place,
                    _counted: metrics().connection(),
                };
                Ok((
                    connection,
                    self.address.clone(),
                    RemoteAddr(remote.into()),
                    Scheme::HTTP,
                ))
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                Err(error)
            }
        }
    }
}

/// A connection, its place among those allowed, and how long it may stall.
struct Connection {
    stream: TcpStream,
    stall: Stall,
    silence: Option<Silence>,
    _place: OwnedSemaphorePermit,
    _counted: Active,
}

/// The time by which a connection must get on. It is set anew by every write that the peer took a part of, and by the
/// first read after one, which is where a request begins; not by the reads that follow, so that a request sent byte
/// by byte does not hold its connection for ever.
///
/// poem would keep the idle time in a task of its own for each connection, woken several times a request.
struct Stall {
    idle: Duration,
    stalled: Duration,
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
    fn new(idle: Duration, stalled: Duration) -> Self {
        Self {
            idle,
            stalled,
            by: Instant::now() + idle,
            timer: Box::pin(tokio::time::sleep(idle)),
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
            Stage::New | Stage::BetweenRequests => self.idle,
            Stage::InRequest | Stage::Multiplexed => self.stalled,
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
