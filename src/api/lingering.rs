//! The end of a connection that its peer may still be sending into.
//!
//! A socket that is closed with bytes unread, or that gets more of them, resets its connection, and the peer may lose the
//! answer that was on its way. So the sending half is closed first, and what still comes is read and thrown away until the
//! peer closes its own, within bounds (I7, I9).

use std::{
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep},
};

/// Most bytes that are thrown away before a connection is closed.
pub const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest time that this goes on.
pub const LINGER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest that a peer which neither sends nor closes is waited for.
pub const LINGER_SILENCE_MAX: Duration = Duration::from_secs(5);

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;

pub struct Lingering {
    bytes_left: usize,
    until: Instant,
    heard: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Lingering {
    pub fn begin() -> Self {
        let now = Instant::now();
        Self {
            bytes_left: LINGER_BYTES_MAX,
            until: now + LINGER_WAIT_MAX,
            heard: now,
            timer: Box::pin(tokio::time::sleep(LINGER_SILENCE_MAX)),
        }
    }

    /// Reads until the peer has closed its half, or a bound is met.
    pub fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [MaybeUninit::uninit(); CHUNK_BYTES];
        while self.bytes_left > 0 {
            let mut chunk = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *stream).poll_read(cx, &mut chunk) {
                Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                    self.bytes_left = self.bytes_left.saturating_sub(chunk.filled().len());
                    self.heard = Instant::now();
                }
                // The peer has closed its half, or is gone.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.poll_over(cx),
            }
        }
        Poll::Ready(())
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let over = self.until.min(self.heard + LINGER_SILENCE_MAX);
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= over {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(over);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn linger(stream: &mut DuplexStream) -> Lingering {
        let mut lingering = Lingering::begin();
        poll_fn(|cx| lingering.poll(stream, cx)).await;
        lingering
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_peer() {
        let (mut ours, mut peer) = duplex(1024);
        let begun = Instant::now();
        let (lingered, ()) = tokio::join!(linger(&mut ours), async move {
            peer.write_all(&[0; 100_000]).await.unwrap();
        });
        assert_eq!(LINGER_BYTES_MAX - lingered.bytes_left, 100_000);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_peer_is_silent_or_has_sent_enough_or_for_long_enough() {
        let (mut ours, _peer) = duplex(1024);
        let begun = Instant::now();
        linger(&mut ours).await;
        assert_eq!(begun.elapsed(), LINGER_SILENCE_MAX);

        let (mut ours, mut peer) = duplex(1 << 20);
        let sending = tokio::spawn(async move { while peer.write_all(&[0; 1 << 20]).await.is_ok() {} });
        let lingered = linger(&mut ours).await;
        assert_eq!(lingered.bytes_left, 0);
        sending.abort();

        let (mut ours, mut peer) = duplex(1024);
        let begun = Instant::now();
        let sending = tokio::spawn(async move {
            while peer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(LINGER_SILENCE_MAX / 2).await;
            }
        });
        linger(&mut ours).await;
        assert_eq!(begun.elapsed(), LINGER_WAIT_MAX);
        sending.abort();
    }
}
