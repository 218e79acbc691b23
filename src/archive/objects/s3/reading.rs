//! Reading a range, and never taking fewer bytes for all of them.
//!
//! The SDK repeats requests, but an answer that breaks off in its body is past that: it is repeated here. What was asked
//! for is compared with what the server says it sends before a byte is read, so a server that knows no ranges does not
//! fill the memory.

use std::error::Error;

use aws_sdk_s3::{error::SdkError, operation::get_object::GetObjectOutput};
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::{
    Bucket, backoff,
    failure::{damaged, failure, status, unavailable},
};
use crate::archive::objects::{ByteRange, ObjectError, ObjectErrorKind};

/// How a try at reading ended, when it did not give the bytes.
enum Broken {
    /// Another try would end like this one.
    Lasting(ObjectError),
    Passing(ObjectError),
}

impl Bucket {
    pub(super) async fn read(&self, path: &str, range: ByteRange) -> Result<Bytes, ObjectError> {
        let mut attempt = 1;
        loop {
            match self.try_read(path, range).await {
                Ok(bytes) => return Ok(bytes),
                Err(Broken::Passing(_)) if attempt < self.attempts_max => {
                    sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(Broken::Lasting(error) | Broken::Passing(error)) => return Err(error),
            }
        }
    }

    async fn try_read(&self, path: &str, range: ByteRange) -> Result<Bytes, Broken> {
        let get = self.client.get_object().bucket(&self.name).key(self.key(path));
        let answer = match get.set_range(header(range)).send().await {
            Ok(answer) => answer,
            Err(error) if status(&error) == Some(416) => return self.without_range(path, range, error).await,
            Err(error) => return Err(Broken::Lasting(failure(format!("can't read {path}"), error))),
        };
        let expected = expected_bytes(path, range, &answer).map_err(Broken::Lasting)?;
        let collected = timeout(self.attempt_time_max, answer.body.collect()).await;
        let bytes = match collected {
            Ok(Ok(collected)) => collected.into_bytes(),
            Ok(Err(error)) if is_checksum(&error) => {
                let detail = format!("{path} does not have the checksum it was stored with");
                return Err(Broken::Passing(damaged(detail).with_source(error)));
            }
            Ok(Err(error)) => {
                let detail = format!("can't read {path}: the answer broke off");
                return Err(Broken::Passing(unavailable(detail).with_source(error)));
            }
            Err(_) => {
                return Err(Broken::Passing(unavailable(format!(
                    "can't read {path}: no answer in time"
                ))));
            }
        };
        match u64::try_from(bytes.len()) {
            Ok(len) if expected.is_none_or(|expected| len == expected) => Ok(bytes),
            _ => Err(Broken::Passing(damaged(format!(
                "{path}: {} bytes came where {expected:?} should",
                bytes.len()
            )))),
        }
    }

    /// There is nothing in the range: past the end for one that names its bytes, and for the last ones, either an empty
    /// object, or a server that does not give more than there is.
    async fn without_range<E>(
        &self,
        path: &str,
        range: ByteRange,
        refusal: SdkError<E>,
    ) -> Result<Bytes, Broken>
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let ByteRange::Last(last) = range else {
            return Err(Broken::Lasting(failure(format!("can't read {path}"), refusal)));
        };
        let head = self.head(path).await.map_err(Broken::Lasting)?;
        match head.content_length().map(u64::try_from) {
            Some(Ok(0)) => Ok(Bytes::new()),
            Some(Ok(size)) if size < last => Box::pin(self.try_read(path, ByteRange::All)).await,
            _ => Err(Broken::Lasting(failure(format!("can't read {path}"), refusal))),
        }
    }
}

fn header(range: ByteRange) -> Option<String> {
    match range {
        ByteRange::All => None,
        // Servers count in signed integers, and no object is that large.
        ByteRange::Of { start, end } => Some(format!(
            "bytes={}-{}",
            start.min(BYTES_MAX - 1),
            end.min(BYTES_MAX) - 1
        )),
        ByteRange::Last(bytes) => Some(format!("bytes=-{}", bytes.min(BYTES_MAX))),
    }
}

const BYTES_MAX: u64 = i64::MAX.unsigned_abs();

/// How many bytes must come, as far as the answer tells.
fn expected_bytes(
    path: &str,
    range: ByteRange,
    answer: &GetObjectOutput,
) -> Result<Option<u64>, ObjectError> {
    let announced = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let sent = answer.content_range().and_then(ContentRange::read);
    let wrong = |wanted: &str| {
        let detail = format!("{path}: {announced:?} bytes came for {wanted}, {sent:?}");
        Err(ObjectError::new(ObjectErrorKind::Damaged, detail))
    };
    match range {
        ByteRange::All => Ok(announced),
        ByteRange::Of { start, end } => {
            let fits = sent.is_some_and(|sent| sent.first == start && sent.last + 1 == end);
            // A server may give all of an object as such.
            let whole = sent.is_none() && start == 0;
            match announced {
                Some(announced) if announced == end - start && (fits || whole) => Ok(announced.into()),
                _ => wrong(&format!("those from {start} up to {end}")),
            }
        }
        ByteRange::Last(last) => match (announced, sent) {
            (Some(announced), None) if announced <= last => Ok(Some(announced)),
            (Some(announced), Some(sent))
                if sent.last + 1 == sent.size && announced == last.min(sent.size) =>
            {
                Ok(Some(announced))
            }
            _ => wrong(&format!("the last {last}")),
        },
    }
}

/// `bytes FIRST-LAST/SIZE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    size: u64,
}

impl ContentRange {
    fn read(header: &str) -> Option<Self> {
        let (range, size) = header.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let read = Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            size: size.parse().ok()?,
        };
        (read.first <= read.last && read.last < read.size).then_some(read)
    }
}

/// The SDK has no name for this one that can be asked for.
fn is_checksum(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("checksum mismatch") {
            return true;
        }
        cause = error.source();
    }
    false
}
