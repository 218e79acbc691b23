//! Colloquy on a sharded cluster, which [`router`](crate::router) stands in for: real replica sets behind routers of ours.
//!
//! [`routing`] holds the routers to what MongoDB's manual says of a `mongos`, since everything else here leans on that.
//! [`setup`]: `init`, `check` and `serve`. [`load`]: replicas, with an oracle. [`isolation`]: a shard without a primary.
//! [`clocks`]: routers whose clocks are apart.
//!
//! `COLLOQUY_TEST_STORE=sharded` runs the tests of the API, of the archive and of the contract of a store on such a cluster, whose
//! chunks move all the while.

use colloquy::store::mongo::{self, MongoOptions};

use crate::{
    engines::with_database,
    router::{self, Cluster, Settings},
};

mod clocks;
mod isolation;
mod load;
mod routing;
mod setup;

/// A database of Colloquy, with so many chunks a collection.
async fn initialised(cluster: &Cluster, chunks: u32) -> String {
    let url = with_database(&cluster.url(), "colloquy");
    let options = MongoOptions {
        pool_min: 0,
        ..MongoOptions::default()
    };
    let report = mongo::init(&url, &options, chunks).await;
    assert!(report.expect("an initialised database").is_ready());
    url
}
