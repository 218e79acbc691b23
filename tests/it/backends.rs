//! Which backends the servers under test have. The API keeps its promises on each of them, so its whole suite runs on
//! each:
//!
//! - `COLLOQUY_TEST_STORE`: `sqlite`, which is the default, or `mongodb`, where every folder gets a database of its own
//!   on the shared replica set (see [`engines`]). Its server writes down every statement, and when the folder goes, each of
//!   them must have kept the rule of `mongo::statements`; or `sharded`, where the database is on the shared cluster of
//!   [`router`], whose chunks move all the time, and its routers must not have been asked for a broadcast on the
//!   request path.
//! - `COLLOQUY_TEST_CACHE`: `none`, which is the default and leaves the store what it has by itself (the embedded one:
//!   memory), or `redis`, where every folder gets a database of its own on the shared Redis.
//!
//! The archive is a directory in the folder of the embedded store, and with MongoDB a prefix of the folder's own on the shared
//! S3 server.
//!
//! A test that is about the embedded store asks for it by name, and gets it whatever the variables say.

use std::path::{Path, PathBuf};

use colloquy::store::mongo::{self, CHUNKS_DEFAULT, MongoOptions};

use crate::{
    engines,
    mongo::{
        database,
        statements::{faults, seen, watch},
    },
    router,
};

/// The store that this test run is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    Embedded,
    MongoDb,
}

impl Store {
    pub fn chosen() -> Self {
        match choice("COLLOQUY_TEST_STORE").as_deref() {
            None | Some("sqlite") => Self::Embedded,
            Some("mongodb" | "sharded") => Self::MongoDb,
            Some(other) => panic!("COLLOQUY_TEST_STORE={other} is none of sqlite, mongodb and sharded"),
        }
    }

    /// The flags with which a server, or a command, is on this store with the data of this folder.
    pub fn flags(self, folder: &Path) -> Vec<String> {
        match self {
            Self::Embedded => vec![format!("--store={}", embedded_url(folder))],
            // Connections that are opened ahead would only be closed again by most tests.
            Self::MongoDb => {
                let mut flags = vec![
                    format!("--store={}", database_url(folder)),
                    "--set=mongo_pool_min=0".to_owned(),
                    // Nothing here holds an append up for long.
                    "--set=mongo_append_settle_ms=200".to_owned(),
                    // A server that is killed and started again is not to wait long for its own leases.
                    "--set=chore_lease_ms=1000".to_owned(),
                    "--set=mongo_clocks_apart_ms_max=100".to_owned(),
                ];
                flags.extend(archive_flags(folder));
                flags
            }
        }
    }
}

/// Whether MongoDB is a sharded cluster in this test run.
pub fn is_sharded() -> bool {
    choice("COLLOQUY_TEST_STORE").as_deref() == Some("sharded")
}

/// The flags that name the chosen backends, with the data of this folder.
pub fn backend_flags(folder: &Path) -> Vec<String> {
    let mut flags = Store::chosen().flags(folder);
    if cache_is_chosen() {
        flags.extend(cache_flags(&kept(folder, "cache-url", engines::redis)));
    }
    flags
}

/// Whether the servers of this test run have a cache of some kind.
pub fn has_cache() -> bool {
    cache_is_chosen() || Store::chosen() == Store::Embedded
}

/// Whether the servers of this test run have Redis.
pub fn cache_is_chosen() -> bool {
    match choice("COLLOQUY_TEST_CACHE").as_deref() {
        None | Some("none") => false,
        Some("redis") => true,
        Some(other) => panic!("COLLOQUY_TEST_CACHE={other} is neither none nor redis"),
    }
}

/// The flags of a cache that is used at once, and that a machine busy with other tests doesn't slow down so much that it
/// is not used.
pub fn cache_flags(url: &str) -> Vec<String> {
    [
        &format!("cache={url}"),
        "cache_gathering_ms=0",
        "cache_call_ms_max=1000",
        "cache_lease_ms=1000",
    ]
    .map(|setting| format!("--set={setting}"))
    .into()
}

fn choice(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|choice| !choice.is_empty())
}

/// The embedded store in this folder.
pub fn embedded_url(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("data/colloquy.db").display())
}

/// Where the URL of the database that belongs to a folder is kept, for a server that is started again.
const KEPT: &str = "database-url";

/// The database that belongs to this folder, as `colloquy init` leaves it, and watched from then on.
fn database_url(folder: &Path) -> String {
    if is_sharded() {
        return kept(folder, KEPT, router::database);
    }
    kept(folder, KEPT, async || {
        let url = engines::mongodb().await;
        let options = MongoOptions {
            pool_min: 0,
            ..MongoOptions::default()
        };
        let report = mongo::init(&url, &options, CHUNKS_DEFAULT).await;
        assert!(report.expect("an initialised database").is_ready());
        watch(&database(&url).await).await;
        url
    })
}

/// The URL that is kept in the folder under this name, for a server that is started again; at first, one that is made.
fn kept(folder: &Path, name: &str, make: impl AsyncFnOnce() -> String + Send) -> String {
    let path = folder.join(name);
    if let Ok(url) = std::fs::read_to_string(&path) {
        return url;
    }
    let url = apart(make);
    std::fs::write(path, &url).expect("the URL is kept");
    url
}

/// The flags of an archive in the shared bucket, under a prefix that belongs to this folder.
fn archive_flags(folder: &Path) -> Vec<String> {
    let place = archive_place(folder);
    vec![
        format!("--set=archive={}", place.url),
        format!("--set=archive_s3_endpoint={}", place.endpoint),
        format!("--set=archive_s3_region={}", place.region),
    ]
}

/// Where an archive lies on the shared S3 server.
pub struct ArchivePlace {
    pub url: String,
    pub endpoint: String,
    pub region: String,
}

/// The place that belongs to this folder, with the keys to it where servers look for them.
pub fn archive_place(folder: &Path) -> ArchivePlace {
    let place = kept(folder, "archive-url", async || {
        let bucket = engines::s3().await;
        let keys = format!(
            "[default]\naws_access_key_id={}\naws_secret_access_key={}\n",
            bucket.access_key, bucket.secret_key
        );
        // Whole at once, for whoever reads it meanwhile.
        let partial = folder.join("credentials");
        std::fs::write(&partial, keys).expect("the keys are written");
        std::fs::rename(partial, credentials_file()).expect("the keys are put in place");
        let prefix = bucket.prefix.trim_end_matches('/');
        format!(
            "{} {} s3://{}/{prefix}",
            bucket.endpoint, bucket.region, bucket.bucket
        )
    });
    let mut parts = place.split(' ').map(str::to_owned);
    let mut part = || parts.next().expect("three parts");
    ArchivePlace {
        endpoint: part(),
        region: part(),
        url: part(),
    }
}

/// Where the servers under test find the keys of the shared S3 server.
pub fn credentials_file() -> PathBuf {
    std::env::temp_dir().join(format!("colloquy-test-{}-s3-keys", std::process::id()))
}

/// Every statement so far on the database that belongs to this folder, if one does, must have kept the rule.
pub fn check_statements(folder: &Path) {
    let Ok(url) = std::fs::read_to_string(folder.join(KEPT)) else {
        return;
    };
    let faults = match is_sharded() {
        true => apart(async || router::broadcasts(&url).await),
        false => apart(async || faults(&seen(&database(&url).await).await)),
    };
    assert!(
        faults.is_empty(),
        "{} statements, such as\n{}",
        faults.len(),
        faults[0]
    );
}

/// Runs this to its end on a thread of its own, for callers with and without a runtime.
fn apart<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work())
    };
    std::thread::scope(|scope| scope.spawn(run).join()).expect("the work does not panic")
}

#[test]
fn the_test_run_is_about_the_store_that_was_chosen() {
    let folder = crate::harness::folder();
    let flags = backend_flags(folder.path());
    let mongodb = std::env::var("COLLOQUY_TEST_STORE").is_ok_and(|store| store != "sqlite");
    let scheme = if mongodb {
        "--store=mongodb://"
    } else {
        "--store=sqlite:"
    };
    assert!(flags[0].starts_with(scheme), "{flags:?}");
}
