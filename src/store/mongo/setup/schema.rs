//! The collections, their validators and their indexes.

use mongodb::bson::{Document, doc};

pub(crate) const BY_START: &str = "tenant_start";
pub(crate) const BY_USER: &str = "tenant_user_start";
pub(crate) const BY_STATUS: &str = "tenant_status_start";
pub(crate) const BY_SWEEP: &str = "sweep";
pub(crate) const IN_ORDER: &str = "session_order";

/// What the title of every validator of ours begins with.
pub(super) const OURS: &str = "Colloquy: ";

pub(super) struct Collection {
    pub(super) name: &'static str,
    pub(super) validator: Document,
    pub(super) indexes: Vec<Index>,
    /// By which a cluster spreads it: ranged, so that the chunks can be split on the hash that keys begin with.
    pub(super) shard_key: &'static str,
}

pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) key: Document,
    /// Only documents that have this field are in the index.
    pub(super) only_with: Option<&'static str>,
}

impl Index {
    fn new(name: &'static str, key: Document) -> Self {
        Self {
            name,
            key,
            only_with: None,
        }
    }

    fn only_with(self, field: &'static str) -> Self {
        Self {
            only_with: Some(field),
            ..self
        }
    }

    /// As `createIndexes` takes it.
    pub(super) fn definition(&self) -> Document {
        let mut definition = doc! { "key": self.key.clone(), "name": self.name };
        if let Some(filter) = self.filter() {
            definition.insert("partialFilterExpression", filter);
        }
        definition
    }

    pub(super) fn filter(&self) -> Option<Document> {
        self.only_with.map(|field| doc! { field: { "$exists": true } })
    }
}

pub(super) fn collections() -> [Collection; 2] {
    [sessions(), events()]
}

fn sessions() -> Collection {
    let text = || doc! { "bsonType": "string" };
    let session = doc! {
        "title": "a session",
        "required": ["tenant", "sessionId", "status", "metadata", "startedAt", "version", "archived"],
        "properties": {
            "tenant": text(),
            "sessionId": text(),
            "userId": text(),
            "status": { "enum": ["initiated", "active", "completed", "failed"] },
            "language": text(),
            "metadata": { "bsonType": "object" },
            "startedAt": { "bsonType": "date" },
            "endedAt": { "bsonType": "date" },
            "endReason": text(),
            "version": { "bsonType": ["long", "int"] },
            "archived": { "bsonType": "bool" },
        },
    };
    let tombstone = doc! {
        "title": "what is left of an erased session",
        "required": ["erased", "sweepAt"],
        "properties": {
            "erased": {
                "bsonType": "object",
                "required": ["at", "forgetAt"],
                "properties": { "at": { "bsonType": "date" }, "forgetAt": { "bsonType": "date" } },
            },
            "sweepAt": { "bsonType": "date" },
        },
    };
    Collection {
        name: "sessions",
        validator: doc! { "$jsonSchema": {
            "title": format!("{OURS}a session, or the tombstone of an erased one"),
            "properties": { "_id": text() },
            "anyOf": [session, tombstone],
        } },
        indexes: vec![
            Index::new(BY_START, doc! { "tenant": 1, "startedAt": -1, "sessionId": -1 }),
            Index::new(
                BY_USER,
                doc! { "tenant": 1, "userId": 1, "startedAt": -1, "sessionId": -1 },
            )
            .only_with("userId"),
            Index::new(
                BY_STATUS,
                doc! { "tenant": 1, "status": 1, "startedAt": -1, "sessionId": -1 },
            ),
            Index::new(BY_SWEEP, doc! { "sweepAt": 1 }).only_with("sweepAt"),
        ],
        shard_key: "_id",
    }
}

fn events() -> Collection {
    let text = || doc! { "bsonType": "string" };
    Collection {
        name: "events",
        validator: doc! { "$jsonSchema": {
            "title": format!("{OURS}an event of a session"),
            "required": ["session", "eventId", "seq", "timestamp", "type", "payload"],
            "properties": {
                "_id": text(),
                "session": text(),
                "eventId": text(),
                "seq": { "bsonType": "long" },
                "timestamp": { "bsonType": "date" },
                "type": text(),
                "payload": { "bsonType": "object" },
            },
        } },
        indexes: vec![Index::new(
            IN_ORDER,
            doc! { "session": 1, "timestamp": 1, "seq": 1 },
        )],
        shard_key: "session",
    }
}
