//! How set-up talks to a server: one command, one reply.
//!
//! The trait is this small so that a scripted server can stand in for what can't be run in a test: a `mongos`.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use mongodb::{Client, bson::Document};
use tokio::time::timeout;

use super::{Result, SetupError};
use crate::store::mongo::fault::Fault;

/// Runs commands on a server.
#[async_trait]
pub(crate) trait Admin: Send + Sync {
    /// The reply to a command that did what it says.
    async fn run(&self, database: &str, command: Document) -> std::result::Result<Document, Refused>;
}

/// A command that failed: what the server said, or why it could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: Option<i32>,
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Sends a command; `what` says what it is for, should it fail.
pub(super) async fn send(
    admin: &dyn Admin,
    database: &str,
    command: Document,
    what: &str,
) -> Result<Document> {
    let reply = admin.run(database, command).await;
    reply.map_err(|refused| SetupError::Refused {
        what: what.to_owned(),
        refused,
    })
}

/// A server at the end of a connection. Statements of set-up may take long: building an index on what is there, or
/// moving a chunk.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) time_max: Duration,
}

#[async_trait]
impl Admin for Server {
    async fn run(&self, database: &str, command: Document) -> std::result::Result<Document, Refused> {
        let database = self.client.database(database);
        // In a task of its own, since a future of the driver must not be dropped midway.
        let task = tokio::spawn(async move { database.run_command(command).await });
        let refused = |message: &str| Refused {
            code: None,
            message: message.to_owned(),
        };
        match timeout(self.time_max, task).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(error))) => match Fault::from(error) {
                Fault::Mongo { complaint, .. } => Err(Refused {
                    code: complaint.code,
                    message: complaint.to_string(),
                }),
                other => Err(refused(&other.to_string())),
            },
            Ok(Err(_)) => Err(refused("the task panicked")),
            Err(_) => Err(refused("no answer in time")),
        }
    }
}
