//! MongoDB: a replica set of one member, or of three for the tests of failover.

use std::io;

use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{
    ports::free_port,
    process::{Engine, NotStarted, PATIENCE, Process, start_on_free_ports},
};

const SET: &str = "colloquy";

/// A primary that says nothing for so long is replaced. Shorter, and a busy machine holds elections of its own accord.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// The longest message that the protocol knows.
const MESSAGE_BYTES_MAX: usize = 48_000_000;

/// One member of a set.
pub struct Mongod {
    process: Process,
    port: u16,
}

impl Mongod {
    async fn start_on(first: u16, settings: &[&str]) -> Self {
        start_on_free_ports(first, async |port| {
            let process = Process::start("mongod", |folder| {
                std::fs::create_dir(folder.join("data")).expect("a folder for the data");
                args(port, settings)
            });
            let mut mongod = Self { process, port };
            mongod.until_ready().await?;
            Ok(mongod)
        })
        .await
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What this member answers to a command.
    pub async fn command(&self, database: &str, command: Document) -> io::Result<Document> {
        send(self.port, database, command).await
    }
}

impl Engine for Mongod {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// It answers; it may not have a set yet, or no primary.
    async fn until_ready(&mut self) -> Result<(), NotStarted> {
        let port = self.port;
        let ask = async |pid: u32| {
            let status = send(port, "admin", doc! {"serverStatus": 1}).await;
            let status = status.map_err(|error| error.to_string())?;
            let ours = status.get_i64("pid").ok() == Some(i64::from(pid));
            ours.then_some(())
                .ok_or_else(|| "another mongod has the port".to_owned())
        };
        self.process.until_ready(ask).await
    }
}

/// What tests want besides: small, and as quick to notice as to stop.
const OF_TESTS: &[&str] = &[
    "--oplogSize",
    "64",
    "--wiredTigerCacheSizeGB",
    "0.25",
    // A member's folder takes 20 MB with it, 300 MB without.
    "--wiredTigerEngineConfigString",
    "log=(prealloc=false,file_max=16MB)",
    "--setParameter",
    "diagnosticDataCollectionEnabled=false",
    // For `configureFailPoint`: tests can have the next commands fail with an error of their choice.
    "--setParameter",
    "enableTestCommands=1",
    // Every minute otherwise, and a test of an expiry would wait for it.
    "--setParameter",
    "ttlMonitorSleepSecs=1",
    "--setParameter",
    "shutdownTimeoutMillisForSignaledShutdown=0",
];

fn args(port: u16, settings: &[&str]) -> Vec<String> {
    let port = port.to_string();
    let needed = [
        "--dbpath",
        "data",
        "--port",
        &port,
        "--bind_ip",
        "127.0.0.1",
        "--nounixsocket",
        "--replSet",
        SET,
    ];
    needed.iter().chain(settings).map(ToString::to_string).collect()
}

/// A replica set. Its members are numbered from 0.
pub struct ReplicaSet {
    members: Vec<Mongod>,
}

impl ReplicaSet {
    /// With one member or three; there is a primary, and the others follow it.
    pub async fn start(members: usize) -> Self {
        Self::start_on(free_port(), members).await
    }

    /// With member 0 on the port `first`, or on another when that is taken.
    pub async fn start_on(first: u16, members: usize) -> Self {
        Self::start_with(first, members, OF_TESTS).await
    }

    /// With these arguments of `mongod` in place of those that tests want.
    pub async fn start_with(first: u16, members: usize, settings: &[&str]) -> Self {
        assert!(members == 1 || members == 3, "a set has one member or three");
        let ports = (0..members).map(|member| if member == 0 { first } else { free_port() });
        let mut set = Self {
            members: join_all(ports.map(|port| Mongod::start_on(port, settings))).await,
        };
        set.initiate().await;
        set.wait_all().await;
        set
    }

    async fn initiate(&mut self) {
        let members = self.members.iter().zip(0..);
        let members: Vec<_> = members
            .map(|(member, id)| doc! {"_id": id, "host": member.address()})
            .collect();
        let milliseconds = |time: Duration| i32::try_from(time.as_millis()).expect("a short time");
        let config = doc! {
            "_id": SET,
            "members": members,
            "settings": {
                "electionTimeoutMillis": milliseconds(ELECTION_TIMEOUT),
                "heartbeatIntervalMillis": milliseconds(HEARTBEAT),
            },
        };
        let answer = self.members[0].command("admin", doc! {"replSetInitiate": config});
        answer.await.expect("the set is initiated");
        // The first election would wait for its timeout. It fails until the others have heard of the set.
        let started = Instant::now();
        while self.primary().await.is_none() && started.elapsed() < PATIENCE {
            let _ = self.members[0].command("admin", doc! {"replSetStepUp": 1}).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// For a client of the set, without a database.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.members.iter().map(Mongod::address).collect();
        format!("mongodb://{}/?replicaSet={SET}", addresses.join(","))
    }

    /// The ports of its members.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.port).collect()
    }

    /// A member, to be killed, stopped or continued.
    pub fn member(&mut self, member: usize) -> &mut Mongod {
        &mut self.members[member]
    }

    /// The member that is the primary now, if one is.
    pub async fn primary(&mut self) -> Option<usize> {
        let mut primaries = Vec::new();
        for number in 0..self.members.len() {
            if let Some(hello) = self.hello(number).await
                && hello.get_bool("isWritablePrimary").ok() == Some(true)
            {
                primaries.push((hello.get_object_id("electionId").ok(), number));
            }
        }
        // One that was paused takes a moment to learn that it was replaced; the later election counts.
        primaries.into_iter().max().map(|(_, number)| number)
    }

    /// Waits for a primary.
    pub async fn wait_primary(&mut self) -> usize {
        let started = Instant::now();
        loop {
            if let Some(primary) = self.primary().await {
                return primary;
            }
            assert!(started.elapsed() < PATIENCE, "no primary was elected");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until there is a primary and every other member that runs follows it.
    pub async fn wait_all(&mut self) {
        self.wait_primary().await;
        for member in 0..self.members.len() {
            if self.members[member].process().is_running() {
                self.wait_member(member).await;
            }
        }
    }

    /// kill -9 of the primary; gives which it was.
    pub async fn kill_primary(&mut self) -> usize {
        let primary = self.wait_primary().await;
        self.members[primary].kill9();
        primary
    }

    /// Starts a member again that was killed, and waits until it is primary or follows one.
    pub async fn restart(&mut self, member: usize) {
        self.members[member].restart().await;
        self.wait_member(member).await;
    }

    async fn wait_member(&mut self, member: usize) {
        let started = Instant::now();
        let alone = self.members.len() == 1;
        loop {
            if let Some(hello) = self.hello(member).await {
                let is = |part| hello.get_bool(part).ok() == Some(true);
                if is("isWritablePrimary") || (is("secondary") && !alone) {
                    return;
                }
            }
            assert!(
                started.elapsed() < PATIENCE,
                "member {member} does not join its set"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn hello(&mut self, member: usize) -> Option<Document> {
        let member = &mut self.members[member];
        if !member.process.is_running() {
            return None;
        }
        let hello = tokio::time::timeout(ELECTION_TIMEOUT / 2, member.command("admin", doc! {"hello": 1}));
        hello.await.ok()?.ok()
    }
}

/// Sends one command as an `OP_MSG` on a connection of its own. A driver would choose a server, keep watch over it and
/// repeat what failed; a test that breaks servers wants to hear from this one, now.
async fn send(port: u16, database: &str, mut command: Document) -> io::Result<Document> {
    const OP_MSG: i32 = 2013;
    const HEADER_BYTES: usize = 16;
    const FLAGS_AND_KIND_BYTES: usize = 5;
    command.insert("$db", database);
    let mut body = vec![0; FLAGS_AND_KIND_BYTES];
    command.to_writer(&mut body).map_err(io::Error::other)?;
    let length = i32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
    let header = [length, 1, 0, OP_MSG].map(i32::to_le_bytes).concat();
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(&[header, body].concat()).await?;
        let length = usize::try_from(stream.read_i32_le().await?).map_err(io::Error::other)?;
        assert!(
            (HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&length),
            "a message of {length} bytes"
        );
        let mut rest = vec![0; length - size_of::<i32>()];
        stream.read_exact(&mut rest).await?;
        Ok(rest)
    };
    let answer: io::Result<_> = tokio::time::timeout(PATIENCE, talk).await?;
    let body = &answer?[HEADER_BYTES - size_of::<i32>() + FLAGS_AND_KIND_BYTES..];
    let answer = Document::from_reader(body).map_err(io::Error::other)?;
    match answer.get_f64("ok") {
        Ok(1.0) => Ok(answer),
        _ => Err(io::Error::other(answer.to_string())),
    }
}
