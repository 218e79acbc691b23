//! Changes of many documents in one command, one statement a document.
//!
//! An update of many by one filter is neither retried nor exact while chunks move. Here each statement names its document,
//! and has a condition that holds once, so the command can be repeated as a whole.

use mongodb::bson::{Bson, Document, doc};

use super::{
    EVENTS,
    call::Call,
    fault::{DUPLICATE_KEY, Fault, Result},
};

/// An `update` command. It is one message: the caller keeps it below 16 MiB.
#[derive(Debug, Clone)]
pub(super) struct Bulk {
    pub(super) collection: &'static str,
    /// What the server's log and profiler call it.
    pub(super) comment: &'static str,
    /// As the command takes them: `{ q, u, … }`.
    pub(super) statements: Vec<Document>,
}

impl Bulk {
    /// Runs all statements, in any order. Gives the places of those that would have inserted a document under an `_id`
    /// that is taken by one that their filter leaves out.
    ///
    /// # Errors
    /// As [`Call::run`]: some statements may have been done.
    pub(super) async fn run(self, call: &Call, concern: &Document) -> Result<Vec<usize>> {
        if self.statements.is_empty() {
            return Ok(Vec::new());
        }
        let name = match self.collection {
            EVENTS => "update events",
            _ => "update sessions",
        };
        let command = doc! {
            "update": self.collection,
            "updates": self.statements.into_iter().map(Bson::from).collect::<Vec<_>>(),
            "ordered": false,
            "writeConcern": concern.clone(),
            "comment": self.comment,
        };
        let database = call.database();
        call.run(name, move |attempt| {
            let (database, mut command) = (database.clone(), command.clone());
            let time_max = i64::try_from(attempt.time_max.as_millis()).unwrap_or(i64::MAX);
            command.insert("maxTimeMS", time_max);
            async move {
                let reply = database.run_command(command).await?;
                // The driver looks into replies of its own commands only.
                confirmed(&reply)
            }
        })
        .await
    }
}

/// Whether a reply to a write says that all of it was done, and confirmed, but for duplicates, which it gives.
fn confirmed(reply: &Document) -> Result<Vec<usize>> {
    let code = |error: &Document| error.get_i32("code").unwrap_or_default();
    let mut duplicates = Vec::new();
    for error in reply.get_array("writeErrors").into_iter().flatten() {
        let Some(error) = error.as_document() else {
            continue;
        };
        let index = error
            .get_i32("index")
            .ok()
            .and_then(|index| usize::try_from(index).ok());
        match (code(error), index) {
            (DUPLICATE_KEY, Some(index)) => duplicates.push(index),
            (code, _) => return Err(Fault::of_code(code)),
        }
    }
    match reply.get_document("writeConcernError") {
        Ok(error) => Err(Fault::of_code(code(error))),
        Err(_) => Ok(duplicates),
    }
}
