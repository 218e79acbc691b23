//! One client of the load: what it does next, and what it expects of the answers.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    load::{Answer, Stage},
    oracle::{Seen, name},
};
use crate::random::Random;

const BATCH_EVENTS_MAX: usize = 40;

/// Most pages that a reader follows.
const PAGES_MAX: usize = 3;

pub struct Client {
    number: usize,
    stage: Arc<Stage>,
    random: Random,
    count: u64,
    /// The last seq that this client got for a new event, by session and replica.
    last_seq: HashMap<(usize, usize), i64>,
}

impl Client {
    pub fn new(number: usize, stage: Arc<Stage>, random: Random) -> Self {
        Self {
            number,
            stage,
            random,
            count: 0,
            last_seq: HashMap::new(),
        }
    }

    pub async fn act(mut self) {
        while !self.stage.is_over() {
            if let Some(session) = self.stage.next_session() {
                self.open(session).await;
            }
            let Some(session) = self.stage.choose_session(&mut self.random) else {
                continue;
            };
            let replica = self.stage.choose_replica(&mut self.random);
            if self.random.chance(self.stage.crowd.reads) {
                match self.random.chance(90) {
                    true => self.read(session, replica).await,
                    false => self.read_event(session, replica).await,
                }
            } else {
                self.write(session, replica).await;
                // What was just acknowledged shows on another replica.
                if self.random.chance(self.stage.crowd.reads) {
                    let other = (replica + 1) % self.stage.replicas();
                    self.read(session, other).await;
                }
            }
            if !self.stage.crowd.rest.is_zero() {
                tokio::time::sleep(self.stage.crowd.rest).await;
            }
        }
    }

    async fn write(&mut self, session: usize, replica: usize) {
        match self.random.below(100) {
            0..46 => self.append(session, replica).await,
            46..86 => self.append_batch(session, replica).await,
            98 if session % 8 == 5 => self.complete(session, replica).await,
            98 if session % 8 == 7 => self.erase(session, replica).await,
            _ => self.patch(session, replica).await,
        }
    }

    fn next_name(&mut self) -> String {
        self.count += 1;
        format!("c{}-{}", self.number, self.count)
    }

    async fn post(&self, session: usize, replica: usize, path: &str, body: &Value) -> Answer {
        let send =
            |http: &reqwest::Client, url: &str| http.post(format!("{url}/v1/sessions{path}")).json(body);
        self.stage.send(session, replica, send).await
    }

    async fn get(&self, session: usize, replica: usize, path: &str) -> Answer {
        let send = |http: &reqwest::Client, url: &str| http.get(format!("{url}/v1/sessions/{path}"));
        self.stage.send(session, replica, send).await
    }

    fn refused(&self, answer: &Answer) {
        let code = answer.body["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{}", answer.body));
        self.stage.oracle.sees_refusal(answer.known, code);
    }

    fn told_session(&self, answer: &Answer) {
        match answer.status {
            200 | 201 => self.stage.oracle.session_acknowledged(answer.known, &answer.body),
            _ => self.refused(answer),
        }
    }

    async fn open(&mut self, session: usize) {
        let replica = self.stage.choose_replica(&mut self.random);
        let body = json!({"sessionId": name(session), "userId": self.next_name()});
        let answer = self.post(session, replica, "", &body).await;
        self.told_session(&answer);
    }

    async fn patch(&mut self, session: usize, replica: usize) {
        let value = self.next_name();
        let body = json!({"metadata": {"last": value}});
        let send = |http: &reqwest::Client, url: &str| {
            http.patch(format!("{url}/v1/sessions/{}", name(session)))
                .json(&body)
        };
        let answer = self.stage.send(session, replica, send).await;
        if answer.status == 200 {
            assert_eq!(answer.body["metadata"]["last"], value);
        }
        self.told_session(&answer);
    }

    async fn complete(&mut self, session: usize, replica: usize) {
        self.stage.oracle.sends_end(session);
        let body = json!({"reason": self.next_name()});
        let path = format!("/{}/complete", name(session));
        let answer = self.post(session, replica, &path, &body).await;
        self.told_session(&answer);
    }

    async fn erase(&mut self, session: usize, replica: usize) {
        // What was never opened leaves no tombstone, so erasing it says nothing about later.
        if self.stage.oracle.newest(session).is_none() {
            return;
        }
        self.stage.oracle.sends_erase(session);
        let send =
            |http: &reqwest::Client, url: &str| http.delete(format!("{url}/v1/sessions/{}", name(session)));
        let answer = self.stage.send(session, replica, send).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
        self.stage.oracle.erase_acknowledged(session);
    }

    /// An event that nobody else sends. Some come with a time of their own, and so belong between others.
    fn event(&mut self) -> Value {
        let id = self.next_name();
        let mut event =
            json!({"eventId": id, "type": "user_speech", "payload": {"said": format!("{id} said so")}});
        if self.random.chance(10) {
            let (minute, ms) = (self.random.below(60), self.random.below(1_000));
            event["timestamp"] = format!("2026-01-01T00:{minute:02}:00.{ms:03}Z").into();
        }
        event
    }

    async fn append(&mut self, session: usize, replica: usize) {
        let event = self.event();
        self.stage
            .oracle
            .sends_events(session, std::slice::from_ref(&event));
        let path = format!("/{}/events", name(session));
        let answer = self.post(session, replica, &path, &event).await;
        match answer.status {
            200 | 201 => {
                assert_eq!(answer.body["payload"], event["payload"]);
                self.told_event(&answer, &answer.body, answer.status == 201);
            }
            _ => self.refused(&answer),
        }
    }

    async fn append_batch(&mut self, session: usize, replica: usize) {
        let count = 2 + self.random.below(BATCH_EVENTS_MAX - 1);
        let events: Vec<Value> = (0..count).map(|_| self.event()).collect();
        self.stage.oracle.sends_events(session, &events);
        let path = format!("/{}/events/batch", name(session));
        let answer = self
            .post(session, replica, &path, &json!({"events": events}))
            .await;
        if answer.status != 200 {
            return self.refused(&answer);
        }
        let outcomes = answer.body["outcomes"].as_array().expect("outcomes");
        assert_eq!(outcomes.len(), events.len());
        for (event, outcome) in events.iter().zip(outcomes) {
            assert_eq!(event["eventId"], outcome["eventId"]);
            match outcome["outcome"].as_str() {
                Some("created") => self.told_event(&answer, outcome, true),
                Some("replayed") => self.told_event(&answer, outcome, false),
                _ => {
                    let code = outcome["problem"]["code"].as_str();
                    self.stage
                        .oracle
                        .sees_refusal(answer.known, code.expect("a code"));
                }
            }
        }
    }

    /// A replica numbers what it is sent one after the other in that order.
    fn told_event(&mut self, answer: &Answer, event: &Value, created: bool) {
        self.stage.oracle.event_acknowledged(answer.known, event, created);
        self.stage.count_acknowledged(1);
        if created {
            let seq = event["seq"].as_i64().expect("a seq");
            let last = self.last_seq.insert((answer.known.session, answer.replica), seq);
            assert!(
                last.is_none_or(|last| last < seq),
                "{seq} after {last:?}: {event}"
            );
        } else {
            self.stage.count_replayed();
        }
    }

    async fn read_event(&mut self, session: usize, replica: usize) {
        let Some(place) = self.stage.oracle.newest(session) else {
            return;
        };
        let path = format!("{}/events/{}", name(session), place.id);
        let answer = self.get(session, replica, &path).await;
        match answer.status {
            200 => self.stage.oracle.sees_event(answer.known, &answer.body, &place),
            _ => self.refused(&answer),
        }
    }

    /// The session with some pages of its events, or these alone.
    async fn read(&mut self, session: usize, replica: usize) {
        let (descending, limit) = *self.random.pick(&[
            (true, 1),
            (true, 10),
            (true, 50),
            (true, 200),
            (false, 30),
            (false, 500),
        ]);
        let order = if descending { "desc" } else { "asc" };
        let events = if self.random.chance(50) { "/events" } else { "" };
        let mut path = format!("{}{events}?limit={limit}&order={order}", name(session));
        if events.is_empty()
            && self.random.chance(20)
            && let Some(place) = self.stage.oracle.newest(session)
        {
            path = format!("{path}&minSeq={}", place.seq);
        }
        let (mut read, mut cursor, mut begun) = (Vec::new(), String::new(), None);
        for page in 1.. {
            let answer = self.get(session, replica, &format!("{path}{cursor}")).await;
            if answer.status != 200 {
                return self.refused(&answer);
            }
            if events.is_empty() {
                self.stage
                    .oracle
                    .sees_session(answer.known, &answer.body["session"]);
            }
            let known = *begun.get_or_insert(answer.known);
            read.extend_from_slice(answer.body["events"].as_array().expect("events"));
            let next = answer.body["pagination"]["nextCursor"].as_str();
            if next.is_none() || page == PAGES_MAX {
                let seen = Seen {
                    events: &read,
                    descending,
                    more: next.is_some(),
                };
                return self.stage.oracle.sees_events(known, &seen);
            }
            cursor = format!("&cursor={}", next.unwrap_or_default());
        }
    }
}
