//! Whether objects can be written, read and deleted, and are written only once: by trying, which no list of rights and no
//! name of a server tells as surely.

use bytes::Bytes;
use uuid::Uuid;

use super::{ByteRange, ObjectError, ObjectErrorKind, Objects};

/// Puts, puts again, reads and deletes an object under a name that nobody else uses.
///
/// # Errors
/// Those of the first call that failed. [`ObjectErrorKind::Denied`]: the second put replaced the first.
pub(super) async fn probe(objects: &dyn Objects) -> Result<(), ObjectError> {
    let path = format!("check/{}", Uuid::now_v7());
    let bytes = Bytes::from(format!("written by a check, which deletes it: {path}"));
    objects.put(&path, bytes.clone()).await?;
    let kept = expect_kept(objects, &path, &bytes).await;
    // Also when something was wrong: nothing else would ever delete it.
    let deleted = objects.delete(&path).await;
    kept.and(deleted)
}

async fn expect_kept(objects: &dyn Objects, path: &str, bytes: &Bytes) -> Result<(), ObjectError> {
    match objects.put(path, Bytes::from_static(b"a second one")).await {
        Err(error) if error.kind == ObjectErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(()) => {
            let detail = "it replaces objects that are there already (S3: it ignores If-None-Match)";
            return Err(ObjectError::new(ObjectErrorKind::Denied, detail));
        }
    }
    if objects.get(path, ByteRange::All).await? == *bytes {
        return Ok(());
    }
    let detail = "one did not come back as it was written";
    Err(ObjectError::new(ObjectErrorKind::Damaged, detail))
}
