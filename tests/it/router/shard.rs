//! A router's way to a shard: connections to the members of its set, and which of them is the primary.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mongodb::bson::{Document, doc};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{config::shard_name, wire};

/// How often the members are asked who is the primary, and how long one may take to answer.
const MONITOR_EVERY: Duration = Duration::from_millis(250);
const MONITOR_ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often a command is sent that failed in a way that may pass and can be repeated.
const ATTEMPTS_MAX: u32 = 4;

/// What a command failed with: an error of the router's own, or what a shard said.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: i32,
    pub name: String,
    pub message: String,
}

/// Errors that the server's source lists as retriable, and what comes of a lost connection.
const RETRIABLE: [i32; 15] = [
    6, 7, 89, 91, 133, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 358,
];

const STALE_CONFIG: i32 = 13388;

impl Failure {
    pub fn new(code: i32, name: &str, message: &str) -> Self {
        Self {
            code,
            name: name.to_owned(),
            message: message.to_owned(),
        }
    }

    pub fn stale(namespace: &str) -> Self {
        let message = format!("version mismatch detected for {namespace}");
        Self::new(STALE_CONFIG, "StaleConfig", &message)
    }

    fn unreachable(error: &std::io::Error) -> Self {
        Self::new(
            6,
            "HostUnreachable",
            &format!("Connection closed by peer: {error}"),
        )
    }

    fn no_primary(shard: &str) -> Self {
        let message =
            format!("Could not find host matching read preference {{ mode: \"primary\" }} for set {shard}");
        Self::new(133, "FailedToSatisfyReadPreference", &message)
    }

    pub fn out_of_time() -> Self {
        Self::new(50, "MaxTimeMSExpired", "operation exceeded time limit")
    }

    pub fn is_stale(&self) -> bool {
        self.code == STALE_CONFIG
    }

    fn is_retriable(&self) -> bool {
        RETRIABLE.contains(&self.code)
    }

    /// Why a member can't be the primary any more.
    fn is_of_the_primary(&self) -> bool {
        [6, 89, 91, 189, 9001, 10107, 11600, 11602, 13435, 13436].contains(&self.code)
    }

    /// What a client is told.
    pub fn reply(&self) -> Document {
        doc! { "ok": 0.0, "errmsg": &self.message, "code": self.code, "codeName": &self.name }
    }

    /// The failure that a reply tells of.
    fn of(reply: &Document) -> Option<Self> {
        if reply.get_f64("ok").is_ok_and(|ok| ok == 1.0) {
            return None;
        }
        Some(Self::new(
            reply.get_i32("code").unwrap_or(8),
            reply.get_str("codeName").unwrap_or("UnknownError"),
            reply.get_str("errmsg").unwrap_or_default(),
        ))
    }
}

pub struct Shard {
    name: String,
    members: Vec<u16>,
    primary: watch::Sender<Option<u16>>,
    /// Somebody misses the primary.
    look: Notify,
    idle: Mutex<HashMap<u16, Vec<TcpStream>>>,
    find_host_max: Duration,
}

impl Shard {
    pub fn new(number: usize, members: Vec<u16>, find_host_max: Duration) -> Self {
        Self {
            name: shard_name(number),
            members,
            primary: watch::Sender::new(None),
            look: Notify::new(),
            idle: Mutex::default(),
            find_host_max,
        }
    }

    /// As `listShards` has it.
    pub fn host(&self) -> String {
        let members: Vec<_> = self
            .members
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        format!("{}/{}", self.name, members.join(","))
    }

    /// Watches over the members, for ever.
    pub async fn monitor(self: Arc<Self>) {
        loop {
            let asked = self.members.iter().map(|&port| self.hello(port));
            let found = futures_util::future::join_all(asked).await;
            // One that was stopped takes a moment to learn that it was replaced; the later election counts.
            let primary = found.into_iter().flatten().max().map(|(_, port)| port);
            self.primary
                .send_if_modified(|known| std::mem::replace(known, primary) != primary);
            let _ = timeout(MONITOR_EVERY, self.look.notified()).await;
        }
    }

    async fn hello(&self, port: u16) -> Option<(Option<[u8; 12]>, u16)> {
        let hello = doc! { "hello": 1, "$db": "admin" };
        let asked = timeout(MONITOR_ANSWER_MAX, self.talk(port, &hello));
        let hello = asked.await.ok()?.ok()?;
        let election = hello.get_object_id("electionId").ok().map(|id| id.bytes());
        hello
            .get_bool("isWritablePrimary")
            .is_ok_and(|is| is)
            .then_some((election, port))
    }

    /// Waits for a primary.
    async fn primary(&self, until: Instant) -> Result<u16, Failure> {
        let until = until.min(Instant::now() + self.find_host_max);
        let mut primary = self.primary.subscribe();
        let found = timeout_at(until, primary.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(port)) => Ok(port.expect("it was waited for")),
            _ => Err(Failure::no_primary(&self.name)),
        }
    }

    fn lost(&self, port: u16) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&port);
        self.primary.send_if_modified(|known| {
            let was = *known == Some(port);
            *known = known.filter(|_| !was);
            was
        });
        self.look.notify_one();
    }

    /// Sends a command to the primary, and again where that is safe and may help; gives what it replied, and who it was.
    pub async fn ask(
        &self,
        command: &Document,
        repeat: bool,
        until: Instant,
    ) -> Result<(Document, u16), Failure> {
        let mut attempts = 1;
        loop {
            let port = self.primary(until).await?;
            let failure = match self.ask_member(port, command).await {
                Ok(reply) => return Ok((reply, port)),
                Err(failure) => failure,
            };
            if failure.is_of_the_primary() {
                self.lost(port);
            }
            if !repeat || !failure.is_retriable() || attempts == ATTEMPTS_MAX {
                return Err(failure);
            }
            attempts += 1;
        }
    }

    /// Sends a command to this member.
    pub async fn ask_member(&self, port: u16, command: &Document) -> Result<Document, Failure> {
        let reply = self.talk(port, command).await;
        let reply = reply.map_err(|error| Failure::unreachable(&error))?;
        Failure::of(&reply).map_or(Ok(reply), Err)
    }

    async fn talk(&self, port: u16, command: &Document) -> std::io::Result<Document> {
        let idle = || {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.get_mut(&port).and_then(Vec::pop)
        };
        let mut stream = match idle() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        wire::write(&mut stream, 1, 0, command).await?;
        let reply = wire::read(&mut stream).await?;
        let reply = reply.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionReset))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.entry(port).or_default().push(stream);
        Ok(reply.body)
    }
}
