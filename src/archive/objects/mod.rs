//! Objects: where the archive's files lie, under names with slashes in them. [`Objects`] is the contract; the suite in
//! `conformance` is the contract as a test, and runs on both implementations.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::Timestamp;

pub mod directory;
pub mod observed;
mod path;
mod probe;
pub mod s3;

/// A set of objects: bytes under a path, written once and never changed.
///
/// A path is `part/part/…`: parts of letters, digits and `. _ ~ : @ = + -`, none of them `.` or `..`; at most 900 bytes,
/// a part at most 250. No path may be a folder of another, as `a` is of `a/b`: what can't have both refuses the second.
///
/// What holds for all methods: once a write or deletion returned `Ok`, it survives the loss of power, and every later
/// call sees it. With [`ObjectErrorKind::Unavailable`] it may or may not have been done.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// Stores an object that is not there yet; whole or not at all.
    ///
    /// # Errors
    /// [`ObjectErrorKind::AlreadyExists`]: there is one; it is left as it is. A try of this very call that was stored
    /// although it seemed to fail counts as done, where the bytes are the same.
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError>;

    /// Begins an object that is not there yet and is written in parts; it is there once it is
    /// [finished](Upload::finish). Holds at most a few parts in memory, however large the object is.
    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError>;

    /// Reads a range. One request.
    ///
    /// # Errors
    /// [`ObjectErrorKind::NotFound`]. [`ObjectErrorKind::Damaged`]: the answer is shorter than the range, or its
    /// checksum is wrong.
    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError>;

    /// What is there under a path.
    ///
    /// # Errors
    /// [`ObjectErrorKind::NotFound`].
    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError>;

    /// The objects whose path begins with `prefix` and comes after `after`, in the bytewise order of their paths; at most
    /// `limit` of them, which is 1 to 1,000. What is being uploaded is not among them.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError>;

    /// Deletes an object; one that is not there is fine.
    async fn delete(&self, path: &str) -> Result<(), ObjectError>;

    /// Discards uploads that nobody finished, that began longer ago than `age`, whose path begins with `prefix`, and which are
    /// ours by their path; gives how many. A place that many share has uploads of others. One that keeps what is unfinished
    /// apart, where nobody else writes, may not know the paths, and then takes each to be ours.
    async fn discard_unfinished(
        &self,
        prefix: &str,
        is_ours: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError>;

    /// Whether [`written_at`](ObjectMeta::written_at) is by a clock that is not this machine's.
    fn has_own_clock(&self) -> bool {
        false
    }

    /// Whether it can be reached and written to: puts, reads and deletes an object. In words for a person.
    ///
    /// # Errors
    /// What is wrong.
    async fn check(&self) -> Result<String, ObjectError>;
}

/// Whether a path is one that Colloquy writes.
pub type IsOurs<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// An object that is being written. Dropped unfinished, it never was, but for what
/// [`Objects::discard_unfinished`] finds.
#[async_trait]
pub trait Upload: Send {
    /// Adds bytes. May wait for earlier ones to be stored.
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError>;

    /// Makes it an object.
    ///
    /// # Errors
    /// As [`Objects::put`].
    async fn finish(self: Box<Self>) -> Result<(), ObjectError>;
}

/// Which bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// All of it.
    All,
    /// From `start` up to `end`, which is exclusive and greater, and not past the object's end.
    Of { start: u64, end: u64 },
    /// The last so many, which is at least one, or all there are.
    Last(u64),
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// By the clock of where it lies.
    pub written_at: Timestamp,
}

/// Why an object could not be had, or kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectErrorKind {
    /// There is no such object.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// What came is not what was stored.
    Damaged,
    /// Refused: no such bucket, no right to it, a path that can't be.
    Denied,
    /// It can't be reached, or failed; another try may help.
    Unavailable,
}

impl fmt::Display for ObjectErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such object",
            Self::AlreadyExists => "there is such an object already",
            Self::Damaged => "an object is damaged",
            Self::Denied => "the place of the objects refused",
            Self::Unavailable => "the place of the objects can't be reached, or failed",
        })
    }
}

/// A failed call: one sentence for a person; the source is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct ObjectError {
    pub kind: ObjectErrorKind,
    /// Which object, what was tried, and what came of it; never a secret, nor a URL that is signed with one.
    pub detail: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ObjectError {
    pub fn new(kind: ObjectErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            source: None,
        }
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}
