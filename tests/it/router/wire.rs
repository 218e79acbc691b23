//! MongoDB's wire protocol, as far as drivers speak it since 3.6: `OP_MSG` with sections of both kinds, uncompressed.

use std::io;

use mongodb::bson::{Bson, Document};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const OP_MSG: i32 = 2013;
const HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
/// The longest message that the protocol knows.
pub const MESSAGE_BYTES_MAX: usize = 48_000_000;

const CHECKSUM_PRESENT: u32 = 1;
/// On a request: no reply is wanted.
const MORE_TO_COME: u32 = 1 << 1;

/// A command, with the documents of its sequences as arrays in it.
pub struct Message {
    pub id: i32,
    pub body: Document,
    pub wants_reply: bool,
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The next message; `None` where the peer hung up between two.
pub async fn read(stream: &mut TcpStream) -> io::Result<Option<Message>> {
    let mut header = [0; HEADER_BYTES];
    match stream.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let number = |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = usize::try_from(number(0)).map_err(io::Error::other)?;
    if !(HEADER_BYTES + 5..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(wrong("the length of a message"));
    }
    if number(12) != OP_MSG {
        return Err(wrong("a message other than OP_MSG"));
    }
    let mut rest = vec![0; length - HEADER_BYTES];
    stream.read_exact(&mut rest).await?;
    let flags = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
    let end = rest.len()
        - if flags & CHECKSUM_PRESENT != 0 {
            CHECKSUM_BYTES
        } else {
            0
        };
    Ok(Some(Message {
        id: number(4),
        body: sections(&rest[4..end])?,
        wants_reply: flags & MORE_TO_COME == 0,
    }))
}

fn sections(mut bytes: &[u8]) -> io::Result<Document> {
    let (mut body, mut sequences) = (None, Vec::new());
    while let Some((&kind, mut rest)) = bytes.split_first() {
        let length = rest.get(..4).ok_or_else(|| wrong("a section"))?;
        let length = i32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        (rest, bytes) = rest.split_at_checked(length).ok_or_else(|| wrong("a section"))?;
        match kind {
            0 => body = Some(Document::from_reader(rest).map_err(io::Error::other)?),
            1 => sequences.push(sequence(&rest[4..])?),
            _ => return Err(wrong("a section of an unknown kind")),
        }
    }
    let mut body = body.ok_or_else(|| wrong("a message without a body"))?;
    body.extend(sequences);
    Ok(body)
}

fn sequence(bytes: &[u8]) -> io::Result<(String, Bson)> {
    let end = bytes.iter().position(|&byte| byte == 0);
    let end = end.ok_or_else(|| wrong("a sequence without a name"))?;
    let name = String::from_utf8(bytes[..end].to_vec()).map_err(io::Error::other)?;
    let (mut documents, mut rest) = (Vec::new(), &bytes[end + 1..]);
    while !rest.is_empty() {
        documents.push(Bson::Document(
            Document::from_reader(&mut rest).map_err(io::Error::other)?,
        ));
    }
    Ok((name, Bson::Array(documents)))
}

/// Sends a message of one section, as a reply where `to` is the id of a request.
pub async fn write(stream: &mut TcpStream, id: i32, to: i32, body: &Document) -> io::Result<()> {
    let mut message = vec![0; HEADER_BYTES + 5];
    body.to_writer(&mut message).map_err(io::Error::other)?;
    let length = i32::try_from(message.len()).map_err(io::Error::other)?;
    for (at, number) in [length, id, to, OP_MSG].into_iter().enumerate() {
        message[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
    }
    stream.write_all(&message).await
}
