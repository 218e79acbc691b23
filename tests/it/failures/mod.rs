//! What happens when the engines under the service, or a replica of it, stop, die or lose what they had: real ones, under
//! clients that go on writing and reading through all replicas. In every scenario each acknowledged event must be stored
//! once, and every read must show what was acknowledged before it began (I1 to I4, I6).
//!
//! [`load`] has the clients, [`oracle`] what they may be told, [`settle`] the reckoning at the end. How long requests
//! took around a fault is printed (`cargo test failures -- --nocapture`), and judged no further than that nothing hangs.
//!
//! `COLLOQUY_TEST_FAILURE_ROUNDS` repeats the faults so many times, `COLLOQUY_TEST_SEED` repeats what the clients choose.

use std::{
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use colloquy::store::mongo::{self, CHUNKS_DEFAULT, MongoOptions};
use futures_util::future::join_all;

use crate::harness::{Folder, Server, folder};

mod client;
pub mod load;
mod mongodb;
mod oracle;
mod outage;
mod partition;
pub mod proxy;
mod readiness;
mod redis;
mod replicas;
pub mod settle;
mod snapshots;
mod timings;

use load::{Crowd, Load, Trouble};

/// How often the faults of a scenario come.
pub fn rounds(default: usize) -> usize {
    let given = std::env::var("COLLOQUY_TEST_FAILURE_ROUNDS");
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// Processes of the service on one database.
pub struct Replicas {
    servers: Vec<Option<Server>>,
    folders: Vec<Arc<Folder>>,
    flags: Vec<Vec<String>>,
}

impl Replicas {
    /// On this database, which is initialised first; one replica for each of the caches, with these further settings.
    async fn start(mongodb: &str, caches: &[&str], settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        Self::start_each(mongodb, caches, |_| settings.clone()).await
    }

    /// As [`start`](Self::start), with settings of its own for each replica.
    pub async fn start_each(mongodb: &str, caches: &[&str], settings: impl Fn(usize) -> Vec<String>) -> Self {
        let options = MongoOptions {
            pool_min: 0,
            ..MongoOptions::default()
        };
        let report = mongo::init(mongodb, &options, CHUNKS_DEFAULT).await;
        assert!(report.expect("an initialised database").is_ready());
        Self::start_initialised(mongodb, caches, settings).await
    }

    /// As [`start_each`](Self::start_each), on a database that is initialised.
    pub async fn start_initialised(
        mongodb: &str,
        caches: &[&str],
        settings: impl Fn(usize) -> Vec<String>,
    ) -> Self {
        let flags = |(replica, cache): (usize, &&str)| {
            let mut flags = vec![format!("--store={mongodb}")];
            let ours = [format!("cache={cache}"), "log_filter=warn".to_owned()];
            let settings = ours.into_iter().chain(settings(replica));
            flags.extend(settings.map(|setting| format!("--set={setting}")));
            flags
        };
        let mut replicas = Self {
            servers: Vec::new(),
            folders: caches.iter().map(|_| folder()).collect(),
            flags: caches.iter().enumerate().map(flags).collect(),
        };
        for replica in 0..caches.len() {
            replicas.servers.push(None);
            replicas.start_again(replica).await;
        }
        replicas
    }

    pub async fn start_again(&mut self, replica: usize) {
        let folder = Arc::clone(&self.folders[replica]);
        self.servers[replica] = Some(Server::start_on(folder, &self.flags[replica], &[]).await);
    }

    /// SIGTERM; gives how the replica exited.
    pub async fn stop(&mut self, replica: usize) -> ExitStatus {
        self.servers[replica]
            .take()
            .expect("a running replica")
            .stop()
            .await
    }

    /// kill -9.
    fn kill(&mut self, replica: usize) {
        self.servers[replica].take().expect("a running replica").kill();
    }

    pub fn server(&self, replica: usize) -> &Server {
        self.servers[replica].as_ref().expect("a running replica")
    }

    fn all(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    /// How many reads the cache has answered.
    async fn hits(&self) -> u64 {
        let hits = self.all().map(cache_hits);
        join_all(hits).await.into_iter().sum()
    }

    pub fn urls(&self) -> Vec<String> {
        self.all().map(|server| server.url("")).collect()
    }
}

/// Few clients with a little rest, so that what a fault costs is not lost in what the machine costs.
fn calm_crowd() -> Crowd {
    Crowd {
        clients: 6,
        rest: Duration::from_millis(4),
        reads: 50,
        trouble: Trouble::None,
    }
}

/// How long the cache may take to be in use again. Not a measure: a bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(90);

/// Goes on until the cache answers: only then is there something that a fault could make stale.
async fn until_cached(load: &mut Load, replicas: &Replicas) {
    const HITS: u64 = 20;
    let (begun, enough) = (Instant::now(), replicas.hits().await + HITS);
    while replicas.hits().await < enough {
        assert!(begun.elapsed() < PATIENCE, "the cache is not in use");
        load.rest(Duration::from_millis(20)).await;
    }
}

/// How many reads the cache has answered for this replica.
async fn cache_hits(server: &Server) -> u64 {
    let metrics = crate::talk::metrics(server).await;
    let reads = metrics
        .lines()
        .filter(|line| line.starts_with("colloquy_cache_reads_total{"));
    // Those of entries, and those of copies. Without a cache it counts nothing.
    reads
        .filter(|line| line.contains("outcome=\"hit\""))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number"))
        .sum()
}
