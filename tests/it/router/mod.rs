//! A sharded cluster for tests: real replica sets, and in front of them routers of ours in place of `mongos`, of which no
//! package registry has one. What the routers answer is what MongoDB's manual and the server's source say that a
//! `mongos` of 6.0 answers.
//!
//! - [`wire`]: messages. [`server`]: connections, and which command goes where.
//! - [`config`]: what a config server holds: shards, shard keys, chunks and their versions. All routers share one.
//! - [`target`]: which shards a statement is for. [`reads`], [`cursors`], [`order`]: finds and aggregations over several shards.
//!   [`writes`]: batches split by shard. [`admin`]: collections, indexes, `config.*`. [`migrate`]: `moveChunk`.
//! - [`shard`]: a router's way to the primary of a shard.
//!
//! As on a real cluster:
//! - A router goes by the chunks that it knows, until a shard tells it that they are out of date (`StaleConfig`). Then it reads
//!   them again and repeats what the shard did not do. The versions are the shards': one that gave or took a chunk has
//!   another.
//! - A cursor belongs to the router that opened it; another one answers `CursorNotFound`.
//! - `$$NOW` is the router's clock, which [`Router::set_clock`] skews.
//! - `moveChunk` copies under writes, catches up in a critical section in which statements on that shard and collection wait,
//!   and deletes the donor's documents once no older cursor can read them. Until then they are orphans, which finds and
//!   aggregations leave out, and `distinct` does not.
//! - A shard without a primary is waited for, up to [`Settings::find_host_max`] or the statement's `maxTimeMS`, then it is
//!   `FailedToSatisfyReadPreference`: of a read as a whole, of a batch of writes for those that the shard was to do. What a
//!   shard says never has the label `RetryableWriteError`: a `mongos` gives that to errors of its own shutdown alone.
//!
//! [`database`] gives a test a database on a cluster that all tests of this binary share, and whose chunks never rest. A test that
//! breaks a cluster starts one for itself.
//!
//! Not as on a real cluster: no transactions of several statements, no `$clusterTime`, no balancer; what a shard remembers of retryable
//! writes does not move with a chunk; shard keys are one field, with strings as values; and every command that Colloquy does
//! not send is `CommandNotFound`.

use std::{sync::Arc, time::Duration};

use colloquy::store::mongo::{self, MongoOptions};
use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::{
    engines::{ReplicaSet, own_name, with_database},
    mongo::statements::BROADCASTS,
    random::Random,
};

mod admin;
mod balancer;
mod config;
mod cursors;
mod migrate;
mod order;
mod reads;
mod server;
mod shard;
mod target;
mod wire;
mod writes;

pub use balancer::Balancer;
use config::Config;
pub use server::{Asked, Router};

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many members each shard has: one or three.
    pub members: Vec<usize>,
    pub routers: usize,
    /// How long a router looks for the primary of a shard. A `mongos` takes 15 s.
    pub find_host_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            members: vec![1, 1],
            routers: 2,
            find_host_max: Duration::from_secs(15),
        }
    }
}

pub struct Cluster {
    shards: Vec<ReplicaSet>,
    pub routers: Vec<Router>,
    config: Arc<Config>,
    /// The routers' own, since tests come and go with theirs.
    runtime: Option<Runtime>,
}

impl Cluster {
    pub async fn start(settings: Settings) -> Self {
        let shards = join_all(settings.members.iter().map(|&members| ReplicaSet::start(members))).await;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name("router")
            .build()
            .expect("a runtime");
        let config = Arc::new(Config::new(shards.len()));
        let members: Vec<Vec<u16>> = shards.iter().map(ReplicaSet::ports).collect();
        let router = |_| {
            Router::start(
                runtime.handle().clone(),
                Arc::clone(&config),
                &members,
                settings.find_host_max,
            )
        };
        let routers = (0..settings.routers).map(router).collect();
        Self {
            shards,
            routers,
            config,
            runtime: Some(runtime),
        }
    }

    /// For a client of all routers, without a database.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.routers.iter().map(Router::address).collect();
        format!("mongodb://{}/?", addresses.join(","))
    }

    /// For a client of one router.
    pub fn url_of(&self, router: usize) -> String {
        format!("mongodb://{}/?", self.routers[router].address())
    }

    pub fn router(&mut self, router: usize) -> &mut Router {
        &mut self.routers[router]
    }

    /// A shard, to be broken.
    pub fn shard(&mut self, shard: usize) -> &mut ReplicaSet {
        &mut self.shards[shard]
    }

    /// The shard on which a collection has this key, by the config servers.
    pub fn owner(&self, namespace: &str, key: &str) -> usize {
        self.config.table(namespace).owner(key)
    }

    /// Where the chunks of a collection begin, and on which shards they lie, by the config servers.
    pub fn chunks(&self, namespace: &str) -> Vec<(String, usize)> {
        let chunks = self.config.table(namespace).chunks.clone();
        chunks.into_iter().collect()
    }

    /// Moves the chunk in which this key lies, through the first router; gives what it refuses with.
    pub async fn move_chunk(&self, namespace: &str, key: &str, to: usize) -> Result<(), Document> {
        let field = self.config.table(namespace).field.expect("it is sharded");
        let change = doc! { "moveChunk": namespace, "find": { field: key }, "to": config::shard_name(to) };
        self.routers[0].command("admin", change).await.map(|_| ())
    }

    /// Moves chunks of the newest databases to and fro until it is told to stop, with a rest of so long in between.
    pub fn balance(&self, rest: Duration, random: Random) -> Balancer {
        let runtime = self.runtime.as_ref().expect("it runs").handle();
        Balancer::start(
            runtime,
            Arc::clone(&self.config),
            self.routers[0].address(),
            rest,
            random,
        )
    }

    /// What all routers were asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.routers.iter().flat_map(Router::asked).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Routers first: they wait for what goes on there.
        self.routers.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The cluster that is shared.
async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<(Cluster, Balancer)> = OnceCell::const_new();
    let start = async || {
        let cluster = Cluster::start(Settings::default()).await;
        let balancer = cluster.balance(Duration::from_millis(50), Random::seeded());
        (cluster, balancer)
    };
    &SHARED.get_or_init(start).await.0
}

/// Chunks of each collection of a database on the shared cluster: enough for some on either shard.
const CHUNKS: u32 = 8;

/// The URL of a database of this test's own on the shared cluster, as `colloquy init` leaves it; it names both routers.
pub async fn database() -> String {
    let url = with_database(&shared().await.url(), &own_name());
    let options = MongoOptions {
        pool_min: 0,
        ..MongoOptions::default()
    };
    let report = mongo::init(&url, &options, CHUNKS).await;
    assert!(report.expect("an initialised database").is_ready());
    url
}

/// The statements on a database of the shared cluster that went to all shards and have no right to.
pub async fn broadcasts(url: &str) -> Vec<String> {
    let (_, rest) = url.rsplit_once('/').expect("a database");
    let (database, _) = rest.split_once('?').expect("a URL of the shared cluster");
    let asked = shared().await.asked().into_iter();
    let wrong = asked.filter(|asked| asked.database == database && asked.is_wrong());
    wrong.map(|asked| format!("a broadcast: {asked:?}")).collect()
}

impl Asked {
    /// It is of the request path, and asked every shard.
    pub fn is_wrong(&self) -> bool {
        self.is_broadcast && !BROADCASTS.contains(&self.comment.as_str())
    }
}
