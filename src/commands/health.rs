//! `colloquy health`: asks a running server how it is, for health checks in an image that has neither a shell nor curl.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// Longest that the server may take to answer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Longest answer that is read, in bytes; a server's own are far shorter.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub body: String,
    pub good: bool,
}

/// Asks the server that listens at `listen` whether it runs, or whether it is `ready` to serve.
///
/// # Errors
/// Nothing listens there, or does not answer in time, or does not speak HTTP.
pub async fn ask(listen: &str, ready: bool) -> io::Result<Said> {
    let path = if ready { "/readyz" } else { "/healthz" };
    let late = |_| {
        let words = format!("no answer within {} ms", WAIT_MAX.as_millis());
        io::Error::new(io::ErrorKind::TimedOut, words)
    };
    let answer = timeout(WAIT_MAX, exchange(listen, path)).await.map_err(late)??;
    parse(&answer).ok_or_else(|| io::Error::other("what answers there does not speak HTTP"))
}

/// The whole answer to a GET, byte by byte.
async fn exchange(listen: &str, path: &str) -> io::Result<Vec<u8>> {
    let addresses: Vec<SocketAddr> = lookup_host(listen).await?.map(reachable).collect();
    let mut stream = TcpStream::connect(&*addresses).await?;
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {listen}\r\nUser-Agent: colloquy-health/{version}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Our answers are never in chunks, so the body is all that follows the head.
fn parse(answer: &[u8]) -> Option<Said> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    Some(Said {
        body: body.to_owned(),
        good: status == "200",
    })
}

/// The address with which this machine reaches the server: one that listens on all interfaces has none of its own.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_good_and_only_http_is_an_answer() {
        let said = |text: &str| parse(text.as_bytes()).map(|said| (said.body, said.good));
        let of = |body: &str, good| Some((body.to_owned(), good));
        assert_eq!(
            said("HTTP/1.1 200 OK\r\na: b\r\n\r\n{\"status\":\"ok\"}"),
            of("{\"status\":\"ok\"}", true)
        );
        assert_eq!(
            said("HTTP/1.1 503 Service Unavailable\r\n\r\n{}"),
            of("{}", false)
        );
        assert_eq!(said("HTTP/1.1 20"), None);
        assert_eq!(said("+PONG\r\n\r\n"), None);
        assert_eq!(said(""), None);
    }
}
