//! The least of an HTTP/1.1 client: it shares two cores with what it measures. An answer is looked at only as far as its
//! head, nothing is allocated for a request, and what is read lands in one place for all connections of a thread, as
//! what is sent is written in one: those stay in the processor's cache, where the buffers of 1,000 connections would not.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

thread_local! {
    /// Where reads land.
    static LANDING: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into());
}

/// A connection that is kept, and opened again where the server ends it.
pub struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    /// What is left of a request that could not be sent at once.
    unsent: Vec<u8>,
    /// What came of an answer that did not come at once.
    parts: Vec<u8>,
    is_over: bool,
}

/// The head of an answer, and how long its body was.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub status: u16,
    pub body_bytes: usize,
    pub has_retry_after: bool,
}

struct Head {
    answer: Answer,
    ends_connection: bool,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            address,
            stream: connect(address).await?,
            unsent: Vec::new(),
            parts: Vec::new(),
            is_over: false,
        })
    }

    /// Sends a request, and reads the whole of its answer. After an error the next request gets a new connection.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.ready().await?;
        self.send(request)?;
        self.answer().await
    }

    /// As [`exchange`](Self::exchange), with the body of the answer.
    pub async fn fetch(&mut self, request: &[u8]) -> io::Result<(Answer, Vec<u8>)> {
        self.ready().await?;
        self.send(request)?;
        self.answer_with(<[u8]>::to_vec).await
    }

    /// Connects anew where the connection is over.
    pub async fn ready(&mut self) -> io::Result<()> {
        if self.is_over {
            self.stream = connect(self.address).await?;
            self.is_over = false;
        }
        Ok(())
    }

    /// Sends a request, or begins to, on a connection that is ready; its buffer is free for others then.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        // Also where the answer is not waited for.
        self.is_over = true;
        let sent = match self.stream.try_write(request) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        self.unsent.clear();
        self.unsent.extend_from_slice(&request[sent..]);
        Ok(())
    }

    /// The answer to the request that was sent.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        self.answer_with(|_| ()).await.map(|(answer, ())| answer)
    }

    async fn answer_with<T>(&mut self, look: impl Fn(&[u8]) -> T) -> io::Result<(Answer, T)> {
        self.stream.write_all(&self.unsent).await?;
        self.parts.clear();
        let (head, seen) =
            poll_fn(|cx| LANDING.with_borrow_mut(|landing| self.poll_whole(cx, landing, &look))).await?;
        self.is_over = head.ends_connection;
        Ok((head.answer, seen))
    }

    /// Reads until the answer is whole, and looks at its body. One that comes at once is never copied.
    fn poll_whole<T>(
        &mut self,
        cx: &mut Context<'_>,
        landing: &mut [u8],
        look: impl Fn(&[u8]) -> T,
    ) -> Poll<io::Result<(Head, T)>> {
        loop {
            let mut landing = ReadBuf::new(landing);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut landing))?;
            let new = landing.filled();
            if new.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let is_first = self.parts.is_empty();
            if !is_first {
                self.parts.extend_from_slice(new);
            }
            if let Some((head, body)) = whole(if is_first { new } else { &self.parts })? {
                return Poll::Ready(Ok((head, look(body))));
            }
            if is_first {
                self.parts.extend_from_slice(new);
            }
        }
    }
}

/// The head and the body of an answer, if that is all there.
fn whole(bytes: &[u8]) -> io::Result<Option<(Head, &[u8])>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = bytes.split_at(end + 4);
    let head = read_head(head)?;
    match body.len() > head.answer.body_bytes {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "more than one answer")),
        false if body.len() < head.answer.body_bytes => Ok(None),
        false => Ok(Some((head, body))),
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn read_head(head: &[u8]) -> io::Result<Head> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.trim().parse().ok();
    let status = head
        .get(9..12)
        .and_then(number)
        .ok_or_else(|| wrong("no status"))?;
    let mut answer = Answer {
        status: u16::try_from(status).map_err(|_| wrong("no status"))?,
        body_bytes: 0,
        has_retry_after: false,
    };
    let (mut ends, mut has_length) = (false, answer.status == 204);
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            answer.body_bytes = number(value).ok_or_else(|| wrong("no length"))?;
            has_length = true;
        } else if name.eq_ignore_ascii_case(b"retry-after") {
            answer.has_retry_after = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            ends = value.eq_ignore_ascii_case(b"close");
        }
    }
    match has_length {
        true => Ok(Head {
            answer,
            ends_connection: ends,
        }),
        false => Err(wrong("an answer without a length")),
    }
}
