//! The server: connections bounded, answers sent without a copy of their bodies, and a way to stop that loses nothing.
//!
//! poem describes and answers requests; its server is not used. That one sets no TCP_NODELAY, spins when the process is out of
//! file descriptors, takes any number of connections, waits for ever for the rest of a request's head or for a peer to take
//! its answer, and hides from hyper that a socket can be given an answer's head and body in one call, so that every
//! body was copied behind its head first. hyper's own parts take its place.
//!
//! What a connection may hold in memory is bounded here, in both protocols: its head and what it sends by `HEAD_BYTES_MAX`,
//! the requests on it by [`HTTP2_STREAMS_MAX`], its answers by the budget of [`answers`](super::answers).

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use poem::{
    Endpoint, Request, Response,
    http::{self, Version, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    answers::{Answers, Counted},
    connection::Connection,
    draining::{Draining, Parting},
    exchange::{Exchange, UnderWay},
    listener::{self, Arrival},
    stall::StallLimits,
    unread::{Asked, Unread, UnreadLimits},
};

/// What bounds the server (I9).
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Most connections at once; more wait in the system's backlog.
    pub connections_max: usize,
    pub stall: StallLimits,
    /// What is read of requests that were answered unread.
    pub unread: UnreadLimits,
    /// How long the server goes on as before once it was asked to stop, but for telling everybody.
    pub shutdown_drain: Duration,
    /// How long requests in flight may take after that.
    pub shutdown_grace: Duration,
}

/// How long to wait after a failed accept, so that running out of descriptors does not take all of a core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long a connection that has said nothing may go on when the server ends. Whoever connects to send a request sends it
/// at once; others connect ahead of need, or only to see whether they can.
const FIRST_WORD_WAIT_MAX: Duration = Duration::from_millis(500);

/// Most bytes of a request's head in HTTP/1, and most that a peer in HTTP/2 may send ahead of what is read.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// Most requests at once on a connection in HTTP/2. Clients send as many before they know what they may; fewer would have
/// to be refused.
pub const HTTP2_STREAMS_MAX: u32 = 100;

/// Most bytes of the head of a request in HTTP/2, unpacked.
const HTTP2_HEAD_BYTES_MAX: u32 = 16 * 1024;

/// Most requests that a peer in HTTP/2 may have taken back before they were looked at, and most that were refused as
/// malformed; with more, its connection ends.
const HTTP2_RESETS_MAX: usize = 64;

/// How often a connection in HTTP/2 is asked whether the peer is there, and how long it has to answer.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(30);
const HTTP2_PING_WAIT_MAX: Duration = Duration::from_secs(20);

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
    pub async fn serve<E>(
        self,
        endpoint: E,
        limits: ServerLimits,
        draining: Draining,
        answers: Answers,
        stop: impl Future<Output = ()>,
    ) -> usize
    where
        E: Endpoint<Output = Response> + 'static,
    {
        let cut_off = Arc::new(CutOff::default());
        let endpoint = Arc::new(Watched {
            inner: Parting {
                inner: endpoint,
                draining: draining.clone(),
            },
            cut_off: Arc::clone(&cut_off),
        });
        let local = LocalAddr(self.address.into());
        let (end, ending) = watch::channel(false);
        let mut connections = JoinSet::new();
        let serve = |connections: &mut JoinSet<()>, (connection, remote): (Connection, SocketAddr)| {
            let conversation = Conversation {
                endpoint: Arc::clone(&endpoint),
                exchange: connection.exchange(),
                answers: answers.clone(),
                unread: limits.unread,
                local: local.clone(),
                remote: RemoteAddr(remote.into()),
            };
            connections.spawn(converse(connection, conversation, ending.clone()));
        };
        let mut door = Door {
            listener: self.listener,
            places: Arc::new(Semaphore::new(limits.connections_max)),
            stall: limits.stall,
        };
        let mut stop = pin!(async {
            stop.await;
            drain(&draining, limits.shutdown_drain).await;
        });
        loop {
            tokio::select! {
                arrival = door.next() => serve(&mut connections, arrival),
                // What a request panicked over is known to the panic hook.
                Some(_) = connections.join_next() => {}
                () = &mut stop => break,
            }
        }
        cut_off.stopping.store(true, Ordering::Relaxed);
        let mut rest = door.close();
        end.send_replace(true);
        let finish = async {
            loop {
                tokio::select! {
                    Some(arrival) = rest.next() => serve(&mut connections, arrival),
                    Some(_) = connections.join_next() => {}
                    else => break,
                }
            }
        };
        let _ = timeout(limits.shutdown_grace, finish).await;
        connections.shutdown().await;
        cut_off.requests.load(Ordering::Relaxed)
    }
}

/// Tells everybody that the server is about to stop, and gives them time to go elsewhere.
async fn drain(draining: &Draining, time: Duration) {
    draining.begin();
    if !time.is_zero() {
        tracing::info!(
            drain_ms = time.as_millis(),
            "draining: serving on, but ready no more"
        );
        tokio::time::sleep(time).await;
    }
}

/// What answers the requests of a connection.
struct Conversation<E> {
    endpoint: Arc<E>,
    exchange: Arc<Exchange>,
    answers: Answers,
    unread: UnreadLimits,
    local: LocalAddr,
    remote: RemoteAddr,
}

/// Answers the requests of a connection until either side ends it: this side when it is told that the server ends, as soon
/// as the connection has said something or had its time to. Its first request may have arrived though hyper, which would
/// drop it, has read none of it.
async fn converse<E>(
    mut connection: Connection,
    conversation: Conversation<E>,
    mut ending: watch::Receiver<bool>,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let first_word = connection.first_word();
    let conversation = Arc::new(conversation);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let conversation = Arc::clone(&conversation);
        // At once, so that the connection knows before it is looked at again.
        let under_way = conversation.exchange.begin();
        // In a box, since a connection has a place for the whole of it, busy or not.
        Box::pin(async move { Ok::<_, Infallible>(conversation.answer(request, under_way).await) })
    });
    let server = protocol();
    let mut served = pin!(server.serve_connection(TokioIo::new(connection), service));
    // How it ends is the peer's affair: requests that went wrong were answered.
    tokio::select! {
        _ = served.as_mut() => return,
        () = to_end(&mut ending, first_word) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

async fn to_end(ending: &mut watch::Receiver<bool>, first_word: oneshot::Receiver<Infallible>) {
    // Whoever could tell is gone only when the server is.
    let _ = ending.wait_for(|ending| *ending).await;
    let _ = timeout(FIRST_WORD_WAIT_MAX, first_word).await;
}

/// HTTP/1 and HTTP/2 with their bounds; hyper adds one of 100 header fields in HTTP/1. The time of a head is the
/// connection's affair.
fn protocol() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(HEAD_BYTES_MAX as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HEAD_BYTES_MAX)
        .initial_connection_window_size(HEAD_BYTES_MAX)
        .max_send_buf_size(HEAD_BYTES_MAX as usize)
        .max_header_list_size(HTTP2_HEAD_BYTES_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX)
        .keep_alive_interval(HTTP2_PING_EVERY)
        .keep_alive_timeout(HTTP2_PING_WAIT_MAX);
    server
}

impl<E> Conversation<E>
where
    E: Endpoint<Output = Response> + 'static,
{
    async fn answer(
        &self,
        request: http::Request<Incoming>,
        under_way: UnderWay,
    ) -> http::Response<Counted<impl Body<Data = Bytes, Error = io::Error> + use<E>>> {
        let (parts, body) = request.into_parts();
        let asked = Asked {
            is_http2: parts.version >= Version::HTTP_2,
            expects: parts.headers.contains_key(header::EXPECT),
        };
        let (body, unread) = Unread::lend(body);
        let parts = (parts, self.local.clone(), self.remote.clone(), Scheme::HTTP);
        let request = Request::from_parts(parts.into(), body);
        let mut answer = http::Response::from(self.endpoint.get_response(request).await);
        if asked.is_http2 {
            // There is no such header.
            answer.headers_mut().remove(header::CONNECTION);
        }
        if let Some(unread) = unread {
            unread.settle(answer.headers_mut(), asked, self.unread, under_way.clone());
        }
        self.answers.count(answer, under_way)
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

/// Where connections come in, as far as there are places.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    stall: StallLimits,
}

impl Door {
    /// The next connection; a failure to get one is logged, and another is tried.
    async fn next(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    async fn accept(&mut self) -> io::Result<(Connection, SocketAddr)> {
        let place = place(&self.places).await?;
        let (stream, remote) = self.listener.accept().await?;
        Ok((Connection::new(stream, self.stall, place)?, remote))
    }

    /// Lets no more in than have come.
    fn close(self) -> Rest {
        Rest {
            arrivals: listener::close(self.listener),
            places: self.places,
            stall: self.stall,
        }
    }
}

/// Those who had come when the door closed, and get a place when there is one.
struct Rest {
    arrivals: VecDeque<Arrival>,
    places: Arc<Semaphore>,
    stall: StallLimits,
}

impl Rest {
    async fn next(&mut self) -> Option<(Connection, SocketAddr)> {
        while !self.arrivals.is_empty() {
            let place = place(&self.places).await.ok()?;
            let (stream, remote) = self.arrivals.pop_front()?;
            if let Ok(connection) = Connection::new(stream, self.stall, place) {
                return Some((connection, remote));
            }
        }
        None
    }
}

async fn place(places: &Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(places).acquire_owned().await.map_err(io::Error::other)
}
