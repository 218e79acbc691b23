//! Addresses: where to listen, which store to use, and how to show a URL to others.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::cache::RedisUrl;

/// A `HOST:PORT` of good form, ready for anything of `tokio::net` that binds. Whether the name resolves and the port
/// is free shows when it is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen(String);

impl Listen {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080";
        let (host, port) = text.rsplit_once(':').ok_or(RULE)?;
        let port_is_good = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        if port_is_good && is_host(host) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RULE)
        }
    }
}

pub(super) fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    let in_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    host.len() <= 253 && host.bytes().all(in_name)
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hot store, as a URL names it.
///
/// `sqlite:PATH` takes PATH as it is: no escapes, no parameters, relative to the working directory unless it begins
/// with a slash. `sqlite:///PATH` is accepted for those used to it and means `sqlite:/PATH`. `sqlite://PATH` would
/// name a host and is refused, and so is a database in memory, which could not keep what was acknowledged (I1).
///
/// `mongodb://…` and `mongodb+srv://…` are read by the driver, once the store is opened.
///
/// Shows itself without secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// The database file.
    Sqlite(PathBuf),
    /// The whole URL, with its secrets.
    Mongo(String),
}

impl FromStr for StoreUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("sqlite", rest)) => sqlite_path(rest).map(Self::Sqlite),
            Some(("mongodb" | "mongodb+srv", rest)) => mongo_url(text, rest).map(Self::Mongo),
            _ => Err("must be sqlite:PATH, mongodb://… or mongodb+srv://…"),
        }
    }
}

fn sqlite_path(rest: &str) -> Result<PathBuf, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("must be sqlite:PATH or sqlite:///PATH: SQLite has no hosts"),
        None => rest,
    };
    if path.starts_with(":memory:") || path.starts_with("file:") {
        return Err("must be sqlite: and the path of a file: a database in memory keeps nothing");
    }
    if path.contains(['?', '#']) || path.contains(char::is_control) {
        return Err("must be sqlite: and a path without parameters (?, #) and control characters");
    }
    if path.ends_with('/') || Path::new(path).file_name().is_none() {
        return Err("must be sqlite: and the path of a file");
    }
    Ok(PathBuf::from(path))
}

/// The driver reads the URL, but a place that is none may be a password whose host was forgotten.
fn mongo_url(text: &str, rest: &str) -> Result<String, &'static str> {
    const RULE: &str = "must be mongodb://HOST[:PORT][,HOST…]/DATABASE or mongodb+srv://HOST/DATABASE";
    let rest = rest.strip_prefix("//").ok_or(RULE)?;
    let places = rest.rsplit_once('@').map_or(rest, |(_, places)| places);
    let mut places = places.split(['/', '?']).next().unwrap_or_default().split(',');
    let is_place = |place: &str| is_host(place) || place.parse::<Listen>().is_ok();
    if places.all(is_place) && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(RULE)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Mongo(url) => Redacted(url).fmt(f),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// The cache, as a URL names it, or `auto`, `memory` or `none`. Shows itself without secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum CacheUrl {
    /// In memory with the embedded store, else none.
    Auto,
    None,
    /// For the embedded store alone, which this process has to itself.
    Memory,
    Redis(RedisUrl),
}

impl FromStr for CacheUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "memory" => Ok(Self::Memory),
            _ if text.contains(char::is_control) => Err("must have no control characters"),
            _ => match text.parse() {
                Ok(url) => Ok(Self::Redis(url)),
                Err(_) => Err(
                    "must be auto, memory, none, redis://HOST:PORT, rediss://HOST:PORT or redis-cluster://HOST:PORT,HOST:PORT",
                ),
            },
        }
    }
}

impl CacheUrl {
    /// Which cache it is, without how to log in to it: two URLs of one cache have the same identity, if they name its hosts alike.
    pub fn identity(&self) -> String {
        const PORT: &str = "6379";
        let Self::Redis(url) = self else {
            return self.to_string();
        };
        let text = url.to_string();
        let (scheme, rest) = text.split_once("://").unwrap_or(("redis", &text));
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        let host = |host: &str| {
            let host = host.trim_end_matches('/').to_ascii_lowercase();
            match host.rsplit_once(':') {
                Some((_, port)) if !port.ends_with(']') => host,
                _ => format!("{host}:{PORT}"),
            }
        };
        let mut hosts: Vec<String> = hosts.split(',').map(host).collect();
        hosts.sort_unstable();
        match scheme.ends_with("-cluster") {
            true => format!("cluster {}", hosts.join(",")),
            false => {
                let database = if database.is_empty() { "0" } else { database };
                format!("{}/{database}", hosts.join(","))
            }
        }
    }
}

impl fmt::Display for CacheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Memory => f.write_str("memory"),
            Self::Redis(url) => Redacted(&url.to_string()).fmt(f),
        }
    }
}

impl fmt::Debug for CacheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheUrl({self})")
    }
}

/// What every key in Redis begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(String);

impl FromStr for KeyPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        match text.len() {
            1..=64 if text.bytes().all(good) => Ok(Self(text.to_owned())),
            _ => Err("must be 1 to 64 characters of A-Z a-z 0-9 . _ -"),
        }
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A backend's URL, fit for a log: `mongodb://***@db-1,db-2/colloquy?***`.
///
/// Hidden are the user with the password, and the parameters, where drivers take tokens too. Everything up to the
/// last `@` counts as user, because passwords with an unescaped `/`, `?` or `@` do happen.
#[derive(Clone, Copy)]
pub struct Redacted<'a>(pub &'a str);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = match self.0.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None => ("", self.0),
        };
        if !scheme.is_empty() {
            write!(f, "{scheme}://")?;
        }
        let shown = match rest.rsplit_once('@') {
            Some((_, shown)) => {
                f.write_str("***@")?;
                shown
            }
            None => rest,
        };
        match shown.split_once(['?', '#']) {
            Some((place, _)) => write!(f, "{place}?***"),
            None => f.write_str(shown),
        }
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_the_same_whatever_logs_in_to_it() {
        let identity = |text: &str| text.parse::<CacheUrl>().unwrap().identity();
        for (text, expected) in [
            ("none", "none"),
            ("redis://cache.example", "cache.example:6379/0"),
            ("redis://Cache.example:6379/0", "cache.example:6379/0"),
            (
                "rediss://me:p%40ss@cache.example:6380/2?protocol=resp3",
                "cache.example:6380/2",
            ),
            ("redis://[::1]", "[::1]:6379/0"),
            ("redis-cluster://b:7000,a:7001", "cluster a:7001,b:7000"),
            ("redis-cluster://me:secret@a:7001,b:7000", "cluster a:7001,b:7000"),
        ] {
            assert_eq!(identity(text), expected, "{text}");
        }
    }
}
