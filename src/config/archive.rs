//! The archive's place, and how its S3 is spoken to.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::address::{Listen, is_host};

/// Where the archive lies. There are no secrets in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveUrl {
    /// Beside the file of the embedded store, in a folder `archive`; nowhere for another store.
    Auto,
    /// Nowhere: nothing is archived.
    None,
    /// `file:PATH`: PATH as it is, relative to the working directory unless it begins with a slash.
    Directory(PathBuf),
    /// `s3://BUCKET/PREFIX`.
    S3 { bucket: String, prefix: String },
}

impl FromStr for ArchiveUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "none" => Ok(Self::None),
            Some(("file", rest)) => directory(rest).map(Self::Directory),
            Some(("s3", rest)) => bucket(rest),
            _ => Err("must be auto, none, file:PATH or s3://BUCKET/PREFIX"),
        }
    }
}

fn directory(rest: &str) -> Result<PathBuf, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("must be file:PATH or file:///PATH: a directory has no host"),
        None => rest,
    };
    if path.is_empty() || path.contains(char::is_control) || Path::new(path).file_name().is_none() {
        return Err("must be file: and the path of a directory");
    }
    Ok(PathBuf::from(path))
}

fn bucket(rest: &str) -> Result<ArchiveUrl, &'static str> {
    const RULE: &str = "must be s3://BUCKET or s3://BUCKET/PREFIX, without a user, a port or parameters";
    let rest = rest.strip_prefix("//").ok_or(RULE)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let in_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
    let in_prefix = |b: u8| b.is_ascii_alphanumeric() || b"._~:@=+-".contains(&b);
    let good_part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(in_prefix);
    let good_prefix = prefix.is_empty() || (prefix.len() <= 200 && prefix.split('/').all(good_part));
    if (3..=63).contains(&bucket.len()) && bucket.bytes().all(in_bucket) && good_prefix {
        Ok(ArchiveUrl::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    } else {
        Err(RULE)
    }
}

impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Directory(path) => write!(f, "file:{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The URL of what speaks the protocol of S3, `http://HOST[:PORT]` or `https://…`, or `default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Option<String>);

impl Endpoint {
    pub fn get(&self) -> Option<String> {
        self.0.clone()
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "default" {
            return Ok(Self(None));
        }
        let place = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"));
        let place = place.map(|place| place.trim_end_matches('/'));
        match place {
            Some(place) if is_host(place) || place.parse::<Listen>().is_ok() => {
                Ok(Self(Some(text.to_owned())))
            }
            _ => Err("must be default, or http://HOST:PORT or https://HOST:PORT without a user"),
        }
    }
}

/// The name of a region, or `default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(Option<String>);

impl Region {
    pub fn get(&self) -> Option<String> {
        self.0.clone()
    }
}

impl FromStr for Region {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match text.len() {
            1..=64 if text == "default" => Ok(Self(None)),
            1..=64 if text.bytes().all(good) => Ok(Self(Some(text.to_owned()))),
            _ => Err("must be default, or the name of a region such as eu-central-1"),
        }
    }
}

/// Whether a bucket is named in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathStyle {
    Auto,
    Yes,
    No,
}

impl PathStyle {
    /// `None` leaves it to whether there is an endpoint.
    pub fn get(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::Yes => Some(true),
            Self::No => Some(false),
        }
    }
}

impl FromStr for PathStyle {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "yes" => Ok(Self::Yes),
            "no" => Ok(Self::No),
            _ => Err("must be auto, yes or no"),
        }
    }
}

/// Which uploads carry a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    Always,
    WhenRequired,
}

impl FromStr for Checksums {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self::Always),
            "when-required" => Ok(Self::WhenRequired),
            _ => Err("must be always or when-required"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_secrets() {
        for good in [
            "default",
            "http://127.0.0.1:8333",
            "https://s3.example.org",
            "http://seaweed:8333/",
        ] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "?",
            "127.0.0.1:8333",
            "http://",
            "http://key:secret@host",
            "ftp://host",
            "http://host/path",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        assert!("eu-central-1".parse::<Region>().is_ok());
        assert!("?".parse::<Region>().is_err());
    }

    #[test]
    fn an_archive_is_a_directory_or_a_bucket() {
        for good in [
            "auto",
            "none",
            "file:a",
            "file:/a/b",
            "s3://bucket",
            "s3://my-bucket.1/some/prefix",
        ] {
            assert_eq!(good.parse::<ArchiveUrl>().unwrap().to_string(), good);
        }
        assert_eq!("file:///a".parse::<ArchiveUrl>().unwrap().to_string(), "file:/a");
        assert_eq!(
            "s3://bucket/".parse::<ArchiveUrl>().unwrap().to_string(),
            "s3://bucket"
        );
        for bad in [
            "",
            "file:",
            "file:/",
            "file://host/a",
            "s3:bucket",
            "s3://",
            "s3://B",
            "s3://key:secret@bucket",
            "s3://bucket/../x",
            "s3://bucket//x",
            "gs://bucket",
        ] {
            assert!(bad.parse::<ArchiveUrl>().is_err(), "{bad}");
        }
    }
}
