//! stub
#![allow(unused_variables, clippy::unused_async, dead_code)]
use super::objects::Objects;
use crate::domain::*;
use std::sync::Arc;
#[derive(Debug, Clone)]
pub struct SegmentOptions {
    pub row_group_bytes: usize,
    pub page_rows: usize,
    pub page_bytes: usize,
    pub zstd_level: i32,
}
impl Default for SegmentOptions {
    fn default() -> Self {
        todo!()
    }
}
pub struct SegmentWriter;
impl SegmentWriter {
    pub async fn create(
        objects: Arc<dyn Objects>,
        name: SegmentName,
        options: SegmentOptions,
    ) -> Result<Self> {
        todo!()
    }
    pub async fn begin_session(&mut self, session: &Session, epoch: i64) -> Result<()> {
        todo!()
    }
    pub async fn push(&mut self, event: &Event) -> Result<()> {
        todo!()
    }
    pub async fn end_session(&mut self) -> Result<Pointer> {
        todo!()
    }
    pub fn bytes(&self) -> u64 {
        todo!()
    }
    pub async fn finish(self) -> Result<Written> {
        todo!()
    }
}
pub struct Written;
impl Written {
    pub async fn verify(&self, objects: &Arc<dyn Objects>) -> Result<()> {
        todo!()
    }
    pub async fn seal(&self, objects: &Arc<dyn Objects>) -> Result<Manifest> {
        todo!()
    }
}
#[derive(Debug, Clone)]
pub struct Manifest {
    pub segment: SegmentName,
    pub sessions: u64,
    pub events: u64,
    pub files: Vec<ManifestFile>,
}
#[derive(Debug, Clone)]
pub struct ManifestFile {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}
#[derive(Clone)]
pub struct SegmentReader;
pub struct SessionRow {
    pub session: Session,
    pub epoch: i64,
    pub pointer: Pointer,
}
pub struct SessionRows;
impl SessionRows {
    pub async fn next(&mut self) -> Result<Option<SessionRow>> {
        todo!()
    }
}
pub struct EventRows;
impl EventRows {
    pub async fn next(&mut self) -> Result<Option<(SessionId, Event)>> {
        todo!()
    }
}
impl SegmentReader {
    pub fn new(objects: Arc<dyn Objects>, footers_bytes_max: usize) -> Self {
        todo!()
    }
    pub async fn page(&self, key: &SessionKey, pointer: &Pointer, query: &EventQuery) -> Result<Page<Event>> {
        todo!()
    }
    pub async fn find(
        &self,
        key: &SessionKey,
        pointer: &Pointer,
        ids: &[EventId],
    ) -> Result<Vec<Option<Event>>> {
        todo!()
    }
    pub async fn manifest(&self, name: &SegmentName) -> Result<Manifest> {
        todo!()
    }
    pub async fn sessions(&self, name: &SegmentName) -> Result<SessionRows> {
        todo!()
    }
    pub async fn events(&self, name: &SegmentName) -> Result<EventRows> {
        todo!()
    }
    pub async fn check(&self, name: &SegmentName) -> Result<Manifest> {
        todo!()
    }
    pub fn forget(&self, name: &SegmentName) {
        todo!()
    }
}
pub fn sessions_path(name: &SegmentName) -> String {
    todo!()
}
pub fn events_path(name: &SegmentName) -> String {
    todo!()
}
pub fn manifest_path(name: &SegmentName) -> String {
    todo!()
}
pub const EVENTS_PREFIX: &str = "events/";
pub const SESSIONS_PREFIX: &str = "sessions/";
pub const MANIFESTS_PREFIX: &str = "manifests/";
pub fn segment_of(path: &str) -> Option<SegmentName> {
    todo!()
}
