//! What a MongoDB server saw, by its profiler, and the rule for it: every statement on our collections says what it is
//! for; on the request path it names the shard key, so that one shard can answer; and none scans a collection or sorts.

use mongodb::{
    Database,
    bson::{Bson, Document, doc},
};

/// What the statements that may ask every shard say of themselves.
pub const BROADCASTS: [&str; 5] = [
    "colloquy: set-up",
    "colloquy: listing",
    "colloquy: idle listing",
    "colloquy: upkeep",
    "colloquy: archive listing",
];

/// More than a test's statements take; what is beyond it, the oldest, is forgotten.
const PROFILE_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// From here on the server remembers every statement on this database.
pub async fn watch(database: &Database) {
    let profile = database.collection::<Document>("system.profile");
    let run = async |command| database.run_command(command).await.expect("the profiler obeys");
    run(doc! { "profile": 0 }).await;
    profile.drop().await.expect("the last profile is dropped");
    run(doc! { "create": "system.profile", "capped": true, "size": PROFILE_BYTES_MAX }).await;
    run(doc! { "profile": 2 }).await;
}

/// The statements on our collections since [`watch`], but for the look at the indexes with which a process starts, and the
/// driver's word that it wants no more of a cursor, which goes where the cursor is.
pub async fn seen(database: &Database) -> Vec<Document> {
    let ours = ["sessions", "events"].map(|name| format!("{}.{name}", database.name()));
    let profile = database.collection::<Document>("system.profile");
    let filter = doc! { "ns": { "$in": ours.to_vec() }, "command.listIndexes": { "$exists": false }, "command.killCursors": { "$exists": false } };
    let mut found = profile.find(filter).await.expect("the profile");
    let mut seen = Vec::new();
    while found.advance().await.expect("the profile") {
        seen.push(found.deserialize_current().expect("a statement"));
    }
    seen
}

/// What the statements say that they are for.
pub fn comment(statement: &Document) -> String {
    said(statement).get_str("comment").unwrap_or_default().to_owned()
}

/// Every breach of the rule.
pub fn faults(statements: &[Document]) -> Vec<String> {
    let found = statements.iter().filter_map(|statement| {
        let fault = fault(statement)?;
        Some(format!("{fault}: {statement}"))
    });
    found.collect()
}

fn fault(statement: &Document) -> Option<&'static str> {
    let comment = comment(statement);
    // What an update of several sessions says of itself, the profiler leaves out.
    let is_update_of_many = statement.get_str("op").is_ok_and(|op| op == "update") && comment.is_empty();
    let plan = statement.get_str("planSummary").unwrap_or_default();
    if !BROADCASTS.contains(&comment.as_str()) && !is_targeted(statement) {
        Some("a broadcast")
    } else if comment.is_empty() && !is_update_of_many {
        Some("a statement that does not say what it is for")
    } else if plan.contains("COLLSCAN") {
        Some("a scan of a whole collection")
    } else if statement.get_bool("hasSortStage").unwrap_or(false) {
        Some("a sort")
    } else {
        None
    }
}

/// The command, or for a further batch of a cursor the one that opened it.
fn said(statement: &Document) -> &Document {
    let said = statement.get_document("command").expect("a command");
    statement.get_document("originatingCommand").unwrap_or(said)
}

/// Whether one shard can answer, by what the statement asks for: a value, values, or a range closed on both sides.
fn is_targeted(statement: &Document) -> bool {
    let said = said(statement);
    let of_sessions = statement
        .get_str("ns")
        .is_ok_and(|name| name.ends_with(".sessions"));
    let shard_key = if of_sessions { "_id" } else { "session" };
    let stage = || {
        let stages = said.get_array("pipeline").ok()?;
        stages.first()?.as_document()?.get_document("$match").ok()
    };
    let filter = match statement.get_str("op") {
        // A document to insert is its own shard key.
        Ok("insert") => return true,
        _ => ["filter", "query", "q"]
            .iter()
            .find_map(|name| said.get_document(*name).ok())
            .or_else(stage),
    };
    filter.is_some_and(|filter| is_on_one_shard(filter, shard_key))
}

fn is_on_one_shard(filter: &Document, shard_key: &str) -> bool {
    if let Ok(branches) = filter.get_array("$or") {
        let mut branches = branches.iter().filter_map(Bson::as_document);
        return filter.len() == 1 && branches.all(|branch| is_on_one_shard(branch, shard_key));
    }
    match filter.get(shard_key) {
        Some(Bson::String(_)) => true,
        Some(Bson::Document(range)) => {
            range.contains_key("$in") || (range.contains_key("$gte") && range.contains_key("$lt"))
        }
        _ => false,
    }
}

#[test]
fn a_broadcast_is_noticed() {
    let find = |filter: Document| doc! { "op": "query", "ns": "d.events", "command": { "find": "events", "filter": filter } };
    assert!(is_targeted(&find(doc! { "session": "s", "type": "t" })));
    assert!(is_targeted(&find(
        doc! { "session": { "$in": ["s"] }, "_id": { "$in": ["e"] } }
    )));
    assert!(is_targeted(&find(
        doc! { "session": { "$gte": "s", "$lt": "s$" } }
    )));
    assert!(is_targeted(&find(
        doc! { "$or": [{ "session": "s", "seq": 1 }, { "session": "s", "seq": { "$gt": 1 } }] }
    )));
    for broadcast in [
        doc! {},
        doc! { "_id": "e" },
        doc! { "eventId": "e" },
        doc! { "session": { "$gt": "s" } },
        doc! { "$or": [{ "session": "s", "seq": 1 }, { "seq": 2 }] },
    ] {
        assert!(!is_targeted(&find(broadcast)));
    }
    let sessions =
        doc! { "op": "remove", "ns": "d.sessions", "command": { "q": { "tenant": "t" }, "limit": 0 } };
    assert!(!is_targeted(&sessions));
    let aggregate = doc! { "op": "command", "ns": "d.events", "command": { "aggregate": "events", "pipeline": [{ "$group": { "_id": 1 } }] } };
    assert!(!is_targeted(&aggregate));
}
