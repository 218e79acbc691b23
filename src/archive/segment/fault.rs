//! What goes wrong with a segment, as the domain's errors: it can't be had, or it is not what was written.

use std::fmt;

use parquet::errors::ParquetError;

use crate::{
    archive::objects::{ObjectError, ObjectErrorKind},
    domain::{Error, Kind, SegmentName},
};

/// The segment is not what was written; `what` says how that shows.
pub(super) fn damaged(name: &SegmentName, what: impl fmt::Display) -> Error {
    Error::new(
        Kind::ArchiveDamaged,
        format!("segment {name} of the archive is damaged: {what}"),
    )
}

/// The one who writes a segment broke a rule of [`SegmentWriter`](super::SegmentWriter).
pub(super) fn misused(what: &'static str) -> Error {
    Error::new(Kind::Internal, what)
}

pub(super) fn of_object(name: &SegmentName, error: ObjectError) -> Error {
    match error.kind {
        ObjectErrorKind::NotFound => damaged(name, "one of its objects is missing"),
        ObjectErrorKind::Damaged => damaged(name, "an object came back other than it was stored"),
        // Names are never used twice, so nobody else can have written it.
        ObjectErrorKind::AlreadyExists => damaged(name, "an object of that name holds something else"),
        ObjectErrorKind::Denied => Error::new(
            Kind::ArchiveUnavailable,
            "the archive refused; its address or its access rights are wrong",
        ),
        ObjectErrorKind::Unavailable => Error::new(
            Kind::ArchiveUnavailable,
            "the archive can't be reached; try again",
        ),
    }
    .with_source(error)
}

pub(super) fn of_decoding(name: &SegmentName, error: ParquetError) -> Error {
    damaged(name, "a file can't be decoded").with_source(error)
}

/// What an encoder says of rows that are sound; it takes a fault of Colloquy's own.
pub(super) fn of_encoding(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Internal, "a segment could not be encoded").with_source(error)
}

/// What became of work on another thread. A decoder that panics met bytes it can't make sense of.
pub(super) fn of_decoder(name: &SegmentName, error: tokio::task::JoinError) -> Error {
    if error.is_panic() {
        damaged(name, "its bytes make no sense").with_source(error)
    } else {
        Error::new(Kind::ArchiveUnavailable, "the service is stopping").with_source(error)
    }
}
