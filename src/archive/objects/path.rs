//! Which paths can be: the rule of [`Objects`](super::Objects), in one place, so that every implementation refuses the
//! same ones before it asks anybody. A path that passes names nothing outside the place it is looked up in.

use super::{ByteRange, ObjectError, ObjectErrorKind};

/// The longest path, in bytes: a key of S3 has at most 1,024, which leaves some for a prefix.
const PATH_BYTES_MAX: usize = 900;

/// The longest part of a path, in bytes: file systems allow 255.
const PART_BYTES_MAX: usize = 250;

/// Whether an object may lie there.
pub(super) fn is_path(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX && path.split('/').all(is_part)
}

pub(super) fn is_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.len() <= PART_BYTES_MAX && part.bytes().all(is_part_byte)
}

fn is_part_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._~:@=+-".contains(&byte)
}

/// # Errors
/// [`ObjectErrorKind::Denied`]: no object can lie there.
pub(super) fn check_path(path: &str) -> Result<(), ObjectError> {
    if is_path(path) {
        return Ok(());
    }
    Err(denied(format!(
        "{path:?} can't be the path of an object: parts of 1 to {PART_BYTES_MAX} letters, digits and ._~:@=+- with \
         slashes between them, at most {PATH_BYTES_MAX} bytes"
    )))
}

/// # Errors
/// [`ObjectErrorKind::Denied`]: no path can begin so.
pub(super) fn check_prefix(prefix: &str) -> Result<(), ObjectError> {
    let (folders, begun) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let folders_can_be = !prefix.contains('/') || folders.split('/').all(is_part);
    let begun_can_be = begun.len() <= PART_BYTES_MAX && begun.bytes().all(is_part_byte);
    if prefix.len() <= PATH_BYTES_MAX && folders_can_be && begun_can_be {
        return Ok(());
    }
    Err(denied(format!("no path of an object can begin with {prefix:?}")))
}

/// # Errors
/// [`ObjectErrorKind::Denied`]: the range has no bytes.
pub(super) fn check_range(range: ByteRange) -> Result<(), ObjectError> {
    match range {
        ByteRange::Of { start, end } if start >= end => {
            Err(denied(format!("no bytes lie from {start} up to {end}")))
        }
        ByteRange::Last(0) => Err(denied("the last 0 bytes are none")),
        ByteRange::All | ByteRange::Of { .. } | ByteRange::Last(_) => Ok(()),
    }
}

fn denied(detail: impl Into<String>) -> ObjectError {
    ObjectError::new(ObjectErrorKind::Denied, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_parts_of_plain_characters() {
        for path in ["a", "a/b", ".a/..b", "dt=2026-01-31/x.parquet", "A_~:@=+-9"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        let longest = ["x".repeat(250), "x".repeat(250), "x".repeat(250), "x".repeat(147)].join("/");
        assert_eq!(longest.len(), 900);
        assert!(is_path(&longest));
        assert!(!is_path(&format!("{longest}x")));
        assert!(!is_path(&"x".repeat(251)));
        for path in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a b", "é", "a\0", "a\\b", "a%2f",
        ] {
            assert_eq!(
                check_path(path).unwrap_err().kind,
                ObjectErrorKind::Denied,
                "{path}"
            );
        }
    }

    #[test]
    fn a_prefix_is_the_beginning_of_a_path() {
        for prefix in ["", "a", "a/", "a/b", "a/.", "..", "events/dt="] {
            assert!(check_prefix(prefix).is_ok(), "{prefix}");
        }
        for prefix in ["/", "/a", "a//", "../", "a/../b", "a/./", " ", "é/", "#"] {
            assert!(check_prefix(prefix).is_err(), "{prefix}");
        }
    }
}
