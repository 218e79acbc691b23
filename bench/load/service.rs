//! The service under test: the program itself, as a process of its own with a folder of its own.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use tempfile::TempDir;

use crate::{
    Failure,
    client::{Answer, Connection},
    engines::Engines,
    proc::Watched,
};

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(60);

/// What the service runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// SQLite, in the process
    Embedded,
    /// MongoDB, without a cache
    Mongodb,
    /// MongoDB with Redis as its cache
    MongodbRedis,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Mongodb => "MongoDB",
            Self::MongodbRedis => "MongoDB + Redis",
        }
    }

    pub fn has_mongodb(self) -> bool {
        self != Self::Embedded
    }

    pub fn has_redis(self) -> bool {
        self == Self::MongodbRedis
    }
}

/// A place for the data of one target, empty at first: services that are started on it find what those before left.
pub struct Place {
    pub target: Target,
    folder: TempDir,
    store: Option<String>,
    cache: Option<String>,
    watched: Watched,
}

impl Place {
    /// `number` is that of the place in the run: each has a database of its own.
    ///
    /// # Errors
    /// The database can't be prepared.
    pub fn prepare(target: Target, engines: &mut Engines, number: u32) -> Result<Self, Failure> {
        let place = Self {
            target,
            folder: tempfile::Builder::new().prefix("colloquy-bench-").tempdir()?,
            store: match target.has_mongodb() {
                true => engines.mongodb(&format!("colloquy-bench-{number}")),
                false => None,
            },
            cache: match target.has_redis() {
                true => engines.redis(number),
                false => None,
            },
            watched: Watched {
                service: None,
                mongod: engines.mongod_pid().filter(|_| target.has_mongodb()),
                redis: engines.redis_pid().filter(|_| target.has_redis()),
            },
        };
        place.init(true, &[])?;
        Ok(place)
    }

    /// Prepares the database, where there is one, for services with or without the cache: a setting that all share.
    fn init(&self, cache: bool, flags: &[&str]) -> Result<(), Failure> {
        if self.store.is_none() {
            return Ok(());
        }
        let output = self.command(cache)?.arg("init").args(flags).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("colloquy init: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    /// Starts a service here, and waits until it is ready.
    pub async fn start(&self) -> Result<Service, Failure> {
        self.start_with(true).await
    }

    /// As [`start`](Self::start), but the cache hears of nothing.
    pub async fn start_without_cache(&self) -> Result<Service, Failure> {
        self.start_with(false).await
    }

    async fn start_with(&self, cache: bool) -> Result<Service, Failure> {
        // The one before may have had the other kind of cache.
        self.init(cache, &[])
            .or_else(|_| self.init(cache, &["--change-settings"]))?;
        let address_file = self.folder.path().join("address");
        let _ = std::fs::remove_file(&address_file);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = self.command(cache)?;
        command
            .args(["serve", "--listen=127.0.0.1:0", "--address-file"])
            .arg(&address_file)
            .stderr(log);
        let began = Instant::now();
        let mut child = Stopping(command.spawn()?);
        let address = loop {
            let url = std::fs::read_to_string(&address_file).unwrap_or_default();
            if let Ok(address) = url.trim().trim_start_matches("http://").parse() {
                break address;
            }
            let ended = child.0.try_wait()?;
            if ended.is_some() || began.elapsed() > START_MAX {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                return Err(format!("the service does not start:\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        while began.elapsed() < START_MAX {
            if ask(address, "GET", "/readyz", "")
                .await
                .is_ok_and(|(answer, _)| answer.status == 200)
            {
                let ready_after = began.elapsed();
                let watched = Watched {
                    service: Some(child.0.id()),
                    ..self.watched
                };
                return Ok(Service {
                    address,
                    watched,
                    ready_after,
                    child,
                });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err("the service does not get ready".into())
    }

    fn command(&self, cache: bool) -> Result<Command, Failure> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_colloquy"));
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // What the person who measures has set must not become part of it.
        for (name, _) in std::env::vars_os() {
            let is_setting = |name: &str| name.starts_with("COLLOQUY_") || name.starts_with("OTEL_");
            if name.to_str().is_some_and(is_setting) {
                command.env_remove(name);
            }
        }
        if let Some(store) = &self.store {
            command.env("COLLOQUY_STORE", store);
        }
        if let Some(url) = self.cache.as_ref().filter(|_| cache) {
            command.env("COLLOQUY_CACHE", url);
        }
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// A process that does not outlive its owner.
struct Stopping(Child);

impl Drop for Stopping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service that is ready.
pub struct Service {
    pub address: SocketAddr,
    pub watched: Watched,
    /// From before its process was started until `/readyz` said 200.
    pub ready_after: Duration,
    child: Stopping,
}

impl Service {
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Stops it in order.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let pid = self.pid().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let began = Instant::now();
        loop {
            match self.child.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the service ended: {status}").into()),
                None if began.elapsed() > STOP_MAX => return Err("the service does not stop".into()),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// How many reads found what they wanted in the cache so far, and how many there were.
    pub async fn cache_reads(&self) -> Result<(f64, f64), Failure> {
        let (_, body) = self.ask("GET", "/metrics", "").await?;
        let (mut hits, mut reads) = (0.0, 0.0);
        for line in String::from_utf8(body)?.lines() {
            if let Some((labels, count)) = line
                .strip_prefix("colloquy_cache_reads_total")
                .and_then(|rest| rest.rsplit_once(' '))
            {
                let count: f64 = count.parse()?;
                reads += count;
                hits += if labels.contains("\"hit\"") { count } else { 0.0 };
            }
        }
        Ok((hits, reads))
    }

    /// One request; gives its answer with the body.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Result<(Answer, Vec<u8>), Failure> {
        ask(self.address, method, path, body).await
    }
}

async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(Answer, Vec<u8>), Failure> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut connection = Connection::open(address).await?;
    Ok(connection.fetch(request.as_bytes()).await?)
}
