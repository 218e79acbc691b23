//! Objects that fail as planned.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use colloquy::archive::objects::{
    ByteRange, IsOurs, ObjectError, ObjectErrorKind, ObjectMeta, Objects, Upload,
};

use super::plan::{Fault, Plan};

pub struct FaultyObjects {
    pub objects: Arc<dyn Objects>,
    pub plan: Arc<Plan>,
}

fn failed(fault: Fault) -> ObjectError {
    let kind = match fault {
        Fault::Taken => ObjectErrorKind::AlreadyExists,
        _ => ObjectErrorKind::Unavailable,
    };
    ObjectError::new(kind, "planned")
}

#[async_trait]
impl Objects for FaultyObjects {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let call = self.objects.put(path, bytes);
        self.plan.step(format!("put {path}"), call, failed).await
    }

    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError> {
        let call = self.objects.upload(path);
        let upload = self.plan.step(format!("upload {path}"), call, failed).await?;
        Ok(Box::new(FaultyUpload {
            upload: Some(upload),
            path: path.to_owned(),
            plan: Arc::clone(&self.plan),
        }))
    }

    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        let fault = self.plan.enter(format!("get {path} {range:?}")).await;
        let bytes = match fault {
            Some(Fault::Refuse | Fault::LoseAnswer | Fault::DieBefore | Fault::GoAway) => {
                return Err(failed(Fault::Refuse));
            }
            _ => self.objects.get(path, range).await?,
        };
        Ok(match fault {
            // Where it is known how much there must be, it is noticed.
            Some(Fault::CutShort) if matches!(range, ByteRange::Of { .. }) => {
                return Err(ObjectError::new(ObjectErrorKind::Damaged, "planned"));
            }
            Some(Fault::CutShort) => bytes.slice(..bytes.len() / 2),
            Some(Fault::FlipBit) => flipped(&bytes),
            _ => bytes,
        })
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError> {
        let call = self.objects.head(path);
        self.plan.step(format!("head {path}"), call, failed).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        let call = self.objects.list(prefix, after, limit);
        self.plan.step(format!("list {prefix}"), call, failed).await
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectError> {
        let call = self.objects.delete(path);
        self.plan.step(format!("delete {path}"), call, failed).await
    }

    async fn discard_unfinished(
        &self,
        prefix: &str,
        is_ours: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError> {
        let call = self.objects.discard_unfinished(prefix, is_ours, age);
        self.plan
            .step("discard_unfinished".to_owned(), call, failed)
            .await
    }

    async fn check(&self) -> Result<String, ObjectError> {
        self.objects.check().await
    }
}

/// With one bit in the middle that is another.
fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
    bytes.into()
}

struct FaultyUpload {
    /// There until it is finished.
    upload: Option<Box<dyn Upload>>,
    path: String,
    plan: Arc<Plan>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        let upload = self.upload.as_mut().expect("it is not finished");
        let name = format!("write {}", self.path);
        self.plan.step(name, upload.write(bytes), failed).await
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ObjectError> {
        let name = format!("finish {}", self.path);
        let (plan, this) = (Arc::clone(&self.plan), &mut self);
        // Taken only when the call is made, so that what is not finished is dropped as such.
        let call = async { this.upload.take().expect("it is finished once").finish().await };
        plan.step(name, call, failed).await
    }
}

impl Drop for FaultyUpload {
    /// A process that died tidies nothing up.
    fn drop(&mut self) {
        if self.plan.is_dead() {
            std::mem::forget(self.upload.take());
        }
    }
}
