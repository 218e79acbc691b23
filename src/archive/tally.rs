//! Counts what is asked of the objects, since that is what object storage charges for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::objects::{ByteRange, IsOurs, ObjectError, ObjectMeta, Objects, Upload};

/// Objects whose requests are counted.
pub struct Tally {
    objects: Arc<dyn Objects>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    puts: AtomicU64,
    gets: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    others: AtomicU64,
}

/// What was asked so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// Objects written, whether in one piece or in parts.
    pub puts: u64,
    /// Ranges read.
    pub gets: u64,
    /// Listings, deletions, looks.
    pub others: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Bytes read.
    pub bytes_in: u64,
}

impl Tally {
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self {
            objects,
            counts: Arc::default(),
        }
    }

    pub fn so_far(&self) -> Requests {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Requests {
            puts: of(&self.counts.puts),
            gets: of(&self.counts.gets),
            others: of(&self.counts.others),
            bytes_out: of(&self.counts.bytes_out),
            bytes_in: of(&self.counts.bytes_in),
        }
    }

    fn other(&self) {
        self.counts.others.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    fn out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[async_trait]
impl Objects for Tally {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.counts.puts.fetch_add(1, Ordering::Relaxed);
        self.counts.out(bytes.len());
        self.objects.put(path, bytes).await
    }

    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError> {
        self.counts.puts.fetch_add(1, Ordering::Relaxed);
        let upload = self.objects.upload(path).await?;
        let counts = Arc::clone(&self.counts);
        Ok(Box::new(CountedUpload { upload, counts }))
    }

    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.counts.gets.fetch_add(1, Ordering::Relaxed);
        let bytes = self.objects.get(path, range).await?;
        self.counts
            .bytes_in
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError> {
        self.other();
        self.objects.head(path).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        self.other();
        self.objects.list(prefix, after, limit).await
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectError> {
        self.other();
        self.objects.delete(path).await
    }

    async fn discard_unfinished(
        &self,
        prefix: &str,
        is_ours: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError> {
        self.other();
        self.objects.discard_unfinished(prefix, is_ours, age).await
    }

    fn has_own_clock(&self) -> bool {
        self.objects.has_own_clock()
    }

    async fn check(&self) -> Result<String, ObjectError> {
        self.objects.check().await
    }
}

struct CountedUpload {
    upload: Box<dyn Upload>,
    counts: Arc<Counts>,
}

#[async_trait]
impl Upload for CountedUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        self.counts.out(bytes.len());
        self.upload.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<(), ObjectError> {
        self.upload.finish().await
    }
}
