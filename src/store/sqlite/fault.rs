//! What can go wrong inside this store, and what the domain calls it.

use rusqlite::ErrorCode;

use crate::domain::{Error, Kind};

/// A failure on its way out of a statement.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The caller's: it goes out as it is.
    #[error(transparent)]
    Refused(#[from] Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value is not what this store writes; the value itself stays out of the log.
    #[error("the stored {0} can't be read back")]
    Stored(&'static str),
    /// A statement failed, and SQLite took back the transaction around it.
    #[error("SQLite rolled the transaction back")]
    RolledBack,
    #[error("a job of the writer panicked")]
    Panicked,
}

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (kind, detail) = match &fault {
            Fault::Sqlite(error) => error.sqlite_error_code().map_or(INTERNAL, judge),
            Fault::RolledBack => (Kind::Unavailable, NOT_WRITTEN),
            Fault::Refused(_) | Fault::Stored(_) | Fault::Panicked => INTERNAL,
        };
        match fault {
            Fault::Refused(error) => error,
            other => Self::new(kind, detail).with_source(other),
        }
    }
}

const NOT_WRITTEN: &str = "the store could not commit the write; it may be tried again";

fn judge(code: ErrorCode) -> (Kind, &'static str) {
    match code {
        ErrorCode::DiskFull => (
            Kind::Unavailable,
            "the store is out of space; the write may be tried again when there is some",
        ),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => (
            Kind::Unavailable,
            "the store is locked by another program; it may be tried again",
        ),
        ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::PermissionDenied
        | ErrorCode::ReadOnly
        | ErrorCode::OutOfMemory
        | ErrorCode::OperationInterrupted
        | ErrorCode::OperationAborted => (
            Kind::Unavailable,
            "the store can't reach its files; it may be tried again",
        ),
        _ => INTERNAL,
    }
}

const INTERNAL: (Kind, &str) = (Kind::Internal, "the store failed in a way it should not");

/// The outcome of every job of a group that was not committed: whatever the cause, nothing is acknowledged and a
/// retry settles it.
pub(super) fn not_committed(fault: Fault) -> Error {
    let error = Error::from(fault);
    if error.kind() == Kind::Unavailable {
        error
    } else {
        Error::new(Kind::Unavailable, NOT_WRITTEN).with_source(error)
    }
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Unavailable, "the store is closed")
}

/// What telemetry calls an error; a refusal is an answer like any other.
pub(super) fn name(error: &Error) -> &'static str {
    match error.kind() {
        Kind::Unavailable => "unavailable",
        Kind::Internal => "failed",
        _ => "",
    }
}
