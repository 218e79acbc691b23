//! The one error type of the domain: a kind a program can match, words a person can act on, and the
//! source that caused it.
//!
//! The source is for the log; it never reaches a client. Which status code a kind becomes is known to
//! `api::problem` alone.

use std::{error::Error as StdError, fmt};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The bytes are not JSON (RFC 8259), or not UTF-8.
    MalformedJson,
    /// Well-formed, but one or more fields break a rule; see [`Error::fields`].
    Invalid,
    /// Well-formed, but a field or the body is larger than its limit.
    TooLarge,
    /// A path, query or header parameter breaks a rule.
    InvalidParameter,
    /// A cursor that Colloquy did not give out, or gave out for another query.
    InvalidCursor,
    /// There is no such session.
    SessionNotFound,
    /// The session exists; the event does not.
    EventNotFound,
    /// The session was erased, and its id may not be used again yet.
    SessionErased,
    /// The session has ended and takes no new events.
    SessionEnded,
    /// The session is archived: it can't be changed there, and whether it has an event only the archive can tell.
    SessionArchived,
    /// The event id is taken by an event with another type or payload.
    EventIdReused,
    /// The session's version is not the one the caller expected.
    VersionMismatch,
    /// A bounded queue is full; the caller may try again shortly.
    Overloaded,
    /// The store can't be reached or refused for now; the caller may try again.
    Unavailable,
    /// The archive can't be reached or refused for now; the caller may try again.
    ArchiveUnavailable,
    /// What the archive holds is missing or is not what was written.
    ArchiveDamaged,
    /// A fault of Colloquy's own.
    Internal,
}

/// Faults of one object that are told; a body of a hundred thousand bad fields needs no hundred thousand words.
pub const FAULTS_TOLD_MAX: usize = 20;

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where in the request: `payload`, `events[3].type`, `limit`.
    pub field: String,
    /// What is wrong, in words that complete "the field …".
    pub message: String,
}

/// A failed request: kind, words, fields, source.
///
/// Boxed, so that a `Result` of a small value stays small.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    detail: String,
    fields: Vec<FieldError>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            fields: Vec::new(),
            source: None,
        }))
    }

    /// One or more fields that break rules.
    pub fn of_fields(kind: Kind, fields: Vec<FieldError>) -> Self {
        let detail = match fields.as_slice() {
            [] => String::from("the request breaks a rule"),
            [only] if only.field.is_empty() => only.message.clone(),
            [only] => format!("{} {}", only.field, only.message),
            [first, rest @ ..] => {
                format!("{} {}, and {} more", first.field, first.message, rest.len())
            }
        };
        Self(Box::new(Inner {
            kind,
            detail,
            fields,
            source: None,
        }))
    }

    /// A parameter of the path, the query string or a header that breaks a rule.
    pub fn parameter(name: &str, message: impl Into<String>) -> Self {
        let field = FieldError {
            field: name.to_owned(),
            message: message.into(),
        };
        Self::of_fields(Kind::InvalidParameter, vec![field])
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// A sentence for a person; says nothing of the inside of the service.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The fields at fault, in the order they were met; empty for most kinds.
    pub fn fields(&self) -> &[FieldError] {
        &self.0.fields
    }

    /// The fields at fault or, of an error that names none, the whole of `field`.
    pub fn faults_of(&self, field: &str) -> Vec<FieldError> {
        match self.fields() {
            [] => vec![FieldError {
                field: field.to_owned(),
                message: self.detail().to_owned(),
            }],
            fields => fields.to_vec(),
        }
    }

    /// Whether there is no session to speak of, so that the failure is that of every event of a batch.
    pub fn is_of_session(&self) -> bool {
        matches!(self.kind(), Kind::SessionNotFound | Kind::SessionErased)
    }

    /// The same failure for another request that shared its fate, without the source: a source is logged
    /// once.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            detail: self.0.detail.clone(),
            fields: self.0.fields.clone(),
            source: None,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
