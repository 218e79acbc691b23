//! The listening socket, which closes without a loss: a connection that a peer got is served, even if nobody here had looked
//! at it yet.
//!
//! The system resets whatever waits in the backlog of a socket that closes. So what waits is taken in first. What remains is
//! a peer whose connection is made between the last look into the backlog and the close, which are two system calls; a
//! proxy that watches readiness has stopped connecting long before.

use std::{collections::VecDeque, io, net::SocketAddr};

use tokio::net::{TcpListener, TcpStream};

/// A connection, and from whom it is.
pub type Arrival = (TcpStream, SocketAddr);

/// Takes in what waits for `listener` to accept it, and closes it.
pub fn close(listener: TcpListener) -> VecDeque<Arrival> {
    let mut waiting = Vec::new();
    // Asked directly: tokio knows of a connection only some time after the system does.
    let Ok(listener) = listener.into_std() else {
        return VecDeque::new();
    };
    loop {
        match listener.accept() {
            Ok(arrival) => waiting.push(arrival),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => break,
        }
    }
    drop(listener);
    let arrivals = waiting.into_iter().filter_map(|(stream, remote)| {
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        let warn = |error: &io::Error| tracing::warn!(%error, "a connection could not be accepted");
        Some((stream.inspect_err(warn).ok()?, remote))
    });
    arrivals.collect()
}
