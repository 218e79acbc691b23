//! The listening socket: connections bounded, small packets sent at once, and a way to stop that loses nothing.
//!
//! poem's own acceptor sets no TCP_NODELAY, spins when the process is out of file descriptors, and takes any number
//! of connections; this one mends the three.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use poem::{
    Endpoint, Server,
    http::uri::Scheme,
    listener::Acceptor,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// What bounds the server (I9).
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Most connections at once; more wait in the system's backlog.
    pub connections_max: usize,
    /// A connection on which nothing moves for this long is closed.
    pub idle_connection: Duration,
    /// How long requests in flight may take once the server was asked to stop.
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

    /// Serves until `stop` resolves, then finishes the requests in flight within the grace time.
    ///
    /// # Errors
    /// None in practice: a failing accept is logged and tried again.
    pub async fn serve<E>(
        self,
        endpoint: E,
        limits: ServerLimits,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()>
    where
        E: Endpoint + 'static,
    {
        let acceptor = BoundedAcceptor {
            listener: self.listener,
            address: LocalAddr(self.address.into()),
            places: Arc::new(Semaphore::new(limits.connections_max)),
        };
        Server::new_with_acceptor(acceptor)
            .idle_timeout(limits.idle_connection)
            .run_with_graceful_shutdown(endpoint, stop, Some(limits.shutdown_grace))
            .await
    }
}

struct BoundedAcceptor {
    listener: TcpListener,
    address: LocalAddr,
    places: Arc<Semaphore>,
}

impl Acceptor for BoundedAcceptor {
    type Io = Connection;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![self.address.clone()]
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        match self.listener.accept().await {
            Ok((stream, remote)) => {
                stream.set_nodelay(true)?;
                let connection = Connection {
                    stream,
                    _place: place,
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

/// A connection and its place among those allowed.
struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
