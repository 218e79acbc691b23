//! The settings that all processes share, as a document ([`settings`](crate::store::settings)).
//!
//! ```text
//! _id: "shared"
//! values: { "cache_prefix": "colloquy", … }   as the configuration has them, without secrets
//! protocols: { min: 1, max: 1 }               that processes may speak
//! changes: 3                                  grows with each change
//! ```

use std::{collections::BTreeMap, time::Duration};

use mongodb::{
    Collection, Database,
    bson::{Bson, DateTime, Document, doc},
    error::Error as MongoError,
    options::{Hint, ReadConcern},
};

use super::{
    LEASES, SETTINGS,
    fault::{Fault, Result},
};
use crate::store::settings::{Leave, Ours, Setting, Shared};

const ID: &str = "shared";

/// How often a change is tried anew because somebody else was faster.
const ROUNDS_MAX: u32 = 8;

/// Runs a statement in a task of its own: a future of the driver must not be dropped midway.
async fn within<T: Send + 'static>(
    time_max: Duration,
    statement: impl Future<Output = std::result::Result<T, MongoError>> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(time_max, tokio::spawn(statement)).await {
        Ok(Ok(outcome)) => Ok(outcome?),
        Ok(Err(_)) => Err(Fault::Panicked),
        Err(_) => Err(Fault::TimedOut),
    }
}

fn settings(database: &Database) -> Collection<Document> {
    database.collection(SETTINGS)
}

/// What is recorded, and after how many changes. The read is linearizable: what the last `init` recorded is what it gives.
pub(super) async fn read(database: &Database, time_max: Duration) -> Result<Option<(Shared, i64)>> {
    let settings = settings(database);
    let found = within(time_max, async move {
        settings
            .find_one(doc! { "_id": ID })
            .read_concern(ReadConcern::linearizable())
            .hint(Hint::Name("_id_".to_owned()))
            .max_time(time_max)
            .comment(Bson::from("colloquy: settings"))
            .await
    });
    found.await?.map(|document| parse(&document)).transpose()
}

fn parse(document: &Document) -> Result<(Shared, i64)> {
    let wrong = |_| Fault::Stored("settings");
    let values = document.get_document("values").map_err(wrong)?;
    let value = |(key, value): (&String, &Bson)| {
        let value = value.as_str().ok_or(Fault::Stored("settings"))?;
        Ok((key.clone(), value.to_owned()))
    };
    let protocols = document.get_document("protocols").map_err(wrong)?;
    let protocol = |name| {
        let number = protocols.get_i64(name).map_err(wrong)?;
        u32::try_from(number).map_err(|_| Fault::Stored("protocols"))
    };
    let shared = Shared {
        values: values.iter().map(value).collect::<Result<BTreeMap<_, _>>>()?,
        protocols: protocol("min")?..=protocol("max")?,
    };
    Ok((shared, document.get_i64("changes").map_err(wrong)?))
}

/// Records what is not recorded yet, and what `leave` allows besides; says how each setting was found.
pub(super) async fn settle(
    database: &Database,
    time_max: Duration,
    ours: &Ours,
    leave: Leave,
) -> Result<Vec<Setting>> {
    for _ in 0..ROUNDS_MAX {
        let stored = read(database, time_max).await?;
        let (shared, changes) = match &stored {
            Some((shared, changes)) => (shared.clone(), *changes),
            None => (Shared::first(ours), 0),
        };
        let (settled, found) = shared.settled(ours, leave);
        let is_done = stored.is_some() && settled == shared;
        if is_done || replace(database, time_max, changes, &settled).await? {
            return Ok(found);
        }
    }
    Err(Fault::Contended)
}

/// Records this if nobody else has changed anything since; says whether it did.
async fn replace(database: &Database, time_max: Duration, changes: i64, shared: &Shared) -> Result<bool> {
    let values: Document = shared
        .values
        .iter()
        .map(|(key, value)| (key.clone(), Bson::from(value.clone())))
        .collect();
    let (min, max) = (*shared.protocols.start(), *shared.protocols.end());
    let document = doc! {
        "_id": ID,
        "values": values,
        "protocols": { "min": i64::from(min), "max": i64::from(max) },
        "changes": changes.saturating_add(1),
        "changedAt": DateTime::now(),
    };
    let settings = settings(database);
    let replaced = within(time_max, async move {
        let filter = doc! { "_id": ID, "changes": changes };
        // The first time nothing matches, and it is inserted.
        settings
            .replace_one(filter, document)
            .upsert(changes == 0)
            .comment(Bson::from("colloquy: settings"))
            .await
    });
    match replaced.await {
        Ok(replaced) => Ok(replaced.matched_count > 0 || replaced.upserted_id.is_some()),
        Err(fault) if fault.is_duplicate() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Until when a server that runs has a lease, where one does: the leases of chores tell.
pub(super) async fn is_in_use(database: &Database, time_max: Duration, apart: Duration) -> Result<bool> {
    let apart_ms = i64::try_from(apart.as_millis()).unwrap_or(i64::MAX);
    let leases = database.collection::<Document>(LEASES);
    let found = within(time_max, async move {
        leases
            .find_one(doc! { "$expr": { "$gt": [{ "$add": ["$until", apart_ms] }, "$$NOW"] } })
            .max_time(time_max)
            .comment(Bson::from("colloquy: settings"))
            .await
    });
    Ok(found.await?.is_some())
}
