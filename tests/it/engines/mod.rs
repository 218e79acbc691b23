//! Real engines for tests: MongoDB, Redis and SeaweedFS (S3), from `.engines`, which `make engines` fills, and nginx, which
//! `make packages` installs.
//!
//! A test that leaves its engine whole uses the shared one of this test binary, started by whoever comes first:
//! [`mongodb`], [`redis`] and [`s3`] each give it a place of its own there. A test that kills, pauses or fills an engine
//! starts one for itself: [`ReplicaSet::start`], [`Redis::start`], [`Seaweed::start`].
//!
//! Every engine listens on 127.0.0.1 only, on free ports, with its files in a temporary folder. It is ready when it is
//! returned, and neither process nor folder outlives the test run, however that ends.
//!
//! These variables point the shared ones at engines that run elsewhere. Nothing that was there is deleted, and what the
//! tests write stays:
//! - `COLLOQUY_TEST_MONGODB=mongodb://HOST:PORT/?replicaSet=NAME`: a replica set or a sharded cluster; every test makes
//!   a database `colloquy-test-…`.
//! - `COLLOQUY_TEST_REDIS=redis://HOST:PORT`: every test takes one of its numbered databases in turn.
//! - `COLLOQUY_TEST_S3=http://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET`: a bucket that exists; every test takes a prefix.

mod checks;
mod lend;
mod mongod;
mod nginx;
mod ports;
mod process;
mod redis;
mod seaweed;

use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::Url;
use tokio::sync::OnceCell;
use uuid::Uuid;

pub use self::{
    mongod::ReplicaSet,
    nginx::Nginx,
    ports::free_port,
    process::Engine,
    redis::{DATABASES, Redis},
    seaweed::{Bucket, Seaweed},
};

/// The URL of a MongoDB database that is this test's alone; it is in the URL's path.
pub async fn mongodb() -> String {
    static SHARED: OnceCell<ReplicaSet> = OnceCell::const_new();
    let url = match elsewhere("COLLOQUY_TEST_MONGODB") {
        Some(url) => url,
        None => SHARED.get_or_init(|| ReplicaSet::start(1)).await.url(),
    };
    with_database(&url, &own_name())
}

/// The URL of a Redis database that is this test's alone.
pub async fn redis() -> String {
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let nth = TAKEN.fetch_add(1, Ordering::Relaxed);
    match elsewhere("COLLOQUY_TEST_REDIS") {
        // It has sixteen databases, if nobody gave it more; ids that are each test's own must do for the rest.
        Some(url) => format!("{}/{}", url.trim_end_matches('/'), nth % 16),
        None => {
            assert!(nth < DATABASES, "more tests than databases: give Redis more");
            format!("{}/{nth}", SHARED.get_or_init(Redis::start).await.url())
        }
    }
}

/// A prefix in a bucket that is this test's alone.
pub async fn s3() -> Bucket {
    static SHARED: OnceCell<Seaweed> = OnceCell::const_new();
    let bucket = match elsewhere("COLLOQUY_TEST_S3") {
        Some(url) => bucket(&url),
        None => SHARED.get_or_init(Seaweed::start).await.bucket().clone(),
    };
    Bucket {
        prefix: format!("{}/", own_name()),
        ..bucket
    }
}

fn elsewhere(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|url| !url.is_empty())
}

/// A name that no other test has.
pub fn own_name() -> String {
    format!("colloquy-test-{}", Uuid::now_v7().simple())
}

/// The URL with this database in its path, in place of one that it may have.
pub fn with_database(url: &str, database: &str) -> String {
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once("://").expect("a URL of MongoDB");
    let servers = rest.split('/').next().unwrap_or_default();
    format!("{scheme}://{servers}/{database}?{query}")
}

fn bucket(url: &str) -> Bucket {
    let mut endpoint = Url::parse(url).expect("COLLOQUY_TEST_S3 is a URL");
    let access_key = endpoint.username().to_owned();
    let secret_key = endpoint.password().unwrap_or_default().to_owned();
    let bucket = endpoint.path().trim_matches('/').to_owned();
    endpoint.set_path("");
    endpoint.set_username("").expect("a URL with a host");
    endpoint.set_password(None).expect("a URL with a host");
    Bucket {
        endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
        region: "us-east-1".to_owned(),
        access_key,
        secret_key,
        bucket,
        prefix: String::new(),
    }
}
