//! kill -9, again and again, while sessions move to the archive and clients go on with all that they do: nothing that was
//! acknowledged is lost, changes or is there twice, wherever the death fell; and in the end every session that ended is
//! archived, nothing is left over, and the archive alone is enough to read all of it (I2, I3, I5, I6).
//!
//! The embedded store has one server, MongoDB two that share all the work; there, one of them dies, or both.
//! [`clients`] has what is asked of them, [`aims`] when they are killed, [`remains`] where the death fell, and
//! [`reckoning`] what must be true at the end. [`paused`] stops an archiver in place of killing it.
//!
//! `COLLOQUY_TEST_KILL_ROUNDS` says how many kills, `COLLOQUY_TEST_SEED` repeats what is left to chance.

use std::sync::{Arc, atomic::Ordering};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Duration, Instant},
};

use crate::{
    backends::Store,
    clients::{Actor, Current, PATIENCE, Stage, go_on},
    crash::from_environment,
    harness::{Folder, Server, folder},
    random::Random,
};

mod aims;
mod clients;
mod paused;
mod reckoning;
mod remains;

use self::{
    aims::Aim,
    clients::{Texts, act, check_share},
    remains::{Place, Tally},
};

const CLIENTS: usize = 16;

/// Who reads everything back after a restart.
const CHECKERS: usize = 6;

/// An archiver that is never done, and gives up what it claimed soon.
const CONTINUOUS: [&str; 7] = [
    "archive_every=50ms",
    "archive_after=0s",
    "archive_lease_ms=1000",
    "archive_tidy_again_after=300ms",
    "archive_sweep_grace=0s",
    "archive_rewrite_percent_min=0",
    "log_filter=warn",
];

/// How fast a server archives until it is killed: each throttle makes another phase the long one.
fn tempo(random: &mut Random) -> Vec<String> {
    let settings = [
        ("archive_sessions_per_s_max", *random.pick(&[0, 30, 100])),
        ("archive_deletes_per_s_max", *random.pick(&[0, 200, 1_000])),
        ("archive_segment_sessions_max", *random.pick(&[2, 8, 100])),
        ("archive_sessions_in_flight", *random.pick(&[1, 8])),
    ];
    let settings = settings.map(|(key, value)| format!("{key}={value}"));
    let all = settings.into_iter().chain(CONTINUOUS.map(str::to_owned));
    all.map(|setting| format!("--set={setting}")).collect()
}

/// The servers on one store, and where the clients learn of them.
struct Fleet {
    folder: Arc<Folder>,
    servers: Vec<Option<Server>>,
    started: usize,
    current: watch::Sender<Current>,
}

impl Fleet {
    async fn start(replicas: usize, random: &mut Random) -> Self {
        let mut fleet = Self {
            folder: folder(),
            servers: (0..replicas).map(|_| None).collect(),
            started: 0,
            current: watch::channel(vec![None; replicas]).0,
        };
        fleet.start_missing(random).await;
        fleet
    }

    async fn start_missing(&mut self, random: &mut Random) {
        for replica in 0..self.servers.len() {
            if self.servers[replica].is_some() {
                continue;
            }
            let flags = tempo(random);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let server = Server::start_in(Arc::clone(&self.folder), &flags).await;
            self.started += 1;
            let living = (self.started, server.url(""));
            self.current
                .send_modify(|current| current[replica] = Some(living));
            self.servers[replica] = Some(server);
        }
    }

    /// kill -9.
    fn kill(&mut self, victims: &[usize]) {
        self.current.send_modify(|current| {
            for &replica in victims {
                current[replica] = None;
            }
        });
        for &replica in victims {
            self.servers[replica].take().expect("a server to kill").kill();
        }
    }

    fn living(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    /// SIGTERM, and all is well.
    async fn stop(mut self) -> Arc<Folder> {
        for server in self.servers.iter_mut().filter_map(Option::take) {
            assert!(server.stop().await.success());
        }
        self.folder
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_any_number_of_kills_on_its_way_to_the_archive() {
    let mut random = Random::seeded();
    let rounds = from_environment("COLLOQUY_TEST_KILL_ROUNDS", 8);
    let replicas = match Store::chosen() {
        Store::Embedded => 1,
        Store::MongoDb => 2,
    };
    let (stage, texts) = (Stage::new(), Arc::new(Texts::default()));
    let mut fleet = Fleet::start(replicas, &mut random).await;
    let current = fleet.current.subscribe();
    let actor = |name: String, random: &mut Random| Actor::new(&stage, &current, name, random.fork());
    let mut actors = JoinSet::new();
    for at in 0..CLIENTS {
        actors.spawn(act(actor(format!("c{at}"), &mut random), Arc::clone(&texts)));
    }
    let (mut tally, mut kills) = (Tally::default(), 0);
    for round in 1..=rounds {
        Aim::take(&mut random)
            .wait(&fleet, &stage, &mut actors, &mut random)
            .await;
        let victims = victims(replicas, &mut random);
        fleet.kill(&victims);
        kills += victims.len();
        if victims.len() == replicas && random.chance(50) {
            tally.look(&Place::open(&fleet.folder).await, &stage.ledger).await;
        }
        stage.round.store(round, Ordering::Relaxed);
        fleet.start_missing(&mut random).await;
        let mut checkers = JoinSet::new();
        for at in 0..CHECKERS {
            let checker = actor(format!("r{at}"), &mut random);
            checkers.spawn(check_share(checker, Arc::clone(&texts), at, CHECKERS));
        }
        while !checkers.is_empty() {
            go_on(&mut actors).await;
            while let Some(checked) = checkers.try_join_next() {
                checked.expect("a check of everything");
            }
        }
    }
    stage.end(actors).await;
    let answers = stage.answers.load(Ordering::Relaxed);
    let sums = reckoning::reckon(fleet, &stage.ledger).await;
    println!("{kills} kills, {answers} answers, {sums}; deaths {tally}");
    if rounds >= 60 {
        assert!(
            tally.everywhere(),
            "no death fell into one of the phases: {tally}"
        );
    }
}

/// Which of the replicas are killed together.
fn victims(replicas: usize, random: &mut Random) -> Vec<usize> {
    match random.chance(50) {
        true => (0..replicas).collect(),
        false => vec![random.below(replicas)],
    }
}

/// Asks again and again until it is so.
async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !ask().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
