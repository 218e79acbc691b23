//! What an error of the SDK means to the contract, and what of it a person may read: the server's own words, and nothing
//! of the request, which is signed.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::archive::objects::{ObjectError, ObjectErrorKind};

/// How much of what a server says is repeated, in characters.
const WORDS_MAX: usize = 300;

pub(super) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Another write of the same object was under way, and this one may be tried again.
pub(super) fn is_conflict<E>(error: &SdkError<E>) -> bool {
    status(error) == Some(409)
}

/// An upload that was completed or aborted is not there any more.
pub(super) fn is_upload_gone<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("NoSuchUpload") || (error.code().is_none() && status(error) == Some(404))
}

pub(super) fn failure<E>(doing: String, error: SdkError<E>) -> ObjectError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let kind = kind(status(&error), error.code());
    let detail = format!("{doing}: {}", words(&error));
    let failed = ObjectError::new(kind, detail);
    // Without the answer as it came: it may quote the request, with its signature.
    match error.into_source() {
        Ok(source) => failed.with_source(source),
        Err(error) => failed.with_source(error),
    }
}

fn kind(status: Option<u16>, code: Option<&str>) -> ObjectErrorKind {
    match (status, code) {
        (_, Some("NoSuchBucket")) => ObjectErrorKind::Denied,
        (_, Some("RequestTimeout" | "SlowDown" | "RequestTimeTooSkewed" | "ExpiredToken")) => {
            ObjectErrorKind::Unavailable
        }
        (Some(404), _) => ObjectErrorKind::NotFound,
        (Some(412), _) => ObjectErrorKind::AlreadyExists,
        (Some(416), _) => ObjectErrorKind::Damaged,
        (Some(408 | 409 | 425 | 429), _) => ObjectErrorKind::Unavailable,
        (Some(501), _) => ObjectErrorKind::Denied,
        // A redirection leads to where the bucket is: the region or the endpoint is wrong.
        (Some(300..=499), _) => ObjectErrorKind::Denied,
        _ => ObjectErrorKind::Unavailable,
    }
}

fn words<E: ProvideErrorMetadata>(error: &SdkError<E>) -> String {
    match error {
        SdkError::TimeoutError(_) => "no answer in time".to_owned(),
        SdkError::DispatchFailure(_) => "the server, or credentials for it, can't be reached".to_owned(),
        SdkError::ConstructionFailure(_) => "the request can't be made".to_owned(),
        _ => {
            let status = status(error).map(|status| format!("HTTP {status}"));
            let message = error
                .message()
                .map(|message| message.chars().take(WORDS_MAX).collect());
            let said = [status, error.code().map(str::to_owned), message];
            said.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
    }
}

pub(super) fn unavailable(detail: impl Into<String>) -> ObjectError {
    ObjectError::new(ObjectErrorKind::Unavailable, detail)
}

pub(super) fn damaged(detail: impl Into<String>) -> ObjectError {
    ObjectError::new(ObjectErrorKind::Damaged, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_by_its_status_and_code() {
        use ObjectErrorKind::{AlreadyExists, Damaged, Denied, NotFound, Unavailable};
        for (status, code, expected) in [
            (404, Some("NoSuchKey"), NotFound),
            (404, None, NotFound),
            (404, Some("NoSuchBucket"), Denied),
            (301, Some("PermanentRedirect"), Denied),
            (400, Some("AuthorizationHeaderMalformed"), Denied),
            (403, Some("AccessDenied"), Denied),
            (403, Some("RequestTimeTooSkewed"), Unavailable),
            (412, Some("PreconditionFailed"), AlreadyExists),
            (416, Some("InvalidRange"), Damaged),
            (400, Some("RequestTimeout"), Unavailable),
            (409, Some("ConditionalRequestConflict"), Unavailable),
            (429, None, Unavailable),
            (500, Some("InternalError"), Unavailable),
            (503, Some("SlowDown"), Unavailable),
            (501, Some("NotImplemented"), Denied),
        ] {
            assert_eq!(kind(Some(status), code), expected, "{status} {code:?}");
        }
        assert_eq!(kind(None, None), Unavailable);
    }
}
