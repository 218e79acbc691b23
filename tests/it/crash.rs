//! kill -9, again and again, under clients that get in each other's way: nothing that was acknowledged is lost or
//! changes, and nothing happens twice (I1, I2, I6).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    backends::backend_flags,
    clients::{Actor, Stage, go_on, numbered_apart},
    harness::{Server, colloquy, expect, expect_problem, folder},
    ledger::{Facts, Ledger},
    random::Random,
};

const CLIENTS: usize = 64;

/// Sessions that come up in each round, by what befalls them: nothing, an end, an end, an erasure.
const SESSIONS_A_ROUND: usize = 4;

pub fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

async fn act(mut actor: Actor) {
    while !actor.stage.over.load(Ordering::Relaxed) {
        let (session, kind) = actor.choose_session(SESSIONS_A_ROUND);
        let session = session.as_str();
        match actor.random.below(100) {
            0..15 => actor.open(session).await,
            15..40 => actor.append_contested(session).await,
            40..55 => actor.append_own(session).await,
            55..70 => actor.append_batch(session).await,
            70..80 => actor.patch(session).await,
            80..90 => actor.read(session).await,
            90..92 if kind != 0 => actor.complete(session).await,
            92 if kind == 3 => actor.erase(session).await,
            _ => {
                actor.walk(session, &format!("{session}/events?limit=100")).await;
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
    let stage = Stage::new();
    let folder = folder();
    let mut server = Server::start_in(Arc::clone(&folder), &[]).await;
    let (place, current) = watch::channel(vec![Some((0, server.url("")))]);
    let mut actors = JoinSet::new();
    for at in 0..clients {
        actors.spawn(act(Actor::new(&stage, &current, format!("c{at}"), random.fork())));
    }
    for round in 1..=rounds {
        // Killed after so many answers rather than so much time, so that a slow machine sees as much as a fast one.
        let enough = stage.answers.load(Ordering::Relaxed) + 1 + random.below(600);
        while stage.answers.load(Ordering::Relaxed) < enough {
            go_on(&mut actors).await;
        }
        place.send_replace(vec![None]);
        server.kill();
        stage.round.store(round, Ordering::Relaxed);
        if random.chance(30) {
            kill_a_starting_one(folder.path(), &mut random);
        }
        server = Server::start_in(Arc::clone(&folder), &[]).await;
        place.send_replace(vec![Some((round, server.url("")))]);
    }
    stage.end(actors).await;
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
    numbered_apart(id, &seen);
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
