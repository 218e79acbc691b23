//! How set-up talks to a server: one command, one reply, or all documents of a cursor.
//!
//! Where the URL names several routers, two commands may go to two of them. A cursor belongs to the router that opened
//! it, so what it has left is asked for by the driver, which remembers where that was.
//!
//! The trait is this small so that a scripted server can stand in for one that fails at any step.

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

    /// All documents of the cursor that a command opens.
    async fn list(&self, database: &str, command: Document) -> std::result::Result<Vec<Document>, Refused>;
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
        self.finish(async move { database.run_command(command).await })
            .await
    }

    async fn list(&self, database: &str, command: Document) -> std::result::Result<Vec<Document>, Refused> {
        let database = self.client.database(database);
        let listing = async move {
            let mut found = database.run_cursor_command(command).await?;
            let mut all = Vec::new();
            while found.advance().await? {
                all.push(found.deserialize_current()?);
            }
            Ok(all)
        };
        self.finish(listing).await
    }
}

impl Server {
    /// Runs in a task of its own, since a future of the driver must not be dropped midway.
    async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = mongodb::error::Result<T>> + Send + 'static,
    ) -> std::result::Result<T, Refused> {
        let refused = |message: &str| Refused {
            code: None,
            message: message.to_owned(),
        };
        match timeout(self.time_max, tokio::spawn(work)).await {
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
