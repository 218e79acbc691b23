//! What becomes of a batch, event by event.
//!
//! An outcome is one of four objects. `outcome` tells which, and is the discriminator that generated clients go by, so
//! that none of them has to guess which fields are there.

use poem_openapi::registry::{MetaDiscriminatorObject, MetaSchema, MetaSchemaRef, Registry};
use serde_json::{Value, json};

use super::{
    Code, Problem, Schema, array, described, id, object, one_of, optional, problem_example, required, seq,
    timestamp,
};

shapes! {
    /// `POST /sessions/{sessionId}/events/batch`
    BatchOutcomes {
        object("One outcome an event, in the order of the batch.", vec![
            required("outcomes", array(BatchOutcome::reference())),
        ], json!({"outcomes": [stored_example("replayed"), refused_example("conflict", Code::EventIdReused)]}))
    } => BatchOutcome

    /// What became of one event of a batch.
    BatchOutcome {
        of_kinds("What became of one event of the batch; `outcome` says which of these it is.", "outcome", &[
            ("created", BatchCreated::NAME),
            ("replayed", BatchReplayed::NAME),
            ("conflict", BatchConflict::NAME),
            ("rejected", BatchRejected::NAME),
        ])
    } => BatchCreated, BatchReplayed, BatchConflict, BatchRejected

    /// It was stored.
    BatchCreated {
        object("The event was stored.", vec![
            required("outcome", one_of(&["created"])),
            required("eventId", id("turn-001")),
            required("seq", seq()),
            required("timestamp", timestamp("2026-09-01T08:00:03.808Z")),
        ], stored_example("created"))
    }

    /// It was there.
    BatchReplayed {
        object("The event was there already, with the same `type` and `payload`.", vec![
            required("outcome", one_of(&["replayed"])),
            required("eventId", id("turn-001")),
            required("seq", seq()),
            required("timestamp", timestamp("2026-09-01T08:00:03.808Z")),
        ], stored_example("replayed"))
    }

    /// Another is there.
    BatchConflict {
        object("The event's id is taken by another event.", vec![
            required("outcome", one_of(&["conflict"])),
            required("eventId", id("turn-001")),
            required("problem", Problem::reference()),
        ], refused_example("conflict", Code::EventIdReused))
    } => Problem

    /// It was refused.
    BatchRejected {
        object("The event was refused.", vec![
            required("outcome", one_of(&["rejected"])),
            optional("eventId", described(id("turn-001"), "Left out where the event has none, two, or one that breaks the rule of ids.")),
            required("problem", Problem::reference()),
        ], refused_example("rejected", Code::SessionEnded))
    } => Problem
}

/// One of several objects, each of which has its own word in the field of this name.
fn of_kinds(description: &'static str, field: &'static str, kinds: &[(&str, &str)]) -> MetaSchema {
    let reference = |name: &str| MetaSchemaRef::Reference(name.to_owned());
    let mapped = |(word, name): &(&str, &str)| ((*word).to_owned(), format!("#/components/schemas/{name}"));
    MetaSchema {
        description: Some(description),
        one_of: kinds.iter().map(|(_, name)| reference(name)).collect(),
        discriminator: Some(MetaDiscriminatorObject {
            property_name: field,
            mapping: kinds.iter().map(mapped).collect(),
        }),
        ..MetaSchema::ANY
    }
}

fn stored_example(outcome: &str) -> Value {
    json!({
        "outcome": outcome, "eventId": "turn-001", "seq": 1_788_249_603_808_000_i64,
        "timestamp": "2026-09-01T08:00:03.808Z",
    })
}

fn refused_example(outcome: &str, code: Code) -> Value {
    json!({"outcome": outcome, "eventId": "turn-002", "problem": problem_example(code)})
}
