//! Clients that get in each other's way: they write to the same sessions and fight over the same event ids, send each
//! request until a server lives long enough to answer it, and hold every answer to the [`Ledger`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::harness::http;
use crate::{
    ledger::{Facts, Ledger},
    random::Random,
};

/// Event ids that all clients fight over, in each session.
const CONTESTED_EVENTS: usize = 40;

/// A bound that keeps a broken test from hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a client keeps a connection that it does not use: not as long as a server does, or it would send a request into one
/// that is being closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// What the clients share.
pub struct Stage {
    pub ledger: Ledger,
    pub round: AtomicUsize,
    pub answers: AtomicUsize,
    pub over: AtomicBool,
    client: Client,
}

impl Stage {
    pub fn new() -> Arc<Self> {
        let client = http()
            .timeout(PATIENCE)
            .pool_idle_timeout(IDLE_CONNECTION)
            .build();
        Arc::new(Self {
            ledger: Ledger::default(),
            round: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            client: client.expect("a client"),
        })
    }

    /// Ends the clients, each after the request it is at; what one of them found wrong is told.
    pub async fn end(&self, clients: JoinSet<()>) {
        self.over.store(true, Ordering::Relaxed);
        clients.join_all().await;
    }
}

/// Waits a moment for `clients`, of which none may have ended: one does when it found something wrong.
pub async fn go_on(clients: &mut JoinSet<()>) {
    if let Ok(ended) = timeout(Duration::from_millis(1), clients.join_next()).await {
        ended.expect("clients").expect("a client's check failed");
    }
}

/// A server that lives: which one of its replica, and where.
pub type Living = (usize, String);

/// The servers of the moment, by replica. One that is to be killed is gone from here before.
pub type Current = Vec<Option<Living>>;

pub struct Actor {
    pub stage: Arc<Stage>,
    pub random: Random,
    current: watch::Receiver<Current>,
    name: String,
    count: u64,
    /// The last seq that this client got for an event of its own, by session.
    last_seq: BTreeMap<String, i64>,
}

pub struct Answer {
    /// What was known when the request left that was answered.
    pub before: Facts,
    pub status: u16,
    pub body: Value,
    pub text: String,
}

/// What a walk from the first page to the last saw.
pub struct Walked {
    pub events: Vec<Value>,
    /// The pages, byte by byte.
    pub pages: Vec<String>,
}

impl Actor {
    pub fn new(stage: &Arc<Stage>, current: &watch::Receiver<Current>, name: String, random: Random) -> Self {
        Self {
            stage: Arc::clone(stage),
            random,
            current: current.clone(),
            name,
            count: 0,
            last_seq: BTreeMap::new(),
        }
    }

    /// Mostly one of this round; late retries go to earlier ones. Says which of its round it is, too.
    pub fn choose_session(&mut self, sessions_a_round: usize) -> (String, usize) {
        let rounds = self.stage.round.load(Ordering::Relaxed) + 1;
        let round = match self.random.chance(70) {
            true => rounds - 1,
            false => self.random.below(rounds),
        };
        let which = self.random.below(sessions_a_round);
        (format!("s{round}-{which}"), which)
    }

    /// Sends the request until a server lives long enough to answer it.
    async fn send(&mut self, session: &str, request: impl Fn(&Client, &str) -> RequestBuilder) -> Answer {
        loop {
            let (replica, server, url) = self.choose_server().await;
            let before = self.stage.ledger.known(session);
            let sent = Instant::now();
            let answer = async {
                let response = request(&self.stage.client, &url).send().await?;
                Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
            };
            match answer.await {
                Ok((status, text)) => {
                    self.stage.answers.fetch_add(1, Ordering::Relaxed);
                    let body: Value = serde_json::from_str(&text).unwrap_or_default();
                    // Whether that may be said is for the caller to judge.
                    let is_overloaded = body["code"] == "overloaded";
                    assert!(status < 500 || is_overloaded, "{session}: {status}: {text}");
                    return Answer {
                        before,
                        status,
                        body,
                        text,
                    };
                }
                Err(error) => {
                    let now = self.current.borrow()[replica].as_ref().map(|(now, _)| *now);
                    let after = sent.elapsed();
                    assert!(
                        now != Some(server),
                        "no answer from a server that lives, after {after:?}: {error:?}"
                    );
                }
            }
        }
    }

    async fn choose_server(&mut self) -> (usize, usize, String) {
        let any = self
            .current
            .wait_for(|current| current.iter().any(Option::is_some));
        let any = timeout(PATIENCE, any).await.expect("a server comes");
        let current = any.expect("servers to come").clone();
        let living = current.iter().enumerate().filter_map(|(replica, living)| {
            let (server, url) = living.as_ref()?;
            Some((replica, *server, url.clone()))
        });
        self.random.pick(&living.collect::<Vec<_>>()).clone()
    }

    pub async fn get(&mut self, session: &str, path: &str) -> Answer {
        self.send(session, |client, url| {
            client.get(format!("{url}/v1/sessions/{path}"))
        })
        .await
    }

    pub async fn post(&mut self, session: &str, path: &str, body: Value) -> Answer {
        self.send(session, |client, url| {
            client.post(format!("{url}/v1/sessions{path}")).json(&body)
        })
        .await
    }

    pub fn refused(&self, answer: &Answer, session: &str, event: Option<&Value>) {
        let code = answer.body["code"].as_str().expect("a code");
        self.stage
            .ledger
            .sees_refusal(&answer.before, session, event, code);
    }

    pub fn saw_session(&self, answer: &Answer, session: &str) {
        match answer.status {
            200 | 201 => self.stage.ledger.sees_session(&answer.before, &answer.body),
            _ => self.refused(answer, session, None),
        }
    }

    pub async fn open(&mut self, session: &str) {
        let answer = self.post(session, "", json!({"sessionId": session})).await;
        assert!(answer.status != 404, "{}", answer.body);
        self.saw_session(&answer, session);
    }

    pub async fn complete(&mut self, session: &str) {
        self.count += 1;
        let reason = format!("{}-{}", self.name, self.count);
        let status = *self.random.pick(&["completed", "failed"]);
        self.stage.ledger.sends_end(session, &reason);
        let body = json!({"status": status, "reason": reason});
        let answer = self.post(session, &format!("/{session}/complete"), body).await;
        self.saw_session(&answer, session);
    }

    pub async fn patch(&mut self, session: &str) {
        self.count += 1;
        let (key, value) = (self.name.clone(), self.count);
        self.stage.ledger.sends_metadata(session, &key, value);
        let body = json!({"metadata": {&key: value}});
        let answer = self
            .send(session, |client, url| {
                client.patch(format!("{url}/v1/sessions/{session}")).json(&body)
            })
            .await;
        self.saw_session(&answer, session);
        if answer.status == 200 {
            assert_eq!(
                answer.body["metadata"][&key], value,
                "an acknowledged patch shows"
            );
            self.stage.ledger.metadata_acknowledged(session, &key, value);
        }
    }

    pub async fn erase(&mut self, session: &str) {
        // What was never opened leaves no tombstone, so erasing it says nothing about later.
        if !self.stage.ledger.known(session).opened {
            return;
        }
        self.stage.ledger.sends_erase(session);
        let answer = self
            .send(session, |client, url| {
                client.delete(format!("{url}/v1/sessions/{session}"))
            })
            .await;
        assert_eq!(answer.status, 204, "{}", answer.body);
        self.stage.ledger.erase_acknowledged(session);
    }

    fn contested_event(&mut self) -> Value {
        let id = self.random.below(CONTESTED_EVENTS);
        let variant = usize::from(self.random.chance(10));
        json!({"eventId": format!("e-{id}"), "type": "user_speech", "payload": {"said": id, "variant": variant}})
    }

    fn own_event(&mut self) -> Value {
        self.count += 1;
        let id = format!("{}-{}", self.name, self.count);
        json!({"eventId": id, "type": "bot_speech", "payload": {"by": self.name, "said": "ja 👩‍👧 ".repeat(9), "n": [0.1, -1, 1e300, null]}})
    }

    pub async fn append_contested(&mut self, session: &str) {
        let event = self.contested_event();
        self.append(session, &event).await;
    }

    /// Nobody else sends this event, and this client sends its next one only after the acknowledgement.
    pub async fn append_own(&mut self, session: &str) {
        let event = self.own_event();
        if let Some(seq) = self.append(session, &event).await {
            self.seq_follows(session, seq);
        }
    }

    fn seq_follows(&mut self, session: &str, seq: i64) {
        let last = self.last_seq.insert(session.to_owned(), seq).unwrap_or(i64::MIN);
        assert!(seq > last, "{session}: {seq} was given after {last}");
    }

    async fn append(&mut self, session: &str, event: &Value) -> Option<i64> {
        self.stage.ledger.sends_event(session, event);
        let answer = self
            .post(session, &format!("/{session}/events"), event.clone())
            .await;
        match answer.status {
            200 | 201 => {
                assert_eq!(
                    answer.body["payload"], event["payload"],
                    "an acknowledgement of something else"
                );
                let created = answer.status == 201;
                self.stage
                    .ledger
                    .sees_event(&answer.before, session, &answer.body, created);
                answer.body["seq"].as_i64()
            }
            _ => {
                self.refused(&answer, session, Some(event));
                None
            }
        }
    }

    pub async fn append_batch(&mut self, session: &str) {
        let mut events = vec![self.own_event(), self.own_event()];
        events.extend((0..3).map(|_| self.contested_event()));
        for event in &events {
            self.stage.ledger.sends_event(session, event);
        }
        let body = json!({"events": events});
        let answer = self
            .post(session, &format!("/{session}/events/batch"), body)
            .await;
        if answer.status != 200 {
            return self.refused(&answer, session, None);
        }
        let outcomes = answer.body["outcomes"].as_array().expect("outcomes");
        assert_eq!(outcomes.len(), events.len());
        for (at, (event, outcome)) in events.iter().zip(outcomes).enumerate() {
            let created = outcome["outcome"] == "created";
            if !created && outcome["outcome"] != "replayed" {
                let code = outcome["problem"]["code"].as_str().expect("a code");
                self.stage
                    .ledger
                    .sees_refusal(&answer.before, session, Some(event), code);
                continue;
            }
            let mut seen = event.clone();
            for name in ["seq", "timestamp"] {
                seen[name] = outcome[name].clone();
            }
            self.stage
                .ledger
                .sees_event(&answer.before, session, &seen, created);
            if at < 2 {
                self.seq_follows(session, outcome["seq"].as_i64().expect("a seq"));
            }
        }
    }

    pub async fn read(&mut self, session: &str) {
        let answer = self.get(session, &format!("{session}?limit=1")).await;
        match answer.status {
            200 => self
                .stage
                .ledger
                .sees_session(&answer.before, &answer.body["session"]),
            _ => self.refused(&answer, session, None),
        }
    }

    /// Walks all pages of `path`, a query for events of the session, in either order; `None` where it was refused.
    pub async fn walk(&mut self, session: &str, path: &str) -> Option<Walked> {
        let (mut events, mut pages, mut cursor, mut begun) = (Vec::new(), Vec::new(), String::new(), None);
        loop {
            let mut answer = self.get(session, &format!("{path}{cursor}")).await;
            if answer.status != 200 {
                self.refused(&answer, session, None);
                return None;
            }
            if !answer.body["session"].is_null() {
                self.saw_session_in(&answer);
            }
            if let Value::Array(page) = answer.body["events"].take() {
                events.extend(page);
            }
            pages.push(answer.text);
            let before = begun.get_or_insert(answer.before);
            if let Some(next) = answer.body["pagination"]["nextCursor"].as_str() {
                cursor = format!("&cursor={next}");
                continue;
            }
            if path.contains("order=desc") {
                events.reverse();
            }
            self.stage.ledger.sees_all_events(before, session, &events);
            if self.current.borrow().len() == 1 {
                numbered_apart(session, &events);
            }
            return Some(Walked { events, pages });
        }
    }

    fn saw_session_in(&self, page: &Answer) {
        self.stage
            .ledger
            .sees_session(&page.before, &page.body["session"]);
    }
}

/// One process gives no number twice in a session; of two that append at the same moment each may give the same.
pub fn numbered_apart(session: &str, events: &[Value]) {
    let seqs: BTreeSet<_> = events.iter().map(|event| event["seq"].as_i64()).collect();
    assert_eq!(seqs.len(), events.len(), "{session}: a seq twice");
}
