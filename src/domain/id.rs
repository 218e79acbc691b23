//! The names of things: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ = + -`, and not `.` or `..`.
//!
//! The alphabet needs no escaping in a JSON string and cannot contain the `/` that separates the parts of
//! stored keys and object paths, so two different names never make the same key.

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
    /// Names the end user a session belongs to, as the caller knows them.
    UserId
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
}
