//! Spreading the collections that grow over the shards of a cluster.
//!
//! Ranged shard keys, split beforehand where the hash that keys begin with falls into equal parts: so new sessions
//! land on every shard from the first one on, without a hashed index. The chunks of an empty collection are dealt out
//! here, one shard after the other, because the balancer goes by the size of data and would leave them where they are; once
//! there is data, it is the balancer's business, and `init` moves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mongodb::bson::{Bson, Document, doc};
use tokio::time::sleep;

use super::{
    Admin, Mode, Report, Result, SetupError, State,
    admin::{Refused, send},
    plain, read_all, schema,
};

/// A shard gives or takes one chunk at a time. While it is at another one, which the balancer or another `init` moves, it
/// refuses with one of these codes: `LockBusy`, `ConflictingOperationInProgress`.
const MOVING_ANOTHER: [i32; 2] = [46, 117];
const MOVE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Ten minutes of tries: a full chunk takes some of them.
const MOVE_TRIES_MAX: u32 = 1_200;

pub(super) async fn run(admin: &dyn Admin, database: &str, mode: Mode, report: &mut Report) -> Result<()> {
    let shards = shards(admin).await?;
    report.say(
        State::Fine,
        format!("{} shards: {}", shards.len(), shards.join(", ")),
    );
    for collection in schema::collections() {
        let Some(key) = collection.shard_key else {
            continue;
        };
        let cluster = Cluster {
            admin,
            database,
            shards: &shards,
            name: collection.name,
            key,
        };
        cluster.run(mode, report).await?;
    }
    Ok(())
}

/// The chunks of the two collections that grow.
pub(super) async fn of_sessions_and_events(admin: &dyn Admin, database: &str) -> Result<[Chunks; 2]> {
    let chunks = async |name, key| {
        let cluster = Cluster {
            admin,
            database,
            shards: &[],
            name,
            key,
        };
        cluster.chunks().await
    };
    Ok([
        chunks("sessions", "_id").await?,
        chunks("events", "session").await?,
    ])
}

async fn shards(admin: &dyn Admin) -> Result<Vec<String>> {
    let reply = send(admin, "admin", doc! { "listShards": 1 }, "listing the shards").await?;
    let shards = reply
        .get_array("shards")
        .map_err(|_| SetupError::Reply("no list of shards"))?;
    let names = shards
        .iter()
        .filter_map(|shard| Some(shard.as_document()?.get_str("_id").ok()?.to_owned()));
    let names: BTreeSet<String> = names.collect();
    if names.is_empty() {
        Err(SetupError::Reply("a cluster without shards"))
    } else {
        Ok(names.into_iter().collect())
    }
}

/// A collection that is spread over a cluster.
struct Cluster<'a> {
    admin: &'a dyn Admin,
    database: &'a str,
    shards: &'a [String],
    name: &'static str,
    /// By which it is sharded.
    key: &'static str,
}

/// The lower ends of chunks, which `init` makes of the hash digits that keys begin with, with the shards they are on. The first chunk, which
/// begins at `MinKey`, is the one at "".
pub(in crate::store::mongo) type Chunks = BTreeMap<String, String>;

impl Cluster<'_> {
    async fn run(&self, mode: Mode, report: &mut Report) -> Result<()> {
        let (name, key) = (self.name, self.key);
        let what = format!("{name} is sharded by {key}");
        match (self.sharded().await?, mode) {
            (Some(sharded), _) if !sharded.right => {
                report.say(
                    State::Wrong,
                    format!("{what}: it is sharded by another key, {}", sharded.key),
                );
                return Ok(());
            }
            (Some(_), _) => report.say(State::Fine, what),
            (None, Mode::Check) => {
                report.say(State::Missing, what);
                return Ok(());
            }
            (None, Mode::Init { .. }) => {
                self.shard().await?;
                report.say(State::Done, what);
            }
        }
        match mode {
            Mode::Init { chunks, .. } => self.spread(chunks, report).await,
            Mode::Check => {
                let chunks = self.chunks().await?;
                report.say(
                    State::Fine,
                    format!("{name} has {} chunks on {} shards", chunks.len(), places(&chunks)),
                );
                Ok(())
            }
        }
    }

    fn namespace(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }

    async fn read_config(&self, command: Document) -> Result<Vec<Document>> {
        let what = format!("reading how {} is sharded", self.name);
        read_all(self.admin, "config", command, &what).await
    }

    async fn sharded(&self) -> Result<Option<Sharded>> {
        let found = self
            .read_config(doc! { "find": "collections", "filter": { "_id": self.namespace() } })
            .await?;
        // Servers before 5.0 keep what was dropped, marked as such.
        let found = found
            .into_iter()
            .find(|one| !one.get_bool("dropped").unwrap_or(false));
        Ok(found.map(|found| {
            let key = found.get_document("key").cloned().unwrap_or_default();
            let right = key.len() == 1 && key.get(self.key).is_some_and(is_one);
            Sharded {
                right,
                key: key.to_string(),
                uuid: found.get("uuid").cloned(),
            }
        }))
    }

    async fn shard(&self) -> Result<()> {
        // Needed before 6.0, and harmless since.
        let enable = doc! { "enableSharding": self.database };
        send(self.admin, "admin", enable, "enabling sharding for the database").await?;
        let shard = doc! { "shardCollection": self.namespace(), "key": { self.key: 1 } };
        let what = format!("sharding the collection {}", self.name);
        send(self.admin, "admin", shard, &what).await?;
        Ok(())
    }

    async fn chunks(&self) -> Result<Chunks> {
        let uuid = self.sharded().await?.and_then(|sharded| sharded.uuid);
        let mut filters = vec![doc! { "ns": self.namespace() }];
        // Since 5.0 chunks go by the collection's UUID.
        if let Some(uuid) = uuid {
            filters.push(doc! { "uuid": uuid });
        }
        let found = self
            .read_config(doc! { "find": "chunks", "filter": { "$or": filters } })
            .await?;
        let chunk = |chunk: Document| {
            let min = chunk.get_document("min").ok()?.get(self.key)?;
            let min = match min {
                Bson::MinKey => String::new(),
                min => min.as_str()?.to_owned(),
            };
            Some((min, chunk.get_str("shard").ok()?.to_owned()))
        };
        Ok(found.into_iter().filter_map(chunk).collect())
    }

    async fn spread(&self, wanted: u32, report: &mut Report) -> Result<()> {
        let name = self.name;
        let before = self.chunks().await?;
        let mut split = 0;
        for point in split_points(wanted).filter(|point| !before.contains_key(point)) {
            self.split(&point).await?;
            split += 1;
        }
        let chunks = self.chunks().await?;
        let what = format!("{name} has {} chunks", chunks.len());
        report.say(if split > 0 { State::Done } else { State::Fine }, what);
        if self.shards.len() == 1 {
            return Ok(());
        }
        if !plain::is_empty(self.admin, self.database, name).await? {
            report.say(
                State::Fine,
                format!(
                    "{name} has data on {} shards: the balancer moves it",
                    places(&chunks)
                ),
            );
            return Ok(());
        }
        let mut moved = 0;
        for ((point, shard), to) in chunks.iter().zip(self.shards.iter().cycle()) {
            if shard != to {
                self.move_chunk(point, to).await?;
                moved += 1;
            }
        }
        let what = format!(
            "{name} is empty, and its chunks lie on {} shards",
            self.shards.len().min(chunks.len())
        );
        report.say(if moved > 0 { State::Done } else { State::Fine }, what);
        Ok(())
    }

    async fn split(&self, point: &str) -> Result<()> {
        let split = doc! { "split": self.namespace(), "middle": { self.key: point } };
        match self.admin.run("admin", split).await {
            Ok(_) => Ok(()),
            // Another `init` may have been faster, which servers of different versions say in different ways.
            Err(_) if self.chunks().await?.contains_key(point) => Ok(()),
            Err(refused) => Err(self.refused("splitting a chunk of", refused)),
        }
    }

    async fn move_chunk(&self, point: &str, to: &str) -> Result<()> {
        // The first chunk begins at `MinKey`; a key below every digit lies in it.
        let inside = doc! { self.key: point };
        let change = doc! { "moveChunk": self.namespace(), "find": inside, "to": to };
        let mut tries = 1;
        loop {
            let refused = match self.admin.run("admin", change.clone()).await {
                Ok(_) => return Ok(()),
                Err(refused) => refused,
            };
            if self.chunks().await?.get(point).is_some_and(|shard| shard == to) {
                return Ok(());
            }
            let may_pass = refused.code.is_some_and(|code| MOVING_ANOTHER.contains(&code));
            if !may_pass || tries == MOVE_TRIES_MAX {
                return Err(self.refused("moving a chunk of", refused));
            }
            tries += 1;
            sleep(MOVE_AGAIN_AFTER).await;
        }
    }

    fn refused(&self, doing: &str, refused: Refused) -> SetupError {
        SetupError::Refused {
            what: format!("{doing} {}", self.name),
            refused,
        }
    }
}

struct Sharded {
    right: bool,
    key: String,
    uuid: Option<Bson>,
}

fn is_one(direction: &Bson) -> bool {
    matches!(direction, Bson::Int32(1) | Bson::Int64(1)) || direction.as_f64() == Some(1.0)
}

fn places(chunks: &Chunks) -> usize {
    chunks.values().collect::<BTreeSet<_>>().len()
}

/// Where `chunks` chunks of equal parts of the hash begin, but for the first.
pub(super) fn split_points(chunks: u32) -> impl Iterator<Item = String> {
    (1..chunks).map(move |n| {
        format!(
            "{:04x}",
            u64::from(n) * u64::from(super::CHUNKS_MAX) / u64::from(chunks)
        )
    })
}
