//! Whether objects can be written, read and deleted: by doing it once, which no list of rights tells as surely.

use bytes::Bytes;
use uuid::Uuid;

use super::{ByteRange, ObjectError, ObjectErrorKind, Objects};

/// Puts, reads and deletes an object under a name that nobody else uses.
///
/// # Errors
/// Those of the first call that failed.
pub(super) async fn probe(objects: &dyn Objects) -> Result<(), ObjectError> {
    let path = format!("check/{}", Uuid::now_v7());
    let bytes = Bytes::from(format!("written by a check, which deletes it: {path}"));
    objects.put(&path, bytes.clone()).await?;
    let read = objects.get(&path, ByteRange::All).await;
    // Also when it could not be read: nothing else would ever delete it.
    let deleted = objects.delete(&path).await;
    let read = read?;
    deleted?;
    if read == bytes {
        return Ok(());
    }
    let detail = "an object did not come back as it was written";
    Err(ObjectError::new(ObjectErrorKind::Damaged, detail))
}
