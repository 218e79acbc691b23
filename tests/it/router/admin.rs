//! What `colloquy init` and `check` ask: collections, indexes, shards, chunks and `config.*`.

use std::sync::Arc;

use futures_util::future::try_join_all;
use mongodb::bson::{Bson, Document, doc};

use super::{config::shard_name, cursors::Cursor, migrate, server::Call, shard::Failure, target::Keys};

pub async fn answer(call: &Call) -> Result<Document, Failure> {
    match call.name.as_str() {
        "create" | "collMod" | "createIndexes" | "dropIndexes" | "drop" => everywhere(call).await,
        "listIndexes" => listing(call, &call.namespace()).await,
        "listCollections" => listing(call, &format!("{}.$cmd", call.database)).await,
        "dropDatabase" => drop_database(call).await,
        "listShards" | "enableSharding" | "shardCollection" | "split" | "moveChunk"
            if call.database != "admin" =>
        {
            let message = format!("{} may only be run against the admin database.", call.name);
            Err(Failure::new(13, "Unauthorized", &message))
        }
        "listShards" => Ok(list_shards(call)),
        "enableSharding" => {
            call.core.config.primary(call.collection());
            Ok(doc! { "ok": 1.0 })
        }
        "shardCollection" => shard(call).await,
        "split" => {
            let point = key(call, "middle")?;
            call.core.config.split(call.collection(), &point)?;
            Ok(doc! { "ok": 1.0 })
        }
        "moveChunk" => {
            let to = call.command.get_str("to").unwrap_or_default();
            let shard = (0..call.core.config.shards()).find(|&shard| shard_name(shard) == to);
            let message = format!("Could not find shard {to}");
            let shard = shard.ok_or_else(|| Failure::new(70, "ShardNotFound", &message))?;
            let find = key(call, "find")?;
            migrate::move_chunk(&call.core, call.collection(), &find, shard).await?;
            Ok(doc! { "millis": 1, "ok": 1.0 })
        }
        other => Err(Failure::new(
            59,
            "CommandNotFound",
            &format!("no such command: '{other}'"),
        )),
    }
}

/// The value of the shard key in a part of the command.
fn key(call: &Call, part: &str) -> Result<String, Failure> {
    let whole = call.command.get_document(part).ok().filter(|key| key.len() == 1);
    let value = whole.and_then(|key| key.values().next()?.as_str());
    let message = format!("{part} must hold the whole shard key and nothing else");
    value
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(9, "FailedToParse", &message))
}

/// On every shard that has a part of the collection; of one that is not sharded, on the primary shard.
async fn everywhere(call: &Call) -> Result<Document, Failure> {
    let namespace = call.namespace();
    let replies = call.routed(&namespace, async |table| {
        let shards = table.owners(&Keys::All);
        let asked = shards
            .iter()
            .map(|&shard| call.on_shard(&namespace, shard, &table, |_| call.command.clone()));
        try_join_all(asked).await
    });
    let replies = replies.await?;
    if call.name == "drop" {
        call.core.config.forget(&namespace);
        call.core.refresh(&namespace);
    }
    Ok(replies
        .into_iter()
        .next()
        .map(|answered| answered.reply)
        .unwrap_or_default())
}

/// A listing of one shard: that of the lowest chunk, or the primary shard.
async fn listing(call: &Call, namespace: &str) -> Result<Document, Failure> {
    let answered = call.routed(namespace, async |table| {
        call.on_shard(namespace, table.owner(""), &table, |_| call.command.clone())
            .await
    });
    let cursor = Cursor::new(call, vec![answered.await?], Vec::new(), None)?;
    cursor.open(call).await
}

async fn drop_database(call: &Call) -> Result<Document, Failure> {
    let drop = doc! { "dropDatabase": 1, "writeConcern": { "w": "majority" }, "$db": &call.database };
    for shard in &call.core.shards {
        shard.ask(&drop, true, call.until).await?;
    }
    call.core.config.forget(&call.database);
    Ok(doc! { "dropped": &call.database, "ok": 1.0 })
}

fn list_shards(call: &Call) -> Document {
    let shards = call.core.shards.iter().enumerate();
    let shards =
        shards.map(|(number, shard)| doc! { "_id": shard_name(number), "host": shard.host(), "state": 1 });
    doc! { "shards": shards.collect::<Vec<_>>(), "ok": 1.0 }
}

async fn shard(call: &Call) -> Result<Document, Failure> {
    let namespace = call.collection().to_owned();
    let invalid = |message: &str| Failure::new(72, "InvalidOptions", message);
    let key = call.command.get_document("key").ok().filter(|key| key.len() == 1);
    let field = key
        .and_then(|key| key.iter().next())
        .filter(|(_, direction)| **direction == Bson::Int32(1));
    let (field, _) = field.ok_or_else(|| invalid("the shard key must be one field, ascending"))?;
    let (database, collection) = namespace.split_once('.').ok_or_else(|| invalid("a namespace"))?;
    let listing = doc! { "listIndexes": collection, "$db": database };
    let primary = Arc::clone(&call.core.shards[call.core.config.primary(database)]);
    let (listing, _) = primary.ask(&listing, true, call.until).await?;
    let indexes = listing
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    let indexes: Vec<&Document> = indexes
        .into_iter()
        .flatten()
        .filter_map(Bson::as_document)
        .collect();
    let begins = |index: &&&Document| {
        index
            .get_document("key")
            .is_ok_and(|key| key.keys().next() == Some(field))
    };
    let is_whole =
        |index: &&Document| !index.contains_key("partialFilterExpression") && !index.contains_key("sparse");
    if !indexes
        .iter()
        .filter(begins)
        .copied()
        .any(|index| is_whole(&index))
    {
        return Err(invalid(
            "Please create an index that starts with the proposed shard key before sharding",
        ));
    }
    let is_unique = |index: &&&Document| index.get_bool("unique").unwrap_or(false);
    if indexes.iter().filter(is_unique).any(|index| !begins(&index)) {
        return Err(invalid(
            "can't shard a collection with a unique index that does not begin with the shard key",
        ));
    }
    call.core.config.shard(&namespace, field)?;
    Ok(doc! { "collectionsharded": &namespace, "ok": 1.0 })
}

/// `config.collections`, `config.chunks` and `config.shards`, with filters of equalities and `$or`.
pub fn config_documents(call: &Call) -> Result<Vec<Document>, Failure> {
    let config = &call.core.config;
    let all = match call.collection() {
        "collections" => config.collections(),
        "chunks" => config.chunks(),
        "shards" => {
            let Ok(shards) = list_shards(call).get_array("shards").cloned() else {
                return Ok(Vec::new());
            };
            shards
                .into_iter()
                .filter_map(|shard| shard.as_document().cloned())
                .collect()
        }
        _ => Vec::new(),
    };
    let filter = call.command.get_document("filter").cloned().unwrap_or_default();
    Ok(all.into_iter().filter(|one| matches(one, &filter)).collect())
}

fn matches(document: &Document, filter: &Document) -> bool {
    filter.iter().all(|(name, wanted)| match (name.as_str(), wanted) {
        ("$or", Bson::Array(branches)) => {
            let mut branches = branches.iter().filter_map(Bson::as_document);
            branches.any(|branch| matches(document, branch))
        }
        _ => document.get(name) == Some(wanted),
    })
}

pub async fn find_config(call: &Call) -> Result<Document, Failure> {
    let found = config_documents(call)?;
    Cursor::of_ready(call.namespace(), found).open(call).await
}
