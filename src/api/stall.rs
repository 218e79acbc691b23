//! How long a connection may stall, by what it waits for.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::exchange::Exchange;

/// How long a connection may stall (I9).
#[derive(Debug, Clone, Copy)]
pub struct StallLimits {
    /// A connection without a request for this long is closed.
    pub idle: Duration,
    /// Longest from the first byte of a request to the last of its head; a connection that is slower is cut off.
    pub head: Duration,
    /// Longest from a request's head to its answer, and longest that the peer takes nothing of an answer; a connection that
    /// is slower is cut off, with all requests on it.
    pub stalled: Duration,
}

/// The time by which a connection must get on.
pub struct Stall {
    limits: StallLimits,
    exchange: Arc<Exchange>,
    /// Requests of the exchange that were seen to have begun.
    begun: usize,
    protocol: Protocol,
    /// Bytes came that have not become a request.
    is_head_begun: bool,
    /// The peer takes no more bytes for now.
    is_blocked: bool,
    wait: Wait,
    /// When the wait began, or last got on.
    since: Instant,
    /// Wakes the connection no later than it must get on. What it waits for may change when nobody looks, so it wakes at
    /// least once in the shortest time that any wait but a head's may take. It is left alone while the time moves on,
    /// several times a request, and set anew once it is over.
    timer: Pin<Box<Sleep>>,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Request,
    /// The rest of a request's head.
    Head,
    /// An answer, or that the peer takes one.
    Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// So many bytes came, all of them of [`PREFACE`].
    Unknown(usize),
    Http1,
    Http2,
}

/// What a connection in HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Stall {
    pub fn new(limits: StallLimits, exchange: Arc<Exchange>) -> Self {
        Self {
            limits,
            exchange,
            begun: 0,
            protocol: Protocol::Unknown(0),
            is_head_begun: false,
            is_blocked: false,
            wait: Wait::Request,
            since: Instant::now(),
            timer: Box::pin(tokio::time::sleep(limits.idle.min(limits.stalled))),
        }
    }

    /// Bytes came.
    pub fn was_read(&mut self, bytes: &[u8]) {
        let wait = self.look();
        if let Protocol::Unknown(known) = self.protocol {
            let awaited = &PREFACE[known..];
            let common = awaited.len().min(bytes.len());
            self.protocol = if awaited[..common] != bytes[..common] {
                Protocol::Http1
            } else if common == awaited.len() {
                Protocol::Http2
            } else {
                Protocol::Unknown(known + common)
            };
        }
        if self.protocol == Protocol::Http2 {
            // Pings and window updates keep a connection alive whose requests are worked on. They are no requests, and
            // take nothing of an answer.
            self.is_head_begun = false;
            if wait == Wait::Answer {
                self.since = Instant::now();
            }
        } else if wait != Wait::Answer && !bytes.is_empty() {
            // Bytes that follow don't buy more time.
            self.is_head_begun = true;
        }
    }

    /// The peer took bytes.
    pub fn was_written(&mut self) {
        self.is_blocked = false;
        if self.look() == Wait::Answer {
            self.since = Instant::now();
        }
    }

    /// Nothing came, for now: what the connection waits for, once it has for too long.
    pub fn poll_read_over(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        self.poll_over(cx)
    }

    /// Nothing is taken, for now: as [`poll_read_over`](Self::poll_read_over).
    pub fn poll_write_over(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        self.is_blocked = true;
        self.poll_over(cx)
    }

    /// What the connection waits for just now.
    pub fn look(&mut self) -> Wait {
        let begun = self.exchange.begun();
        let is_new = begun != self.begun;
        if is_new {
            self.begun = begun;
            self.is_head_begun = false;
        }
        let wait = if self.is_blocked || self.exchange.is_busy() {
            Wait::Answer
        } else if self.is_head_begun {
            Wait::Head
        } else {
            Wait::Request
        };
        if is_new || wait != self.wait {
            self.wait = wait;
            self.since = Instant::now();
        }
        wait
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        let wait = self.look();
        if wait == Wait::Head && self.due() < self.timer.deadline() {
            let due = self.due();
            self.timer.as_mut().reset(due);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let (now, due) = (Instant::now(), self.due());
            if now >= due {
                return Poll::Ready(wait);
            }
            let at_least = now + self.limits.idle.min(self.limits.stalled);
            self.timer.as_mut().reset(due.min(at_least));
        }
        Poll::Pending
    }

    fn due(&self) -> Instant {
        let still_since = match self.wait {
            // Other bytes may move while an answer stands still, and the other way round.
            Wait::Answer => self.exchange.still_since(),
            Wait::Request | Wait::Head => None,
        };
        still_since.unwrap_or(self.since) + self.limit()
    }

    fn limit(&self) -> Duration {
        match self.wait {
            Wait::Request => self.limits.idle,
            Wait::Head => self.limits.head,
            Wait::Answer => self.limits.stalled,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const IDLE: Duration = Duration::from_secs(75);
    const HEAD: Duration = Duration::from_secs(10);
    const STALLED: Duration = Duration::from_secs(180);

    fn stall() -> (Stall, Arc<Exchange>) {
        let exchange = Arc::new(Exchange::default());
        let limits = StallLimits {
            idle: IDLE,
            head: HEAD,
            stalled: STALLED,
        };
        (Stall::new(limits, Arc::clone(&exchange)), exchange)
    }

    async fn read_over(stall: &mut Stall) -> (Wait, Duration) {
        let begun = Instant::now();
        let wait = poll_fn(|cx| stall.poll_read_over(cx)).await;
        (wait, begun.elapsed())
    }

    async fn write_over(stall: &mut Stall) -> (Wait, Duration) {
        let begun = Instant::now();
        let wait = poll_fn(|cx| stall.poll_write_over(cx)).await;
        (wait, begun.elapsed())
    }

    /// Whether the connection is still to wait.
    fn waits(stall: &mut Stall) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        stall.poll_read_over(&mut cx).is_pending()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_own_time_however_its_bytes_are_paced() {
        let (mut stall, _) = stall();
        tokio::time::advance(IDLE / 2).await;
        assert!(waits(&mut stall));
        stall.was_read(b"G");
        for _ in 0..4 {
            assert!(waits(&mut stall));
            tokio::time::advance(HEAD / 5).await;
            stall.was_read(b"E");
        }
        assert_eq!(read_over(&mut stall).await, (Wait::Head, HEAD / 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_sent_byte_by_byte_is_a_head_and_what_follows_it_is_not() {
        let (mut stall, _) = stall();
        for byte in &PREFACE[..PREFACE.len() - 1] {
            stall.was_read(std::slice::from_ref(byte));
        }
        assert_eq!(stall.look(), Wait::Head);
        stall.was_read(b"\n");
        assert_eq!(stall.look(), Wait::Request);
        // Pings are no requests.
        tokio::time::advance(IDLE / 2).await;
        stall.was_read(b"ping");
        assert_eq!(read_over(&mut stall).await, (Wait::Request, IDLE / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_being_written_is_not_idle() {
        let (mut stall, exchange) = stall();
        stall.was_read(b"GET / HTTP/1.1\r\n\r\n");
        let request = exchange.begin();
        let answer = request.answer();
        answer.gave(1_000_000);
        drop(request);
        stall.was_written();
        answer.took(100_000);
        // Past the idle time, and not past its own.
        assert_eq!(write_over(&mut stall).await, (Wait::Answer, STALLED));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_do_not_help_an_answer_that_stands_still() {
        let (mut stall, exchange) = stall();
        stall.was_read(PREFACE);
        let request = exchange.begin();
        let answer = request.answer();
        answer.gave(1_000_000);
        for _ in 0..9 {
            assert!(waits(&mut stall));
            tokio::time::advance(STALLED / 10).await;
            stall.was_read(b"ping");
            stall.was_written();
        }
        assert_eq!(read_over(&mut stall).await, (Wait::Answer, STALLED / 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_worked_on_waits_for_its_answer_and_then_the_connection_is_idle() {
        let (mut stall, exchange) = stall();
        stall.was_read(b"GET / HTTP/1.1\r\n\r\n");
        let request = exchange.begin();
        tokio::time::advance(STALLED / 2).await;
        assert!(waits(&mut stall));
        // The rest of its body.
        stall.was_read(b"{}");
        drop(request);
        stall.was_written();
        assert_eq!(read_over(&mut stall).await, (Wait::Request, IDLE));
    }
}
