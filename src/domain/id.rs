//! The names of things.
//!
//! An **id** is 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ = + -`, and not `.` or `..`. The alphabet needs no
//! escaping in a JSON string and cannot contain the `/` that separates the parts of stored keys and object paths, so
//! two different ids never make the same key.
//!
//! A **[`UserId`]** is any text, because other systems choose it. It is a value and never a part of a key or a path.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest id, in characters (which are bytes, the alphabet being ASCII).
pub const ID_LENGTH_MAX: usize = 128;

/// The alphabet and the ban on `.` and `..`, as a regular expression for the API's schema, which states the length
/// beside it. It does without look-ahead, which many validators do not know.
pub const ID_PATTERN: &str = r"^(\.*[A-Za-z0-9_~:@=+-][A-Za-z0-9._~:@=+-]*|\.{3,})$";

const RULE: &str = "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ = + - and not \".\" or \"..\"";

fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~:@=+-".contains(&byte);
    (1..=ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if is_id(text) { Ok(Self(text.into())) } else { Err(RULE) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// Names a session within its tenant.
    SessionId
}
id! {
    /// Names an event within its session; the key of idempotent appends.
    EventId
}
id! {
    /// Names a tenant. Until keys are issued to callers there is one, [`Tenant::default`].
    Tenant
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

/// Longest user id, in bytes of UTF-8.
pub const USER_ID_BYTES_MAX: usize = 256;

/// No control characters, as a regular expression for the API's schema. The limit in bytes is in its description: JSON
/// Schema counts characters.
pub const USER_ID_PATTERN: &str = r"^[^\x00-\x1f\x7f-\x9f]+$";

/// Names the end user a session belongs to, as the caller knows them: `auth0|x`, `patients/1`, `Zoë`.
///
/// 1 to [`USER_ID_BYTES_MAX`] bytes without control characters (U+0000 to U+001F, U+007F to U+009F). It is kept and
/// compared byte by byte: two ways to write `ë` in Unicode are two users.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if (1..=USER_ID_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err("must be 1 to 256 bytes of UTF-8 without control characters")
        }
    }
}

/// A session's full name. Every stored key, cache key and object path is made from both parts, so that
/// tenants never meet (I8).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    pub tenant: Tenant,
    pub id: SessionId,
}

impl SessionKey {
    pub fn new(tenant: Tenant, id: SessionId) -> Self {
        Self { tenant, id }
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_to_128_characters_of_its_alphabet() {
        for good in [
            "a",
            "a.b",
            "...",
            "user@example.com",
            "A~z_0:1=+-",
            &"x".repeat(128),
        ] {
            assert!(good.parse::<SessionId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a\0", "a%", &"x".repeat(129)] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_id_is_any_text_of_256_bytes_without_control_characters() {
        for good in [
            "auth0|x",
            "patients/1",
            " ",
            ".",
            "\"\\$",
            "Zoë",
            "日本",
            "\u{a0}\u{2028}\u{fffd}\u{10ffff}",
            &"é".repeat(128),
        ] {
            assert_eq!(good.parse::<UserId>().unwrap().as_str(), good);
        }
        for bad in ["", &"é".repeat(129), &"x".repeat(257)] {
            assert!(bad.parse::<UserId>().is_err(), "{bad}");
        }
        for control in ('\0'..' ').chain('\u{7f}'..='\u{9f}') {
            for bad in [format!("{control}"), format!("a{control}"), format!("{control}a")] {
                assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
            }
        }
    }
}
