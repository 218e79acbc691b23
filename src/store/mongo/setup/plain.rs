//! Collections, validators and indexes.

use std::collections::HashMap;

use mongodb::bson::{Bson, Document, doc};

use super::{
    Admin, Finding, Mode, Report, Result, State,
    admin::send,
    read_all,
    schema::{self, Collection, Index},
};

/// Codes that say that somebody else was faster.
const NAMESPACE_EXISTS: i32 = 48;
const INDEX_NOT_FOUND: i32 = 27;

pub(super) async fn run(admin: &dyn Admin, database: &str, mode: Mode, report: &mut Report) -> Result<()> {
    let listing = doc! { "listCollections": 1 };
    let found = read_all(admin, database, listing, "listing the collections").await?;
    let mut found: HashMap<String, Document> = found
        .into_iter()
        .filter_map(|one| Some((one.get_str("name").ok()?.to_owned(), one)))
        .collect();
    for collection in schema::collections() {
        let exists = collect(
            admin,
            database,
            mode,
            &collection,
            found.remove(collection.name),
            report,
        )
        .await?;
        if exists {
            index(admin, database, mode, &collection, report).await?;
        }
    }
    Ok(())
}

/// The collection with its validator; gives whether it is there.
async fn collect(
    admin: &dyn Admin,
    database: &str,
    mode: Mode,
    collection: &Collection,
    found: Option<Document>,
    report: &mut Report,
) -> Result<bool> {
    let name = collection.name;
    let what = format!("collection {name}");
    let Some(found) = found else {
        if mode == Mode::Check {
            report.say(State::Missing, what);
            return Ok(false);
        }
        let create =
            doc! { "create": name, "validator": collection.validator.clone(), "writeConcern": majority() };
        let created = admin.run(database, create).await;
        return match created {
            Ok(_) => {
                report.say(State::Done, what);
                Ok(true)
            }
            Err(refused) if refused.code == Some(NAMESPACE_EXISTS) => {
                report.say(State::Fine, what);
                Ok(true)
            }
            Err(refused) => Err(super::SetupError::Refused {
                what: format!("creating the {what}"),
                refused,
            }),
        };
    };
    if found.get_str("type").is_ok_and(|kind| kind != "collection") {
        report.say(State::Wrong, format!("{what}: it is a view or a time series"));
        return Ok(false);
    }
    let options = found.get_document("options").cloned().unwrap_or_default();
    if options.get_document("validator").ok() == Some(&collection.validator) {
        report.say(State::Fine, what);
        return Ok(true);
    }
    if !is_ours(&options) && !is_empty(admin, database, name).await? {
        report.say(
            State::Wrong,
            format!("{what}: it holds documents that are not Colloquy's; name another database in the URL"),
        );
        return Ok(false);
    }
    let what = format!("{what}: its validator");
    if mode == Mode::Check {
        report.say(State::Outdated, what);
    } else {
        let change =
            doc! { "collMod": name, "validator": collection.validator.clone(), "writeConcern": majority() };
        send(admin, database, change, &format!("changing the {what}")).await?;
        report.say(State::Done, what);
    }
    Ok(true)
}

/// Whether a collection with these options was made by Colloquy, of whatever version.
fn is_ours(options: &Document) -> bool {
    let schema = options
        .get_document("validator")
        .and_then(|validator| validator.get_document("$jsonSchema"));
    schema.is_ok_and(|schema| {
        schema
            .get_str("title")
            .is_ok_and(|title| title.starts_with(schema::OURS))
    })
}

/// Whether a collection has no document.
pub(super) async fn is_empty(admin: &dyn Admin, database: &str, name: &str) -> Result<bool> {
    let any = doc! {
        "find": name, "limit": 1, "singleBatch": true, "projection": { "_id": 1 }, "comment": "colloquy: set-up",
    };
    let what = format!("looking whether {name} is empty");
    Ok(read_all(admin, database, any, &what).await?.is_empty())
}

async fn index(
    admin: &dyn Admin,
    database: &str,
    mode: Mode,
    collection: &Collection,
    report: &mut Report,
) -> Result<()> {
    let name = collection.name;
    let listing = doc! { "listIndexes": name };
    let found = read_all(
        admin,
        database,
        listing,
        &format!("listing the indexes of {name}"),
    )
    .await?;
    let (mut missing, before) = (Vec::new(), report.0.len());
    for index in &collection.indexes {
        let what = format!("index {name}.{} {}", index.name, keys(&index.key));
        let same_name = found
            .iter()
            .find(|one| one.get_str("name").ok() == Some(index.name));
        let same_key = found.iter().find(|one| {
            one.get_document("key")
                .is_ok_and(|key| same_keys(key, &index.key))
        });
        match (same_name, same_key) {
            (Some(one), _) if is(one, index) => report.say(State::Fine, what),
            (Some(_), _) => report.say(
                State::Wrong,
                format!("{what}: another index has this name; drop it, then run colloquy init again"),
            ),
            (None, Some(other)) => {
                let other = other.get_str("name").unwrap_or_default();
                report.say(
                    State::Wrong,
                    format!(
                        "{what}: the index {other} has these keys; drop it, then run colloquy init again"
                    ),
                );
            }
            (None, None) if mode == Mode::Check => report.say(State::Missing, what),
            (None, None) => missing.push((index, what)),
        }
    }
    make(admin, database, name, missing, report).await?;
    let is_whole =
        report.0.len() == before + collection.indexes.len() && report.0[before..].iter().all(is_there);
    supersede(admin, database, mode, collection, &found, is_whole, report).await
}

async fn make(
    admin: &dyn Admin,
    database: &str,
    name: &str,
    missing: Vec<(&Index, String)>,
    report: &mut Report,
) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let definitions: Vec<Bson> = missing
        .iter()
        .map(|(index, _)| index.definition().into())
        .collect();
    let create = doc! { "createIndexes": name, "indexes": definitions, "writeConcern": majority() };
    send(
        admin,
        database,
        create,
        &format!("creating the indexes of {name}"),
    )
    .await?;
    for (_, what) in missing {
        report.say(State::Done, what);
    }
    Ok(())
}

fn is_there(finding: &Finding) -> bool {
    matches!(finding.state, State::Fine | State::Done)
}

/// Reports which of the indexes `found` an earlier version made and this one does without. Drops them where that is asked for
/// and the collection has all indexes that it needs now.
async fn supersede(
    admin: &dyn Admin,
    database: &str,
    mode: Mode,
    collection: &Collection,
    found: &[Document],
    is_whole: bool,
    report: &mut Report,
) -> Result<()> {
    let name = collection.name;
    for old in &collection.superseded {
        let is_old = |one: &&Document| {
            let key = one.get_document("key");
            one.get_str("name").ok() == Some(old.name) && key.is_ok_and(|key| same_keys(key, &old.key))
        };
        if !found.iter().any(|one| is_old(&one)) {
            continue;
        }
        let what = format!("index {name}.{}: superseded by {}", old.name, old.by);
        if !is_whole
            || !matches!(
                mode,
                Mode::Init {
                    drop_superseded: true,
                    ..
                }
            )
        {
            report.say(
                State::Outdated,
                format!("{what}; once every process runs this version, drop it with colloquy init --drop-superseded"),
            );
            continue;
        }
        let drop = doc! { "dropIndexes": name, "index": old.name, "writeConcern": majority() };
        match admin.run(database, drop).await {
            Ok(_) => report.say(State::Done, format!("{what}, and dropped")),
            // Another init was faster.
            Err(refused) if refused.code == Some(INDEX_NOT_FOUND) => {}
            Err(refused) => {
                return Err(super::SetupError::Refused {
                    what: format!("dropping the {what}"),
                    refused,
                });
            }
        }
    }
    Ok(())
}

fn majority() -> Document {
    doc! { "w": "majority" }
}

/// Whether a listed index is the one that is wanted.
fn is(listed: &Document, wanted: &Index) -> bool {
    let flag = |name: &str| listed.get_bool(name).unwrap_or(false);
    listed
        .get_document("key")
        .is_ok_and(|key| same_keys(key, &wanted.key))
        && listed.get_document("partialFilterExpression").ok() == wanted.only.as_ref()
        && !flag("unique")
        && !flag("sparse")
        && !flag("hidden")
        && !listed.contains_key("collation")
        && !listed.contains_key("expireAfterSeconds")
}

/// Directions may be stored as any type of number.
fn same_keys(a: &Document, b: &Document) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((a_name, a), (b_name, b))| a_name == b_name && direction(a) == direction(b))
}

fn direction(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(direction) => Some(i64::from(*direction)),
        Bson::Int64(direction) => Some(*direction),
        Bson::Double(direction) if *direction == 1.0 => Some(1),
        Bson::Double(direction) if *direction == -1.0 => Some(-1),
        _ => None,
    }
}

fn keys(key: &Document) -> String {
    let fields = key
        .iter()
        .map(|(name, value)| format!("{name}: {}", direction(value).unwrap_or_default()));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}
