//! What `colloquy init` makes of a database, and what `colloquy check` and `colloquy serve` want to find.
//!
//! - [`schema`]: the collections, validators and indexes.
//! - [`admin`]: how commands are sent; tests put a scripted server in the place of a real one.
//! - [`plain`]: collections and indexes, which every deployment has.
//! - [`sharding`]: shard keys and chunks, where a `mongos` answers.
//!
//! All of it can be repeated, and concurrently: what is there is left as it is. What is there, but different, is for a
//! person to look at, and is reported as a problem.
//!
//! Nothing is dropped but, where that is asked for, indexes that a newer one has superseded. Processes of the version before
//! name them in their statements, and would fail without them; so they stay until every process runs this version.

use std::fmt;

use mongodb::bson::{Document, doc};

pub(super) mod admin;
#[cfg(test)]
mod mongos;
mod plain;
pub(super) mod schema;
mod sharding;
#[cfg(test)]
mod tests;

use admin::{Admin, Refused};
pub(super) use sharding::Chunks;

/// How many chunks each collection is split into, where the caller does not say.
pub const CHUNKS_DEFAULT: u32 = 256;

/// Most chunks a collection can be split into: one for every value of the hash that keys begin with.
pub const CHUNKS_MAX: u32 = 1 << (4 * super::keys::HASH_DIGITS);

/// What was found or done, a line a thing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report(pub Vec<Finding>);

/// One line of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub state: State,
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was as it should be.
    Fine,
    /// It was made so just now.
    Done,
    /// It is not there; `init` would make it.
    Missing,
    /// It is there as another version made it, and does for serving; `init` would bring it up to date.
    Outdated,
    /// It is there, but other than it should be; `init` leaves it alone.
    Wrong,
}

impl Report {
    pub(super) fn say(&mut self, state: State, what: impl Into<String>) {
        self.0.push(Finding {
            state,
            what: what.into(),
        });
    }

    /// Whether the database can be served from.
    pub fn is_ready(&self) -> bool {
        self.problems().next().is_none()
    }

    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.0
            .iter()
            .filter(|finding| matches!(finding.state, State::Missing | State::Wrong))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Finding { state, what }) in self.0.iter().enumerate() {
            let word = match state {
                State::Fine => "ok      ",
                State::Done => "done    ",
                State::Missing => "missing ",
                State::Outdated => "outdated",
                State::Wrong => "WRONG   ",
            };
            let end = if at > 0 { "\n" } else { "" };
            write!(f, "{end}{word}  {what}")?;
        }
        Ok(())
    }
}

/// MongoDB 5.0, the first to store any key below the top of a document, `$` in front or not.
const WIRE_VERSION_MIN: i32 = 13;

/// Why a set-up could not be looked at, or finished.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{what}: {refused}")]
    Refused { what: String, refused: Refused },
    #[error("MongoDB gave a reply that is not understood: {0}")]
    Reply(&'static str),
    #[error(
        "this is a standalone MongoDB server: Colloquy needs a replica set, of one member at least, so that what it acknowledges is on a majority (start mongod with --replSet and run rs.initiate())"
    )]
    Standalone,
    #[error("this MongoDB server is too old: Colloquy needs 5.0 or newer")]
    TooOld,
    #[error("chunks must be from 1 to {CHUNKS_MAX}")]
    Chunks,
}

pub(super) type Result<T, E = SetupError> = std::result::Result<T, E>;

/// What to do about what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Make it; where sharded, of this many chunks. Drop what is superseded, or report it.
    Init { chunks: u32, drop_superseded: bool },
    /// Report it.
    Check,
}

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deployment {
    ReplicaSet,
    Sharded,
}

/// Sets up, or looks at, the database with this name.
pub(super) async fn run(admin: &dyn Admin, database: &str, mode: Mode) -> Result<Report> {
    if matches!(mode, Mode::Init { chunks, .. } if !(1..=CHUNKS_MAX).contains(&chunks)) {
        return Err(SetupError::Chunks);
    }
    let mut report = Report::default();
    let deployment = deployment(admin, &mut report).await?;
    plain::run(admin, database, mode, &mut report).await?;
    // Without its collections there is nothing yet to be sharded.
    if deployment == Deployment::Sharded && (mode != Mode::Check || report.is_ready()) {
        sharding::run(admin, database, mode, &mut report).await?;
    }
    Ok(report)
}

async fn deployment(admin: &dyn Admin, report: &mut Report) -> Result<Deployment> {
    let hello = admin::send(
        admin,
        "admin",
        doc! { "hello": 1 },
        "asking the server what it is",
    )
    .await?;
    if hello
        .get_i32("maxWireVersion")
        .is_ok_and(|version| version < WIRE_VERSION_MIN)
    {
        return Err(SetupError::TooOld);
    }
    if hello.get_str("msg").ok() == Some("isdbgrid") {
        report.say(State::Fine, "a sharded cluster answers (mongos)");
        return Ok(Deployment::Sharded);
    }
    match hello.get_str("setName") {
        Ok(name) => {
            report.say(State::Fine, format!("the replica set {name} answers"));
            Ok(Deployment::ReplicaSet)
        }
        Err(_) => Err(SetupError::Standalone),
    }
}

/// The chunks of sessions and of events; `None` where the database is not sharded.
pub(super) async fn chunks(admin: &dyn Admin, database: &str) -> Result<Option<[Chunks; 2]>> {
    match deployment(admin, &mut Report::default()).await? {
        Deployment::ReplicaSet => Ok(None),
        Deployment::Sharded => sharding::of_sessions_and_events(admin, database).await.map(Some),
    }
}

/// Reads a whole collection or listing; `what` says what for, should it fail.
async fn read_all(admin: &dyn Admin, database: &str, command: Document, what: &str) -> Result<Vec<Document>> {
    let listed = admin.list(database, command).await;
    listed.map_err(|refused| SetupError::Refused {
        what: what.to_owned(),
        refused,
    })
}
