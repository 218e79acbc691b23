//! The least of an HTTP/1.1 client: it shares two cores with what it measures. A connection keeps its buffer, an answer
//! is looked at only as far as its head, and nothing is allocated for a request.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const BUFFER_BYTES: usize = 32 * 1024;

/// A connection that is kept, and opened again where the server ends it.
pub struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    input: Vec<u8>,
    is_over: bool,
}

/// The head of an answer, and how long its body was.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub status: u16,
    pub body_bytes: usize,
    pub has_retry_after: bool,
    body_at: usize,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            address,
            stream: connect(address).await?,
            input: vec![0; BUFFER_BYTES],
            is_over: false,
        })
    }

    /// Sends a request, and reads the whole of its answer. After an error the next request gets a new connection.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        if self.is_over {
            self.stream = connect(self.address).await?;
        }
        // Also where this is given up half way.
        self.is_over = true;
        let (answer, ends) = self.try_exchange(request).await?;
        self.is_over = ends;
        Ok(answer)
    }

    /// The body of the answer that came last.
    pub fn body(&self, answer: &Answer) -> &[u8] {
        &self.input[answer.body_at..answer.body_at + answer.body_bytes]
    }

    async fn try_exchange(&mut self, request: &[u8]) -> io::Result<(Answer, bool)> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let (answer, ends) = loop {
            let before = filled;
            filled += self.fill(filled).await?;
            // The end of the head may have come in two parts.
            if let Some(at) = find(&self.input[before.saturating_sub(3)..filled], b"\r\n\r\n") {
                break read_head(&self.input[..before.saturating_sub(3) + at + 4])?;
            }
        };
        let whole = answer.body_at + answer.body_bytes;
        while filled < whole {
            filled += self.fill(filled).await?;
        }
        if filled > whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more than one answer"));
        }
        Ok((answer, ends))
    }

    async fn fill(&mut self, filled: usize) -> io::Result<usize> {
        if filled == self.input.len() {
            self.input.resize(filled * 2, 0);
        }
        match self.stream.read(&mut self.input[filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok(bytes),
        }
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

/// What a head says, and whether it ends the connection.
fn read_head(head: &[u8]) -> io::Result<(Answer, bool)> {
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
        body_at: head.len(),
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
        true => Ok((answer, ends)),
        false => Err(wrong("an answer without a length")),
    }
}
