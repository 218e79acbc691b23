//! What the clients do while servers die: everything that a caller or an operator may, at once and over and over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use serde_json::json;

use crate::clients::{Actor, Walked};

/// Sessions that come up in each round. The first is never ended, the last one may be erased.
const SESSIONS_A_ROUND: usize = 6;
const GOES_ON: usize = 0;
const MAY_BE_ERASED: usize = SESSIONS_A_ROUND - 1;

/// Each event as its first reader got it, byte by byte, by session and event.
#[derive(Default)]
pub struct Texts(Mutex<BTreeMap<(String, String), String>>);

impl Texts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), String>> {
        // A failed check is told by the client that made it; the others go on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw_event(&self, session: &str, event: &str, text: &str) {
        let place = (session.to_owned(), event.to_owned());
        let first = self
            .lock()
            .entry(place)
            .or_insert_with(|| text.to_owned())
            .clone();
        assert_eq!(first, text, "{session}/{event} reads otherwise than before");
    }

    /// What is on pages must be there as it was read by itself.
    fn saw_pages(&self, session: &str, walked: &Walked) {
        for event in &walked.events {
            let id = event["eventId"].as_str().expect("an id");
            let first = self.lock().get(&(session.to_owned(), id.to_owned())).cloned();
            let same = |first: &String| walked.pages.iter().any(|page| page.contains(first));
            assert!(
                first.as_ref().is_none_or(same),
                "{session}/{id} was {first:?}, and is {event} on a page"
            );
        }
    }
}

/// Goes on until the test is over.
pub async fn act(mut actor: Actor, texts: Arc<Texts>) {
    while !actor.stage.over.load(Ordering::Relaxed) {
        let (session, kind) = actor.choose_session(SESSIONS_A_ROUND);
        let session = session.as_str();
        match actor.random.below(100) {
            0..8 => actor.open(session).await,
            8..22 => actor.append_contested(session).await,
            22..32 => actor.append_own(session).await,
            32..44 => actor.append_batch(session).await,
            44..49 => actor.patch(session).await,
            49..53 => actor.read(session).await,
            53..55 if kind != GOES_ON => actor.complete(session).await,
            55 => restore(&mut actor, session).await,
            56 if kind == MAY_BE_ERASED && actor.random.chance(25) => actor.erase(session).await,
            57..76 => read_event(&mut actor, session, &texts).await,
            _ => walk(&mut actor, session, &texts).await,
        }
    }
}

/// Brings a session back, if it was archived; as often as not in order to change it.
async fn restore(actor: &mut Actor, session: &str) {
    let answer = actor
        .post(session, &format!("/{session}/restore"), json!({}))
        .await;
    // Where the machine is so busy that the claims of restores, too, run out before they are done.
    if answer.body["code"] == "overloaded" {
        return;
    }
    actor.saw_session(&answer, session);
    if answer.status == 200 {
        assert_eq!(answer.body["archived"], false, "{}", answer.text);
        if actor.random.chance(50) {
            actor.patch(session).await;
        }
    }
}

/// Reads one event: most often one that is known to be there.
async fn read_event(actor: &mut Actor, session: &str, texts: &Texts) {
    let sent = actor.stage.ledger.known(session).events;
    let sent: Vec<&String> = sent.keys().collect();
    if sent.is_empty() {
        return;
    }
    let id = (*actor.random.pick(&sent)).clone();
    let answer = actor.get(session, &format!("{session}/events/{id}")).await;
    let stored = answer
        .before
        .events
        .get(&id)
        .and_then(|facts| facts.stored.as_ref());
    match (answer.status, answer.body["code"].as_str()) {
        (200, _) => {
            let ledger = &actor.stage.ledger;
            ledger.sees_event(&answer.before, session, &answer.body, false);
            texts.saw_event(session, &id, &answer.text);
        }
        (404, Some("event-not-found")) => {
            assert!(stored.is_none(), "{session}/{id} was {stored:?}, and is lost");
        }
        _ => actor.refused(&answer, session, None),
    }
}

/// Walks the events in either order, by pages of any size, with the session or without.
async fn walk(actor: &mut Actor, session: &str, texts: &Texts) {
    let what = *actor.random.pick(&["", "/events"]);
    let limit = *actor.random.pick(&[3, 20, 50, 500]);
    let order = *actor.random.pick(&["asc", "desc"]);
    let path = format!("{session}{what}?limit={limit}&order={order}");
    if let Some(walked) = actor.walk(session, &path).await {
        texts.saw_pages(session, &walked);
    }
}

/// Reads back every `of`th session that anybody ever spoke of, from the `at`th on.
pub async fn check_share(mut actor: Actor, texts: Arc<Texts>, at: usize, of: usize) {
    let sessions = actor.stage.ledger.sessions();
    for (id, facts) in sessions.iter().skip(at).step_by(of) {
        let Some(walked) = actor.walk(id, &format!("{id}?limit=500")).await else {
            continue;
        };
        texts.saw_pages(id, &walked);
        // The ledger sees to it that it is refused: for ever, alone and in a batch.
        if facts.has_ended() && actor.random.chance(10) {
            match actor.random.chance(50) {
                true => actor.append_own(id).await,
                false => actor.append_batch(id).await,
            }
        }
    }
}
