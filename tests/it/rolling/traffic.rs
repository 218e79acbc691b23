//! Two replicas on MongoDB and Redis behind a real nginx, under clients that never rest; and each replica is replaced in
//! turn: told to stop, waited for, started anew on its port, waited for until it is ready.
//!
//! Not one request fails, no event is lost, and none is stored twice. Three parts see to that:
//! - the replica, which while it drains goes on to serve, and ends each connection with an answer, so that nginx has none
//!   left to send anything into when it closes: of what nginx began to send, all is answered;
//! - nginx, which asks the other replica where it could not connect: then nothing was sent, whatever the method is. Without
//!   it a replica that is away would have to be taken off the list before it stops, as a Service of Kubernetes does;
//! - the ids of events. nginx sends an append again whose connection broke, and gets the stored event; the rest of POST, and
//!   PATCH, it sends once. Here no connection breaks: an append that was answered as a replay counts as sent twice, and
//!   anything in nginx's error log but refused connections counts as lost.
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
    random::Random,
};

/// Acknowledged before and after each change.
const EVENTS: usize = 300;

/// Longer than nginx keeps an idle connection, as everywhere; but here both are short.
const DRAIN_MS: u64 = 1_000;

const NGINX: [(&str, &str); 2] = [
    ("keepalive_timeout 5s;", "keepalive_timeout 400ms;"),
    // Every try that failed is told, though another one was made.
    ("error_log stderr crit;", "error_log error.log error;"),
];

/// What nginx says where nothing was sent.
const REFUSED: &str = "connect() failed (111: Connection refused) while connecting to upstream";

/// A machine that is busy with other tests is to use Redis all the same.
const CACHE: [&str; 4] = [
    "cache_gathering_ms=0",
    "cache_call_ms_max=1000",
    "cache_lease_ms=1000",
    "cache_absence_ms_max=2000",
];

const PATIENCE: Duration = Duration::from_secs(60);

/// Changes of a replica without a drain, of which each loses a request or so.
const CHANGES_MAX: usize = 40;

fn rounds() -> usize {
    let given = std::env::var("COLLOQUY_TEST_ROLLING_ROUNDS");
    given.map_or(2, |text| text.parse().expect("a number"))
}

struct Deployment {
    replicas: Replicas,
    nginx: Nginx,
    load: Load,
    mongodb: String,
}

impl Deployment {
    async fn start(drain_ms: u64, trouble: Trouble) -> Self {
        let mut random = Random::seeded();
        let (mongodb, redis) = (engines::mongodb().await, engines::redis().await);
        let ports = [free_port(), free_port()];
        let settings = |replica: usize| {
            let own = [
                format!("listen=127.0.0.1:{}", ports[replica]),
                format!("shutdown_drain_ms={drain_ms}"),
            ];
            CACHE.map(str::to_owned).into_iter().chain(own).collect()
        };
        let replicas = Replicas::start_each(&mongodb, &[&redis, &redis], settings).await;
        let nginx = Nginx::start(&ports, &NGINX).await;
        let crowd = Crowd {
            clients: 12,
            rest: Duration::ZERO,
            reads: 40,
            trouble,
        };
        let load = Load::begin(vec![nginx.url()], crowd, &mut random);
        Self {
            replicas,
            nginx,
            load,
            mongodb,
        }
    }

    /// Replaces a replica, with requests acknowledged before, while it is away, and after.
    async fn replace(&mut self, replica: usize) {
        self.load.events(EVENTS).await;
        let status = self.replicas.stop(replica).await;
        assert!(status.success(), "{status}");
        self.load.events(EVENTS).await;
        self.replicas.start_again(replica).await;
        let (server, began) = (self.replicas.server(replica), Instant::now());
        let ready = async || {
            server
                .get("/readyz")
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
        };
        while !ready().await {
            assert!(began.elapsed() < PATIENCE, "the new replica is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What nginx had to say of requests that met a replica that was away, and of those that were lost on the way.
    fn errors(&self) -> (Vec<String>, Vec<String>) {
        let lines = self.nginx.lines("error.log").into_iter();
        lines.partition(|line| line.contains(REFUSED))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_replaced_and_nobody_notices() {
    let mut deployment = Deployment::start(DRAIN_MS, Trouble::None).await;
    for _ in 0..rounds() {
        for replica in [0, 1] {
            deployment.replace(replica).await;
        }
    }
    deployment.load.events(EVENTS).await;
    let (away, lost) = deployment.errors();
    let stage = deployment.load.end().await;
    let stored = settle(&stage, &deployment.replicas, &deployment.mongodb).await;
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

/// The same without a drain, so that the check above is known to see what it looks for.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_drain_requests_are_lost_between_nginx_and_a_replica() {
    let mut deployment = Deployment::start(0, Trouble::Refusals).await;
    let mut changes = 0;
    while deployment.errors().1.is_empty() {
        assert!(changes < CHANGES_MAX, "nothing is lost in {changes} changes");
        deployment.replace(changes % 2).await;
        changes += 1;
    }
    // Lost between nginx and a replica, and found again: nothing that was acknowledged.
    let stage = deployment.load.end().await;
    settle(&stage, &deployment.replicas, &deployment.mongodb).await;
}
