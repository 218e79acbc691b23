//! Objects whose requests are timed and traced, whatever they lie in.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{ByteRange, IsOurs, ObjectError, ObjectErrorKind, ObjectMeta, Objects, Upload};
use crate::telemetry::calls;

/// Objects that telemetry knows of.
pub struct Observed(Arc<dyn Objects>);

impl Observed {
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self(objects)
    }
}

/// What telemetry calls the end of a request. What is not there, or there already, may be just what was asked.
fn outcome<T>(done: &Result<T, ObjectError>) -> &'static str {
    match done.as_ref().map_err(|error| error.kind) {
        Ok(_) => "ok",
        Err(ObjectErrorKind::NotFound) => "not_found",
        Err(ObjectErrorKind::AlreadyExists) => "exists",
        Err(ObjectErrorKind::Damaged | ObjectErrorKind::Denied | ObjectErrorKind::Unavailable) => {
            calls::FAILED
        }
    }
}

#[async_trait]
impl Objects for Observed {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        calls::objects("put", outcome, self.0.put(path, bytes)).await
    }

    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError> {
        let upload = calls::objects("upload_begin", outcome, self.0.upload(path)).await?;
        Ok(Box::new(ObservedUpload(upload)))
    }

    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        calls::objects("get", outcome, self.0.get(path, range)).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError> {
        calls::objects("head", outcome, self.0.head(path)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        calls::objects("list", outcome, self.0.list(prefix, after, limit)).await
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectError> {
        calls::objects("delete", outcome, self.0.delete(path)).await
    }

    async fn discard_unfinished(
        &self,
        prefix: &str,
        is_ours: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError> {
        calls::objects(
            "discard_unfinished",
            outcome,
            self.0.discard_unfinished(prefix, is_ours, age),
        )
        .await
    }

    fn has_own_clock(&self) -> bool {
        self.0.has_own_clock()
    }

    async fn check(&self) -> Result<String, ObjectError> {
        self.0.check().await
    }
}

struct ObservedUpload(Box<dyn Upload>);

#[async_trait]
impl Upload for ObservedUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        calls::objects("upload_write", outcome, self.0.write(bytes)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), ObjectError> {
        calls::objects("upload_finish", outcome, self.0.finish()).await
    }
}
