//! Segments: the files of the archive. A segment packs many ended sessions of one tenant and one day into two Parquet
//! files and a manifest, under names that are never used twice:
//!
//! - `sessions/dt=YYYY-MM-DD/{segment}.parquet`: a row a session, with the rows of its events;
//! - `events/dt=YYYY-MM-DD/{segment}.parquet`: a row an event, in the order in which they are read;
//! - `manifests/{segment}.json`: what there is, with its SHA-256s; written last.
//!
//! `docs/archive-format.md` is the format, for whoever reads it without Colloquy.
//!
//! - [`SegmentWriter`] writes a segment in bounded memory, [`Written::verify`] reads it back and compares, and
//!   [`Written::seal`] writes the manifest.
//! - [`SegmentReader`] answers reads of one session in at most three requests, and reads whole segments.
//! - [`RawEvents`] is the rows of a segment as they lie in it, for a writer that copies sessions.
//!
//! **What is read is what was written, or an error.** Every row that a reader gives or passes over is held to a checksum
//! that covers its content and its place in its session; the files' own indexes only say where to look.

use crate::domain::SegmentName;

mod checksum;
mod columns;
mod fault;
mod fetch;
mod footer;
mod layout;
mod manifest;
mod output;
mod raw;
mod reader;
mod rows;
mod scan;
mod schema;
mod verify;
mod window;
mod writer;

pub use manifest::{Counts, Manifest, SegmentFile};
pub use raw::RawEvents;
pub use reader::SegmentReader;
pub use rows::SessionRow;
pub use scan::{EventRows, SessionRows};
pub use verify::Written;
pub use writer::{ROW_GROUP_BYTES_MAX, SegmentOptions, SegmentWriter};

/// The version of the format that is written, and the newest that can be read.
pub const FORMAT: u64 = 1;

pub fn sessions_path(name: &SegmentName) -> String {
    format!("sessions/dt={}/{name}.parquet", name.day())
}

pub fn events_path(name: &SegmentName) -> String {
    format!("events/dt={}/{name}.parquet", name.day())
}

pub fn manifest_path(name: &SegmentName) -> String {
    format!("manifests/{name}.json")
}

/// What the paths of each kind of file begin with.
pub const SESSIONS_PREFIX: &str = "sessions/";
pub const EVENTS_PREFIX: &str = "events/";
pub const MANIFESTS_PREFIX: &str = "manifests/";

/// The segment that a file belongs to, where it is one of ours.
pub fn segment_of(path: &str) -> Option<SegmentName> {
    let file = path.rsplit('/').next()?;
    let stem = file
        .strip_suffix(".parquet")
        .or_else(|| file.strip_suffix(".json"))?;
    let name = stem.parse().ok()?;
    let paths = [sessions_path(&name), events_path(&name), manifest_path(&name)];
    paths.iter().any(|own| own == path).then_some(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;
