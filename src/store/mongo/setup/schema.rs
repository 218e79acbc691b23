//! The collections, their validators and their indexes.

use mongodb::bson::{Document, doc};

pub(crate) const BY_START: &str = "tenant_start";
pub(crate) const BY_USER: &str = "tenant_user_start_status";
pub(crate) const BY_STATUS: &str = "tenant_status_start";
pub(crate) const BY_SWEEP: &str = "sweep";
pub(crate) const IN_ORDER: &str = "session_order_type";
pub(crate) const BY_END: &str = "end_use";
pub(crate) const BY_TIDY: &str = "tidy";
pub(crate) const BY_SEGMENT: &str = "segment";
pub(crate) const BY_OWNER: &str = "owner";
pub(crate) const BY_LEFT: &str = "left";
pub(crate) const BY_RUN: &str = "run";

/// What the title of every validator of ours begins with.
pub(super) const OURS: &str = "Colloquy: ";

pub(super) struct Collection {
    pub(super) name: &'static str,
    pub(super) validator: Document,
    pub(super) indexes: Vec<Index>,
    /// Indexes of earlier versions that this one does without.
    pub(super) superseded: Vec<Superseded>,
    /// By which a cluster spreads it: ranged, so that the chunks can be split on the hash that keys begin with. `None` for
    /// a collection that is small for ever, and stays on one shard.
    pub(super) shard_key: Option<&'static str>,
}

pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) key: Document,
    /// Only documents that are so are in the index.
    pub(super) only: Option<Document>,
}

/// An index that an earlier version made and used.
pub(super) struct Superseded {
    pub(super) name: &'static str,
    pub(super) key: Document,
    /// The index that does its work now.
    pub(super) by: &'static str,
}

impl Index {
    fn new(name: &'static str, key: Document) -> Self {
        Self {
            name,
            key,
            only: None,
        }
    }

    fn only_with(self, field: &'static str) -> Self {
        self.only(doc! { field: { "$exists": true } })
    }

    fn only(self, only: Document) -> Self {
        Self {
            only: Some(only),
            ..self
        }
    }

    /// As `createIndexes` takes it.
    pub(super) fn definition(&self) -> Document {
        let mut definition = doc! { "key": self.key.clone(), "name": self.name };
        if let Some(only) = &self.only {
            definition.insert("partialFilterExpression", only);
        }
        definition
    }
}

pub(super) fn collections() -> [Collection; 5] {
    [sessions(), events(), archive_runs(), leases(), settings()]
}

fn sessions() -> Collection {
    let (text, date, integer) = (
        || doc! { "bsonType": "string" },
        || doc! { "bsonType": "date" },
        || doc! { "bsonType": ["long", "int"] },
    );
    let left = || doc! { "bsonType": "array", "items": text() };
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
            "startedAt": date(),
            "endedAt": date(),
            "endReason": text(),
            "version": integer(),
            "archived": { "bsonType": "bool" },
            "openedAt": date(),
            "usedAt": date(),
            "idle": {
                "bsonType": "object",
                "required": ["by", "until"],
                "properties": { "by": text(), "until": date() },
            },
            "restoredAt": date(),
            "epoch": integer(),
            "archive": {
                "bsonType": "object",
                "required": ["segment", "firstRow", "rows"],
                "properties": { "segment": text(), "firstRow": integer(), "rows": integer() },
            },
            "claim": {
                "bsonType": "object",
                "required": ["owner", "until"],
                "properties": { "owner": text(), "until": date() },
            },
            "left": left(),
            "tidyAt": date(),
        },
    };
    let tombstone = doc! {
        "title": "what is left of an erased session",
        "required": ["erased", "sweepAt"],
        "properties": {
            "erased": {
                "bsonType": "object",
                "required": ["at", "forgetAt"],
                "properties": { "at": date(), "forgetAt": date() },
            },
            "sweepAt": date(),
            "epoch": integer(),
            "left": left(),
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
            // The status comes last: a change of status must not move a session to another place among its user's, where a
            // listing that is under way would miss it or meet it twice.
            Index::new(
                BY_USER,
                doc! { "tenant": 1, "userId": 1, "startedAt": -1, "sessionId": -1, "status": 1 },
            )
            .only_with("userId"),
            Index::new(
                BY_STATUS,
                doc! { "tenant": 1, "status": 1, "startedAt": -1, "sessionId": -1 },
            ),
            Index::new(BY_SWEEP, doc! { "sweepAt": 1 }).only_with("sweepAt"),
            // Ended sessions by their end, for the archive; before them those that go on, which have no end, by their last
            // known use, for the sweep of idle ones. What is archived, which is nearly all there is in the end, is not in it.
            Index::new(BY_END, doc! { "endedAt": 1, "usedAt": 1 }).only(doc! { "archived": false }),
            Index::new(BY_TIDY, doc! { "tidyAt": 1 }).only_with("tidyAt"),
            Index::new(BY_SEGMENT, doc! { "archive.segment": 1 }).only_with("archive.segment"),
            Index::new(BY_OWNER, doc! { "claim.owner": 1 }).only_with("claim.owner"),
            Index::new(BY_LEFT, doc! { "left": 1 }).only_with("left"),
        ],
        superseded: vec![
            Superseded {
                name: "tenant_user_start",
                key: doc! { "tenant": 1, "userId": 1, "startedAt": -1, "sessionId": -1 },
                by: BY_USER,
            },
            Superseded {
                name: "end",
                key: doc! { "endedAt": 1 },
                by: BY_END,
            },
        ],
        shard_key: Some("_id"),
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
                "epoch": { "bsonType": "long" },
            },
        } },
        // With the type, so that a filter by type reads the documents of that type alone.
        indexes: vec![Index::new(
            IN_ORDER,
            doc! { "session": 1, "timestamp": 1, "seq": 1, "type": 1 },
        )],
        superseded: vec![Superseded {
            name: "session_order",
            key: doc! { "session": 1, "timestamp": 1, "seq": 1 },
            by: IN_ORDER,
        }],
        shard_key: Some("session"),
    }
}

fn archive_runs() -> Collection {
    Collection {
        name: "archive_runs",
        validator: doc! { "$jsonSchema": {
            "title": format!("{OURS}the record of a run of the archive"),
            "required": ["startedAt", "record"],
            "properties": {
                "_id": { "bsonType": "string" },
                "startedAt": { "bsonType": "date" },
                "record": { "bsonType": "object" },
            },
        } },
        indexes: vec![Index::new(BY_RUN, doc! { "startedAt": 1 })],
        superseded: Vec::new(),
        shard_key: None,
    }
}

fn leases() -> Collection {
    Collection {
        name: "leases",
        validator: doc! { "$jsonSchema": {
            "title": format!("{OURS}which process does a chore"),
            "required": ["owner", "until", "timeMs"],
            "properties": {
                "_id": { "bsonType": "string" },
                "owner": { "bsonType": "string" },
                "until": { "bsonType": "date" },
                "timeMs": { "bsonType": "long" },
            },
        } },
        indexes: Vec::new(),
        superseded: Vec::new(),
        shard_key: None,
    }
}

fn settings() -> Collection {
    Collection {
        name: "settings",
        validator: doc! { "$jsonSchema": {
            "title": format!("{OURS}settings that all processes share"),
            "required": ["values", "protocols", "changes"],
            "properties": {
                "_id": { "bsonType": "string" },
                "values": { "bsonType": "object" },
                "protocols": {
                    "bsonType": "object",
                    "required": ["min", "max"],
                    "properties": { "min": { "bsonType": "long" }, "max": { "bsonType": "long" } },
                },
                "changes": { "bsonType": "long" },
                "changedAt": { "bsonType": "date" },
            },
        } },
        indexes: Vec::new(),
        superseded: Vec::new(),
        shard_key: None,
    }
}
