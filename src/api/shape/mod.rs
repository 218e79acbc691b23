//! The shape of every JSON object of the API, for the OpenAPI document.
//!
//! Shapes describe; they carry no data. Objects are read by the domain types themselves (see
//! [`RequestContent`](super::body::RequestContent)) and written by [`wire`](super::wire).

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use serde_json::{Value, json};

use super::problem::Code;
use crate::domain::{
    event::{BATCH_EVENTS_MAX, EVENT_TYPE_PATTERN},
    id::{ID_LENGTH_MAX, ID_PATTERN, USER_ID_BYTES_MAX, USER_ID_PATTERN},
    page::{LIMIT_DEFAULT, LIMIT_MAX},
    session::{LANGUAGE_LENGTH_MAX, LANGUAGE_PATTERN, REASON_LENGTH_MAX},
};

/// The shape of a JSON object of the API.
pub trait Schema: Send + Sync + 'static {
    /// Its name in the specification; empty for no body at all.
    const NAME: &'static str;

    fn schema() -> MetaSchema;

    /// Registers the shapes this one refers to.
    fn register_parts(_registry: &mut Registry) {}

    fn reference() -> MetaSchemaRef {
        MetaSchemaRef::Reference(Self::NAME.to_owned())
    }

    fn register(registry: &mut Registry)
    where
        Self: Sized,
    {
        if !Self::NAME.is_empty() {
            registry.create_schema::<Self, _>(Self::NAME.to_owned(), |_| Self::schema());
            Self::register_parts(registry);
        }
    }
}

macro_rules! shapes {
    ($($(#[$doc:meta])* $name:ident { $schema:expr } $(=> $($part:ident),+)?)*) => {
        $(
            $(#[$doc])*
            pub struct $name;

            impl Schema for $name {
                const NAME: &'static str = stringify!($name);

                fn schema() -> MetaSchema {
                    $schema
                }

                $(fn register_parts(registry: &mut Registry) {
                    $($part::register(registry);)+
                })?
            }
        )*
    };
}

mod admin;
mod batch;

pub use admin::{ArchiveRun, ArchiveRuns, NewArchiveRun};
pub use batch::{BatchOutcome, BatchOutcomes};

/// No body.
pub struct Nothing;

impl Schema for Nothing {
    const NAME: &'static str = "";

    fn schema() -> MetaSchema {
        MetaSchema::ANY
    }
}

shapes! {
    /// `POST /sessions`
    NewSession {
        object("What a session is opened with. Everything may be left out.", vec![
            optional("sessionId", described(id("call-42"), "The session's id, which makes opening it again harmless. A UUIDv7 when left out.")),
            optional("userId", user_id()),
            optional("language", language()),
            optional("metadata", metadata()),
            optional("startedAt", described(timestamp("2026-09-01T08:00:00.000Z"), "When the conversation began; when left out, the time of opening by the server's clock.")),
            optional("status", with_default(one_of(&["initiated", "active"]), "initiated")),
        ], json!({"sessionId": "call-42", "userId": "user-7", "language": "en-US", "metadata": {"channel": "voice"}}))
    }

    /// `PATCH /sessions/{sessionId}`
    SessionPatch {
        object("A JSON Merge Patch (RFC 7396): what is left out stays, `null` removes.", vec![
            optional("userId", nullable(user_id())),
            optional("language", nullable(language())),
            optional("metadata", nullable(metadata())),
        ], json!({"language": "de-DE", "metadata": {"escalated": true, "channel": null}}))
    }

    /// `POST /sessions/{sessionId}/complete`
    Completion {
        object("How the session ends. Everything may be left out.", vec![
            optional("status", described(with_default(one_of(&["completed", "failed"]), "completed"), "How it went.")),
            optional("reason", described(reason(), "Why it ends, for people.")),
        ], json!({"status": "completed", "reason": "caller hung up"}))
    }

    /// `POST /sessions/{sessionId}/events`
    NewEvent {
        object("One thing that was said or done.", vec![
            required("eventId", described(id("turn-001"), "Names the event within its session; sending it again with the same `type` and `payload` is harmless.")),
            required("type", event_type()),
            required("payload", payload()),
            optional("timestamp", described(timestamp("2026-09-01T08:00:03.808Z"), "When it happened, kept to the millisecond. When left out, the time of acceptance, which is the event's `seq` in milliseconds: such events read in the order in which they were acknowledged.")),
        ], json!({"eventId": "turn-001", "type": "user_speech", "payload": {"text": "I'd like a table for two."}}))
    }

    /// `POST /sessions/{sessionId}/events/batch`
    EventBatch {
        object("Events to append, each on its own.", vec![
            required("events", MetaSchemaRef::Inline(Box::new(MetaSchema {
                items: Some(Box::new(NewEvent::reference())),
                min_items: Some(1),
                max_items: Some(BATCH_EVENTS_MAX),
                ..MetaSchema::new("array")
            }))),
        ], json!({"events": [
            {"eventId": "turn-001", "type": "user_speech", "payload": {"text": "I'd like a table for two."}},
            {"eventId": "turn-002", "type": "bot_speech", "payload": {"text": "For what time?"}},
        ]}))
    } => NewEvent

    /// A session as it is stored.
    Session {
        object("One conversation.", vec![
            required("sessionId", id("call-42")),
            optional("userId", user_id()),
            required("status", described(one_of(&["initiated", "active", "completed", "failed"]), "`initiated`: no event yet. `active`: goes on. `completed`, `failed`: has ended.")),
            optional("language", language()),
            required("metadata", metadata()),
            required("startedAt", described(timestamp("2026-09-01T08:00:00.000Z"), "When the conversation began.")),
            optional("endedAt", described(timestamp("2026-09-01T08:05:00.000Z"), "When it ended, once it has. An end that the server stamps is not before the start, nor before any event that it stamped.")),
            optional("endReason", described(reason(), "Why it ended, where the caller said so.")),
            required("version", described(integer("int64"), "Grows with every change of the session. In quotes it is the session's ETag.")),
            required("archived", described(MetaSchema::new("boolean"), "Whether the events have moved to the archive. They read the same.")),
        ], session_example())
    }

    /// An event as it is stored.
    Event {
        object("One thing that was said or done in a session.", vec![
            required("eventId", id("turn-001")),
            required("sessionId", id("call-42")),
            required("seq", seq()),
            required("type", event_type()),
            required("payload", payload()),
            required("timestamp", timestamp("2026-09-01T08:00:03.808Z")),
        ], event_example())
    }

    /// Where a page stands in its walk.
    Pagination {
        object("Where this page stands.", vec![
            required("limit", described(integer("int32"), "Most items on the page, as asked for; 0 where the session alone was.")),
            required("hasMore", described(MetaSchema::new("boolean"), "Whether there is a page behind this one. A page may be shorter than its limit and still have more behind it.")),
            optional("nextCursor", described(cursor(), "Pass it on as `cursor` to get the next page. Left out on the last one.")),
        ], json!({"limit": 50, "hasMore": false}))
    }

    /// `GET /sessions/{sessionId}`
    SessionWithEvents {
        object("A session and a page of its events.", vec![
            required("session", Session::reference()),
            required("events", array(Event::reference())),
            required("pagination", Pagination::reference()),
        ], json!({"session": session_example(), "events": [event_example()], "pagination": {"limit": 50, "hasMore": false}}))
    } => Session, Event, Pagination

    /// `GET /sessions`
    SessionPage {
        object("A page of sessions, newest first.", vec![
            required("sessions", array(Session::reference())),
            required("pagination", Pagination::reference()),
        ], json!({"sessions": [session_example()], "pagination": {"limit": 50, "hasMore": false}}))
    } => Session, Pagination

    /// `GET /sessions/{sessionId}/events`
    EventPage {
        object("A page of events.", vec![
            required("events", array(Event::reference())),
            required("pagination", Pagination::reference()),
        ], json!({"events": [event_example()], "pagination": {"limit": 50, "hasMore": false}}))
    } => Event, Pagination

    /// A failure, as RFC 9457 has it.
    Problem {
        object("What went wrong (RFC 9457). Match `code`; show `detail`.", vec![
            required("type", described(MetaSchema::new_with_format("string", "uri"), "`urn:colloquy:problem:` and the code.")),
            required("title", MetaSchema::new("string")),
            required("status", described(integer("int32"), "The HTTP status.")),
            required("code", described(words(Code::ALL.iter().map(|code| code.as_str())), "The word for a program to match. Later versions may add words.")),
            required("detail", described(MetaSchema::new("string"), "What to do about it, for a person.")),
            optional("errors", array(FieldError::reference())),
            required("requestId", described(MetaSchema::new("string"), "Names the request in the log.")),
        ], problem_example(Code::SessionNotFound))
    } => FieldError

    /// A field at fault.
    FieldError {
        object("One field that breaks a rule.", vec![
            required("field", described(MetaSchema::new("string"), "Where in the request: `payload`, `events[3].type`, `limit`.")),
            required("message", described(MetaSchema::new("string"), "What is wrong with it.")),
        ], json!({"field": "limit", "message": "must be a whole number from 1 to 500"}))
    }

    /// `GET /healthz`
    Health {
        object("The process is up.", vec![
            required("status", one_of(&["ok"])),
        ], json!({"status": "ok"}))
    }

    /// `GET /readyz`
    Readiness {
        object("Whether requests can be served, and by which backends.", vec![
            required("status", one_of(&["ready"])),
            required("backends", Backends::reference()),
        ], json!({"status": "ready", "backends": {"store": "ok", "cache": "off", "archive": "ok"}}))
    } => Backends

    /// The state of each backend.
    Backends {
        object("The state of each backend.", vec![
            required("store", one_of(&["ok"])),
            required("cache", described(one_of(&["off", "ok", "degraded"]), "`degraded`: it can't be reached, and every request asks the store.")),
            required("archive", described(one_of(&["off", "ok", "degraded"]), "`degraded`: it did not answer when it was last asked, and reads of archived sessions are refused.")),
        ], json!({"store": "ok", "cache": "off", "archive": "ok"}))
    }
}

pub fn problem_example(code: Code) -> Value {
    let mut example = json!({
        "type": code.type_uri(),
        "title": code.title(),
        "status": code.status(),
        "code": code.as_str(),
        "detail": code.title().to_lowercase(),
        "requestId": "01992c5e-7d3a-7cc1-a8f0-2b1d4c6e8f00",
    });
    let fault = match code {
        Code::ValidationFailed => ("events[3].type", "is required"),
        Code::InvalidParameter => ("limit", "must be a whole number from 1 to 500"),
        _ => return example,
    };
    example["detail"] = format!("{} {}", fault.0, fault.1).into();
    example["errors"] = json!([{"field": fault.0, "message": fault.1}]);
    example
}

fn session_example() -> Value {
    json!({
        "sessionId": "call-42", "userId": "user-7", "status": "active", "language": "en-US",
        "metadata": {"channel": "voice"}, "startedAt": "2026-09-01T08:00:00.000Z", "version": 2, "archived": false,
    })
}

fn event_example() -> Value {
    json!({
        "eventId": "turn-001", "sessionId": "call-42", "seq": 1_788_249_603_808_000_i64, "type": "user_speech",
        "payload": {"text": "I'd like a table for two."}, "timestamp": "2026-09-01T08:00:03.808Z",
    })
}

type Field = (&'static str, MetaSchemaRef, bool);

fn required(name: &'static str, schema: impl Into<Part>) -> Field {
    (name, schema.into().0, true)
}

fn optional(name: &'static str, schema: impl Into<Part>) -> Field {
    (name, schema.into().0, false)
}

/// A schema in place, or a reference to a named one.
struct Part(MetaSchemaRef);

impl From<MetaSchema> for Part {
    fn from(schema: MetaSchema) -> Self {
        Self(MetaSchemaRef::Inline(Box::new(schema)))
    }
}

impl From<MetaSchemaRef> for Part {
    fn from(reference: MetaSchemaRef) -> Self {
        Self(reference)
    }
}

fn object(description: &'static str, fields: Vec<Field>, example: Value) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        required: fields
            .iter()
            .filter(|field| field.2)
            .map(|field| field.0)
            .collect(),
        properties: fields
            .into_iter()
            .map(|(name, schema, _)| (name, schema))
            .collect(),
        example: Some(example),
        ..MetaSchema::new("object")
    }
}

fn array(items: MetaSchemaRef) -> MetaSchema {
    MetaSchema {
        items: Some(Box::new(items)),
        ..MetaSchema::new("array")
    }
}

fn described(schema: MetaSchema, description: &'static str) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        ..schema
    }
}

fn nullable(schema: MetaSchema) -> MetaSchema {
    MetaSchema {
        nullable: true,
        ..schema
    }
}

fn integer(format: &'static str) -> MetaSchema {
    MetaSchema::new_with_format("integer", format)
}

/// A string with a rule and an example.
fn text(pattern: &str, length_max: usize, example: &str) -> MetaSchema {
    MetaSchema {
        pattern: Some(pattern.to_owned()),
        max_length: Some(length_max),
        example: Some(example.into()),
        ..MetaSchema::new("string")
    }
}

pub fn id(example: &str) -> MetaSchema {
    MetaSchema {
        min_length: Some(1),
        ..text(ID_PATTERN, ID_LENGTH_MAX, example)
    }
}

pub fn user_id() -> MetaSchema {
    MetaSchema {
        min_length: Some(1),
        ..described(
            text(USER_ID_PATTERN, USER_ID_BYTES_MAX, "user-7"),
            "Who the session belongs to, as the caller knows them: any text of 1 to 256 bytes of UTF-8 without control \
             characters, kept and compared byte by byte.",
        )
    }
}

pub fn event_type() -> MetaSchema {
    let description = "`user_speech`, `bot_speech`, `system`, or a word of your own.";
    described(text(EVENT_TYPE_PATTERN, 64, "user_speech"), description)
}

fn language() -> MetaSchema {
    described(
        text(LANGUAGE_PATTERN, LANGUAGE_LENGTH_MAX, "en-US"),
        "A BCP 47 language tag.",
    )
}

fn reason() -> MetaSchema {
    MetaSchema {
        max_length: Some(REASON_LENGTH_MAX),
        example: Some("caller hung up".into()),
        ..MetaSchema::new("string")
    }
}

pub fn timestamp(example: &str) -> MetaSchema {
    MetaSchema {
        example: Some(example.into()),
        ..MetaSchema::new_with_format("string", "date-time")
    }
}

fn free_object(description: &'static str, example: Value) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        additional_properties: Some(Box::new(MetaSchemaRef::Inline(Box::new(MetaSchema::ANY)))),
        example: Some(example),
        ..MetaSchema::new("object")
    }
}

fn payload() -> MetaSchema {
    free_object(
        "Any JSON object of at most 256 KiB and 64 levels. Integers beyond int64, keys with NUL and keys that \
         stand twice are refused. Numbers with a point or an exponent are kept as doubles, everything else as it came.",
        json!({"text": "I'd like a table for two."}),
    )
}

fn metadata() -> MetaSchema {
    free_object(
        "Any JSON object of at most 16 KiB, under the rules of a payload.",
        json!({"channel": "voice"}),
    )
}

pub fn one_of(words: &[&'static str]) -> MetaSchema {
    self::words(words.iter().copied())
}

fn words(words: impl Iterator<Item = &'static str>) -> MetaSchema {
    MetaSchema {
        enum_items: words.map(Value::from).collect(),
        ..MetaSchema::new("string")
    }
}

pub fn with_default(schema: MetaSchema, default: &str) -> MetaSchema {
    MetaSchema {
        default: Some(default.into()),
        ..schema
    }
}

pub fn limit() -> MetaSchema {
    MetaSchema {
        minimum: Some(1.0),
        maximum: Some(f64::from(LIMIT_MAX)),
        default: Some(LIMIT_DEFAULT.into()),
        ..integer("int32")
    }
}

pub fn cursor() -> MetaSchema {
    MetaSchema {
        max_length: Some(512),
        ..MetaSchema::new("string")
    }
}

pub fn seq() -> MetaSchema {
    MetaSchema {
        description: Some(
            "Given by the server when it accepts the event: the time in microseconds, or the session's last number plus \
             one where that is greater. Gaps are normal. Within one replica it is unique in the session, and greater \
             than that of every event acknowledged before. While all replicas reach a shared cache, this holds across \
             them, too. It is not the order of commits: of two appends at the same time, the one with the greater \
             number may become readable first.",
        ),
        example: Some(1_788_249_603_808_000_i64.into()),
        ..integer("int64")
    }
}

pub fn if_match() -> MetaSchema {
    MetaSchema {
        pattern: Some(r#"^(\*|(W/)?"[!#-~]*"(, *(W/)?"[!#-~]*")*)$"#.to_owned()),
        ..MetaSchema::new("string")
    }
}
