//! A shard has no primary while clients of all shards go on: only requests for sessions on that shard fail (I10).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mongodb::bson::{Document, doc};
use reqwest::RequestBuilder;
use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::{
    engines::Engine,
    failures::Replicas,
    harness::{Server, expect},
    mongo::database,
    talk::{append, event, events, events_path, open, texts},
};

const SESSIONS: usize = 24;
const CHUNKS: u32 = 16;
/// What each client of a shard with a primary gets done.
const REQUESTS: usize = 120;

/// The sessions of the service, by the shard that they are on.
struct Sessions([Vec<String>; 2]);

impl Sessions {
    async fn open(cluster: &Cluster, url: &str, server: &Server) -> Self {
        let mut sessions = Self([Vec::new(), Vec::new()]);
        let stored = database(url).await.collection::<Document>("sessions");
        for number in 0..SESSIONS {
            let id = format!("s-{number}");
            open(server, &id).await;
            append(server, &id, &event("first")).await;
            let found = stored.find_one(doc! { "sessionId": &id }).await.unwrap().unwrap();
            let key = found.get_str("_id").unwrap();
            let shard = cluster.owner("colloquy.sessions", key);
            assert_eq!(
                shard,
                cluster.owner("colloquy.events", key),
                "a session is on one shard"
            );
            sessions.0[shard].push(id);
        }
        assert!(sessions.0.iter().all(|of_shard| of_shard.len() >= 3));
        sessions
    }
}

/// One request after another for this session; the number is another each time.
type Requests = fn(&Server, &str, usize) -> RequestBuilder;

/// All that is asked of a session but for appends.
fn reads_and_changes(server: &Server, session: &str, number: usize) -> RequestBuilder {
    let path = format!("/v1/sessions/{session}");
    match number % 4 {
        0 => server.get(&path),
        1 => server.get(&events_path(session)),
        2 => server.get(&format!("{}/first", events_path(session))),
        _ => server.patch(&path, &json!({"metadata": {"n": number}})),
    }
}

/// Asks through two replicas for sessions on either shard while the second has no primary. Gives the replicas and the sessions, once
/// it has one again.
async fn one_shard_without_a_primary(requests: Requests) -> (Cluster, Arc<Replicas>, Sessions) {
    let settings = Settings {
        find_host_max: Duration::from_secs(3),
        ..Settings::default()
    };
    let mut cluster = Cluster::start(settings).await;
    let url = initialised(&cluster, CHUNKS).await;
    let replicas = Replicas::start_initialised(&url, &["none", "none"], |_| Vec::new()).await;
    let replicas = Arc::new(replicas);
    let sessions = Sessions::open(&cluster, &url, replicas.server(0)).await;
    cluster.shard(1).member(0).kill9();

    let (over, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut broken = JoinSet::new();
    for (client, session) in sessions.0[1].iter().cloned().enumerate() {
        let (replicas, over, refused) = (Arc::clone(&replicas), Arc::clone(&over), Arc::clone(&refused));
        broken.spawn(async move {
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let request = requests(replicas.server(client % 2), &session, number);
                let answer = request.send().await.expect("an answer");
                if answer.status() == 503 {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let mut healthy = JoinSet::new();
    for (client, session) in sessions.0[0].iter().cloned().enumerate() {
        let (replicas, refused) = (Arc::clone(&replicas), Arc::clone(&refused));
        healthy.spawn(async move {
            // At least as many as are wanted, and until the others were refused.
            for number in 0.. {
                if number >= REQUESTS && refused.load(Ordering::Relaxed) > 0 {
                    return;
                }
                let request = requests(replicas.server(client % 2), &session, number);
                let answer = request.send().await.expect("an answer");
                let status = answer.status();
                let text = answer.text().await.expect("a body");
                assert!(
                    status.is_success(),
                    "{session}, number {number}: {status}: {text}"
                );
            }
        });
    }
    while let Some(done) = healthy.join_next().await {
        done.expect("no request for a shard with a primary fails");
    }
    over.store(true, Ordering::Relaxed);
    cluster.shard(1).restart(0).await;
    while let Some(done) = broken.join_next().await {
        done.expect("the clients of the other shard are answered");
    }
    (cluster, replicas, sessions)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_primary_a_shard_fails_no_reads_and_changes_of_others() {
    let (_cluster, replicas, sessions) = one_shard_without_a_primary(reads_and_changes).await;
    for session in sessions.0.iter().flatten() {
        let read = replicas.server(1).get(&format!("/v1/sessions/{session}"));
        assert_eq!(expect(read, 200).await["events"][0]["eventId"], "first");
    }
}

fn appends(server: &Server, session: &str, number: usize) -> RequestBuilder {
    server.post(&events_path(session), &event(&format!("e-{number}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_primary_a_shard_fails_no_appends_to_others() {
    let (_cluster, replicas, sessions) = one_shard_without_a_primary(appends).await;
    for session in &sessions.0[0] {
        let ids = texts(&events(replicas.server(1), session).await, "eventId");
        for number in 0..REQUESTS {
            let id = format!("e-{number}");
            assert_eq!(
                ids.iter().filter(|&stored| *stored == id).count(),
                1,
                "{session}: {id}"
            );
        }
    }
}
