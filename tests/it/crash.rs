//! kill -9, again and again, under clients that get in each other's way: nothing that was acknowledged is lost or
//! changes, and nothing happens twice (I1, I2, I6).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    backends::backend_flags,
    harness::{Server, colloquy, expect, expect_problem, folder},
    ledger::{Facts, Ledger},
    random::Random,
};

const CLIENTS: usize = 64;

/// Sessions that come up in each round, by what befalls them: nothing, an end, an end, an erasure.
const SESSIONS_A_ROUND: usize = 4;

/// Event ids that all clients fight over, in each session.
const CONTESTED_EVENTS: usize = 40;

/// A bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(60);

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What the clients share.
struct Stage {
    ledger: Ledger,
    client: Client,
    round: AtomicUsize,
    answers: AtomicUsize,
    over: AtomicBool,
}

/// The server of the moment: which one, and where.
type Current = (usize, String);

struct Actor {
    stage: Arc<Stage>,
    current: watch::Receiver<Current>,
    random: Random,
    name: String,
    count: u64,
    /// The last seq that this client got for an event of its own, by session.
    last_seq: BTreeMap<String, i64>,
}

struct Answer {
    /// What was known when the request left that was answered.
    before: Facts,
    status: u16,
    body: Value,
}

impl Actor {
    async fn act(mut self) {
        while !self.stage.over.load(Ordering::Relaxed) {
            let session = self.choose_session();
            let kind = session.bytes().last().expect("a name");
            match self.random.below(100) {
                0..15 => self.open(&session).await,
                15..40 => self.append_contested(&session).await,
                40..55 => self.append_own(&session).await,
                55..70 => self.append_batch(&session).await,
                70..80 => self.patch(&session).await,
                80..90 => self.read(&session).await,
                90..92 if kind != b'0' => self.complete(&session).await,
                92 if kind == b'3' => self.erase(&session).await,
                _ => self.walk(&session).await,
            }
        }
    }

    /// Mostly of this round; late retries go to earlier ones.
    fn choose_session(&mut self) -> String {
        let rounds = self.stage.round.load(Ordering::Relaxed) + 1;
        let round = match self.random.chance(70) {
            true => rounds - 1,
            false => self.random.below(rounds),
        };
        format!("s{round}-{}", self.random.below(SESSIONS_A_ROUND))
    }

    /// Sends the request until a server lives long enough to answer it.
    async fn send(&mut self, session: &str, request: impl Fn(&Client, &str) -> RequestBuilder) -> Answer {
        loop {
            let (number, url) = self.current.borrow_and_update().clone();
            let before = self.stage.ledger.known(session);
            if let Ok(response) = request(&self.stage.client, &url).send().await {
                let status = response.status().as_u16();
                if let Ok(text) = response.text().await {
                    assert!(status < 500, "{status}: {text}");
                    self.stage.answers.fetch_add(1, Ordering::Relaxed);
                    let body = serde_json::from_str(&text).unwrap_or_default();
                    return Answer { before, status, body };
                }
            }
            let next = timeout(PATIENCE, self.current.wait_for(|(next, _)| *next != number)).await;
            next.expect("a connection broke, and no server had been killed")
                .expect("servers to come");
        }
    }

    async fn post(&mut self, session: &str, path: &str, body: Value) -> Answer {
        self.send(session, |client, url| {
            client.post(format!("{url}/v1/sessions{path}")).json(&body)
        })
        .await
    }

    fn refused(&self, answer: &Answer, session: &str, event: Option<&Value>) {
        let code = answer.body["code"].as_str().expect("a code");
        self.stage
            .ledger
            .sees_refusal(&answer.before, session, event, code);
    }

    fn saw_session(&self, answer: &Answer, session: &str) {
        match answer.status {
            200 | 201 => self.stage.ledger.sees_session(&answer.before, &answer.body),
            _ => self.refused(answer, session, None),
        }
    }

    async fn open(&mut self, session: &str) {
        let answer = self.post(session, "", json!({"sessionId": session})).await;
        assert!(answer.status != 404, "{}", answer.body);
        self.saw_session(&answer, session);
    }

    async fn complete(&mut self, session: &str) {
        self.count += 1;
        let reason = format!("{}-{}", self.name, self.count);
        let status = *self.random.pick(&["completed", "failed"]);
        self.stage.ledger.sends_end(session, &reason);
        let body = json!({"status": status, "reason": reason});
        let answer = self.post(session, &format!("/{session}/complete"), body).await;
        self.saw_session(&answer, session);
    }

    async fn patch(&mut self, session: &str) {
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

    async fn erase(&mut self, session: &str) {
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
        json!({"eventId": id, "type": "bot_speech", "payload": {"by": self.name, "said": "x".repeat(100)}})
    }

    async fn append_contested(&mut self, session: &str) {
        let event = self.contested_event();
        self.append(session, &event).await;
    }

    /// Nobody else sends this event, and this client sends its next one only after the acknowledgement.
    async fn append_own(&mut self, session: &str) {
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

    async fn append_batch(&mut self, session: &str) {
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

    async fn read(&mut self, session: &str) {
        let path = format!("{session}?limit=1");
        let answer = self
            .send(session, |client, url| {
                client.get(format!("{url}/v1/sessions/{path}"))
            })
            .await;
        match answer.status {
            200 => self
                .stage
                .ledger
                .sees_session(&answer.before, &answer.body["session"]),
            _ => self.refused(&answer, session, None),
        }
    }

    async fn walk(&mut self, session: &str) {
        let (mut seen, mut cursor, mut begun) = (Vec::new(), String::new(), None);
        loop {
            let path = format!("{session}/events?limit=100{cursor}");
            let answer = self
                .send(session, |client, url| {
                    client.get(format!("{url}/v1/sessions/{path}"))
                })
                .await;
            if answer.status != 200 {
                return self.refused(&answer, session, None);
            }
            let before = begun.get_or_insert(answer.before);
            seen.extend(answer.body["events"].as_array().expect("events").clone());
            match answer.body["pagination"]["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return self.stage.ledger.sees_all_events(before, session, &seen),
            }
        }
    }
}

/// Starts a server only to kill it on its way up.
fn kill_a_starting_one(folder: &std::path::Path, random: &mut Random) {
    let mut child = colloquy()
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(backend_flags(folder))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("colloquy starts");
    std::thread::sleep(Duration::from_micros(random.next() % 60_000));
    child.kill().expect("killed");
    child.wait().expect("gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_any_number_of_kills_exactly_once() {
    let mut random = Random::seeded();
    let rounds = from_environment("COLLOQUY_TEST_CRASH_ROUNDS", 10);
    let clients = from_environment("COLLOQUY_TEST_CRASH_CLIENTS", CLIENTS);
    let stage = Arc::new(Stage {
        ledger: Ledger::default(),
        client: Client::builder().timeout(PATIENCE).build().expect("a client"),
        round: AtomicUsize::new(0),
        answers: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let folder = folder();
    let mut server = Server::start_in(Arc::clone(&folder), &[]).await;
    let (place, current) = watch::channel((0, server.url("")));
    let mut actors = JoinSet::new();
    for at in 0..clients {
        let actor = Actor {
            stage: Arc::clone(&stage),
            current: current.clone(),
            random: random.fork(),
            name: format!("c{at}"),
            count: 0,
            last_seq: BTreeMap::new(),
        };
        actors.spawn(actor.act());
    }
    for round in 1..=rounds {
        // Killed after so many answers rather than so much time, so that a slow machine sees as much as a fast one.
        let enough = stage.answers.load(Ordering::Relaxed) + 1 + random.below(600);
        while stage.answers.load(Ordering::Relaxed) < enough {
            match timeout(Duration::from_millis(1), actors.join_next()).await {
                Err(_) => {}
                Ok(gone) => gone.expect("clients").expect("a client's check failed"),
            }
        }
        server.kill();
        stage.round.store(round, Ordering::Relaxed);
        if random.chance(30) {
            kill_a_starting_one(folder.path(), &mut random);
        }
        server = Server::start_in(Arc::clone(&folder), &[]).await;
        place.send((round, server.url(""))).expect("clients");
    }
    stage.over.store(true, Ordering::Relaxed);
    actors.join_all().await;
    server.kill();
    let server = Server::start_in(folder, &[]).await;
    let sessions = stage.ledger.sessions();
    for (id, facts) in &sessions {
        check_session(&server, &stage.ledger, id, facts).await;
    }
    check_listing(&server, &sessions).await;
    let events: usize = sessions.values().map(|facts| facts.events.len()).sum();
    let answers = stage.answers.load(Ordering::Relaxed);
    println!(
        "{rounds} kills, {answers} answers, {} sessions, {events} events sent",
        sessions.len()
    );
}

/// A session after the last restart is what all acknowledgements say together.
async fn check_session(server: &Server, ledger: &Ledger, id: &str, facts: &Facts) {
    let path = format!("/v1/sessions/{id}");
    if facts.erased || !facts.opened {
        let (status, code) = if facts.erased {
            (410, "session-erased")
        } else {
            (404, "session-not-found")
        };
        for path in [
            path.clone(),
            format!("{path}/events"),
            format!("{path}/events/e-1"),
        ] {
            expect_problem(server.get(&path), status, code).await;
        }
        return;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = expect(server.get(&format!("{path}?limit=50{cursor}")), 200).await;
        ledger.sees_session(facts, &page["session"]);
        seen.extend(page["events"].as_array().expect("events").clone());
        match page["pagination"]["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    ledger.sees_all_events(facts, id, &seen);
    // A late retry of what is stored is a replay, whatever became of the session.
    for event in seen.iter().step_by(7) {
        let retry = json!({"eventId": event["eventId"], "type": event["type"], "payload": event["payload"]});
        assert_eq!(
            expect(server.post(&format!("{path}/events"), &retry), 200).await,
            *event
        );
    }
}

async fn check_listing(server: &Server, sessions: &BTreeMap<String, Facts>) {
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = expect(server.get(&format!("/v1/sessions?limit=3{cursor}")), 200).await;
        let ids = page["sessions"].as_array().expect("sessions").iter();
        listed.extend(ids.map(|session| session["sessionId"].as_str().expect("an id").to_owned()));
        match page["pagination"]["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    listed.sort();
    let expected: Vec<_> = sessions
        .iter()
        .filter(|(_, facts)| facts.opened && !facts.erased)
        .map(|(id, _)| id.clone())
        .collect();
    assert_eq!(listed, expected);
}
