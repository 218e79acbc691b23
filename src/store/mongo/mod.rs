//! The store for many replicas: MongoDB, as a replica set or sharded.
//!
//! - Two collections, `sessions` and `events`, and small ones for records of the archive and for leases; an operator finds in
//!   `documents` and `leases` what lies in them, and in `keys` how it is named. Every statement of the request path names its session's key, which is the shard key, and so
//!   goes to one shard; only the listing, upkeep and what looks for work of the archive ask all of them.
//! - A write is acknowledged when a majority has it in its journal (I1), and reads go to the primary and see what a
//!   majority has (I3). No transactions: each change is one statement on one document, with a condition that holds
//!   once, so whoever is second learns it, and everything can be repeated.
//! - Appends share an insert; see `append`. Erasure is a tombstone first; see `erasure`. Sessions that nobody ended: see `idle`.
//!   What the archive needs: see `archive`.
//! - A call has a time limit, for the server too, and ends as [`Kind::Unavailable`]; see `call` and `fault`.
//! - The database is prepared by `colloquy init`, never by serving; see `setup`.
//!
//! I3 leans on MongoDB's majority reads from the primary; for one that was just elected, see `primary`. They leave a gap
//! that no read concern short of `linearizable` closes, in the seconds of a failover: a primary that was cut off and does
//! not know it yet, as a process that is cut off with it, may answer with a slightly older state. So may a shard behind a
//! `mongos` just after its election.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use mongodb::{
    Client,
    bson::{Document, doc},
};

use super::{
    Append, HotEvent, HotEvents, Idle, IdleFound, Opened, Place, Store, Upkeep,
    settings::{Found, Leave, Ours, Setting, Shared},
};
use crate::domain::{
    Appended, End, Error, EventId, EventQuery, Expected, Kind, Page, Result, Session, SessionKey,
    SessionPatch, SessionQuery, Tenant, Timestamp,
};

mod append;
mod archive;
mod bulk;
mod call;
mod connect;
mod covered;
mod documents;
mod erasure;
mod events;
mod fault;
mod idle;
mod inserts;
mod keys;
mod leases;
mod listing;
mod payload;
mod places;
mod primary;
mod sequence;
mod sessions;
mod setup;
mod shared;

use append::Appends;
use call::Calls;
use connect::Connection;
use idle::Sweep;
use places::Places;
use sequence::Sequences;
pub use setup::{CHUNKS_DEFAULT, CHUNKS_MAX, Finding, Report, State};
use setup::{Mode, admin::Server};

const SESSIONS: &str = "sessions";
const EVENTS: &str = "events";
const ARCHIVE_RUNS: &str = "archive_runs";
const LEASES: &str = "leases";
const SETTINGS: &str = "settings";

/// The database of a URL that names none.
const DATABASE_DEFAULT: &str = "colloquy";

/// The limits of a [`MongoStore`].
#[derive(Debug, Clone)]
pub struct MongoOptions {
    /// Connections to a server, and calls of the store under way; at least one.
    pub pool_max: u32,
    /// Connections kept open to a server, and opened before the store serves.
    pub pool_min: u32,
    /// Connections opened to a server at the same time.
    pub pool_connecting_max: u32,
    /// Longest wait of a call for its turn, after which it is [`Kind::Overloaded`].
    pub call_wait_max: Duration,
    /// Longest that a call takes, tries and waits included, after which it is [`Kind::Unavailable`]; what it wrote may be
    /// stored all the same.
    pub call_time_max: Duration,
    /// Tries of a statement, where another try is safe and may help; at least one.
    pub attempts_max: u32,
    /// Longest search for a server that can do what is asked, within the time of the call.
    pub server_selection_max: Duration,
    /// Longest that a new connection takes.
    pub connect_time_max: Duration,
    /// Longest that a statement of set-up takes, such as building an index.
    pub setup_time_max: Duration,
    /// Sessions whose last `seq` is remembered, by about 200 bytes each.
    pub sequences_max: usize,
    /// How long the archive waits between claiming a session and reading its events; an append that takes nearly as long
    /// looks at its sessions again. See [`settle_time`](super::catalog::Catalog::settle_time).
    pub append_settle: Duration,
    /// Most that the clocks of two routers, or of two primaries in a row, may be apart. Claims and leases are left to their owners
    /// for so much longer than they last.
    pub clocks_apart_max: Duration,
    /// Events of an erased session deleted by one statement; at least one.
    pub purge_events_max: u32,
    /// Events deleted in one round of upkeep, about.
    pub upkeep_events_max: usize,
    /// Sessions that upkeep looks at in one statement; at least one.
    pub upkeep_sessions_max: u32,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self {
            pool_max: 64,
            pool_min: 8,
            pool_connecting_max: 4,
            call_wait_max: Duration::from_secs(5),
            call_time_max: Duration::from_secs(15),
            attempts_max: 10,
            server_selection_max: Duration::from_secs(5),
            connect_time_max: Duration::from_secs(3),
            setup_time_max: Duration::from_hours(1),
            sequences_max: 65_536,
            append_settle: Duration::from_secs(2),
            clocks_apart_max: Duration::from_secs(5),
            purge_events_max: 500,
            upkeep_events_max: 5_000,
            upkeep_sessions_max: 100,
        }
    }
}

impl MongoOptions {
    /// With every number that must be at least one so.
    fn at_least_one(mut self) -> Self {
        for number in [
            &mut self.pool_max,
            &mut self.attempts_max,
            &mut self.purge_events_max,
            &mut self.upkeep_sessions_max,
        ] {
            *number = (*number).max(1);
        }
        self
    }
}

/// A store in a MongoDB database.
pub struct MongoStore {
    client: Client,
    calls: Calls,
    sequences: Sequences,
    places: Arc<Places>,
    /// The write concern, for commands that the driver does not see into.
    concern: Document,
    options: MongoOptions,
}

impl fmt::Debug for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStore").finish_non_exhaustive()
    }
}

impl MongoStore {
    /// Connects to the database that `url` names (`mongodb://` or `mongodb+srv://`), and looks whether it was
    /// initialised.
    ///
    /// # Errors
    /// [`Kind::Unavailable`], in words for whoever runs the process: the URL is wrong, the server can't be reached, or
    /// the database is not set up, and then how to do that.
    pub async fn connect(url: &str, options: MongoOptions) -> Result<Self> {
        let options = options.at_least_one();
        let connection = Connection::open(url, &options).await?;
        let report = connection.setup(Mode::Check, options.call_time_max).await;
        if let Err(error) = report.and_then(|report| connection.is_set_up(&report)) {
            leave(connection.client, options.call_time_max).await;
            return Err(error);
        }
        connection.client.warm_connection_pool().await;
        let server = Server {
            client: connection.client.clone(),
            time_max: options.call_time_max,
        };
        let places = Arc::new(Places::new(server, connection.database.clone()));
        places.look().await;
        let database = connection.client.database(&connection.database);
        let calls = Calls::new(database, connection.primaries, &options);
        // Best now, before there are requests that would wait for it. Where it can't be done yet, the first of them will.
        if let Ok(call) = calls.begin().await {
            let _ = call.settle().await;
        }
        Ok(Self {
            calls,
            sequences: Sequences::new(options.sequences_max),
            places,
            concern: connection.concern,
            client: connection.client,
            options,
        })
    }

    /// What is recorded of the settings that all processes share; `None` where `init` has not recorded anything.
    ///
    /// # Errors
    /// [`Kind::Unavailable`]: it could not be found out.
    pub async fn shared(&self) -> Result<Option<Shared>> {
        let database = self.calls.begin().await?.database();
        let read = shared::read(&database, self.options.call_time_max).await?;
        Ok(read.map(|(shared, _)| shared))
    }
}

/// What `colloquy init` is to make, and of whose settings.
#[derive(Debug, Clone, Default)]
pub struct Init {
    /// Counts for a sharded cluster alone: 1 to [`CHUNKS_MAX`].
    pub chunks: u32,
    /// Drop the indexes that only earlier versions use: none of their processes may still run.
    pub drop_superseded: bool,
    /// What is recorded, where it is not.
    pub ours: Ours,
    pub leave: Leave,
}

/// `colloquy init` without settings to record: makes what the store needs, says what it did, and can be repeated.
///
/// # Errors
/// [`Kind::Unavailable`]: it could not be done.
pub async fn init(url: &str, options: &MongoOptions, chunks: u32) -> Result<Report> {
    let init = Init {
        chunks,
        ..Init::default()
    };
    initialise(url, options, &init).await
}

/// As [`init`], and drops the indexes that only earlier versions use: none of their processes may still run.
///
/// # Errors
/// As [`init`].
pub async fn init_and_drop_superseded(url: &str, options: &MongoOptions, chunks: u32) -> Result<Report> {
    let init = Init {
        chunks,
        drop_superseded: true,
        ..Init::default()
    };
    initialise(url, options, &init).await
}

/// `colloquy init`: as [`init`], and records settings that all processes share.
///
/// # Errors
/// As [`init`]; settings are to be changed while a server runs, and then nothing is.
pub async fn initialise(url: &str, options: &MongoOptions, init: &Init) -> Result<Report> {
    let connection = Connection::open(url, options).await?;
    let mode = Mode::Init {
        chunks: init.chunks,
        drop_superseded: init.drop_superseded,
    };
    let report = async {
        let mut report = connection.setup(mode, options.setup_time_max).await?;
        if report.is_ready() {
            connection.share(options, init, &mut report).await?;
        }
        Ok(report)
    };
    let report = report.await;
    leave(connection.client, options.call_time_max).await;
    report
}

/// `colloquy check`: says what is there of what the store needs, and how these settings stand beside those that all
/// processes share.
///
/// # Errors
/// [`Kind::Unavailable`]: it could not be found out.
pub async fn check(url: &str, options: &MongoOptions, ours: &Ours) -> Result<Report> {
    let connection = Connection::open(url, options).await?;
    let report = async {
        let mut report = connection.setup(Mode::Check, options.call_time_max).await?;
        if report.is_ready() {
            let database = connection.client.database(&connection.database);
            match shared::read(&database, options.call_time_max).await? {
                Some((shared, _)) => tell(shared.compare(ours), &mut report),
                None => report.say(State::Missing, "the settings that all processes share"),
            }
        }
        Ok(report)
    };
    let report = report.await;
    leave(connection.client, options.call_time_max).await;
    report
}

/// A line for each setting, but one for all that are as they should be.
fn tell(settings: Vec<Setting>, report: &mut Report) {
    let before = report.0.len();
    let mut alike = Vec::new();
    for setting in settings {
        let state = match setting.found {
            Found::Alike => {
                alike.push(setting.to_string());
                continue;
            }
            Found::Recorded | Found::Changed(_) => State::Done,
            Found::Missing => State::Outdated,
            Found::Differs(_) => State::Wrong,
        };
        report.say(state, format!("shared setting {setting}"));
    }
    if report.0.len() == before {
        report.say(State::Fine, format!("shared settings: {}", alike.join(", ")));
    }
}

/// Ends a client. One that is dropped instead says goodbye in a task of its own, which panics where the runtime ends
/// before it.
async fn leave(client: Client, time_max: Duration) {
    // Whatever still hangs on a connection is not waited for.
    let shutdown = tokio::spawn(async move { client.shutdown().immediate(true).await });
    let _ = tokio::time::timeout(time_max, shutdown).await;
}

impl Connection {
    async fn setup(&self, mode: Mode, time_max: Duration) -> Result<Report> {
        let server = Server {
            client: self.client.clone(),
            time_max,
        };
        let report = setup::run(&server, &self.database, mode).await;
        report.map_err(|error| Error::new(Kind::Unavailable, format!("MongoDB: {error}")))
    }

    /// Records the settings, and tells how they were found.
    async fn share(&self, options: &MongoOptions, init: &Init, report: &mut Report) -> Result<()> {
        let (database, time_max) = (self.client.database(&self.database), options.call_time_max);
        if init.leave.change && shared::is_in_use(&database, time_max, options.clocks_apart_max).await? {
            return Err(Error::new(
                Kind::Unavailable,
                "a server runs on this database, or was killed less than a minute ago: stop all of them before shared settings \
                 are changed",
            ));
        }
        tell(
            shared::settle(&database, time_max, &init.ours, init.leave).await?,
            report,
        );
        Ok(())
    }

    fn is_set_up(&self, report: &Report) -> Result<()> {
        let Some(problem) = report.problems().next() else {
            return Ok(());
        };
        let (name, what) = (&self.database, &problem.what);
        Err(Error::new(
            Kind::Unavailable,
            format!(
                "the MongoDB database {name} is not set up ({what}): run `colloquy init` with the same configuration, \
                 then `colloquy check` shows what is there"
            ),
        ))
    }
}

#[async_trait]
impl Store for MongoStore {
    async fn open(&self, tenant: &Tenant, session: Session, now: Timestamp) -> Result<Opened> {
        let call = self.calls.begin().await?;
        let (opened, life) = sessions::open(&call, tenant, session, now).await?;
        if opened.created {
            // What is remembered is of a session with the same id that is forgotten.
            let key = SessionKey::new(tenant.clone(), opened.session.id.clone());
            self.sequences
                .forget(&keys::of_events(&keys::of_session(&key), life));
        }
        Ok(opened)
    }

    async fn session(&self, key: &SessionKey) -> Result<Session> {
        let call = self.calls.begin().await?;
        let (session, _) = sessions::load(&call, key).await?;
        Ok(session)
    }

    async fn sessions(&self, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
        let call = self.calls.begin().await?;
        Ok(listing::list(&call, tenant, query).await?)
    }

    async fn patch(&self, key: &SessionKey, patch: &SessionPatch, expected: &Expected) -> Result<Session> {
        let call = self.calls.begin().await?;
        Ok(sessions::patch(&call, key, patch, expected).await?)
    }

    async fn end(&self, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
        let call = self.calls.begin().await?;
        Ok(sessions::end(&call, key, end, now).await?)
    }

    async fn erase(&self, key: &SessionKey, forget_at: Timestamp) -> Result<()> {
        let call = self.calls.begin().await?;
        Ok(erasure::erase(&call, key, forget_at, &self.options).await?)
    }

    async fn append(&self, batch: Vec<Append>) -> Result<Vec<Result<Appended>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.calls.begin().await?;
        let appends = Appends {
            call: &call,
            sequences: &self.sequences,
            concern: &self.concern,
            settle: self.options.append_settle,
        };
        let began = Instant::now();
        let outcomes = appends.append(&batch).await;
        self.places.appended(outcomes.is_ok(), began.elapsed());
        Ok(outcomes?)
    }

    fn place(&self, key: &SessionKey) -> Place {
        self.places.of(&keys::of_session(key))
    }

    async fn last_seqs(&self, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
        let call = self.calls.begin().await?;
        Ok(sessions::last_seqs(&call, keys).await?)
    }

    async fn events(&self, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
        let call = self.calls.begin().await?;
        Ok(events::page(&call, key, query).await?)
    }

    async fn session_with_events(
        &self,
        key: &SessionKey,
        query: &EventQuery,
    ) -> Result<(Session, HotEvents)> {
        let call = self.calls.begin().await?;
        Ok(events::page_with_session(&call, key, query).await?)
    }

    async fn event(&self, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
        let call = self.calls.begin().await?;
        Ok(events::get(&call, key, id).await?)
    }

    async fn ping(&self) -> Result<()> {
        let call = self.calls.begin_ping().await?;
        let database = call.database();
        // Through the primary: without one, nothing can be written. A router answers for itself alone, not for its shards.
        let ping = call.run("ping", move |attempt| {
            let database = database.clone();
            async move {
                let time_max = i64::try_from(attempt.time_max.as_millis()).unwrap_or(i64::MAX);
                database
                    .run_command(doc! { "ping": 1, "maxTimeMS": time_max })
                    .await?;
                Ok(())
            }
        });
        Ok(ping.await?)
    }

    async fn upkeep(&self, now: Timestamp) -> Result<Upkeep> {
        let call = self.calls.begin().await?;
        Ok(erasure::upkeep(&call, now, &self.options).await?)
    }

    async fn find_idle(&self, idle_since: Timestamp, now: Timestamp, limit: usize) -> Result<IdleFound> {
        let sweep = Sweep {
            calls: &self.calls,
            concern: &self.concern,
            settle: self.options.append_settle,
            idle_since,
            now,
        };
        sweep.find(limit).await
    }

    async fn end_idle(&self, idle: &Idle, reason: &str, now: Timestamp) -> Result<Option<Session>> {
        let call = self.calls.begin().await?;
        Ok(idle::end(&call, idle, reason, now).await?)
    }

    async fn close(&self) {
        self.calls.close().await;
        leave(self.client.clone(), self.options.call_time_max).await;
    }
}
