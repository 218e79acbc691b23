//! A way to an engine that can be cut, and can hold back what is sent.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections stay, and what is sent arrives once the way is open again.
    Stalled,
    /// Connections break, also new ones.
    Cut,
}

/// Listens on a port of its own, and passes on what comes while the way is open.
pub struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of `host:port`.
    pub async fn before(engine: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (way, watched) = watch::channel(Way::Open);
        let engine = engine.to_owned();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, engine.clone(), watched.clone()));
            }
        });
        Self { port, way, accepting }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Both directions of a connection; it ends when either does.
async fn connect(client: TcpStream, engine: String, way: watch::Receiver<Way>) -> io::Result<()> {
    if *way.borrow() == Way::Cut {
        return Ok(());
    }
    let engine = TcpStream::connect(engine).await?;
    for stream in [&client, &engine] {
        stream.set_nodelay(true)?;
    }
    let ((from_client, to_client), (from_engine, to_engine)) = (client.into_split(), engine.into_split());
    tokio::select! {
        ended = pass(from_client, to_engine, way.clone()) => ended,
        ended = pass(from_engine, to_client, way) => ended,
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) -> io::Result<()> {
    let mut cut = way.clone();
    let copy = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut bytes).await?;
            let open = way.wait_for(|way| *way == Way::Open).await.is_ok();
            if count == 0 || !open {
                return Ok(());
            }
            to.write_all(&bytes[..count]).await?;
        }
    };
    tokio::select! {
        copied = copy => copied,
        _ = cut.wait_for(|way| *way == Way::Cut) => Ok(()),
    }
}
