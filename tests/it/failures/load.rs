//! Clients that write and read through all replicas, as clients should: each waits for its answer, and sends again, with
//! the same event ids, what was refused for now or what it got no answer to.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use super::{
    client::Client,
    oracle::{Known, Oracle},
    timings::{Sample, Timings},
};
use crate::{harness::assert_problem, random::Random};

/// How long a request may take. Not a measure: all limits of the service are lower, so what takes longer hangs.
const HANG: Duration = Duration::from_secs(40);

/// How long the load may take to get anywhere.
const PATIENCE: Duration = Duration::from_secs(90);

/// Before a client sends something again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Sessions that are written to at a time.
const SESSIONS_AT_ONCE: usize = 12;

/// How many events make room for the next session.
const EVENTS_A_SESSION: usize = 160;

/// What clients must bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing at all: not one request fails.
    None,
    /// 503, while the store is away.
    Refusals,
    /// Connections that break, when a replica dies.
    BrokenConnections,
}

/// How many clients, and how long each rests between two requests.
pub struct Crowd {
    pub clients: usize,
    pub rest: Duration,
    /// How many of a hundred things that a client does are reads.
    pub reads: usize,
    pub trouble: Trouble,
}

/// What the clients share.
pub struct Stage {
    pub oracle: Oracle,
    pub timings: Timings,
    pub crowd: Crowd,
    http: reqwest::Client,
    urls: Mutex<Vec<String>>,
    over: AtomicBool,
    acknowledged: AtomicUsize,
    sessions: AtomicUsize,
    broken: AtomicUsize,
}

pub struct Load {
    pub stage: Arc<Stage>,
    clients: JoinSet<()>,
}

/// An answer other than "not now".
pub struct Answer {
    /// What was known when the request left that was answered.
    pub known: Known,
    pub replica: usize,
    pub status: u16,
    pub body: Value,
}

impl Load {
    /// Begins to write to the replicas at these URLs.
    pub fn begin(urls: Vec<String>, crowd: Crowd, random: &mut Random) -> Self {
        let http = crate::harness::http().timeout(HANG).build().expect("a client");
        let stage = Arc::new(Stage {
            oracle: Oracle::default(),
            timings: Timings::default(),
            crowd,
            http,
            urls: Mutex::new(urls),
            over: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
        });
        let mut clients = JoinSet::new();
        for number in 0..stage.crowd.clients {
            clients.spawn(Client::new(number, Arc::clone(&stage), random.fork()).act());
        }
        stage.timings.begin("quiet");
        Self { stage, clients }
    }

    /// Waits until so many more events were acknowledged.
    pub async fn events(&mut self, more: usize) {
        let enough = self.stage.acknowledged() + more;
        let begun = Instant::now();
        while self.stage.acknowledged() < enough {
            assert!(begun.elapsed() < PATIENCE, "nothing more is acknowledged");
            self.rest(Duration::from_millis(2)).await;
        }
    }

    /// Lets the clients go on for so long, and fails with the first of them that fails.
    pub async fn rest(&mut self, time: Duration) {
        let rested = timeout(time, self.clients.join_next()).await;
        if let Ok(gone) = rested {
            gone.expect("clients").expect("a client's check failed");
            unreachable!("clients end at the end");
        }
    }

    /// Has the clients finish what they are at.
    pub async fn end(mut self) -> Arc<Stage> {
        self.stage.over.store(true, Ordering::Relaxed);
        let all = async {
            while self
                .clients
                .join_next()
                .await
                .transpose()
                .expect("a client's check failed")
                .is_some()
            {}
        };
        timeout(PATIENCE, all).await.expect("the clients come to an end");
        self.stage
    }
}

impl Stage {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Requests whose connection broke.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }

    pub fn count_acknowledged(&self, events: usize) {
        self.acknowledged.fetch_add(events, Ordering::Relaxed);
    }

    /// A session that nobody opened yet, when it is time for one.
    pub fn next_session(&self) -> Option<usize> {
        let room = self.acknowledged() / EVENTS_A_SESSION + SESSIONS_AT_ONCE;
        let claim = |opened: usize| (opened < room).then_some(opened + 1);
        self.sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim)
            .ok()
    }

    /// One of those that are written to.
    pub fn choose_session(&self, random: &mut Random) -> Option<usize> {
        let opened = self.sessions.load(Ordering::Relaxed);
        let at_once = opened.min(SESSIONS_AT_ONCE);
        (at_once > 0).then(|| opened - 1 - random.below(at_once))
    }

    pub fn choose_replica(&self, random: &mut Random) -> usize {
        random.below(self.lock_urls().len())
    }

    pub fn replicas(&self) -> usize {
        self.lock_urls().len()
    }

    /// The replica is at another place from now on.
    pub fn moved(&self, replica: usize, url: String) {
        self.lock_urls()[replica] = url;
    }

    fn lock_urls(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the request until it is answered, to another replica each time.
    pub async fn send(
        &self,
        session: usize,
        mut replica: usize,
        request: impl Fn(&reqwest::Client, &str) -> RequestBuilder,
    ) -> Answer {
        loop {
            let url = self.lock_urls()[replica].clone();
            let known = self.oracle.known(session);
            let request = request(&self.http, &url).build().expect("a request");
            let write = request.method() != reqwest::Method::GET;
            let sent = Instant::now();
            let answer = answer(self.http.execute(request).await).await;
            let served = matches!(&answer, Ok((status, _)) if *status != 503);
            let took = sent.elapsed();
            self.timings.note(Sample {
                sent,
                took,
                write,
                served,
            });
            match answer {
                Ok((503, problem)) => {
                    assert_eq!(self.crowd.trouble, Trouble::Refusals, "after {took:?}: {problem}");
                }
                Ok((status, body)) => {
                    assert!(status < 500, "{status}: {body}");
                    return Answer {
                        known,
                        replica,
                        status,
                        body,
                    };
                }
                Err(error) => {
                    assert!(!error.is_timeout(), "a request hangs: {error}");
                    assert_eq!(
                        self.crowd.trouble,
                        Trouble::BrokenConnections,
                        "after {took:?}: {error:?}"
                    );
                    self.broken.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
            replica = (replica + 1) % self.replicas();
        }
    }
}

/// The status and the body, which are whole.
async fn answer(response: reqwest::Result<Response>) -> reqwest::Result<(u16, Value)> {
    let response = response?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    let body = match status {
        204 => Value::Null,
        _ => serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
    };
    if status == 503 {
        let header = |name: &str| headers[name].to_str().expect("text");
        let seconds: u64 = header("retry-after").parse().expect("seconds");
        assert!(seconds >= 1);
        let code = body["code"].as_str().unwrap_or_default();
        assert!(["store-unavailable", "overloaded"].contains(&code), "{body}");
        assert_problem(
            &body,
            header("content-type"),
            header("x-request-id"),
            status,
            code,
        );
    }
    Ok((status, body))
}
