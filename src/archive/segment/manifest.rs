//! The manifest of a segment: what there is. It is written last, so a segment that has one is whole.

use bytes::Bytes;
use serde_json::Value;

use super::{FORMAT, SegmentReader, events_path, fault, footer::check_format, manifest_path, sessions_path};
use crate::{
    archive::objects::{ByteRange, ObjectErrorKind, Objects},
    domain::{Result, SegmentName, Timestamp, json::ObjectWriter},
};

/// Far more than a manifest has.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// What a segment holds, as the one who wrote it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub segment: SegmentName,
    /// When its writing began.
    pub created_at: Timestamp,
    pub counts: Counts,
    pub sessions: SegmentFile,
    pub events: SegmentFile,
}

/// How much a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub sessions: u64,
    pub events: u64,
    pub payload_bytes: u64,
}

/// A file of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    pub path: String,
    pub bytes: u64,
    /// In hexadecimal digits, lower case.
    pub sha256: String,
}

impl Manifest {
    /// Stores it, where it is not stored yet.
    pub(super) async fn store(&self, objects: &dyn Objects) -> Result<()> {
        let path = manifest_path(&self.segment);
        let bytes = Bytes::from(self.to_json());
        match objects.put(&path, bytes.clone()).await {
            Err(error) if error.kind == ObjectErrorKind::AlreadyExists => {
                let stored = objects.get(&path, ByteRange::Last(MANIFEST_BYTES_MAX)).await;
                match stored {
                    Ok(stored) if stored == bytes => Ok(()),
                    _ => Err(fault::of_object(&self.segment, error)),
                }
            }
            stored => stored.map_err(|error| fault::of_object(&self.segment, error)),
        }
    }

    fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        let mut object = ObjectWriter::new(&mut json);
        object.integer("format", FORMAT);
        object.plain("segment", &self.segment.to_string());
        object.plain("tenant", self.segment.tenant().as_str());
        object.plain("day", &self.segment.day().to_string());
        object.timestamp("createdAt", self.created_at);
        object.integer("sessions", self.counts.sessions);
        object.integer("events", self.counts.events);
        object.integer("payloadBytes", self.counts.payload_bytes);
        object.array("files", [&self.sessions, &self.events], |out, file| {
            let mut object = ObjectWriter::new(out);
            object.plain("path", &file.path);
            object.integer("bytes", file.bytes);
            object.plain("sha256", &file.sha256);
            object.end();
        });
        object.end();
        json
    }

    /// Reads one; fields that a later version added are passed over.
    fn read(name: &SegmentName, bytes: &[u8]) -> Result<Self> {
        let no_manifest = || fault::damaged(name, "its manifest can't be read");
        let json: Value = serde_json::from_slice(bytes).map_err(|error| no_manifest().with_source(error))?;
        check_format(name, json["format"].as_u64())?;
        let belongs = json["segment"] == name.to_string().as_str()
            && json["tenant"] == name.tenant().as_str()
            && json["day"] == name.day().to_string().as_str();
        if !belongs {
            return Err(fault::damaged(name, "its manifest belongs to another segment"));
        }
        let read = || {
            Some(Self {
                segment: name.clone(),
                created_at: json["createdAt"].as_str()?.parse().ok()?,
                counts: Counts {
                    sessions: json["sessions"].as_u64()?,
                    events: json["events"].as_u64()?,
                    payload_bytes: json["payloadBytes"].as_u64()?,
                },
                sessions: file(&json, sessions_path(name))?,
                events: file(&json, events_path(name))?,
            })
        };
        read().ok_or_else(no_manifest)
    }
}

fn file(manifest: &Value, path: String) -> Option<SegmentFile> {
    let files = manifest["files"].as_array()?;
    let file = files.iter().find(|file| file["path"] == path.as_str())?;
    Some(SegmentFile {
        path,
        bytes: file["bytes"].as_u64()?,
        sha256: file["sha256"].as_str()?.to_owned(),
    })
}

impl SegmentReader {
    /// The manifest of a segment.
    ///
    /// # Errors
    /// As [`page`](Self::page); also where there is none: then the segment was never finished.
    pub async fn manifest(&self, name: &SegmentName) -> Result<Manifest> {
        let bytes = self
            .objects
            .get(&manifest_path(name), ByteRange::Last(MANIFEST_BYTES_MAX))
            .await;
        Manifest::read(name, &bytes.map_err(|error| fault::of_object(name, error))?)
    }
}
