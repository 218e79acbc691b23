//! What can go wrong inside this store, what the domain calls it, and what is safe to try again.
//!
//! Every statement of this store can be repeated: an insert meets its own `_id`, a change has a condition that holds
//! once. So what decides is not whether the first try did anything, but whether a second can do better: it can when
//! the server or the way to it was lost ([`Class::Passing`]); it can't when the server answered, or time is up.
//!
//! 1. **Labels come first**: a server that says that a command may be tried again knows better than a list of codes.
//! 2. Then the codes that are known.
//! 3. **A code that is not known means that the store is away**, and the caller may try again later: routers and newer
//!    servers have codes that no list here has, and nearly all of them are of states that pass. Only codes that say that a
//!    statement or a document is wrong are failures of this store.

use mongodb::error::{Error as MongoError, ErrorKind, RETRYABLE_ERROR, RETRYABLE_WRITE_ERROR, WriteFailure};

use crate::domain::{Error, Kind};

/// A failure on its way out of a statement.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The caller's: it goes out as it is.
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("MongoDB: {complaint}")]
    Mongo { class: Class, complaint: Complaint },
    /// A stored value is not what this store writes; the value itself stays out of the log.
    #[error("the stored {0} can't be read back")]
    Stored(&'static str),
    #[error("no answer from MongoDB in time")]
    TimedOut,
    /// Others changed the same document, again and again.
    #[error("the document kept changing")]
    Contended,
    #[error("a task of the store panicked")]
    Panicked,
}

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// What an error of the driver means for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The `_id` is taken.
    Duplicate,
    /// The server, or the way to it, was lost: another try may find it.
    Passing,
    /// The server can't be reached, or refused for now, and trying again at once would not help.
    Away,
    /// Nothing that a second try would change.
    Lasting,
}

/// What the server or the driver said, without what was stored: that has no place in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) code: Option<i32>,
    words: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} (code {code})", self.words),
            None => f.write_str(&self.words),
        }
    }
}

impl Fault {
    /// What telemetry calls it. A duplicate is an answer like any other, and so is a refusal.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "",
            Self::Mongo { class, .. } => match class {
                Class::Duplicate => "",
                Class::Passing => "passing",
                Class::Away => "unreachable",
                Class::Lasting => "failed",
            },
            Self::Stored(_) => "unreadable",
            Self::TimedOut => "timeout",
            Self::Contended => "contended",
            Self::Panicked => "panic",
        }
    }

    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Mongo {
                class: Class::Passing,
                ..
            }
        )
    }

    pub(super) fn is_duplicate(&self) -> bool {
        matches!(
            self,
            Self::Mongo {
                class: Class::Duplicate,
                ..
            }
        )
    }

    /// One statement of many was refused by the server.
    pub(super) fn of_code(code: i32) -> Self {
        let words = match code {
            DOCUMENT_VALIDATION => String::from("a document fails the validator of its collection"),
            _ => String::from("a write was refused"),
        };
        Self::Mongo {
            class: classify(code),
            complaint: Complaint {
                code: Some(code),
                words,
            },
        }
    }
}

pub(super) const DUPLICATE_KEY: i32 = 11000;
const DOCUMENT_VALIDATION: i32 = 121;

/// A server that sheds load says so by this label.
const SYSTEM_OVERLOADED: &str = "SystemOverloadedError";

/// Nothing was done, or it is not known what, because of a state that passes: an election, a shutdown, a lost
/// connection, routing that was out of date, a conflict that the server asks to try again.
const PASSING: &[i32] = &[
    6,     // HostUnreachable
    7,     // HostNotFound
    24,    // LockTimeout
    43,    // CursorNotFound
    46,    // LockBusy
    63,    // StaleShardVersion
    70,    // ShardNotFound
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    112,   // WriteConflict
    133,   // FailedToSatisfyReadPreference
    134,   // ReadConcernMajorityNotAvailableYet
    150,   // StaleEpoch
    175,   // QueryPlanKilled
    189,   // PrimarySteppedDown
    202,   // NetworkInterfaceExceededTimeLimit
    262,   // ExceededTimeLimit
    9001,  // SocketException
    10058, // NotPrimary, of old
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    11602, // InterruptedDueToReplStateChange
    13388, // StaleConfig
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary
];

/// The statement or the document is wrong, or the server does not allow it: a failure of this store or of its set-up. All
/// that is in no list is [`Class::Away`]: time was up, the disk is full, an operator ended the statement, or it is not known.
const LASTING: &[i32] = &[
    2,  // BadValue
    4,  // NoSuchKey
    9,  // FailedToParse
    13, // Unauthorized
    14, // TypeMismatch
    20, // IllegalOperation
    26, // NamespaceNotFound
    27, // IndexNotFound
    28, // PathNotViable
    40, // ConflictingUpdateOperators
    52, // DollarPrefixedFieldName
    54, // NotSingleValueField
    59, // CommandNotFound
    66, // ImmutableField
    72, // InvalidOptions
    73, // InvalidNamespace
    85, // IndexOptionsConflict
    86, // IndexKeySpecsConflict
    DOCUMENT_VALIDATION,
    10334, // BSONObjectTooLarge
    17280, // KeyTooLong
    40415, // a field that the command does not know
];

fn classify(code: i32) -> Class {
    match code {
        DUPLICATE_KEY => Class::Duplicate,
        code if PASSING.contains(&code) => Class::Passing,
        code if LASTING.contains(&code) => Class::Lasting,
        _ => Class::Away,
    }
}

impl From<MongoError> for Fault {
    fn from(error: MongoError) -> Self {
        let code = code(&error);
        let labelled = [RETRYABLE_ERROR, RETRYABLE_WRITE_ERROR, SYSTEM_OVERLOADED]
            .iter()
            .any(|label| error.contains_label(label));
        let class = match (code, error.kind.as_ref()) {
            _ if labelled => Class::Passing,
            (Some(code), _) => classify(code),
            (
                _,
                ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::DnsResolve { .. },
            ) => Class::Passing,
            (_, ErrorKind::Authentication { .. } | ErrorKind::Shutdown) => Class::Away,
            _ => Class::Lasting,
        };
        let words = words(&error);
        Self::Mongo {
            class,
            complaint: Complaint { code, words },
        }
    }
}

fn code(error: &MongoError) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        ErrorKind::InsertMany(many) => many.write_concern_error.as_ref().map(|concern| concern.code),
        _ => None,
    }
}

/// Write errors quote documents, so of those only the code is told.
fn words(error: &MongoError) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => format!("{}: {}", command.code_name, command.message),
        ErrorKind::Write(WriteFailure::WriteError(_)) => String::from("a write was refused"),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => concern.code_name.clone(),
        ErrorKind::InsertMany(_) => String::from("an insert of many was not confirmed"),
        ErrorKind::Io(error) => format!("the connection failed: {error}"),
        ErrorKind::ConnectionPoolCleared { .. } => String::from("the server was lost"),
        ErrorKind::ServerSelection { .. } => String::from("no primary can be reached"),
        ErrorKind::Authentication { .. } => String::from("the credentials were refused"),
        ErrorKind::DnsResolve { .. } => String::from("a name did not resolve"),
        ErrorKind::InvalidTlsConfig { .. } => String::from("the TLS settings are wrong"),
        ErrorKind::IncompatibleServer { message, .. } | ErrorKind::InvalidResponse { message, .. } => {
            message.clone()
        }
        ErrorKind::Shutdown => String::from("the client is closed"),
        _ => String::from("the driver failed"),
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (kind, detail) = match &fault {
            Fault::Mongo {
                class: Class::Passing | Class::Away,
                ..
            } => (
                Kind::Unavailable,
                "the store can't be reached or refused for now; it may be tried again",
            ),
            Fault::TimedOut => (
                Kind::Unavailable,
                "the store did not answer in time; it may be tried again",
            ),
            Fault::Contended => (
                Kind::Unavailable,
                "others kept changing the same session; it may be tried again",
            ),
            Fault::Refused(_) | Fault::Mongo { .. } | Fault::Stored(_) | Fault::Panicked => {
                (Kind::Internal, "the store failed in a way it should not")
            }
        };
        match fault {
            Fault::Refused(error) => error,
            other => Self::new(kind, detail).with_source(other),
        }
    }
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Unavailable, "the store is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: i32) -> Kind {
        Error::from(Fault::of_code(code)).kind()
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        for code in [91, 189, 10107, 11600, 11602, 112] {
            assert!(Fault::of_code(code).is_passing(), "{code}");
            assert_eq!(kind(code), Kind::Unavailable);
        }
        for code in [11000, 121, 50, 64, 13, 2, 10334, 11601, 99_999] {
            assert!(!Fault::of_code(code).is_passing(), "{code}");
        }
        assert!(Fault::of_code(11000).is_duplicate());
        assert_eq!(kind(50), Kind::Unavailable);
        assert_eq!(kind(121), Kind::Internal);
    }

    #[test]
    fn a_code_that_nobody_knows_is_no_failure_of_the_store() {
        // Such as routers have, and servers that are newer.
        for code in [145, 199, 249, 365, 402, 407, 433, 449, 99_999] {
            assert_eq!(kind(code), Kind::Unavailable, "{code}");
        }
    }

    #[test]
    fn the_driver_and_the_way_to_the_server_pass() {
        let lost: MongoError = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        assert!(Fault::from(lost).is_passing());
    }
}
