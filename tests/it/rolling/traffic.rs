//! Two replicas on MongoDB and Redis behind a real nginx, under clients that never rest; and each replica is replaced in
//! turn: told to stop, waited for, started anew on its port, waited for until it is ready.
//!
//! Not one request fails, no event is lost, and none is stored twice. Three parts see to that:
//! - the replica, which while it drains goes on to serve, and ends each connection with an answer, so that nginx has none
//!   left to send anything into when it closes: of what nginx began to send, all is answered;
//! - nginx, which asks the other replica where it could not connect: then nothing was sent, whatever the method is. Without
//!   it a replica that is away would have to be taken off the list before it stops, as a Service of Kubernetes does;
//! - the ids of events. nginx would send an append twice, whose first connection broke: a replay, which the API answers like the first
//!   one. Here no connection breaks, so that an append that was answered as a replay counts as doubled, and so does every word
//!   in nginx's error log other than a refused connection.
//!
//! `COLLOQUY_TEST_ROLLING_ROUNDS` is how often both are replaced, `COLLOQUY_TEST_SEED` repeats what the clients choose.

use std::time::{Duration, Instant};

use crate::{
    engines::{self, Nginx, free_port},
    failures::{
        Replicas,
        load::{Crowd, Load, Trouble},
        settle::settle,
    },
    harness::Server,
    random::Random,
};

/// Acknowledged before and after each change.
const EVENTS: usize = 500;

/// Longer than nginx keeps an idle connection, as everywhere; but here both are short.
const SETTINGS: [&str; 5] = [
    "shutdown_drain_ms=1000",
    // A machine that is busy with other tests is to use Redis all the same.
    "cache_gathering_ms=0",
    "cache_call_ms_max=1000",
    "cache_lease_ms=1000",
    "cache_absence_ms_max=2000",
];

/// nginx logs every try that failed, though another one was made.
const NGINX: [(&str, &str); 2] = [
    ("keepalive_timeout 5s;", "keepalive_timeout 400ms;"),
    ("error_log stderr crit;", "error_log error.log error;"),
];

const PATIENCE: Duration = Duration::from_secs(60);

fn rounds() -> usize {
    let given = std::env::var("COLLOQUY_TEST_ROLLING_ROUNDS");
    given.map_or(2, |text| text.parse().expect("a number"))
}

async fn ready(server: &Server) {
    let began = Instant::now();
    while !server
        .get("/readyz")
        .send()
        .await
        .is_ok_and(|answer| answer.status() == 200)
    {
        assert!(began.elapsed() < PATIENCE, "the new replica is not ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_replaced_and_nobody_notices() {
    let mut random = Random::seeded();
    let (mongodb, redis) = (engines::mongodb().await, engines::redis().await);
    let ports = [free_port(), free_port()];
    let settings = |replica: usize| {
        let listen = format!("listen=127.0.0.1:{}", ports[replica]);
        SETTINGS
            .iter()
            .map(|&setting| setting.to_owned())
            .chain([listen])
            .collect()
    };
    let mut replicas = Replicas::start_each(&mongodb, &[&redis, &redis], settings).await;
    let nginx = Nginx::start(&ports, &NGINX).await;
    let crowd = Crowd {
        clients: 12,
        rest: Duration::ZERO,
        reads: 40,
        trouble: Trouble::None,
    };
    let mut load = Load::begin(vec![nginx.url()], crowd, &mut random);
    for _ in 0..rounds() {
        for replica in 0..ports.len() {
            load.events(EVENTS).await;
            let status = replicas.stop(replica).await;
            assert!(status.success(), "{status}");
            load.events(EVENTS).await;
            replicas.start_again(replica).await;
            ready(replicas.server(replica)).await;
        }
    }
    load.events(EVENTS).await;
    let stage = load.end().await;
    let stored = settle(&stage, &replicas, &mongodb).await;

    let refused = "connect() failed (111: Connection refused) while connecting to upstream";
    let errors = nginx.lines("error.log");
    let (away, lost): (Vec<_>, Vec<_>) = errors.iter().partition(|line| line.contains(refused));
    eprintln!(
        "{} events acknowledged, {stored} stored; {} requests met a replica that was away",
        stage.acknowledged(),
        away.len()
    );
    assert!(
        lost.is_empty(),
        "{} requests were lost on the way: {lost:#?}",
        lost.len()
    );
    assert_eq!(stage.replayed(), 0, "events were sent twice");
    assert!(away.len() >= 2 * rounds(), "nobody asked a replica that was away");
}
