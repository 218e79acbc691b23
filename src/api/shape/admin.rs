//! What operators send and see.

use poem_openapi::registry::{MetaSchema, Registry};
use serde_json::{Value, json};

use super::{Schema, array, described, integer, object, one_of, optional, required, text, timestamp};
use crate::{archive::SESSIONS_MAX, domain::span::SPAN_PATTERN};

shapes! {
    /// `POST /admin/archive/runs`
    NewArchiveRun {
        object("What a run of the archiver is to do. Everything may be left out.", vec![
            optional("olderThan", described(span("30d"), "Archive sessions that ended longer ago than this; what is configured when left out.")),
            optional("limit", described(positive(), "Archive at most so many sessions.")),
            optional("dryRun", described(MetaSchema::new("boolean"), "Only count the sessions that are due, up to a hundred thousand.")),
        ], json!({"olderThan": "30d", "limit": 10_000, "dryRun": false}))
    }

    /// One run of the archiver.
    ArchiveRun {
        object("One run of the archiver.", vec![
            required("runId", MetaSchema::new("string")),
            required("status", described(one_of(&["running", "completed", "stopped", "failed"]), "`running` for ever: its process died; the next run goes on with it. `stopped`: its process was asked to end.")),
            required("trigger", one_of(&["schedule", "command", "api"])),
            required("startedAt", timestamp("2026-09-01T08:00:00.000Z")),
            optional("endedAt", timestamp("2026-09-01T08:00:42.000Z")),
            required("olderThanMs", described(integer("int64"), "How long ago a session had to have ended.")),
            optional("limit", described(positive(), "Most sessions, where there was a limit.")),
            required("dryRun", MetaSchema::new("boolean")),
            required("sessions", described(integer("int64"), "Sessions archived; of a dry run, those that are due.")),
            required("events", described(integer("int64"), "Events in them.")),
            required("segments", described(integer("int64"), "Segments written.")),
            required("hotEventsDeleted", described(integer("int64"), "Events deleted from the store, after their copies were verified.")),
            required("sessionsFailed", described(integer("int64"), "Sessions that could not be read; they stay where they are.")),
            required("payloadBytes", described(integer("int64"), "Payload read, as JSON.")),
            required("bytesWritten", described(integer("int64"), "Bytes written to the archive.")),
            required("bytesRead", described(integer("int64"), "Bytes read from it, to verify.")),
            required("puts", described(integer("int64"), "Objects written.")),
            required("gets", described(integer("int64"), "Ranges read.")),
            optional("error", described(MetaSchema::new("string"), "Why it failed, for people.")),
        ], run_example())
    }

    /// `GET /admin/archive/runs`
    ArchiveRuns {
        object("The newest runs of all processes, newest first, and what is left to do.", vec![
            required("runs", array(ArchiveRun::reference())),
            optional("oldestDueEndedAt", described(timestamp("2026-08-01T08:00:00.000Z"), "When the session ended that has been due longest, where one is.")),
            required("erasuresPending", described(integer("int64"), "Erased sessions whose bytes are not gone from the archive yet, or whose erasure marker is not written there yet.")),
        ], json!({"runs": [run_example()], "erasuresPending": 0}))
    } => ArchiveRun
}

fn run_example() -> Value {
    json!({
        "runId": "01992c5e-7d3a-7cc1-a8f0-2b1d4c6e8f00", "status": "completed", "trigger": "schedule",
        "startedAt": "2026-09-01T08:00:00.000Z", "endedAt": "2026-09-01T08:00:42.000Z", "olderThanMs": 2_592_000_000_i64,
        "dryRun": false, "sessions": 20_000, "events": 310_000, "segments": 1, "hotEventsDeleted": 310_000,
        "sessionsFailed": 0, "payloadBytes": 62_000_000, "bytesWritten": 21_000_000, "bytesRead": 42_000_000,
        "puts": 3, "gets": 12,
    })
}

fn positive() -> MetaSchema {
    MetaSchema {
        minimum: Some(1.0),
        maximum: Some(SESSIONS_MAX as f64),
        ..integer("int64")
    }
}

fn span(example: &str) -> MetaSchema {
    text(SPAN_PATTERN, 14, example)
}
