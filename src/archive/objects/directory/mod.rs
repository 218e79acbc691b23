//! Objects in a directory of this machine, for the embedded mode and for tests: a file each, at its path below the root,
//! so that anything that reads files reads the archive.
//!
//! A path that is taken can't also be a folder: where `a` is, `a/b` is refused, and the other way round.
//!
//! The file system must have hard links, and keep what it was told to sync; [`Objects::check`] finds out about the
//! former. Any number of processes may share a root.

mod listing;
mod place;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;

use self::place::{Place, Unfinished};
use super::{
    ByteRange, IsOurs, ObjectError, ObjectErrorKind, ObjectMeta, Objects, Upload,
    path::{check_path, check_prefix, check_range},
    probe::probe,
};
use crate::in_flight;

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct DirectoryObjects {
    place: Arc<Place>,
}

impl DirectoryObjects {
    /// Opens the directory, and makes it when it is not there. Blocks.
    ///
    /// # Errors
    /// It can't be made, or written to.
    pub fn open(root: PathBuf) -> Result<Self, ObjectError> {
        Ok(Self {
            place: Arc::new(Place::open(&root)?),
        })
    }

    /// Does file work off the async threads.
    async fn with_place<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let place = Arc::clone(&self.place);
        blocking(move || work(&place)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, ObjectError> {
    let done = in_flight::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let stopped = ObjectError::new(ObjectErrorKind::Unavailable, "the work on a file was cut off");
        Err(stopped.with_source(error))
    })
}

#[async_trait]
impl Objects for DirectoryObjects {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), ObjectError> {
        check_path(path)?;
        let path = path.to_owned();
        self.with_place(move |place| {
            let mut unfinished = place.begin()?;
            unfinished.write(&bytes)?;
            place.keep(&path, &unfinished)
        })
        .await
    }

    async fn upload(&self, path: &str) -> Result<Box<dyn Upload>, ObjectError> {
        check_path(path)?;
        let unfinished = self.with_place(Place::begin).await?;
        Ok(Box::new(DirectoryUpload {
            place: Arc::clone(&self.place),
            path: path.to_owned(),
            unfinished: Some(unfinished),
        }))
    }

    async fn get(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        check_path(path)?;
        check_range(range)?;
        let path = path.to_owned();
        self.with_place(move |place| place.read(&path, range)).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, ObjectError> {
        check_path(path)?;
        let path = path.to_owned();
        self.with_place(move |place| place.head(path)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        check_prefix(prefix)?;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.with_place(move |place| place.list(&prefix, after.as_deref(), limit))
            .await
    }

    async fn delete(&self, path: &str) -> Result<(), ObjectError> {
        check_path(path)?;
        let path = path.to_owned();
        self.with_place(move |place| place.delete(&path)).await
    }

    async fn discard_unfinished(
        &self,
        prefix: &str,
        _: IsOurs<'_>,
        age: Duration,
    ) -> Result<usize, ObjectError> {
        check_prefix(prefix)?;
        self.with_place(move |place| place.discard_unfinished(age)).await
    }

    async fn check(&self) -> Result<String, ObjectError> {
        probe(self).await?;
        Ok(format!("writable: the directory {}", self.place.root().display()))
    }
}

/// Nothing is lost by a file of which not one byte was synced before it is finished: it is no object until then.
struct DirectoryUpload {
    place: Arc<Place>,
    path: String,
    /// Gone once a write failed or was given up: what was written then may have a hole.
    unfinished: Option<Unfinished>,
}

impl DirectoryUpload {
    fn take(&mut self) -> Result<Unfinished, ObjectError> {
        self.unfinished.take().ok_or_else(|| {
            let detail = format!("the upload of {} failed before", self.path);
            ObjectError::new(ObjectErrorKind::Unavailable, detail)
        })
    }
}

#[async_trait]
impl Upload for DirectoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        let mut unfinished = self.take()?;
        let written = blocking(move || {
            unfinished.write(&bytes)?;
            Ok(unfinished)
        });
        self.unfinished = Some(written.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ObjectError> {
        let unfinished = self.take()?;
        let (place, path) = (Arc::clone(&self.place), self.path.clone());
        blocking(move || place.keep(&path, &unfinished)).await
    }
}

impl Drop for DirectoryUpload {
    /// Freeing a large file takes a while, and so does not happen on an async thread.
    fn drop(&mut self) {
        let unfinished = self.unfinished.take();
        match Handle::try_current() {
            Ok(runtime) if unfinished.is_some() => drop(runtime.spawn_blocking(move || drop(unfinished))),
            _ => drop(unfinished),
        }
    }
}
