//! Objects in a bucket of S3, or of a server that speaks it.
//!
//! **Once.** An object is written with `If-None-Match: *`, so the server decides who was first. The SDK repeats what got
//! no answer, and the second try of a write that was stored is refused like any other: so each write carries a
//! token of its own as metadata, and one that is refused looks whether what is there carries that token.
//!
//! **Large ones** go up in parts, with the same condition on completing them. A server that ignores it there would let
//! a later upload replace an object; a look before completing makes that unlikely. SeaweedFS and S3 itself honour it.
//!
//! **Servers differ.** SeaweedFS lists folder by folder, so that all of `a/` comes before `a-b`; has a name that was a
//! folder taken for a while; and makes a bucket that is not there for whoever may. Paths whose parts are of one length in
//! one folder, as the archive's are, come in the same order everywhere.
//!
//! It takes the rights to get, put, delete and list, and to list and abort uploads. Without the right to list, S3 says
//! of what is not there that it is forbidden.

mod connecting;
mod failure;
mod reading;
mod upload;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{Client, error::SdkError, operation::head_object::HeadObjectOutput, primitives::DateTime};
use bytes::Bytes;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

pub use self::connecting::S3Options;
use self::{
    failure::{failure, is_conflict, is_upload_gone, status, unavailable},
    upload::S3Upload,
};
use super::{
    ByteRange, IsOurs, ObjectError, ObjectErrorKind, ObjectMeta, Objects, Upload,
    path::{check_path, check_prefix, check_range, is_path},
    probe::probe,
};
use crate::domain::Timestamp;

/// The metadata that says which write made an object.
const TOKEN: &str = "colloquy-write";

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct S3Objects {
    bucket: Arc<Bucket>,
}

/// A bucket, and how to talk to it.
#[derive(Debug)]
struct Bucket {
    client: Client,
    name: String,
    /// Empty, or ends in a slash.
    prefix: String,
    endpoint: Option<String>,
    attempt_time_max: Duration,
    call_time_max: Duration,
    attempts_max: u32,
    part_bytes: usize,
}

impl Bucket {
    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The path of an object's key; none for a key that is not one of ours.
    fn path<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix).filter(|path| is_path(path))
    }

    async fn head(&self, path: &str) -> Result<HeadObjectOutput, ObjectError> {
        let head = self.client.head_object().bucket(&self.name).key(self.key(path));
        let answer = head.send().await;
        answer.map_err(|error| failure(format!("can't look for {path}"), error))
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let token = new_token();
        let put = || {
            let put = self.client.put_object().bucket(&self.name).key(self.key(path));
            let put = put.if_none_match("*").metadata(TOKEN, &token);
            put.body(bytes.clone().into()).send()
        };
        let answer = self.through_conflicts(put).await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(412) => self.expect_token(path, &token).await,
            Err(error) => Err(failure(format!("can't store {path}"), error)),
        }
    }

    /// Repeats a conditional write that met another one at the same moment: S3 asks for it, and the SDK does not do it.
    async fn through_conflicts<T, E, F>(&self, send: impl Fn() -> F) -> Result<T, SdkError<E>>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let mut attempt = 1;
        loop {
            match send().await {
                Err(error) if is_conflict(&error) && attempt < self.attempts_max => {
                    sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    /// After a write was told that there is an object: whether it is the one that this write made itself.
    async fn expect_token(&self, path: &str, token: &str) -> Result<(), ObjectError> {
        match self.head(path).await {
            Ok(head) if carries(&head, token) => Ok(()),
            Ok(_) => Err(ObjectError::new(ObjectErrorKind::AlreadyExists, path)),
            // It was there when the write was refused.
            Err(error) if error.kind == ObjectErrorKind::NotFound => {
                Err(ObjectError::new(ObjectErrorKind::AlreadyExists, path))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a call up when its time is over, with all its tries.
    async fn in_time<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, ObjectError> {
        let done = timeout(self.call_time_max, call).await;
        done.unwrap_or_else(|_| Err(unavailable(format!("{doing}: no answer in time"))))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        let mut found = Vec::new();
        let mut from = None;
        loop {
            let wanted = limit - found.len();
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.name)
                .prefix(self.key(prefix))
                .set_start_after(after.map(|after| self.key(after)))
                .set_continuation_token(from)
                .max_keys(i32::try_from(wanted).unwrap_or(i32::MAX));
            let page = page.send().await;
            let page =
                page.map_err(|error| failure(format!("can't list what begins with {prefix:?}"), error))?;
            let objects = page.contents().iter().filter_map(|object| {
                Some(ObjectMeta {
                    path: self.path(object.key()?)?.to_owned(),
                    size: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0),
                    written_at: timestamp(object.last_modified()),
                })
            });
            found.extend(objects.take(wanted));
            from = page
                .next_continuation_token
                .filter(|_| page.is_truncated == Some(true));
            if found.len() >= limit || from.is_none() {
                return Ok(found);
            }
        }
    }

    async fn abort(&self, key: &str, upload_id: &str) -> Result<bool, ObjectError> {
        let abort = self.client.abort_multipart_upload();
        let abort = abort.bucket(&self.name).key(key).upload_id(upload_id);
        match abort.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_upload_gone(&error) => Ok(false),
            Err(error) => Err(failure("can't discard an upload".to_owned(), error)),
        }
    }

    async fn discard_unfinished(
        &self,
        prefix: &str,
        is_ours: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError> {
        check_prefix(prefix)?;
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let stale_at_ms = now_ms().saturating_sub(age_ms);
        let (mut discarded, mut key_marker, mut id_marker) = (0, None, None);
        loop {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.name)
                .prefix(self.key(prefix))
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker);
            let page = page.send().await;
            let page = page.map_err(|error| failure("can't list the uploads".to_owned(), error))?;
            for upload in page.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else {
                    continue;
                };
                let stale = timestamp(upload.initiated()).unix_ms() <= stale_at_ms;
                let is_ours = self.path(key).is_some_and(is_ours);
                if stale && is_ours && self.abort(key, id).await? {
                    discarded += 1;
                }
            }
            if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                return Ok(discarded);
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }
}

#[async_trait]
impl Objects for S3Objects {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        check_path(path)?;
        let put = self.bucket.put(path, bytes);
        self.bucket.in_time(&format!("can't store {path}"), put).await
    }

    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError> {
        check_path(path)?;
        Ok(Box::new(S3Upload::new(Arc::clone(&self.bucket), path)))
    }

    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        check_path(path)?;
        check_range(range)?;
        let read = self.bucket.read(path, range);
        self.bucket.in_time(&format!("can't read {path}"), read).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError> {
        check_path(path)?;
        let head = self.bucket.head(path).await?;
        Ok(ObjectMeta {
            path: path.to_owned(),
            size: u64::try_from(head.content_length().unwrap_or(0)).unwrap_or(0),
            written_at: timestamp(head.last_modified()),
        })
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        check_prefix(prefix)?;
        let list = self.bucket.list(prefix, after, limit);
        let doing = format!("can't list what begins with {prefix:?}");
        self.bucket.in_time(&doing, list).await
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectError> {
        check_path(path)?;
        let bucket = &self.bucket;
        let delete = bucket.client.delete_object().bucket(&bucket.name);
        match delete.key(bucket.key(path)).send().await {
            Ok(_) => Ok(()),
            Err(error) => match failure(format!("can't delete {path}"), error) {
                gone if gone.kind == ObjectErrorKind::NotFound => Ok(()),
                failed => Err(failed),
            },
        }
    }

    async fn discard_unfinished(
        &self,
        prefix: &str,
        is_ours: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError> {
        self.bucket.discard_unfinished(prefix, is_ours, age).await
    }

    fn has_own_clock(&self) -> bool {
        true
    }

    async fn check(&self) -> Result<String, ObjectError> {
        probe(self).await?;
        let Bucket {
            name,
            prefix,
            endpoint,
            ..
        } = &*self.bucket;
        let server = endpoint
            .as_deref()
            .map(|url| format!(" at {url}"))
            .unwrap_or_default();
        let within = match prefix.as_str() {
            "" => String::new(),
            prefix => format!(", prefix {prefix}"),
        };
        Ok(format!("reachable and writable: bucket {name}{within}{server}"))
    }
}

fn new_token() -> String {
    Uuid::now_v7().to_string()
}

fn carries(head: &HeadObjectOutput, token: &str) -> bool {
    let metadata = head.metadata();
    metadata.is_some_and(|metadata| metadata.get(TOKEN).is_some_and(|carried| carried == token))
}

/// 50 ms, then twice as long each time, to about a second; no two writers wait alike.
fn backoff(attempt: u32) -> Duration {
    let wait_ms = 50_u64 << attempt.saturating_sub(1).min(4);
    let jitter_ms = u64::from(Uuid::now_v7().as_bytes()[15]) * wait_ms / 512;
    Duration::from_millis(wait_ms / 2 + jitter_ms)
}

/// What does not say when it was is as young as can be: age is a reason to delete.
fn timestamp(at: Option<&DateTime>) -> Timestamp {
    let ms = at.and_then(|at| at.to_millis().ok()).unwrap_or_else(now_ms);
    Timestamp::EPOCH.saturating_add_ms(ms)
}

fn now_ms() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
