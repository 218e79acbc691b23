//! Objects in memory, for tests: counts requests, and can be damaged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::{
    archive::objects::{ByteRange, IsOurs, ObjectError, ObjectErrorKind, ObjectMeta, Objects, Upload},
    domain::Timestamp,
};

#[derive(Default)]
pub struct Memory {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    gets: AtomicUsize,
    /// The largest piece that was written at once.
    written_bytes_max: Arc<AtomicUsize>,
}

impl Memory {
    /// Requests since the last call.
    pub fn take_gets(&self) -> usize {
        self.gets.swap(0, Ordering::SeqCst)
    }

    pub fn written_bytes_max(&self) -> usize {
        self.written_bytes_max.load(Ordering::SeqCst)
    }

    pub fn bytes(&self, path: &str) -> Bytes {
        self.objects.lock().unwrap()[path].clone()
    }

    /// Puts other bytes in an object's place.
    pub fn replace(&self, path: &str, bytes: impl Into<Bytes>) {
        self.objects.lock().unwrap().insert(path.to_owned(), bytes.into());
    }

    pub fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }
}

#[async_trait]
impl Objects for Memory {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(path) {
            return Err(ObjectError::new(ObjectErrorKind::AlreadyExists, path));
        }
        objects.insert(path.to_owned(), bytes);
        Ok(())
    }

    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError> {
        Ok(Box::new(Part {
            path: path.to_owned(),
            bytes: BytesMut::new(),
            objects: Arc::clone(&self.objects),
            written_bytes_max: Arc::clone(&self.written_bytes_max),
        }))
    }

    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let objects = self.objects.lock().unwrap();
        let Some(bytes) = objects.get(path) else {
            return Err(ObjectError::new(ObjectErrorKind::NotFound, path));
        };
        let index = |at: u64| usize::try_from(at).unwrap();
        match range {
            ByteRange::All => Ok(bytes.clone()),
            ByteRange::Last(count) => Ok(bytes.slice(bytes.len().saturating_sub(index(count))..)),
            ByteRange::Of { start, end } if index(end) > bytes.len() || start >= end => {
                Err(ObjectError::new(ObjectErrorKind::Damaged, path))
            }
            ByteRange::Of { start, end } => Ok(bytes.slice(index(start)..index(end))),
        }
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError> {
        let objects = self.objects.lock().unwrap();
        let bytes = objects.get(path);
        let bytes = bytes.ok_or_else(|| ObjectError::new(ObjectErrorKind::NotFound, path))?;
        Ok(ObjectMeta {
            path: path.to_owned(),
            size: bytes.len() as u64,
            written_at: Timestamp::EPOCH,
        })
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        let objects = self.objects.lock().unwrap();
        let listed = objects
            .iter()
            .filter(|(path, _)| path.starts_with(prefix) && after.is_none_or(|after| path.as_str() > after));
        let meta = |(path, bytes): (&String, &Bytes)| ObjectMeta {
            path: path.clone(),
            size: bytes.len() as u64,
            written_at: Timestamp::EPOCH,
        };
        Ok(listed.take(limit).map(meta).collect())
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectError> {
        self.remove(path);
        Ok(())
    }

    async fn discard_unfinished(
        &self,
        _prefix: &str,
        _is_ours: IsOurs<'_>,
        _age: Duration,
    ) -> Result<usize, ObjectError> {
        Ok(0)
    }

    async fn check(&self) -> Result<String, ObjectError> {
        Ok(String::from("memory"))
    }
}

struct Part {
    path: String,
    bytes: BytesMut,
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    written_bytes_max: Arc<AtomicUsize>,
}

#[async_trait]
impl Upload for Part {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        self.written_bytes_max.fetch_max(bytes.len(), Ordering::SeqCst);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), ObjectError> {
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(&self.path) {
            return Err(ObjectError::new(ObjectErrorKind::AlreadyExists, &*self.path));
        }
        objects.insert(self.path, self.bytes.freeze());
        Ok(())
    }
}
