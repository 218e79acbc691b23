//! A router: its connections, what it knows, and which command goes where.

use std::{
    collections::{BTreeSet, HashMap},
    net::{Ipv4Addr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mongodb::bson::{Bson, DateTime, Document, Timestamp, doc};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::oneshot,
    task::{JoinSet, LocalSet},
    time::{Instant, timeout_at},
};

use super::{
    admin,
    config::{Config, Table},
    cursors::{self, Cursors},
    reads,
    shard::{Failure, Shard},
    target::KeyRange,
    wire, writes,
};

/// What a command without `maxTimeMS` may take: no test waits as long.
const NO_LIMIT: Duration = Duration::from_mins(10);

/// How often a router reads the chunks again over one statement.
const ROUNDS_MAX: u32 = 10;

/// A kind of statement that a router was asked for, on a collection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub database: String,
    pub command: String,
    pub comment: String,
    /// It went to every shard that has a part of the collection, since it did not say which keys it is about.
    pub is_broadcast: bool,
}

/// One router.
pub struct Router {
    core: Arc<Core>,
    port: u16,
    serving: Option<Serving>,
}

/// The thread on which a router serves its connections.
struct Serving {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What the connections of a router share.
pub struct Core {
    pub config: Arc<Config>,
    pub shards: Vec<Arc<Shard>>,
    pub cursors: Cursors,
    /// As this router knows them.
    tables: Mutex<HashMap<String, Arc<Table>>>,
    clock_ms: AtomicI64,
    asked: Mutex<BTreeSet<Asked>>,
    refreshed: Mutex<u64>,
    /// Where what shards are asked for goes on, whatever becomes of the router.
    pub runtime: Handle,
}

/// A command under way.
pub struct Call {
    pub core: Arc<Core>,
    pub database: String,
    pub name: String,
    pub command: Document,
    pub until: Instant,
}

impl Router {
    pub fn start(
        runtime: Handle,
        config: Arc<Config>,
        members: &[Vec<u16>],
        find_host_max: Duration,
    ) -> Self {
        let shards = members.iter().cloned().enumerate();
        let core = Arc::new(Core {
            config,
            shards: shards
                .map(|(number, members)| Arc::new(Shard::new(number, members, find_host_max)))
                .collect(),
            cursors: Cursors::new(),
            tables: Mutex::default(),
            clock_ms: AtomicI64::new(0),
            asked: Mutex::default(),
            refreshed: Mutex::default(),
            runtime,
        });
        for shard in &core.shards {
            core.runtime.spawn(Arc::clone(shard).monitor());
        }
        let mut router = Self {
            core,
            port: 0,
            serving: None,
        };
        router.serve();
        router
    }

    fn serve(&mut self) {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, self.port)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        self.port = listener.local_addr().expect("a port").port();
        let (core, (stop, mut stopped)) = (Arc::clone(&self.core), oneshot::channel());
        let serve = async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection"),
                    _ = &mut stopped => return,
                };
                while connections.try_join_next().is_some() {}
                connections.spawn_local(connection(Arc::clone(&core), stream));
            }
        };
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            LocalSet::new().block_on(&runtime.expect("a runtime"), serve);
        });
        self.serving = Some(Serving { stop, thread });
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it answers to a command.
    pub async fn command(&self, database: &str, command: Document) -> Result<Document, Document> {
        ask(&self.address(), database, command).await
    }

    /// As kill -9: its connections break, and its cursors and what it knew are gone. What a shard is at, it ends.
    pub fn kill(&mut self) {
        assert!(self.serving.is_some(), "it runs");
        self.end();
        self.core.cursors.forget();
        self.core.lock_tables().clear();
    }

    fn end(&mut self) {
        if let Some(Serving { stop, thread }) = self.serving.take() {
            // It waits for this alone.
            let _ = stop.send(());
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a router panicked");
        }
    }

    /// Starts it again, on its port.
    pub fn start_again(&mut self) {
        assert!(self.serving.is_none(), "it runs");
        self.serve();
    }

    /// Its clock shows so much more than the machine's.
    pub fn set_clock(&self, ahead_ms: i64) {
        self.core.clock_ms.store(ahead_ms, Ordering::Relaxed);
    }

    /// The kinds of statements that it was asked for.
    pub fn asked(&self) -> Vec<Asked> {
        self.core.lock_asked().iter().cloned().collect()
    }

    /// How often it found what it knew out of date.
    pub fn refreshed(&self) -> u64 {
        *self.core.refreshed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

impl Core {
    fn lock_tables(&self) -> MutexGuard<'_, HashMap<String, Arc<Table>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_asked(&self) -> MutexGuard<'_, BTreeSet<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunks of a collection, as this router knows them.
    pub fn table(&self, namespace: &str) -> Arc<Table> {
        let mut tables = self.lock_tables();
        let known = tables.entry(namespace.to_owned());
        Arc::clone(known.or_insert_with(|| Arc::new(self.config.table(namespace))))
    }

    /// What it knows of a collection is out of date.
    pub fn refresh(&self, namespace: &str) {
        self.lock_tables().remove(namespace);
        *self.refreshed.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Its clock.
    pub fn now(&self) -> DateTime {
        DateTime::from_millis(DateTime::now().timestamp_millis() + self.clock_ms.load(Ordering::Relaxed))
    }

    /// What goes with the commands that take it, so that `$$NOW` is this router's clock.
    pub fn constants(&self) -> Document {
        doc! { "localNow": self.now(), "clusterTime": Timestamp { time: 0, increment: 0 } }
    }
}

/// What the router at this address answers to a command, on a connection of its own: an error where it can't be asked, too.
pub(super) async fn ask(router: &str, database: &str, mut command: Document) -> Result<Document, Document> {
    command.insert("$db", database);
    let talk = async {
        let mut stream = TcpStream::connect(router).await?;
        wire::write(&mut stream, 1, 0, &command).await?;
        wire::read(&mut stream).await
    };
    let unreachable = |why: String| Failure::new(6, "HostUnreachable", &why).reply();
    let answer = talk.await.map_err(|error| unreachable(error.to_string()))?;
    let answer = answer.ok_or_else(|| unreachable("it hung up".to_owned()))?.body;
    match answer.get_f64("ok") {
        Ok(1.0) => Ok(answer),
        _ => Err(answer),
    }
}

/// Serves a client until it hangs up, or says what is not understood.
async fn connection(core: Arc<Core>, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut replies = 0;
    while let Ok(Some(message)) = wire::read(&mut stream).await {
        let reply = answer(&core, message.body).await;
        if !message.wants_reply {
            continue;
        }
        replies += 1;
        if wire::write(&mut stream, replies, message.id, &reply)
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn answer(core: &Arc<Core>, mut command: Document) -> Document {
    let name = command.keys().next().cloned().unwrap_or_default();
    let database = match command.remove("$db") {
        Some(Bson::String(database)) => database,
        _ => return Failure::new(9, "FailedToParse", "a command without $db").reply(),
    };
    // A client that was told no cluster time sends none; what it prefers to read from has no meaning for a primary.
    for gossip in ["$clusterTime", "$readPreference"] {
        command.remove(gossip);
    }
    let limit_ms = ["maxTimeMS"].iter().find_map(|name| match command.get(name) {
        Some(Bson::Int32(ms)) => u64::try_from(*ms).ok(),
        Some(Bson::Int64(ms)) => u64::try_from(*ms).ok(),
        _ => None,
    });
    let limit = limit_ms
        .filter(|&ms| ms > 0)
        .map_or(NO_LIMIT, Duration::from_millis);
    let until = Instant::now() + limit.min(NO_LIMIT);
    let call = Call {
        core: Arc::clone(core),
        database,
        name,
        command,
        until,
    };
    let answered = timeout_at(until, call.answer()).await;
    let answered = answered.unwrap_or_else(|_| Err(Failure::out_of_time()));
    let mut reply = answered.unwrap_or_else(|failure| failure.reply());
    // Of a shard's own, and of no use to a client of the cluster.
    for own in [
        "$clusterTime",
        "operationTime",
        "electionId",
        "opTime",
        "$configTime",
        "$topologyTime",
    ] {
        reply.remove(own);
    }
    reply
}

impl Call {
    async fn answer(self) -> Result<Document, Failure> {
        match self.name.as_str() {
            "hello" | "isMaster" | "ismaster" => Ok(self.hello()),
            "ping" | "endSessions" => Ok(doc! { "ok": 1.0 }),
            "buildInfo" => Ok(doc! { "version": "6.0.5", "versionArray": [6, 0, 5, 0], "ok": 1.0 }),
            "getMore" => cursors::get_more(&self).await,
            "killCursors" => Ok(cursors::kill(&self).await),
            "find" if self.database == "config" => admin::find_config(&self).await,
            "find" => reads::find(&self).await,
            "aggregate" => reads::aggregate(&self).await,
            "distinct" => reads::distinct(&self).await,
            "count" => reads::count(&self).await,
            "insert" | "update" | "delete" => writes::batch(&self).await,
            "findAndModify" => writes::find_and_modify(&self).await,
            _ => admin::answer(&self).await,
        }
    }

    fn hello(&self) -> Document {
        doc! {
            "isWritablePrimary": true, "ismaster": true, "helloOk": true, "msg": "isdbgrid",
            "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
            "localTime": self.core.now(), "logicalSessionTimeoutMinutes": 30, "connectionId": 1,
            "minWireVersion": 0, "maxWireVersion": 17, "ok": 1.0,
        }
    }

    /// The collection that the command is about.
    pub fn collection(&self) -> &str {
        self.command.get_str(&self.name).unwrap_or_default()
    }

    pub fn namespace(&self) -> String {
        format!("{}.{}", self.database, self.collection())
    }

    /// Notes that the command is a broadcast, or is not.
    pub fn note(&self, is_broadcast: bool) {
        let comment = self.command.get_str("comment").unwrap_or_default();
        self.core.lock_asked().insert(Asked {
            database: self.database.clone(),
            command: self.name.clone(),
            comment: comment.to_owned(),
            is_broadcast,
        });
    }

    /// Whether a shard can be sent the command again when it is not known what it did: it changes nothing, or the shard
    /// remembers what it did.
    fn can_repeat(&self) -> bool {
        let writes = ["insert", "update", "delete", "findAndModify"];
        !writes.contains(&self.name.as_str()) || self.command.contains_key("txnNumber")
    }

    /// Has a shard do what `command` makes of the keys that lie there but are not its own, in a task of its own: a shard ends
    /// what it is at, whether or not anybody waits for it.
    pub async fn on_shard(
        &self,
        namespace: &str,
        shard: usize,
        by: &Arc<Table>,
        command: impl FnOnce(&[KeyRange]) -> Document,
    ) -> Result<Answered, Failure> {
        let entered = self.core.config.enter(namespace, shard, by).await?;
        let mut command = command(&entered.foreign);
        command.insert("$db", &self.database);
        let (link, repeat, until) = (
            Arc::clone(&self.core.shards[shard]),
            self.can_repeat(),
            self.until,
        );
        let asked = self.core.runtime.spawn(async move {
            let (reply, member) = link.ask(&command, repeat, until).await?;
            let hold = entered.hold.clone();
            // Not before the shard has replied.
            drop(entered);
            Ok(Answered {
                reply,
                shard,
                member,
                hold,
            })
        });
        asked.await.expect("a task of the router")
    }

    /// Runs a statement by what is known of a collection, again whenever that turns out to be out of date.
    pub async fn routed<T>(
        &self,
        namespace: &str,
        statement: impl AsyncFn(Arc<Table>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut rounds = 1;
        loop {
            match statement(self.core.table(namespace)).await {
                Err(failure) if failure.is_stale() && rounds < ROUNDS_MAX => {
                    self.core.refresh(namespace);
                    rounds += 1;
                }
                done => return done,
            }
        }
    }
}

/// What a shard replied.
pub struct Answered {
    pub reply: Document,
    pub shard: usize,
    pub member: u16,
    /// Keeps the documents where they are, for what has more to read.
    pub hold: Option<Arc<()>>,
}
