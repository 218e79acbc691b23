//! A scripted `mongos`, which no package registry has. It answers as MongoDB's documentation says, with the codes of
//! the real one, and knows no other command than those it is meant to get.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};

use super::admin::{Admin, Refused};

pub(super) const DATABASE: &str = "colloquy";

/// A cluster behind one `mongos`.
#[derive(Default)]
pub(super) struct Mongos(Mutex<Cluster>);

#[derive(Default, Clone)]
pub(super) struct Cluster {
    pub(super) shards: Vec<&'static str>,
    pub(super) collections: BTreeMap<String, Collection>,
    /// Every command that changed something.
    pub(super) changes: Vec<String>,
    /// Commands it still answers; `None` for ever.
    pub(super) commands_left: Option<usize>,
    /// How many moves it refuses, because its shards are at other ones.
    pub(super) busy_moves: usize,
    /// Open cursors, with what they have left.
    cursors: BTreeMap<i64, (String, Vec<Document>)>,
}

#[derive(Default, Clone, PartialEq, Debug)]
pub(super) struct Collection {
    validator: Document,
    pub(super) indexes: Vec<Document>,
    pub(super) has_data: bool,
    pub(super) shard_key: Option<Document>,
    /// The lower ends of chunks (`None` is `MinKey`) with their shards.
    pub(super) chunks: BTreeMap<Option<String>, String>,
}

impl Mongos {
    pub(super) fn with_shards(shards: &[&'static str]) -> Self {
        Self(Mutex::new(Cluster {
            shards: shards.to_vec(),
            ..Cluster::default()
        }))
    }

    pub(super) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().unwrap()
    }

    pub(super) fn collections(&self) -> BTreeMap<String, Collection> {
        self.cluster().collections.clone()
    }
}

#[async_trait]
impl Admin for Mongos {
    async fn run(&self, database: &str, command: Document) -> Result<Document, Refused> {
        // So that two set-ups at once take turns.
        tokio::task::yield_now().await;
        let mut cluster = self.cluster();
        match &mut cluster.commands_left {
            Some(0) => return refuse(91, "The server is in quiesce mode and will shut down"),
            Some(left) => *left -= 1,
            None => {}
        }
        cluster.answer(database, &command)
    }

    async fn list(&self, database: &str, command: Document) -> Result<Vec<Document>, Refused> {
        let mut reply = self.run(database, command).await?;
        let mut all = Vec::new();
        loop {
            let cursor = reply.get_document("cursor").unwrap();
            let batch = cursor
                .get_array("firstBatch")
                .or_else(|_| cursor.get_array("nextBatch"));
            all.extend(
                batch
                    .unwrap()
                    .iter()
                    .map(|item| item.as_document().unwrap().clone()),
            );
            let id = cursor.get_i64("id").unwrap();
            if id == 0 {
                return Ok(all);
            }
            let (_, collection) = cursor.get_str("ns").unwrap().split_once('.').unwrap();
            reply = self
                .run(database, doc! { "getMore": id, "collection": collection })
                .await?;
        }
    }
}

fn refuse(code: i32, message: &str) -> Result<Document, Refused> {
    Err(Refused {
        code: Some(code),
        message: message.to_owned(),
    })
}

impl Cluster {
    fn answer(&mut self, database: &str, command: &Document) -> Result<Document, Refused> {
        let (name, subject) = command.iter().next().expect("a command");
        let subject = subject.as_str().unwrap_or_default().to_owned();
        let for_admin = [
            "hello",
            "listShards",
            "enableSharding",
            "shardCollection",
            "split",
            "moveChunk",
        ];
        if for_admin.contains(&name.as_str()) && database != "admin" {
            return refuse(13, &format!("{name} may only be run against the admin database."));
        }
        let changes = [
            "create",
            "collMod",
            "createIndexes",
            "dropIndexes",
            "shardCollection",
            "split",
            "moveChunk",
        ];
        let before = self.collections.clone();
        let reply = match name.as_str() {
            "hello" => {
                Ok(doc! { "isWritablePrimary": true, "msg": "isdbgrid", "maxWireVersion": 17, "ok": 1.0 })
            }
            "listShards" => {
                let shard = |name: &&str| doc! { "_id": *name, "host": format!("{name}/h:1"), "state": 1 };
                Ok(doc! { "shards": self.shards.iter().map(shard).collect::<Vec<_>>(), "ok": 1.0 })
            }
            "listCollections" => {
                let one = |(name, collection): (&String, &Collection)| {
                    doc! { "name": name, "type": "collection", "options": { "validator": collection.validator.clone() } }
                };
                let all = self.collections.iter().map(one).collect();
                Ok(self.cursor(&format!("{database}.$cmd.listCollections"), all))
            }
            "getMore" => self.get_more(command),
            "enableSharding" => Ok(doc! { "ok": 1.0 }),
            "create" => self.create(&subject, command),
            "find" if database == "config" => self.find_config(&subject, command),
            "shardCollection" => self.shard(&subject, command),
            "split" => self.split(&subject, command),
            "moveChunk" => self.move_chunk(&subject, command),
            "listIndexes" | "createIndexes" | "dropIndexes" | "collMod" | "find" => {
                let Some(collection) = self.collections.get_mut(&subject) else {
                    return refuse(26, &format!("ns does not exist: {database}.{subject}"));
                };
                match name.as_str() {
                    "collMod" => {
                        collection.validator = command.get_document("validator").unwrap().clone();
                        Ok(doc! { "ok": 1.0 })
                    }
                    "createIndexes" => create_indexes(collection, command),
                    "dropIndexes" => drop_index(collection, command),
                    "listIndexes" => {
                        let all = collection.indexes.clone();
                        Ok(self.cursor(&format!("{database}.{subject}"), all))
                    }
                    _ => {
                        let all = if collection.has_data {
                            vec![doc! { "_id": "x" }]
                        } else {
                            vec![]
                        };
                        Ok(self.cursor(&format!("{database}.{subject}"), all))
                    }
                }
            }
            other => refuse(59, &format!("no such command: '{other}'")),
        };
        if reply.is_ok() && changes.contains(&name.as_str()) && before != self.collections {
            self.changes.push(command.to_string());
        }
        reply
    }

    /// Cursors hand out two at a time, so that whoever forgets to ask for more misses some.
    fn cursor(&mut self, namespace: &str, mut all: Vec<Document>) -> Document {
        let rest = all.split_off(all.len().min(2));
        let id = if rest.is_empty() {
            0
        } else {
            self.cursors.len() as i64 + 1
        };
        if id != 0 {
            self.cursors.insert(id, (namespace.to_owned(), rest));
        }
        doc! { "cursor": { "firstBatch": all, "id": id, "ns": namespace }, "ok": 1.0 }
    }

    fn get_more(&mut self, command: &Document) -> Result<Document, Refused> {
        let id = command.get_i64("getMore").unwrap();
        let Some((namespace, rest)) = self.cursors.get_mut(&id) else {
            return refuse(43, &format!("cursor id {id} not found"));
        };
        let collection = namespace.split_once('.').unwrap().1;
        if command.get_str("collection").unwrap() != collection {
            return refuse(13, "Requested getMore on another namespace");
        }
        let batch: Vec<_> = rest.drain(..rest.len().min(2)).collect();
        let id = if rest.is_empty() { 0 } else { id };
        Ok(doc! { "cursor": { "nextBatch": batch, "id": id, "ns": namespace.as_str() }, "ok": 1.0 })
    }

    fn create(&mut self, name: &str, command: &Document) -> Result<Document, Refused> {
        if self.collections.contains_key(name) {
            return refuse(48, "Collection already exists");
        }
        let collection = Collection {
            validator: command.get_document("validator").unwrap().clone(),
            indexes: vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
            ..Collection::default()
        };
        self.collections.insert(name.to_owned(), collection);
        Ok(doc! { "ok": 1.0 })
    }

    fn sharded(&mut self, namespace: &str) -> Result<&mut Collection, Refused> {
        let (database, name) = namespace.split_once('.').unwrap();
        assert_eq!(database, DATABASE);
        let collection = self
            .collections
            .get_mut(name)
            .filter(|collection| collection.shard_key.is_some());
        collection.ok_or_else(|| refuse(118, &format!("{namespace} is not sharded")).unwrap_err())
    }

    fn shard(&mut self, namespace: &str, command: &Document) -> Result<Document, Refused> {
        let key = command.get_document("key").unwrap().clone();
        let primary = self.shards[0].to_owned();
        let name = namespace.split_once('.').unwrap().1;
        let Some(collection) = self.collections.get_mut(name) else {
            return refuse(26, "collection does not exist");
        };
        if collection
            .shard_key
            .as_ref()
            .is_some_and(|sharded| *sharded != key)
        {
            return refuse(
                23,
                "sharding already enabled for the collection with options that differ",
            );
        }
        if collection.shard_key.is_some() {
            return Ok(doc! { "collectionsharded": namespace, "ok": 1.0 });
        }
        let field = key.keys().next().unwrap();
        let supports = |index: &Document| {
            index.get_document("key").unwrap().keys().next() == Some(field)
                && !index.contains_key("partialFilterExpression")
                && !index.contains_key("sparse")
        };
        if !collection.indexes.iter().any(supports) {
            return refuse(
                72,
                "Please create an index that starts with the proposed shard key before sharding",
            );
        }
        collection.shard_key = Some(key);
        collection.chunks.insert(None, primary);
        Ok(doc! { "collectionsharded": namespace, "ok": 1.0 })
    }

    fn split(&mut self, namespace: &str, command: &Document) -> Result<Document, Refused> {
        let collection = self.sharded(namespace)?;
        let point = shard_key_value(collection, command.get_document("middle").unwrap());
        if collection.chunks.contains_key(&Some(point.clone())) {
            return refuse(
                72,
                &format!("new split key {point} is a boundary key of existing chunk"),
            );
        }
        let (_, shard) = collection
            .chunks
            .range(..=Some(point.clone()))
            .next_back()
            .unwrap();
        let shard = shard.clone();
        collection.chunks.insert(Some(point), shard);
        Ok(doc! { "ok": 1.0 })
    }

    fn move_chunk(&mut self, namespace: &str, command: &Document) -> Result<Document, Refused> {
        let to = command.get_str("to").unwrap().to_owned();
        if !self.shards.contains(&to.as_str()) {
            return refuse(70, &format!("Could not find shard {to}"));
        }
        if self.busy_moves > 0 {
            self.busy_moves -= 1;
            return refuse(
                117,
                "Unable to start new migration because this shard is currently donating a chunk",
            );
        }
        let collection = self.sharded(namespace)?;
        let inside = shard_key_value(collection, command.get_document("find").unwrap());
        let (_, shard) = collection.chunks.range_mut(..=Some(inside)).next_back().unwrap();
        *shard = to;
        Ok(doc! { "millis": 12, "ok": 1.0 })
    }

    fn find_config(&mut self, subject: &str, command: &Document) -> Result<Document, Refused> {
        let filter = command.get_document("filter").unwrap();
        let sharded = self
            .collections
            .iter()
            .filter(|(_, collection)| collection.shard_key.is_some());
        let found = match subject {
            "collections" => {
                let all = sharded.map(|(name, collection)| {
                    doc! { "_id": format!("{DATABASE}.{name}"), "uuid": uuid(name), "key": collection.shard_key.clone().unwrap(), "unique": false }
                });
                all.filter(|one| one.get("_id") == filter.get("_id")).collect()
            }
            "chunks" => {
                let branches = filter.get_array("$or").unwrap();
                let wanted = branches
                    .iter()
                    .find_map(|branch| branch.as_document()?.get("uuid"))
                    .cloned();
                let mut found = Vec::new();
                for (name, collection) in sharded.filter(|(name, _)| Some(uuid(name)) == wanted) {
                    let field = collection
                        .shard_key
                        .as_ref()
                        .unwrap()
                        .keys()
                        .next()
                        .unwrap()
                        .clone();
                    for (min, shard) in &collection.chunks {
                        let min = min.clone().map_or(Bson::MinKey, Bson::String);
                        found.push(doc! { "_id": found.len() as i32, "uuid": uuid(name), "min": { &field: min }, "shard": shard });
                    }
                }
                found
            }
            other => panic!("config.{other} is not looked at"),
        };
        Ok(self.cursor(&format!("config.{subject}"), found))
    }
}

fn uuid(name: &str) -> Bson {
    Bson::from(format!("uuid of {name}"))
}

fn shard_key_value(collection: &Collection, key: &Document) -> String {
    let field = collection.shard_key.as_ref().unwrap().keys().next().unwrap();
    assert_eq!(key.len(), 1, "a value for the whole shard key and nothing else");
    key.get_str(field).unwrap().to_owned()
}

fn drop_index(collection: &mut Collection, command: &Document) -> Result<Document, Refused> {
    let before = collection.indexes.len();
    let name = command.get_str("index").unwrap();
    collection
        .indexes
        .retain(|index| index.get_str("name").ok() != Some(name));
    match collection.indexes.len() < before {
        true => Ok(doc! { "nIndexesWas": before as i32, "ok": 1.0 }),
        false => refuse(27, &format!("index not found with name [{name}]")),
    }
}

fn create_indexes(collection: &mut Collection, command: &Document) -> Result<Document, Refused> {
    for index in command.get_array("indexes").unwrap() {
        let index = index.as_document().unwrap();
        let same = |field: &str| {
            collection
                .indexes
                .iter()
                .any(|one| one.get(field) == index.get(field))
        };
        match (same("name"), same("key")) {
            (true, false) => return refuse(86, "An existing index has the same name as the requested index"),
            (false, true) => return refuse(85, "Index already exists with a different name"),
            (true, true) => {}
            (false, false) => {
                let mut index = index.clone();
                index.insert("v", 2);
                collection.indexes.push(index);
            }
        }
    }
    Ok(doc! { "raw": {}, "ok": 1.0 })
}
