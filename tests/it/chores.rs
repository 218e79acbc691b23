//! Chores: of all processes that share a store, one does each, and another goes on when that one dies or stops.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use colloquy::{
    domain::{Error, Kind, Result},
    service::chore::Chore,
    store::leases::{Leases, Taken},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    backends::Store,
    harness::{Folder, Server, folder},
    talk::{counted, metrics, open, session},
};

/// A bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(60);

const LEASE: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(10);

/// Leases as a store keeps them, on tokio's clock; may be out of reach.
#[derive(Default)]
struct Kept {
    held: Mutex<Option<(String, Instant)>>,
    is_away: AtomicBool,
    asked: AtomicUsize,
}

#[async_trait]
impl Leases for Kept {
    async fn take_lease(&self, _: &str, owner: &str, time: Duration) -> Result<Taken> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_away.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Unavailable, "as the test says"));
        }
        let (mut held, now) = (self.held.lock().expect("no panic in here"), Instant::now());
        if let Some((other, until)) = &*held
            && other != owner
            && *until > now
        {
            return Ok(Taken::ByAnother(*until - now));
        }
        *held = Some((owner.to_owned(), now + time));
        Ok(Taken::Held)
    }

    async fn give_up_lease(&self, _: &str, owner: &str) -> Result<()> {
        let mut held = self.held.lock().expect("no panic in here");
        if held.as_ref().is_some_and(|(holder, _)| holder == owner) {
            *held = None;
        }
        Ok(())
    }
}

/// A process with one chore.
struct Process {
    chore: Chore,
    task: JoinHandle<()>,
    /// When its rounds began.
    rounds: Arc<Mutex<Vec<Instant>>>,
    lost: Arc<AtomicUsize>,
}

impl Process {
    /// Begins; each round takes this long.
    fn start(leases: &Arc<Kept>, owner: &str, round: Duration) -> Self {
        Self::start_every(leases, owner, round, EVERY)
    }

    fn start_every(leases: &Arc<Kept>, owner: &str, round: Duration, every: Duration) -> Self {
        let chore = Chore {
            leases: Arc::clone(leases) as _,
            name: "chore",
            owner: owner.into(),
            lease: LEASE,
            every,
        };
        let rounds: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let lost: Arc<AtomicUsize> = Arc::default();
        let (begun, losing) = (Arc::clone(&rounds), Arc::clone(&lost));
        let work = move || {
            begun.lock().expect("no panic in here").push(Instant::now());
            sleep(round)
        };
        let lose = move || {
            losing.fetch_add(1, Ordering::Relaxed);
        };
        let task = tokio::spawn(chore.clone().perform(work, lose));
        Self {
            chore,
            task,
            rounds,
            lost,
        }
    }

    fn rounds(&self) -> Vec<Instant> {
        self.rounds.lock().expect("no panic in here").clone()
    }

    /// As kill -9: nothing is given up.
    async fn die(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    async fn stop(&mut self) {
        self.die().await;
        self.chore.give_up().await.expect("the store is there");
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_processes_one_does_the_rounds() {
    let leases: Arc<Kept> = Arc::default();
    let owners = ["a", "b", "c", "d", "e"];
    let processes = owners.map(|owner| Process::start(&leases, owner, Duration::ZERO));
    let hour = Duration::from_secs(3_600);
    sleep(hour).await;
    let mut rounds = processes.each_ref().map(|process| process.rounds().len());
    rounds.sort_unstable();
    assert_eq!(rounds[..4], [0; 4]);
    // Every ten seconds, by a tenth more or less.
    assert!((320..=402).contains(&rounds[4]), "{rounds:?}");
    assert!(
        processes
            .iter()
            .all(|process| process.lost.load(Ordering::Relaxed) == 0)
    );
    // What the others cost the store: a question for each half of a lease, and for each third of it the owner's.
    let asked = leases.asked.load(Ordering::Relaxed);
    let most = 4 * 3_600 / 13 + 3_600 / 9 + 5;
    assert!(asked <= most, "{asked} > {most}");
}

#[tokio::test(start_paused = true)]
async fn rounds_drift_apart_by_chance() {
    let leases: Arc<Kept> = Arc::default();
    let process = Process::start(&leases, "a", Duration::ZERO);
    sleep(Duration::from_secs(3_600)).await;
    let rounds = process.rounds();
    let waits: Vec<_> = rounds.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (least, most) = (
        waits.iter().min().expect("some"),
        waits.iter().max().expect("some"),
    );
    // Tokio's clock ticks in milliseconds.
    let tick = Duration::from_millis(2);
    assert!(*least >= EVERY.mul_f64(0.9) - tick && *most <= EVERY.mul_f64(1.1) + tick);
    assert!(*most - *least > EVERY.mul_f64(0.05), "{least:?} to {most:?}");
}

#[tokio::test(start_paused = true)]
async fn when_the_owner_dies_another_goes_on_once_the_lease_is_over_and_not_before() {
    let leases: Arc<Kept> = Arc::default();
    let mut first = Process::start(&leases, "a", Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    let second = Process::start(&leases, "b", Duration::ZERO);
    sleep(Duration::from_secs(100)).await;
    first.die().await;
    let over = leases
        .held
        .lock()
        .expect("no panic in here")
        .clone()
        .expect("held")
        .1;
    sleep(LEASE.mul_f64(1.6)).await;
    let begun = second.rounds().first().copied().expect("the other goes on");
    assert!(begun >= over);
    assert!(second.rounds().len() > 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_owner_stops_another_goes_on_before_the_lease_would_be_over() {
    let leases: Arc<Kept> = Arc::default();
    let mut first = Process::start(&leases, "a", Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    let second = Process::start(&leases, "b", Duration::ZERO);
    sleep(Duration::from_secs(100)).await;
    assert_eq!(second.rounds().len(), 0);
    first.stop().await;
    assert!(leases.held.lock().expect("no panic in here").is_none());
    sleep(LEASE.mul_f64(0.56)).await;
    assert!(!second.rounds().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_round_that_takes_longer_than_the_lease_keeps_it() {
    let leases: Arc<Kept> = Arc::default();
    let first = Process::start(&leases, "a", LEASE * 20);
    sleep(Duration::from_secs(1)).await;
    let second = Process::start(&leases, "b", Duration::ZERO);
    sleep(LEASE * 19).await;
    assert_eq!((first.rounds().len(), second.rounds().len()), (1, 0));
    sleep(LEASE * 2).await;
    assert_eq!(first.rounds().len(), 2, "one round at a time, and then the next");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_can_not_renew_begins_no_round_once_its_lease_may_be_over() {
    let leases: Arc<Kept> = Arc::default();
    // So often that one is due between the end of the lease and the next attempt to renew it.
    let every = Duration::from_millis(20);
    let process = Process::start_every(&leases, "a", Duration::ZERO, every);
    sleep(Duration::from_secs(95)).await;
    let until = leases
        .held
        .lock()
        .expect("no panic in here")
        .clone()
        .expect("held")
        .1;
    leases.is_away.store(true, Ordering::Relaxed);
    sleep(LEASE * 10).await;
    let last = *process.rounds().last().expect("some");
    assert!(last <= until, "{:?} after it", last - until);
    assert!(last + every * 2 > until, "it goes on while it may");
    assert_eq!(process.lost.load(Ordering::Relaxed), 1);
    // Another was quicker when the store came back.
    leases.is_away.store(false, Ordering::Relaxed);
    assert_eq!(
        leases.take_lease("chore", "b", LEASE * 9).await.expect("there"),
        Taken::Held
    );
    let before = process.rounds().len();
    sleep(LEASE * 8).await;
    assert_eq!(process.rounds().len(), before);
    sleep(LEASE * 2).await;
    assert!(process.rounds().len() > before);
}

/// The leases of a server's chores, by its metrics: those that it has, and those that it has not.
async fn owned(server: &Server) -> (Vec<String>, Vec<String>) {
    let metrics = metrics(server).await;
    let lines = metrics.lines();
    let series = lines.filter_map(|line| line.strip_prefix("colloquy_chore_owner{lease=\""));
    let (mut has, mut has_not) = (Vec::new(), Vec::new());
    for one in series {
        let (name, rest) = one.split_once('"').expect("a label");
        match rest.ends_with(" 1") {
            true => has.push(name.to_owned()),
            false => has_not.push(name.to_owned()),
        }
    }
    (has, has_not)
}

const LEASED: [&str; 4] = ["archive", "backlog", "idle", "upkeep"];

async fn owns_all(server: &Server) {
    let waited = timeout(PATIENCE, async {
        loop {
            let (mut has, _) = owned(server).await;
            has.sort_unstable();
            if has == LEASED {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("it takes the leases");
}

/// A server of its own on the database of this folder.
async fn server_on(folder_of_database: &Folder) -> Server {
    let backends = Store::MongoDb.flags(folder_of_database.path());
    let flags = [
        "--set=session_idle_timeout=400ms",
        "--set=upkeep_every_ms=100",
        "--set=archive_every=200ms",
    ];
    Server::start_on(folder(), &backends, &flags).await
}

async fn ended_by(server: &Server, id: &str) {
    open(server, id).await;
    let waited = timeout(PATIENCE, async {
        while session(server, id).await["endReason"] != "idle timeout" {
            sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("it is ended");
}

const IDLE_ROUNDS: &str = r#"colloquy_chore_rounds_total{chore="ending idle sessions"}"#;

/// Servers on one database: one does the chores; it is killed, and the other does; a third takes over when that one stops.
#[tokio::test(flavor = "multi_thread")]
async fn chores_move_to_another_server_when_theirs_dies_or_stops() {
    let database = folder();
    let first = server_on(&database).await;
    owns_all(&first).await;
    let second = server_on(&database).await;
    ended_by(&second, "s-1").await;
    assert!(counted(&first, IDLE_ROUNDS).await > 0);
    assert_eq!(counted(&second, IDLE_ROUNDS).await, 0);
    let (has, mut has_not) = owned(&second).await;
    has_not.sort_unstable();
    assert_eq!((has, has_not), (Vec::new(), LEASED.map(str::to_owned).to_vec()));
    // Archiving is shared out by claims.
    assert!(counted(&second, r#"colloquy_chore_rounds_total{chore="archiving"}"#).await > 0);
    let backlog = "colloquy_archive_backlog_age_seconds";
    assert!(metrics(&first).await.contains(&format!("\n{backlog} ")));
    assert!(!metrics(&second).await.contains(&format!("\n{backlog} ")));

    first.kill();
    owns_all(&second).await;
    ended_by(&second, "s-2").await;
    assert!(counted(&second, IDLE_ROUNDS).await > 0);

    let third = server_on(&database).await;
    assert!(second.stop().await.success());
    owns_all(&third).await;
    ended_by(&third, "s-3").await;
    assert!(third.stop().await.success());
    let url = std::fs::read_to_string(database.path().join("database-url")).expect("kept there");
    let left = crate::mongo::database(&url)
        .await
        .collection::<mongodb::bson::Document>("leases")
        .count_documents(mongodb::bson::doc! {})
        .await
        .expect("counted");
    assert_eq!(left, 0, "a server that stops gives its leases up");
}

/// A command does at once what it is asked for, whoever has the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_no_lease() {
    let database = folder();
    let server = server_on(&database).await;
    owns_all(&server).await;
    let backends = Store::MongoDb.flags(database.path());
    for words in [
        &["archive", "upkeep"][..],
        &["archive", "sweep"],
        &["archive", "rewrite"],
    ] {
        let ran = crate::harness::colloquy()
            .args(words)
            .args(&backends)
            .output()
            .expect("it runs");
        assert!(
            ran.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    owns_all(&server).await;
    assert!(server.stop().await.success());
}
