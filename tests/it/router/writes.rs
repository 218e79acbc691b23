//! Writes: each statement goes to the shards that have its keys, in one command a shard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::future::join_all;
use mongodb::bson::{Bson, Document, doc};

use super::{
    config::Table,
    server::Call,
    shard::Failure,
    target::{KeyRange, Keys, without},
};

/// How often in a row a router finds its chunks out of date before it gives up.
const STALE_ROUNDS_MAX: u32 = 10;

/// What came of the statements of a batch.
#[derive(Default)]
struct Outcome {
    n: i32,
    modified: i32,
    upserted: Vec<Document>,
    errors: BTreeMap<usize, Document>,
    unconfirmed: Vec<Document>,
}

impl Outcome {
    fn fail(&mut self, at: usize, failure: &Failure) {
        let error = doc! { "index": index(at), "code": failure.code, "errmsg": &failure.message };
        self.errors.entry(at).or_insert(error);
    }

    /// Takes what a shard replied to the statements at these places.
    fn take(&mut self, reply: &Document, places: &[usize]) {
        self.n += reply.get_i32("n").unwrap_or_default();
        self.modified += reply.get_i32("nModified").unwrap_or_default();
        let documents = |name: &str| {
            let documents = reply.get_array(name).into_iter().flatten();
            documents.filter_map(|document| {
                let mut document = document.as_document()?.clone();
                let at = places[usize::try_from(document.get_i32("index").ok()?).ok()?];
                document.insert("index", index(at));
                Some((at, document))
            })
        };
        self.upserted
            .extend(documents("upserted").map(|(_, document)| document));
        for (at, error) in documents("writeErrors") {
            self.errors.entry(at).or_insert(error);
        }
        self.unconfirmed
            .extend(reply.get_document("writeConcernError").ok().cloned());
    }

    fn reply(self, is_update: bool) -> Document {
        let mut reply = doc! { "n": self.n };
        if is_update {
            reply.insert("nModified", self.modified);
        }
        if !self.upserted.is_empty() {
            reply.insert("upserted", self.upserted);
        }
        if !self.errors.is_empty() {
            reply.insert("writeErrors", self.errors.into_values().collect::<Vec<_>>());
        }
        match self.unconfirmed.as_slice() {
            [] => None,
            [one] => reply.insert("writeConcernError", one),
            several => {
                let words: Vec<_> = several
                    .iter()
                    .filter_map(|one| one.get_str("errmsg").ok())
                    .collect();
                let words = format!("multiple errors reported : {}", words.join(" :: and :: "));
                let error = doc! { "code": 64, "codeName": "WriteConcernFailed", "errmsg": words };
                reply.insert("writeConcernError", error)
            }
        };
        reply.insert("ok", 1.0);
        reply
    }
}

fn index(at: usize) -> i32 {
    i32::try_from(at).expect("a batch has fewer")
}

/// The keys that a statement is about.
fn keys(call: &Call, statement: &Document, table: &Table) -> Result<Keys, Failure> {
    let Some(field) = &table.field else {
        return Ok(Keys::Some {
            points: vec![String::new()],
            ranges: Vec::new(),
        });
    };
    if call.name == "insert" {
        let of_document = doc! { field: statement.get(field).cloned().unwrap_or(Bson::Null) };
        return match Keys::of(&of_document, field) {
            keys @ Keys::Some { .. } => Ok(keys),
            Keys::All => Err(no_key(&format!(
                "document {statement} does not contain shard key"
            ))),
        };
    }
    let filter = statement.get_document("q").cloned().unwrap_or_default();
    let keys = Keys::of(&filter, field);
    let is_of_many = match call.name.as_str() {
        "update" => statement.get_bool("multi").unwrap_or(false),
        _ => statement.get_i32("limit").is_ok_and(|limit| limit == 0),
    };
    let is_upsert = statement.get_bool("upsert").unwrap_or(false);
    // A statement about one document has its `_id`, or the shard key: no two shards may each find one.
    let is_one = keys.single().is_some() || (!is_upsert && filter.get_str("_id").is_ok());
    match is_of_many || is_one {
        true => Ok(keys),
        false => Err(no_key(
            "the statement must contain an exact match on _id or the shard key",
        )),
    }
}

fn no_key(message: &str) -> Failure {
    Failure::new(61, "ShardKeyNotFound", message)
}

/// `insert`, `update` and `delete`.
pub async fn batch(call: &Call) -> Result<Document, Failure> {
    let (namespace, name) = (call.namespace(), list_name(call));
    let statements = call.command.get_array(name).into_iter().flatten();
    let statements: Vec<&Document> = statements.filter_map(Bson::as_document).collect();
    let is_ordered = call.command.get_bool("ordered").unwrap_or(true);
    let is_broadcast = |statement: &&Document| {
        let keys = keys(call, statement, &call.core.table(&namespace));
        keys.is_ok_and(|keys| keys == Keys::All)
    };
    call.note(statements.iter().any(is_broadcast));
    let mut outcome = Outcome::default();
    let mut open: Vec<usize> = (0..statements.len()).collect();
    let mut stale_rounds = 0;
    while !open.is_empty() && (!is_ordered || outcome.errors.is_empty()) {
        let table = call.core.table(&namespace);
        let round = plan(call, &statements, &table, &open, is_ordered, &mut outcome);
        let asked = round.iter().map(|(&shard, places)| {
            let command = |foreign: &[KeyRange]| part(call, &statements, places, &table, foreign);
            call.on_shard(&namespace, shard, &table, command)
        });
        let mut stale = BTreeSet::new();
        for (places, answered) in round.values().zip(join_all(asked).await) {
            match answered {
                Ok(answered) => outcome.take(&answered.reply, places),
                Err(failure) if failure.is_stale() => stale.extend(places),
                Err(failure) => {
                    let told = if is_ordered { &places[..1] } else { places };
                    told.iter()
                        .for_each(|&at| outcome.fail(at, &unavailable(&failure)));
                }
            }
        }
        if !stale.is_empty() {
            call.core.refresh(&namespace);
            stale_rounds += 1;
            if stale_rounds > STALE_ROUNDS_MAX {
                let message = "no progress was made executing batch write op";
                stale
                    .iter()
                    .for_each(|&at| outcome.fail(at, &Failure::new(82, "NoProgressMade", message)));
                stale.clear();
            }
        }
        let tried: BTreeSet<usize> = round.values().flatten().copied().collect();
        open.retain(|at| stale.contains(at) || !(tried.contains(at) || outcome.errors.contains_key(at)));
    }
    Ok(outcome.reply(call.name == "update"))
}

fn unavailable(failure: &Failure) -> Failure {
    Failure {
        message: format!(
            "Write results unavailable from a shard :: caused by :: {}",
            failure.message
        ),
        ..failure.clone()
    }
}

/// Which shard does which of the open statements next: all of them or, where they are ordered, the first and those behind it that
/// are for the same shards.
fn plan(
    call: &Call,
    statements: &[&Document],
    table: &Table,
    open: &[usize],
    is_ordered: bool,
    outcome: &mut Outcome,
) -> BTreeMap<usize, Vec<usize>> {
    let (mut plan, mut first) = (BTreeMap::<usize, Vec<usize>>::new(), None);
    for &at in open {
        let shards = match keys(call, statements[at], table) {
            Ok(keys) => table.owners(&keys),
            Err(failure) => {
                // What comes before it is done first.
                if !is_ordered || plan.is_empty() {
                    outcome.fail(at, &failure);
                }
                if is_ordered {
                    break;
                }
                continue;
            }
        };
        if is_ordered && first.get_or_insert_with(|| shards.clone()) != &shards {
            break;
        }
        for shard in shards {
            plan.entry(shard).or_default().push(at);
        }
    }
    plan
}

fn list_name(call: &Call) -> &'static str {
    match call.name.as_str() {
        "insert" => "documents",
        "update" => "updates",
        _ => "deletes",
    }
}

/// The command for one shard. The statements keep their numbers, so that a repeated batch is recognised however it is split.
fn part(
    call: &Call,
    statements: &[&Document],
    places: &[usize],
    table: &Arc<Table>,
    foreign: &[KeyRange],
) -> Document {
    let mut command = call.command.clone();
    let of_shard = places.iter().map(|&at| {
        let mut statement = statements[at].clone();
        if let (Some(field), Ok(filter)) = (&table.field, statement.get_document("q"))
            && Keys::of(filter, field).single().is_none()
        {
            let filter = without(filter.clone(), field, foreign);
            statement.insert("q", filter);
        }
        Bson::Document(statement)
    });
    command.insert(list_name(call), of_shard.collect::<Vec<_>>());
    if command.contains_key("txnNumber") {
        let numbers: Vec<i32> = places.iter().map(|&at| index(at)).collect();
        command.insert("stmtIds", numbers);
    }
    if call.name != "insert" {
        command.insert("runtimeConstants", call.core.constants());
    }
    command
}

pub async fn find_and_modify(call: &Call) -> Result<Document, Failure> {
    let namespace = call.namespace();
    let filter = call.command.get_document("query").cloned().unwrap_or_default();
    call.note(false);
    call.routed(&namespace, async |table| {
        let shard = match &table.field {
            None => table.owner(""),
            Some(field) => {
                let keys = Keys::of(&filter, field);
                let key = keys.single();
                let message = "Query for sharded findAndModify must contain the shard key";
                table.owner(key.ok_or_else(|| no_key(message))?)
            }
        };
        let command = |_: &[KeyRange]| {
            let mut command = call.command.clone();
            command.insert("runtimeConstants", call.core.constants());
            command
        };
        Ok(call.on_shard(&namespace, shard, &table, command).await?.reply)
    })
    .await
}
