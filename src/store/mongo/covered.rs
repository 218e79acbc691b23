//! Conditions that MongoDB tests on the keys of an index, so that it reads no document that does not match.
//!
//! In an index such as `{session, timestamp, seq, type}`, read in its order, an equality on the last field is no good: the
//! planner makes a bound of it, and the scan then seeks once for every key, to the next place where the type could be
//! right. A regular expression that begins with a group has no prefix to make a bound of. It is tested on each key of one
//! plain scan. In a session of 50,000 events, none of them of the type asked for, on MongoDB 6.0: 34 ms, with the
//! equality 81 ms, and from an index without the type, which reads every document, 52 ms with all of them in memory and
//! many times that from a disk.
//!
//! The planner's `min` and `max` are no good either: under them every condition is tested on documents.

use mongodb::bson::{Document, doc};

/// The condition that a field is this text, for the last field of an index.
pub(super) fn is(text: &str) -> Document {
    let mut pattern = String::with_capacity(text.len() + 6);
    pattern.push_str("^(?:");
    for character in text.chars() {
        if !character.is_alphanumeric() && character != '_' {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push_str(")$");
    doc! { "$regex": pattern }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_pattern_is_escaped() {
        assert_eq!(is("user_speech"), doc! { "$regex": "^(?:user_speech)$" });
        assert_eq!(is("a.b-c"), doc! { "$regex": r"^(?:a\.b\-c)$" });
        assert_eq!(is("a|b)$("), doc! { "$regex": r"^(?:a\|b\)\$\()$" });
    }
}
