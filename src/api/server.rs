//! The server: connections bounded, answers sent without a copy of their bodies, and a way to stop that loses nothing.
//!
//! poem describes and answers requests; its server is not used. That one sets no TCP_NODELAY, spins when the process is out of
//! file descriptors, takes any number of connections, waits for ever for the rest of a request's head or for a peer to take
//! its answer, and hides from hyper that a socket can be given an answer's head and body in one call, so that every
//! body was copied behind its head first. hyper's own parts take its place.

use std::{
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

use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use poem::{
    Endpoint, Request, Response,
    http::{self, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    connection::{Connection, StallLimits},
    draining::{Draining, Parting},
    listener::{Closing, Listener},
};

/// What bounds the server (I9).
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Most connections at once; more wait in the system's backlog.
    pub connections_max: usize,
    pub stall: StallLimits,
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
    pub async fn serve<E>(
        self,
        endpoint: E,
        limits: ServerLimits,
        draining: Draining,
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
        let (listener, closing) = Listener::new(self.listener);
        let mut door = Door {
            listener,
            places: Arc::new(Semaphore::new(limits.connections_max)),
            stall: limits.stall,
        };
        let (ending, mut connections) = (GracefulShutdown::new(), JoinSet::new());
        let mut stop = pin!(async {
            stop.await;
            drain(&draining, limits.shutdown_drain, closing).await;
        });
        loop {
            tokio::select! {
                (connection, remote) = door.next() => {
                    let from = (local.clone(), RemoteAddr(remote.into()));
                    connections.spawn(converse(connection, from, Arc::clone(&endpoint), ending.watcher()));
                }
                // What a request panicked over is known to the panic hook.
                Some(_) = connections.join_next() => {}
                () = &mut stop => break,
            }
        }
        drop(door);
        cut_off.stopping.store(true, Ordering::Relaxed);
        let _ = timeout(limits.shutdown_grace, ending.shutdown()).await;
        connections.shutdown().await;
        cut_off.requests.load(Ordering::Relaxed)
    }
}

/// Tells everybody that the server is about to stop, gives them time to go elsewhere, and closes the listening socket.
async fn drain(draining: &Draining, time: Duration, closing: Closing) {
    draining.begin();
    if !time.is_zero() {
        tracing::info!(
            drain_ms = time.as_millis(),
            "draining: serving on, but ready no more"
        );
        tokio::time::sleep(time).await;
    }
    closing.close().await;
}

/// Answers the requests of a connection until either side ends it.
async fn converse<E>(connection: Connection, from: (LocalAddr, RemoteAddr), endpoint: Arc<E>, ending: Watcher)
where
    E: Endpoint<Output = Response> + 'static,
{
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (endpoint, (local, remote)) = (Arc::clone(&endpoint), from.clone());
        // In a box, since a connection has a place for the whole of it, busy or not.
        Box::pin(async move {
            let request = Request::from((request, local, remote, Scheme::HTTP));
            Ok::<_, Infallible>(http::Response::from(endpoint.get_response(request).await))
        })
    });
    // hyper's own bounds: 100 header fields of HTTP/1, 200 requests at once of HTTP/2.
    let server = auto::Builder::new(TokioExecutor::new());
    let served = server.serve_connection(TokioIo::new(connection), service);
    // How it ends is the peer's affair: requests that went wrong were answered.
    let _ = ending.watch(served).await;
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
    listener: Listener,
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
        let place = || Arc::clone(&self.places).acquire_owned();
        let place = tokio::select! {
            place = place() => place,
            // A server that is full closes its socket in time, too.
            () = self.listener.closed() => place().await,
        };
        let place = place.map_err(io::Error::other)?;
        let (stream, remote, silence) = self.listener.accept().await?;
        Ok((Connection::new(stream, self.stall, silence, place)?, remote))
    }
}
