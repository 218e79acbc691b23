//! The load generator: one thread, and on it a task for each connection.
//!
//! A closed loop sends on each connection the next request when the last one is answered: it finds how much the service
//! takes. An open loop sends when requests are due, and counts their latency from then on: what waits because the
//! service is slow is part of it.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Failure,
    arrivals::{Arrival, Arrivals, Phase},
    client::{Answer, Connection},
    proc::Watched,
    tally::{Tally, Times},
};

/// How long the requests of an open loop that still wait for a connection at its end are sent on.
const BACKLOG: Duration = Duration::from_secs(5);

/// Beyond this, a request that has found no free connection is given up, where none is to wait. Long enough that a
/// connection which is freed finds one that waits: else the pressure would let up with every burst of answers.
const NO_WAIT: Duration = Duration::from_millis(50);

/// What a request must be answered with.
#[derive(Clone, Copy)]
pub struct Expected {
    pub status: u16,
    /// Where it is known.
    pub body_bytes: Option<usize>,
    pub events: u64,
}

/// An endless or finite row of requests.
pub trait Workload: Send + Sync {
    /// Writes the nth request; `None` when there are no more.
    fn write(&self, nth: u64, out: &mut Vec<u8>) -> Option<Expected>;
}

pub enum Pace {
    /// The warm-up is not counted; none where requests may be used up.
    Closed { warm_up: Duration, span: Duration },
    /// The first phase is the warm-up, and not counted. `waits`: whether a request that finds no free connection waits for
    /// one; else it is counted as unsent.
    Open { phases: Vec<Phase>, waits: bool },
}

pub struct Load {
    pub address: SocketAddr,
    pub connections: usize,
    pub workload: Arc<dyn Workload>,
    pub pace: Pace,
    pub watched: Watched,
    /// Whether 503 is an answer like another.
    pub sheds: bool,
}

impl Load {
    /// Gives what became of it, for each phase that counts.
    pub async fn run(self) -> Result<Vec<Tally>, Failure> {
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            tokio::task::LocalSet::new().block_on(&runtime, self.run_here())
        })
        .await?
    }

    /// As [`run`](Self::run), where one phase counts.
    pub async fn run_one(self) -> Result<Tally, Failure> {
        self.run()
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| "no phase".into())
    }

    async fn run_here(self) -> Result<Vec<Tally>, Failure> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(self.address).await?);
        }
        let spans: Vec<Duration> = match &self.pace {
            Pace::Closed { warm_up, span } => vec![*warm_up, *span],
            Pace::Open { phases, .. } => phases.iter().map(|phase| phase.span).collect(),
        };
        let before = self.watched.cpu();
        let began = Instant::now();
        let mut bounds = vec![began];
        for span in &spans {
            bounds.push(bounds[bounds.len() - 1] + *span);
        }
        let tallies = spans
            .iter()
            .map(|span| Tally::new(*span))
            .collect::<Result<_, _>>()?;
        let loop_ = Rc::new(Loop {
            workload: self.workload,
            sheds: self.sheds,
            bounds,
            next: Cell::new(0),
            request: RefCell::default(),
            tallies: RefCell::new(tallies),
            last_done: Cell::new(began),
            is_exhausted: Cell::new(false),
        });
        let watch = tokio::task::spawn_local(Rc::clone(&loop_).watch(self.watched));
        let arrivals = match self.pace {
            Pace::Closed { .. } => None,
            Pace::Open { phases, waits } => Some((Arrivals::begin(phases, connections.len(), began), waits)),
        };
        let workers = connections.into_iter().map(|connection| {
            let loop_ = Rc::clone(&loop_);
            let arrivals = arrivals.clone();
            tokio::task::spawn_local(async move {
                match arrivals {
                    None => loop_.closed(connection).await,
                    Some((arrivals, waits)) => loop_.open(connection, &arrivals, waits).await,
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await?;
        }
        if loop_.is_exhausted.get() {
            // They were used up: the time is as long as they took.
            watch.abort();
            let last = &mut loop_.tallies.borrow_mut()[spans.len() - 1];
            last.span = loop_.last_done.get() - began;
            last.cpu = self.watched.cpu().since(before);
        } else {
            watch.await?;
        }
        let mut tallies = loop_.tallies.take();
        Ok(tallies.split_off(1))
    }
}

struct Loop {
    workload: Arc<dyn Workload>,
    sheds: bool,
    /// The beginning of each phase, and the end.
    bounds: Vec<Instant>,
    next: Cell<u64>,
    /// Where requests are written, one after another.
    request: RefCell<Vec<u8>>,
    tallies: RefCell<Vec<Tally>>,
    last_done: Cell<Instant>,
    is_exhausted: Cell<bool>,
}

impl Loop {
    async fn closed(&self, mut connection: Connection) {
        let end = self.bounds[self.bounds.len() - 1];
        let mut sent = Instant::now();
        while sent < end {
            let Some((expected, answer)) = self.ask(&mut connection).await else {
                break;
            };
            let done = Instant::now();
            let times = Times {
                due: sent,
                sent,
                done,
            };
            let last = self.bounds.len() - 2;
            let phase = self.phase_of(done).unwrap_or(last);
            self.note(phase, times, expected, answer).await;
            sent = done;
        }
    }

    async fn open(&self, mut connection: Connection, arrivals: &Arrivals, waits: bool) {
        let end = self.bounds[self.bounds.len() - 1];
        while let Some((Arrival { due, phase }, was_late)) = arrivals.next().await {
            let sent = Instant::now();
            {
                let tally = &mut self.tallies.borrow_mut()[phase];
                tally.due += 1;
                tally.waited += u64::from(was_late);
                let is_too_late = match waits {
                    true => sent > end + BACKLOG,
                    false => was_late && sent > due + NO_WAIT,
                };
                if is_too_late {
                    tally.unsent += 1;
                    continue;
                }
            }
            let Some((expected, answer)) = self.ask(&mut connection).await else {
                break;
            };
            let done = Instant::now();
            self.note(phase, Times { due, sent, done }, expected, answer)
                .await;
        }
    }

    /// `None` when all are over.
    fn phase_of(&self, time: Instant) -> Option<usize> {
        let phase = self.bounds.partition_point(|bound| *bound <= time) - 1;
        (phase < self.bounds.len() - 1).then_some(phase)
    }

    /// Sends the next request; gives what it must be answered with, and what it was answered with.
    async fn ask(&self, connection: &mut Connection) -> Option<(Expected, std::io::Result<Answer>)> {
        let ready = connection.ready().await;
        let (expected, sent) = {
            let request = &mut *self.request.borrow_mut();
            let expected = self.write(request)?;
            (expected, ready.and_then(|()| connection.send(request)))
        };
        let answer = match sent {
            Ok(()) => connection.answer().await,
            Err(error) => Err(error),
        };
        Some((expected, answer))
    }

    fn write(&self, request: &mut Vec<u8>) -> Option<Expected> {
        let nth = self.next.get();
        let expected = self.workload.write(nth, request);
        match expected {
            Some(_) => self.next.set(nth + 1),
            None => self.is_exhausted.set(true),
        }
        expected
    }

    /// What becomes of a request belongs to its phase; only that there was a right answer counts for the one in which it
    /// came, as what the service got through then.
    async fn note(&self, phase: usize, times: Times, expected: Expected, answer: std::io::Result<Answer>) {
        self.last_done.set(times.done);
        let has_failed = answer.is_err();
        {
            let mut tallies = self.tallies.borrow_mut();
            let tally = &mut tallies[phase];
            match answer {
                Ok(answer) if answer.status == expected.status => match expected.body_bytes {
                    Some(bytes) if bytes != answer.body_bytes => {
                        tally.error(format!("{} bytes in place of {bytes}", answer.body_bytes));
                    }
                    _ => {
                        tally.time(times);
                        if let Some(came) = self.phase_of(times.done) {
                            tallies[came].count(expected.events);
                        }
                    }
                },
                Ok(answer) if answer.status == 503 && self.sheds => {
                    tally.shed += 1;
                    tally.shed_in_silence += u64::from(!answer.has_retry_after);
                }
                Ok(answer) => tally.error(format!("status {}", answer.status)),
                Err(error) => tally.error(error.to_string()),
            }
        }
        if has_failed {
            // Who is refused a connection must not ask for another at once, again and again.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Counts the processor time of each phase.
    async fn watch(self: Rc<Self>, watched: Watched) {
        let mut before = watched.cpu();
        for (phase, end) in self.bounds[1..].iter().enumerate() {
            tokio::time::sleep_until((*end).into()).await;
            let now = watched.cpu();
            self.tallies.borrow_mut()[phase].cpu = now.since(before);
            before = now;
        }
    }
}
