//! Finds and aggregations, on one shard or on several.

use std::sync::Arc;

use futures_util::future::try_join_all;
use mongodb::bson::{Bson, DateTime, Document, doc};

use super::{
    config::Table,
    cursors::{Cursor, SORT_KEY},
    order::{compare, sum},
    server::{Answered, Call},
    shard::Failure,
    target::{KeyRange, Keys, without},
};

/// Replaces `$$NOW` by this time, where it stands in an expression.
fn at_this_time(expression: &mut Bson, now: DateTime) {
    match expression {
        Bson::String(name) if name == "$$NOW" => *expression = now.into(),
        Bson::Array(items) => items.iter_mut().for_each(|item| at_this_time(item, now)),
        Bson::Document(fields) => {
            let fields = fields.iter_mut().filter(|(name, _)| *name != "$literal");
            fields.for_each(|(_, value)| at_this_time(value, now));
        }
        _ => {}
    }
}

/// As [`at_this_time`], in a filter: only what is below `$expr` is an expression.
fn filter_at_this_time(filter: &mut Document, now: DateTime) {
    for (name, value) in filter.iter_mut() {
        match (name.as_str(), value) {
            ("$expr", expression) => at_this_time(expression, now),
            ("$and" | "$or" | "$nor", Bson::Array(branches)) => {
                let branches = branches.iter_mut().filter_map(Bson::as_document_mut);
                branches.for_each(|branch| filter_at_this_time(branch, now));
            }
            _ => {}
        }
    }
}

fn keys(table: &Table, filter: &Document) -> Keys {
    match &table.field {
        Some(field) => Keys::of(filter, field),
        None => Keys::Some {
            points: vec![String::new()],
            ranges: Vec::new(),
        },
    }
}

/// The filter, without what lies on the shard and is not its own, unless it names one key.
fn own(filter: &Document, keys: &Keys, table: &Table, foreign: &[KeyRange]) -> Document {
    match &table.field {
        Some(field) if keys.single().is_none() => without(filter.clone(), field, foreign),
        _ => filter.clone(),
    }
}

fn subdocument(command: &Document, name: &str) -> Document {
    command.get_document(name).cloned().unwrap_or_default()
}

fn number(command: &Document, name: &str) -> Option<usize> {
    let number = command.get(name)?;
    let number = number.as_i64().or_else(|| number.as_i32().map(i64::from))?;
    usize::try_from(number).ok().filter(|&number| number > 0)
}

impl Call {
    /// Has all shards that the keys are on do what `command` makes of what is foreign to each.
    async fn on_shards(
        &self,
        namespace: &str,
        table: &Arc<Table>,
        keys: &Keys,
        command: impl Fn(&[KeyRange]) -> Document,
    ) -> Result<Vec<Answered>, Failure> {
        let shards = table.owners(keys);
        let command = &command;
        let asked = shards
            .iter()
            .map(|&shard| self.on_shard(namespace, shard, table, command));
        try_join_all(asked).await
    }
}

/// The limit of each shard is that of the whole; by what they sorted, they tell in a field of its own.
pub async fn find(call: &Call) -> Result<Document, Failure> {
    let namespace = call.namespace();
    let (now, sort) = (call.core.now(), subdocument(&call.command, "sort"));
    let mut filter = subdocument(&call.command, "filter");
    filter_at_this_time(&mut filter, now);
    if call.command.contains_key("skip") {
        return Err(Failure::new(238, "NotImplemented", "skip"));
    }
    let is_broadcast = keys(&call.core.table(&namespace), &filter) == Keys::All;
    call.note(is_broadcast);
    let opened = call.routed(&namespace, async |table| {
        let keys = keys(&table, &filter);
        let is_merged = table.owners(&keys).len() > 1;
        let answered = call.on_shards(&namespace, &table, &keys, |foreign| {
            let mut command = call.command.clone();
            command.insert("filter", own(&filter, &keys, &table, foreign));
            let mut projection = subdocument(&command, "projection");
            for (_, value) in projection.iter_mut() {
                at_this_time(value, now);
            }
            if is_merged && !sort.is_empty() {
                projection.insert(SORT_KEY, doc! { "$meta": "sortKey" });
            }
            if !projection.is_empty() {
                command.insert("projection", projection);
            }
            command
        });
        let directions: Vec<bool> = sort
            .values()
            .map(|direction| compare(direction, &Bson::Int32(0)).is_gt())
            .collect();
        let directions = if is_merged { directions } else { Vec::new() };
        Cursor::new(call, answered.await?, directions, number(&call.command, "limit"))
    });
    opened.await?.open(call).await
}

/// Of several shards: each does the stages up to the first `$group`, whose groups are put together here, and what follows
/// may only be a `$limit`.
pub async fn aggregate(call: &Call) -> Result<Document, Failure> {
    let namespace = call.namespace();
    let mut pipeline: Vec<Document> = call
        .command
        .get_array("pipeline")
        .into_iter()
        .flatten()
        .filter_map(|stage| stage.as_document().cloned())
        .collect();
    for stage in &mut pipeline {
        for (name, value) in stage.iter_mut() {
            match (name.as_str(), value) {
                ("$match", Bson::Document(filter)) => filter_at_this_time(filter, call.core.now()),
                (_, value) => at_this_time(value, call.core.now()),
            }
        }
    }
    let filter = match pipeline.first() {
        Some(first) if first.contains_key("$match") => subdocument(&pipeline.remove(0), "$match"),
        _ => Document::new(),
    };
    call.note(keys(&call.core.table(&namespace), &filter) == Keys::All);
    let group = pipeline.iter().position(|stage| stage.contains_key("$group"));
    let (of_shards, of_router) = pipeline.split_at(group.map_or(pipeline.len(), |group| group + 1));
    let answered = call.routed(&namespace, async |table| {
        let keys = keys(&table, &filter);
        let is_merged = table.owners(&keys).len() > 1;
        let answered = call.on_shards(&namespace, &table, &keys, |foreign| {
            let mut command = call.command.clone();
            let mut stages = vec![doc! { "$match": own(&filter, &keys, &table, foreign) }];
            stages.extend_from_slice(if is_merged { of_shards } else { &pipeline });
            command.insert("pipeline", stages);
            if is_merged {
                // All groups in one batch: there are few, in tests.
                command.insert("cursor", doc! { "batchSize": 100_000 });
            }
            command
        });
        Cursor::new(call, answered.await?, Vec::new(), None).map(|cursor| (cursor, is_merged))
    });
    let (cursor, is_merged) = answered.await?;
    if !is_merged || group.is_none() && of_router.is_empty() {
        return cursor.open(call).await;
    }
    let parts = cursor.into_ready()?;
    let accumulators = subdocument(&of_shards[of_shards.len() - 1], "$group");
    let mut groups = merge_groups(parts, &accumulators)?;
    for stage in of_router {
        match number(stage, "$limit") {
            Some(limit) => groups.truncate(limit),
            None => {
                return Err(Failure::new(
                    238,
                    "NotImplemented",
                    &format!("{stage} after a $group"),
                ));
            }
        }
    }
    Cursor::of_ready(namespace, groups).open(call).await
}

fn merge_groups(parts: Vec<Document>, accumulators: &Document) -> Result<Vec<Document>, Failure> {
    let mut groups: Vec<Document> = Vec::new();
    for part in parts {
        let same = |group: &&mut Document| group.get("_id") == part.get("_id");
        let Some(group) = groups.iter_mut().find(same) else {
            groups.push(part);
            continue;
        };
        for (name, accumulator) in accumulators.iter().filter(|(name, _)| *name != "_id") {
            let accumulator = accumulator.as_document().and_then(|one| one.keys().next());
            let (Some(a), Some(b)) = (group.get(name), part.get(name)) else {
                continue;
            };
            let merged = match accumulator.map(String::as_str) {
                Some("$sum") => sum(a, b),
                Some("$max") => {
                    if compare(a, b).is_lt() {
                        b.clone()
                    } else {
                        a.clone()
                    }
                }
                // Null is no least value.
                Some("$min") if *a == Bson::Null => b.clone(),
                Some("$min") if *b == Bson::Null => a.clone(),
                Some("$min") => {
                    if compare(a, b).is_gt() {
                        b.clone()
                    } else {
                        a.clone()
                    }
                }
                other => {
                    return Err(Failure::new(
                        238,
                        "NotImplemented",
                        &format!("{other:?} of several shards"),
                    ));
                }
            };
            group.insert(name, merged);
        }
    }
    Ok(groups)
}

/// Orphans included, as the manual has it.
pub async fn distinct(call: &Call) -> Result<Document, Failure> {
    let namespace = call.namespace();
    let filter = subdocument(&call.command, "query");
    call.note(keys(&call.core.table(&namespace), &filter) == Keys::All);
    let answered = call.routed(&namespace, async |table| {
        let keys = keys(&table, &filter);
        call.on_shards(&namespace, &table, &keys, |_| call.command.clone())
            .await
    });
    let mut values: Vec<Bson> = Vec::new();
    for answered in answered.await? {
        for value in answered.reply.get_array("values").into_iter().flatten() {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
    }
    values.sort_by(compare);
    Ok(doc! { "values": values, "ok": 1.0 })
}

/// Orphans included, as the manual has it of `count`.
pub async fn count(call: &Call) -> Result<Document, Failure> {
    let namespace = call.namespace();
    let filter = subdocument(&call.command, "query");
    call.note(keys(&call.core.table(&namespace), &filter) == Keys::All);
    let answered = call.routed(&namespace, async |table| {
        let keys = keys(&table, &filter);
        call.on_shards(&namespace, &table, &keys, |_| call.command.clone())
            .await
    });
    let counts = answered.await?;
    let counts = counts
        .iter()
        .filter_map(|answered| answered.reply.get_i32("n").ok());
    Ok(doc! { "n": counts.sum::<i32>(), "ok": 1.0 })
}
