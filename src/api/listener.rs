//! The listening socket, which closes without a loss: a connection that a peer got is served, even if nobody here had looked
//! at it yet.
//!
//! A socket that is closed resets what waits in its backlog, and hyper, once told to stop, drops connections that have said
//! nothing yet, though their first request may have arrived. So the socket is closed first, with its backlog taken in; hyper is
//! told when each connection has said something, or had its time to. What remains is a peer whose connection is made
//! between the last look into the backlog and the close, which are two system calls; a proxy that watches readiness has
//! stopped connecting long before.

use std::{collections::VecDeque, convert::Infallible, future::pending, io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};

/// How long connections that have said nothing are waited for once the socket is closed. Whoever connects to send a
/// request sends it at once; others connect ahead of need, or only to see whether they can.
const FIRST_WORD_WAIT_MAX: Duration = Duration::from_millis(500);

/// Held by a connection until the first byte of its first request has come.
pub type Silence = mpsc::Sender<Infallible>;

/// A connection, from whom, and what it drops with the first byte that it reads.
pub type Arrival = (TcpStream, SocketAddr, Silence);

pub struct Listener {
    /// `None` once it is closed, and then no connection comes but those in `backlog`.
    open: Option<(TcpListener, Silence)>,
    backlog: VecDeque<Arrival>,
    told_to_close: watch::Receiver<bool>,
}

/// Closes a [`Listener`].
pub struct Closing {
    tell: watch::Sender<bool>,
    silent: mpsc::Receiver<Infallible>,
}

impl Listener {
    pub fn new(listener: TcpListener) -> (Self, Closing) {
        let (silence, silent) = mpsc::channel(1);
        let (tell, told_to_close) = watch::channel(false);
        let listener = Self {
            open: Some((listener, silence)),
            backlog: VecDeque::new(),
            told_to_close,
        };
        (listener, Closing { tell, silent })
    }

    /// The next connection; none comes any more once the listener is closed and its backlog is given out.
    ///
    /// # Errors
    /// The system can't accept one just now.
    pub async fn accept(&mut self) -> io::Result<Arrival> {
        loop {
            if let Some(arrival) = self.backlog.pop_front() {
                return Ok(arrival);
            }
            let Some((listener, silence)) = &self.open else {
                return pending().await;
            };
            tokio::select! {
                accepted = listener.accept() => {
                    return accepted.map(|(stream, remote)| (stream, remote, silence.clone()));
                }
                () = told(&mut self.told_to_close) => self.close(),
            }
        }
    }

    /// Waits until the listener is told to close, and closes it.
    pub async fn closed(&mut self) {
        told(&mut self.told_to_close).await;
        self.close();
    }

    fn close(&mut self) {
        let Some((listener, silence)) = self.open.take() else {
            return;
        };
        // Asked directly: tokio knows of a connection only some time after the system does.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        let mut waiting = Vec::new();
        loop {
            match listener.accept() {
                Ok(arrival) => waiting.push(arrival),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => break,
            }
        }
        drop(listener);
        for (stream, remote) in waiting {
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            match stream {
                Ok(stream) => self.backlog.push_back((stream, remote, silence.clone())),
                Err(error) => tracing::warn!(%error, "a connection could not be accepted"),
            }
        }
    }
}

/// Whoever could tell is gone only when the server is.
async fn told(to_close: &mut watch::Receiver<bool>) {
    if to_close.wait_for(|told| *told).await.is_err() {
        pending().await
    }
}

impl Closing {
    /// Closes the listener, and waits until it and every connection so far has said something, or had the time to.
    pub async fn close(mut self) {
        self.tell.send_replace(true);
        // Nothing is ever sent: this ends when the last one who could is gone.
        let _ = timeout(FIRST_WORD_WAIT_MAX, self.silent.recv()).await;
    }
}
