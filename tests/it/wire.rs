//! HTTP byte by byte, for what no client library would send.

use std::{os::fd::AsFd, time::Duration};

use futures_util::FutureExt;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Server, assert_problem};

/// How long an answer or the end of a connection may take. Not a measure: a bound that keeps a broken test from
/// hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection to a server.
pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Wire {
    pub async fn to(server: &Server) -> Self {
        Self::at(server.address()).await
    }

    /// To whatever listens at `host:port`.
    pub async fn at(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// A second writer to the same connection, for what is sent while answers are read.
    pub fn writer(&self) -> impl AsyncWrite + Unpin + Send + use<> {
        let fd = self
            .stream
            .as_fd()
            .try_clone_to_owned()
            .expect("another descriptor");
        TcpStream::from_std(fd.into()).expect("the same connection")
    }

    /// What came and was not looked at yet, with what comes now; `None` once the server has closed the connection.
    pub async fn bytes(&mut self) -> Option<Vec<u8>> {
        if self.received.is_empty() && !self.receive().await {
            return None;
        }
        Some(std::mem::take(&mut self.received))
    }

    /// Sends bytes. A server that has answered already may have closed its end, which is no failure.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Sends no more, but still reads.
    pub async fn end(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next answer; that of a HEAD request has no body whatever it says.
    pub async fn answer_to(&mut self, method: &str) -> Answer {
        let head = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break self.received.drain(..end + 4).collect::<Vec<u8>>();
            }
            assert!(
                self.receive().await,
                "closed before an answer: {:?}",
                self.received
            );
        };
        let mut answer = Answer::parse(&head);
        let length = answer
            .header("content-length")
            .map_or(0, |text| text.parse().expect("a length"));
        let length = if method == "HEAD" { 0 } else { length };
        while self.received.len() < length {
            assert!(self.receive().await, "closed within an answer");
        }
        answer.body = self.received.drain(..length).collect();
        answer
    }

    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// Waits until the server has closed the connection; what it sent before is not looked at.
    pub async fn closed(&mut self) {
        while self.receive().await {}
    }

    /// Whether the server has not closed the connection yet.
    pub fn is_open(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.try_read(&mut byte) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// Whether nothing has come that was not looked at yet, the end of the connection included.
    pub fn is_silent(&self) -> bool {
        self.received.is_empty() && self.stream.peek(&mut [0]).now_or_never().is_none()
    }

    /// Reads some; `false` when the server has closed the connection.
    async fn receive(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer));
        match read.await.expect("the server says something or closes") {
            Ok(count) if count > 0 => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
            _ => false,
        }
    }
}

impl Answer {
    fn parse(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        };
        Self {
            status: status.and_then(|text| text.parse().ok()).expect("a status"),
            headers: lines.filter_map(header).collect(),
            body: Vec::new(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that the answer is a problem with this status and code, and whole.
    pub fn assert_problem(&self, status: u16, code: &str) {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{body}");
        let header = |name| self.header(name).unwrap_or_default();
        assert_problem(
            &self.json(),
            header("content-type"),
            header("x-request-id"),
            status,
            code,
        );
    }
}

/// A request with a body, on a connection that is to be closed afterwards.
pub fn request(method: &str, path: impl AsRef<[u8]>, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(method.as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(path.as_ref());
    bytes.extend_from_slice(b" HTTP/1.1\r\nhost: colloquy\r\nconnection: close\r\n");
    bytes.extend_from_slice(headers.as_bytes());
    if !body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Sends one request and gives its answer.
pub async fn exchange(server: &Server, bytes: impl AsRef<[u8]>) -> Answer {
    let mut wire = Wire::to(server).await;
    let method = if bytes.as_ref().starts_with(b"HEAD ") {
        "HEAD"
    } else {
        "GET"
    };
    wire.send(bytes.as_ref()).await;
    wire.answer_to(method).await
}

/// Begins a POST with a JSON body of so many bytes, and waits until the server asks for them: the request is in flight.
pub async fn begin_post(server: &Server, path: &str, body_bytes: usize) -> Wire {
    let mut wire = Wire::to(server).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
         content-length: {body_bytes}\r\n\r\n"
    );
    wire.send(head).await;
    assert_eq!(wire.answer().await.status, 100);
    wire
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
