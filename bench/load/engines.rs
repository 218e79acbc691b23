//! MongoDB and Redis, as tests start them: on free ports, in a temporary folder, gone when this process is. Their own
//! settings are those of an operator, not those of tests.

#[path = "../../tests/it/engines/mongod.rs"]
#[allow(dead_code, reason = "tests break engines, too")]
mod mongod;
#[path = "../../tests/it/engines/ports.rs"]
mod ports;
#[path = "../../tests/it/engines/process.rs"]
#[allow(dead_code, reason = "tests break engines, too")]
mod process;
#[path = "../../tests/it/engines/redis.rs"]
#[allow(dead_code, reason = "tests break engines, too")]
mod redis;

use std::path::Path;

use self::{mongod::ReplicaSet, ports::free_port, process::Engine as _, redis::Redis};

/// `mongod` takes half of the memory unless told otherwise, which on a machine that others use, too, is too much.
pub const MONGOD_SETTINGS: &[&str] = &[
    "--oplogSize",
    "1024",
    "--wiredTigerCacheSizeGB",
    "1",
    "--setParameter",
    "shutdownTimeoutMillisForSignaledShutdown=0",
];

/// The engines that the targets of a run need.
pub struct Engines {
    mongodb: Option<ReplicaSet>,
    redis: Option<Redis>,
}

impl Engines {
    pub async fn start(mongodb: bool, redis: bool) -> Self {
        Self {
            mongodb: match mongodb {
                true => Some(ReplicaSet::start_with(free_port(), 1, MONGOD_SETTINGS).await),
                false => None,
            },
            redis: match redis {
                true => Some(Redis::start().await),
                false => None,
            },
        }
    }

    /// The URL of a database of this name.
    pub fn mongodb(&self, database: &str) -> Option<String> {
        let url = self.mongodb.as_ref()?.url();
        Some(url.replacen("/?", &format!("/{database}?"), 1))
    }

    /// The URL of a numbered database.
    pub fn redis(&self, database: u32) -> Option<String> {
        Some(format!("{}/{database}", self.redis.as_ref()?.url()))
    }

    pub fn mongod_pid(&mut self) -> Option<u32> {
        Some(self.mongodb.as_mut()?.member(0).process().pid())
    }

    pub fn redis_pid(&mut self) -> Option<u32> {
        Some(self.redis.as_mut()?.process().pid())
    }
}

/// The first line of what the engine of this name says of its version.
pub fn version(name: &str) -> String {
    let binary = process::binary(Path::new(env!("CARGO_MANIFEST_DIR")), name);
    let output = std::process::Command::new(binary).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}
