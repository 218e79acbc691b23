//! What hyper refuses before there is a request, in the form of every problem: a head that is no HTTP, or too large.
//!
//! hyper answers such a head with a status and no body, and can't be told to say more. Its answer is known by what all of
//! ours have and it has not, `X-Request-Id`, and is written as a problem instead.

use std::io::IoSlice;

use bytes::Bytes;
use poem::http::StatusCode;

use super::{
    envelope::RequestId,
    problem::{CONTENT_TYPE, Code, Problem},
};
use crate::telemetry::metrics::metrics;

/// hyper's own answers are shorter.
const LENGTH_MAX: usize = 256;

/// The bytes about to be written, if they are an answer of hyper's own.
pub fn by_hyper<'a>(bytes: &'a [IoSlice<'_>]) -> Option<&'a [u8]> {
    let [head] = bytes else { return None };
    let is_own = head.starts_with(b"HTTP/1.1 4")
        && head.len() < LENGTH_MAX
        && head.ends_with(b"\r\n\r\n")
        && !contains(head, b"x-request-id");
    is_own.then_some(head)
}

/// What is written in its place; counted as a request, since nothing else is told of it.
pub fn typed(head: &[u8]) -> Bytes {
    let text = String::from_utf8_lossy(head);
    let status = text.split(' ').nth(1).unwrap_or_default();
    let problem = match status {
        "414" | "431" => Problem::new(
            Code::HeadTooLarge,
            "the path, the query and the headers are more than 64 KiB together, or more than 100 headers",
        ),
        _ => Problem::new(
            Code::BadRequest,
            "the request is not well-formed HTTP/1.1; its first lines can't be understood",
        ),
    };
    let id = RequestId::made_up();
    let mut body = Vec::with_capacity(256);
    problem.write(&mut body, id.as_str());
    let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    metrics().request("_OTHER", "-", status.as_u16(), std::time::Duration::ZERO);
    tracing::debug!(
        status = status.as_u16(),
        request_id = id.as_str(),
        "a head was refused"
    );
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\nx-request-id: {}\r\ncache-control: no-store\r\n\
         connection: close\r\ncontent-length: {}\r\n",
        id.as_str(),
        body.len(),
    );
    for line in text.split("\r\n").filter(|line| line.starts_with("date: ")) {
        answer.push_str(line);
        answer.push_str("\r\n");
    }
    answer.push_str("\r\n");
    let mut answer = answer.into_bytes();
    answer.append(&mut body);
    answer.into()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
