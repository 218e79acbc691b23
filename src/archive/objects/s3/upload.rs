//! An object in parts. What fits in one part is put at once, when it is finished; more goes up while it is written.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    Bucket, TOKEN,
    failure::{failure, is_upload_gone, status, unavailable},
    new_token,
};
use crate::archive::objects::{ObjectError, ObjectErrorKind, Upload};

/// S3 takes no more to an object.
const PARTS_MAX: i32 = 10_000;

/// On their way at a time, besides the one that is being filled.
const PARTS_IN_FLIGHT_MAX: usize = 2;

pub(super) struct S3Upload {
    bucket: Arc<Bucket>,
    path: String,
    /// What was written and has not gone up: at most a part.
    filling: BytesMut,
    multipart: Option<Multipart>,
    /// A write failed, or was given up: what was written may have a hole.
    broken: bool,
}

/// An upload that the server knows. Dropped, it is aborted.
struct Multipart {
    bucket: Arc<Bucket>,
    key: String,
    id: String,
    token: String,
    begun_parts: i32,
    in_flight: JoinSet<Result<CompletedPart, ObjectError>>,
    parts: Vec<CompletedPart>,
    completed: bool,
}

impl S3Upload {
    pub(super) fn new(bucket: Arc<Bucket>, path: &str) -> Self {
        Self {
            bucket,
            path: path.to_owned(),
            filling: BytesMut::new(),
            multipart: None,
            broken: false,
        }
    }

    async fn fill(&mut self, mut bytes: Bytes) -> Result<(), ObjectError> {
        let part_bytes = self.bucket.part_bytes;
        while !bytes.is_empty() {
            // A whole part goes up once there is more: what is exactly one is put at once.
            if self.filling.len() == part_bytes {
                self.send_part().await?;
            }
            let room = part_bytes - self.filling.len();
            self.filling
                .extend_from_slice(&bytes.split_to(room.min(bytes.len())));
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<(), ObjectError> {
        if self.multipart.is_none() {
            self.multipart = Some(Multipart::begin(&self.bucket, &self.path).await?);
        }
        if let Some(multipart) = &mut self.multipart {
            multipart.send(self.filling.split().freeze()).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(unavailable(format!("the upload of {} failed before", self.path)));
        }
        self.fill(bytes).await?;
        self.broken = false;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ObjectError> {
        if self.broken {
            return Err(unavailable(format!("the upload of {} failed before", self.path)));
        }
        if self.multipart.is_none() {
            let put = self.bucket.put(&self.path, self.filling.split().freeze());
            return self
                .bucket
                .in_time(&format!("can't store {}", self.path), put)
                .await;
        }
        self.send_part().await?;
        match self.multipart.take() {
            Some(multipart) => multipart.complete(&self.path).await,
            None => Ok(()),
        }
    }
}

impl Multipart {
    async fn begin(bucket: &Arc<Bucket>, path: &str) -> Result<Self, ObjectError> {
        let (key, token) = (bucket.key(path), new_token());
        let create = bucket.client.create_multipart_upload();
        let create = create.bucket(&bucket.name).key(&key).metadata(TOKEN, &token);
        let doing = || format!("can't begin the upload of {path}");
        let answer = create.send().await.map_err(|error| failure(doing(), error))?;
        let no_id = || unavailable(format!("{}: the server gave it no id", doing()));
        Ok(Self {
            bucket: Arc::clone(bucket),
            key,
            id: answer.upload_id.ok_or_else(no_id)?,
            token,
            begun_parts: 0,
            in_flight: JoinSet::new(),
            parts: Vec::new(),
            completed: false,
        })
    }

    /// Waits only while there are too many parts on their way.
    async fn send(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        while self.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            self.await_part().await?;
        }
        if self.begun_parts == PARTS_MAX {
            let detail = format!(
                "{} has more than {PARTS_MAX} parts: they must be larger",
                self.key
            );
            return Err(ObjectError::new(ObjectErrorKind::Denied, detail));
        }
        self.begun_parts += 1;
        let number = self.begun_parts;
        let part = self
            .bucket
            .client
            .upload_part()
            .bucket(&self.bucket.name)
            .key(&self.key)
            .upload_id(&self.id)
            .part_number(number)
            .body(bytes.into());
        let doing = format!("can't store part {number} of {}", self.key);
        self.in_flight.spawn(async move {
            let stored = match part.send().await {
                Ok(stored) => stored,
                Err(error) if is_upload_gone(&error) => return Err(discarded().with_source(error)),
                Err(error) => return Err(failure(doing, error)),
            };
            // Whichever checksum the server was sent, it wants to hear again.
            Ok(CompletedPart::builder()
                .part_number(number)
                .set_e_tag(stored.e_tag)
                .set_checksum_crc32(stored.checksum_crc32)
                .set_checksum_crc32_c(stored.checksum_crc32_c)
                .set_checksum_crc64_nvme(stored.checksum_crc64_nvme)
                .set_checksum_sha1(stored.checksum_sha1)
                .set_checksum_sha256(stored.checksum_sha256)
                .build())
        });
        Ok(())
    }

    async fn await_part(&mut self) -> Result<(), ObjectError> {
        match self.in_flight.join_next().await {
            Some(Ok(part)) => self.parts.push(part?),
            Some(Err(error)) => return Err(unavailable("storing a part was cut off").with_source(error)),
            None => {}
        }
        Ok(())
    }

    async fn complete(mut self, path: &str) -> Result<(), ObjectError> {
        while !self.in_flight.is_empty() {
            self.await_part().await?;
        }
        let bucket = Arc::clone(&self.bucket);
        let doing = format!("can't finish the upload of {path}");
        bucket.in_time(&doing, self.try_complete(path)).await?;
        self.completed = true;
        Ok(())
    }

    async fn try_complete(&mut self, path: &str) -> Result<(), ObjectError> {
        // For servers that don't mind the condition below.
        match self.bucket.head(path).await {
            Ok(_) => return Err(ObjectError::new(ObjectErrorKind::AlreadyExists, path)),
            Err(error) if error.kind == ObjectErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.parts.sort_unstable_by_key(CompletedPart::part_number);
        let parts = std::mem::take(&mut self.parts);
        let complete = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(&self.key)
            .upload_id(&self.id)
            .if_none_match("*")
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        match self.bucket.through_conflicts(|| complete.clone().send()).await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(412) => self.bucket.expect_token(path, &self.token).await,
            // A try before this one completed it, or somebody discarded it.
            Err(error) if is_upload_gone(&error) => match self.bucket.head(path).await {
                Ok(_) => self.bucket.expect_token(path, &self.token).await,
                Err(gone) if gone.kind == ObjectErrorKind::NotFound => Err(discarded().with_source(error)),
                Err(failed) => Err(failed),
            },
            Err(error) => Err(failure(format!("can't finish the upload of {path}"), error)),
        }
    }
}

impl Drop for Multipart {
    /// As well as it can: what it misses, [`Objects::discard_unfinished`](crate::archive::objects::Objects) finds.
    fn drop(&mut self) {
        if self.completed {
            return;
        }
        self.in_flight.abort_all();
        if let Ok(runtime) = Handle::try_current() {
            let bucket = Arc::clone(&self.bucket);
            let (key, id) = (std::mem::take(&mut self.key), std::mem::take(&mut self.id));
            drop(runtime.spawn(async move { bucket.abort(&key, &id).await }));
        }
    }
}

fn discarded() -> ObjectError {
    unavailable("the upload was discarded meanwhile")
}
