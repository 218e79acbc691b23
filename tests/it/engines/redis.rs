//! A Redis that keeps nothing: what it held is gone when it restarts, as with a cache that died.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    ports::free_port,
    process::{ANSWER, Engine, NotStarted, Process, start_on_free_ports},
};

/// Every test of the shared Redis has a database of its own.
pub const DATABASES: u32 = 1_000;

pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further options, such as `["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"]`.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::start_on(free_port(), options).await
    }

    /// On the port `first`, or on another when that is taken.
    pub async fn start_on(first: u16, options: &[&str]) -> Self {
        start_on_free_ports(first, async |port| Self::try_start(port, options).await).await
    }

    async fn try_start(port: u16, options: &[&str]) -> Result<Self, NotStarted> {
        let process = Process::start("redis-server", |folder| {
            let folder = folder.display().to_string();
            let (port, databases) = (port.to_string(), DATABASES.to_string());
            let mut args = vec!["--port", &port, "--bind", "127.0.0.1", "--dir", &folder];
            args.extend(["--save", "", "--appendonly", "no", "--databases", &databases]);
            args.extend(options);
            args.into_iter().map(str::to_owned).collect()
        });
        let mut redis = Self { process, port };
        redis.until_ready().await?;
        Ok(redis)
    }

    /// `redis://127.0.0.1:port`; `/N` behind it names a database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it answers to a command, as it stands in the protocol.
    pub async fn ask(&self, command: &str) -> io::Result<String> {
        ask(self.port, command).await
    }
}

impl Engine for Redis {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn until_ready(&mut self) -> Result<(), NotStarted> {
        let port = self.port;
        let ask = async |pid: u32| {
            let info = ask(port, "INFO server")
                .await
                .map_err(|error| error.to_string())?;
            let ours = info.lines().any(|line| line == format!("process_id:{pid}"));
            ours.then_some(()).ok_or(info)
        };
        self.process.until_ready(ask).await
    }
}

async fn ask(port: u16, command: &str) -> io::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(format!("{command}\r\nQUIT\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let answer = answer.strip_suffix("+OK\r\n").unwrap_or(&answer);
        Ok(answer.to_owned())
    };
    tokio::time::timeout(ANSWER, talk)
        .await
        .map_err(io::Error::from)?
}
