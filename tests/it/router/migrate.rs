//! `moveChunk`: the documents of a chunk go from one replica set to another, under writes.
//!
//! 1. The recipient gets the collection, and from then on leaves out what lies in the chunk's range.
//! 2. The chunk is copied, and copied again where it differs.
//! 3. **The critical section**: statements on the collection wait at the donor. Those under way end first. What was written since is
//!    copied, and the config servers say that the chunk is the recipient's. Routers learn it from the donor or the recipient,
//!    since both have another version by then.
//! 4. Once no cursor is open that was opened before, the donor's documents are deleted.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mongodb::bson::{Bson, Document, doc};
use tokio::time::{Instant, timeout};

use super::{
    config::{Table, shard_name},
    server::Core,
    shard::Failure,
    target::KeyRange,
};

/// Copies before the critical section.
const COPIES: usize = 2;
const BATCH: usize = 500;
const MOVE_MAX: Duration = Duration::from_secs(60);
/// How long statements under way may keep a chunk from moving, and open cursors its documents from being deleted.
const WAIT_MAX: Duration = Duration::from_secs(30);

struct Move<'a> {
    core: &'a Core,
    database: &'a str,
    collection: &'a str,
    namespace: &'a str,
    field: String,
    range: KeyRange,
    from: usize,
    to: usize,
    until: Instant,
}

/// The documents of the chunk, by their ids.
type Copied = HashMap<String, Document>;

/// Moves the chunk in which this key lies.
///
/// # Errors
/// `ConflictingOperationInProgress`: another chunk is moving. What a shard failed with, before the chunk was the other shard's. `LockTimeout`: statements under way did not end.
pub async fn move_chunk(core: &Arc<Core>, namespace: &str, key: &str, to: usize) -> Result<(), Failure> {
    let busy =
        "Unable to start new migration because this shard is currently donating or receiving another chunk";
    let busy = |_| Failure::new(117, "ConflictingOperationInProgress", busy);
    let _one = core.config.moving.try_lock().map_err(busy)?;
    let table: Table = core.config.table(namespace);
    let not_sharded = || Failure::new(118, "NamespaceNotSharded", &format!("{namespace} is not sharded"));
    let field = table.field.clone().ok_or_else(not_sharded)?;
    let (range, from) = table.chunk(key);
    if from == to {
        return Ok(());
    }
    let (database, collection) = namespace.split_once('.').ok_or_else(not_sharded)?;
    let moving = Move {
        core,
        database,
        collection,
        namespace,
        field,
        range,
        from,
        to,
        until: Instant::now() + MOVE_MAX,
    };
    moving.prepare().await?;
    core.config.set_foreign(namespace, to, &moving.range, true);
    let hold = match moving.copy_and_commit().await {
        Ok(hold) => hold,
        Err(failure) => {
            // What can't be deleted now stays foreign, and is left out for ever.
            if moving.delete(to).await.is_ok() {
                core.config.set_foreign(namespace, to, &moving.range, false);
            }
            return Err(failure);
        }
    };
    moving.clean_up(hold).await;
    Ok(())
}

impl Move<'_> {
    async fn ask(&self, shard: usize, mut command: Document) -> Result<(Document, u16), Failure> {
        command.insert("$db", self.database);
        self.core.shards[shard].ask(&command, true, self.until).await
    }

    /// The recipient has the collection with its options and indexes.
    async fn prepare(&self) -> Result<(), Failure> {
        let listing = doc! { "listCollections": 1, "filter": { "name": self.collection } };
        let mut options = Document::new();
        for one in batch(&self.ask(self.from, listing).await?.0) {
            options = one.get_document("options").cloned().unwrap_or_default();
        }
        let mut create = doc! { "create": self.collection, "writeConcern": { "w": "majority" } };
        create.extend(options);
        match self.ask(self.to, create).await {
            Err(failure) if failure.name != "NamespaceExists" => return Err(failure),
            _ => {}
        }
        let (listing, _) = self
            .ask(self.from, doc! { "listIndexes": self.collection })
            .await?;
        let indexes: Vec<Document> = batch(&listing).collect();
        let create = doc! { "createIndexes": self.collection, "indexes": indexes, "writeConcern": { "w": "majority" } };
        self.ask(self.to, create).await?;
        Ok(())
    }

    async fn copy_and_commit(&self) -> Result<Arc<()>, Failure> {
        let mut copied = Copied::new();
        for _ in 0..COPIES {
            self.copy(&mut copied).await?;
        }
        let gate = self.core.config.gate(self.namespace, self.from);
        let alone = timeout(WAIT_MAX, gate.write_owned()).await;
        let busy = |_| Failure::new(24, "LockTimeout", "statements on the donor do not end");
        let _critical = alone.map_err(busy)?;
        self.confirm_primary().await?;
        self.copy(&mut copied).await?;
        self.core
            .config
            .commit(self.namespace, &self.range, self.from, self.to)
    }

    /// A primary that was deposed and does not know it may lack what was acknowledged; one that a majority follows does not.
    async fn confirm_primary(&self) -> Result<(), Failure> {
        let note = doc! { "q": { "_id": self.namespace }, "u": { "$inc": { "moves": 1 } }, "upsert": true };
        let write = doc! { "update": "router.moves", "updates": [note], "writeConcern": { "w": "majority" } };
        let (reply, _) = self.ask(self.from, write).await?;
        match reply.get_document("writeConcernError") {
            Ok(_) => Err(Failure::new(
                64,
                "WriteConcernFailed",
                "the donor has no majority",
            )),
            Err(_) => Ok(()),
        }
    }

    /// Makes the recipient's documents what the donor's are; `copied` is what they were.
    async fn copy(&self, copied: &mut Copied) -> Result<(), Failure> {
        let now = self.read().await?;
        let gone = copied.keys().filter(|id| !now.contains_key(*id));
        let changed = now
            .iter()
            .filter(|(id, document)| copied.get(*id) != Some(document));
        let outdated: Vec<&String> = gone.chain(changed.clone().map(|(id, _)| id)).collect();
        for ids in outdated.chunks(BATCH) {
            let filter = doc! { "_id": { "$in": ids.iter().map(|id| id.as_str()).collect::<Vec<_>>() } };
            self.write(doc! { "delete": self.collection, "deletes": [{ "q": filter, "limit": 0 }] })
                .await?;
        }
        let changed: Vec<&Document> = changed.map(|(_, document)| document).collect();
        for documents in changed.chunks(BATCH) {
            let documents: Vec<Bson> = documents
                .iter()
                .map(|&document| document.clone().into())
                .collect();
            self.write(doc! {
                "insert": self.collection, "documents": documents, "bypassDocumentValidation": true,
            })
            .await?;
        }
        *copied = now;
        Ok(())
    }

    async fn write(&self, mut command: Document) -> Result<(), Failure> {
        command.insert("writeConcern", doc! { "w": "majority" });
        let (reply, _) = self.ask(self.to, command).await?;
        for complaint in ["writeErrors", "writeConcernError"] {
            if reply.contains_key(complaint) {
                return Err(Failure::new(
                    96,
                    "OperationFailed",
                    &format!("copying a chunk: {reply}"),
                ));
            }
        }
        Ok(())
    }

    /// The donor's documents in the range.
    async fn read(&self) -> Result<Copied, Failure> {
        let find =
            doc! { "find": self.collection, "filter": self.range.filter(&self.field), "batchSize": 10_000 };
        let (mut reply, member) = self.ask(self.from, find).await?;
        let mut found = Copied::new();
        loop {
            for document in batch(&reply) {
                let id = document.get_str("_id").expect("ids are strings").to_owned();
                found.insert(id, document);
            }
            let cursor = reply
                .get_document("cursor")
                .and_then(|cursor| cursor.get_i64("id"));
            let id = cursor.unwrap_or_default();
            if id == 0 {
                return Ok(found);
            }
            let more = doc! { "getMore": id, "collection": self.collection, "$db": self.database };
            reply = self.core.shards[self.from].ask_member(member, &more).await?;
        }
    }

    async fn delete(&self, shard: usize) -> Result<(), Failure> {
        let all = doc! { "q": self.range.filter(&self.field), "limit": 0 };
        let command =
            doc! { "delete": self.collection, "deletes": [all], "writeConcern": { "w": "majority" } };
        self.ask(shard, command).await.map(|_| ())
    }

    /// Deletes what the donor still has, when nobody reads it any more.
    async fn clean_up(&self, hold: Arc<()>) {
        let begun = Instant::now();
        while Arc::strong_count(&hold) > 1 && begun.elapsed() < WAIT_MAX {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        match self.delete(self.from).await {
            Ok(()) => self
                .core
                .config
                .set_foreign(self.namespace, self.from, &self.range, false),
            Err(failure) => eprintln!("orphans stay on {}: {}", shard_name(self.from), failure.message),
        }
    }
}

fn batch(reply: &Document) -> impl Iterator<Item = Document> {
    let batch = reply.get_document("cursor").and_then(|cursor| {
        cursor
            .get_array("firstBatch")
            .or_else(|_| cursor.get_array("nextBatch"))
    });
    let batch: Vec<Bson> = batch.cloned().unwrap_or_default();
    batch.into_iter().filter_map(|item| match item {
        Bson::Document(document) => Some(document),
        _ => None,
    })
}
