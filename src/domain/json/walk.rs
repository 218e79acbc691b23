//! Goes through a JSON text from value to value and leaves each as text: which of the rules of this module a value keeps
//! is for its reader to say.
//!
//! Here only the grammar of RFC 8259 counts, without bounds on depth or digits, and with escapes of half a surrogate pair,
//! which the grammar allows. So a value that can't be kept is the fault of the field or the item that holds it, and its
//! neighbours stand.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::string;

/// A name of an object and its value, still as text. A name that has half of a surrogate pair is given as it was written,
/// backslash and all; no field of ours is called so.
pub type Member<'a> = (Cow<'a, str>, &'a str);

/// Why a text is not valid JSON, and where.
pub struct Malformed {
    pub line: usize,
    pub column: usize,
    pub reason: String,
}

/// `Ok` when the text is one JSON value.
pub fn check(text: &str) -> Result<(), Malformed> {
    let checked = serde_json::from_str::<IgnoredAny>(text);
    checked.map(|_| ()).map_err(|error| {
        let words = error.to_string();
        let reason = words
            .rsplit_once(" at line ")
            .map_or(words.as_str(), |(reason, _)| reason);
        Malformed {
            line: error.line(),
            column: error.column(),
            reason: reason.to_owned(),
        }
    })
}

/// Calls `each` with every member of the object; `None` when the text is not one object.
pub fn members<'a>(text: &'a str, mut each: impl FnMut(Member<'a>)) -> Option<()> {
    let mut walk = Walk { text, at: 0 };
    walk.take(b'{')?;
    let mut more = walk.take(b'}').is_none();
    while more {
        let name = walk.value().filter(|name| name.starts_with('"'))?;
        walk.take(b':')?;
        each((name_of(name), walk.value()?));
        more = walk.comma_or(b'}')?;
    }
    walk.end()
}

/// Calls `each` with every element of the array, until it says that it has seen enough; `None` when the text is not one
/// array.
pub fn elements<'a>(text: &'a str, mut each: impl FnMut(&'a str) -> bool) -> Option<()> {
    let mut walk = Walk { text, at: 0 };
    walk.take(b'[')?;
    let mut more = walk.take(b']').is_none();
    while more {
        if !each(walk.value()?) {
            return Some(());
        }
        more = walk.comma_or(b']')?;
    }
    walk.end()
}

fn name_of(quoted: &str) -> Cow<'_, str> {
    let written = &quoted[1..quoted.len() - 1];
    match written.contains('\\') {
        false => Cow::Borrowed(written),
        true => string(quoted).map_or(Cow::Borrowed(written), Cow::Owned),
    }
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| b" \t\n\r".contains(byte)).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes the byte, if it is next.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.peek().filter(|&next| next == byte)?;
        self.at += 1;
        Some(())
    }

    /// Takes the whole value that is next.
    fn value(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = &self.text[self.at..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let bytes = values.byte_offset();
        self.at += bytes;
        Some(&rest[..bytes])
    }

    /// Whether a comma is next, rather than the end.
    fn comma_or(&mut self, end: u8) -> Option<bool> {
        match self.take(b',') {
            Some(()) => Some(true),
            None => self.take(end).map(|()| false),
        }
    }

    fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::Config};
    use serde_json::Value;

    use super::*;

    fn split(text: &str) -> Option<Vec<Member<'_>>> {
        let mut found = Vec::new();
        members(text, |member| found.push(member))?;
        Some(found)
    }

    fn items(text: &str) -> Option<Vec<&str>> {
        let mut found = Vec::new();
        elements(text, |item| {
            found.push(item);
            true
        })?;
        Some(found)
    }

    #[test]
    fn values_come_as_they_are_written() {
        let text = r#" { "a" : [1, {"b":"}"}] , "\u0062":"x\"," ,"":-0.5e+3,"d":null} "#;
        let expected = [
            ("a", r#"[1, {"b":"}"}]"#),
            ("b", r#""x\",""#),
            ("", "-0.5e+3"),
            ("d", "null"),
        ];
        let found = split(text).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(name, value)| (name.as_ref(), *value))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(
            items(r#" [ 1 ,"," ,[],{}] "#).unwrap(),
            ["1", "\",\"", "[]", "{}"]
        );
        assert!(split("{}").unwrap().is_empty());
        assert!(items(" [ ] ").unwrap().is_empty());
    }

    #[test]
    fn what_only_a_reader_can_refuse_passes() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let digits = "9".repeat(100_000);
        let values = [
            r#""\ud83d""#,
            r#""\udc00\ud800x""#,
            r#"{"\ud83d":1,"\ud83d":1}"#,
            "1e999",
            &deep,
            &digits,
        ];
        for value in values {
            let text = format!(r#"{{"before":1,"it":{value},"after":2}}"#);
            let found = split(&text).unwrap();
            assert_eq!(found[1], ("it".into(), value));
            assert_eq!(found[2], ("after".into(), "2"));
            assert_eq!(items(&format!("[1,{value},2]")).unwrap(), ["1", value, "2"]);
        }
        assert_eq!(split(r#"{"\ud83d":1}"#).unwrap()[0].0, r"\ud83d");
    }

    /// Texts that are JSON, and what becomes of them when a byte or two are other ones.
    fn nearly_json() -> impl Strategy<Value = String> {
        let values = prop::sample::select(vec![
            r#"{"a":1,"b":[true,null,{"c":"\u00e9\n\ud83d"}],"d":-1.5e-3}"#,
            r#"[{"eventId":"e","type":"t","payload":{"n":0.1}},[],{},"\\\"",12E+4]"#,
            r#"{"":"","é":"👍","x":{"y":{"z":[[[]]]}}}"#,
        ]);
        let bytes = prop::sample::select(
            "{}[]:,\"\\ud8a0 19.-+eEtrufalsn\n\t\u{1}é"
                .chars()
                .collect::<Vec<_>>(),
        );
        let edits = prop::collection::vec((any::<prop::sample::Index>(), bytes, 0..3_u8), 0..3);
        (values, edits).prop_map(|(text, edits)| {
            let mut chars: Vec<char> = text.chars().collect();
            for (at, char, how) in edits {
                let at = at.index(chars.len());
                match how {
                    0 => chars[at] = char,
                    1 => chars.insert(at, char),
                    _ => drop(chars.remove(at)),
                }
            }
            chars.into_iter().collect()
        })
    }

    proptest! {
        #![proptest_config(Config::with_cases(20_000))]

        /// One pass and the whole check agree on every text, so that what is refused always has a reason.
        #[test]
        fn a_text_is_split_if_and_only_if_it_is_valid(text in nearly_json()) {
            let valid = check(&text).is_ok();
            let first = text.trim_start_matches([' ', '\t', '\n', '\r']).chars().next();
            prop_assert_eq!(split(&text).is_some(), valid && first == Some('{'));
            prop_assert_eq!(items(&text).is_some(), valid && first == Some('['));
        }

        /// What another parser makes of the parts is what it makes of the whole.
        #[test]
        fn the_parts_are_those_of_the_whole(text in nearly_json()) {
            let Ok(whole) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
            if let Value::Array(whole) = &whole {
                let parts: Vec<Value> = items(&text).unwrap().iter().map(|part| serde_json::from_str(part).unwrap()).collect();
                prop_assert_eq!(whole, &parts);
            }
            if let Value::Object(whole) = &whole {
                for (name, value) in split(&text).unwrap() {
                    prop_assert!(whole.contains_key(name.as_ref()));
                    prop_assert!(serde_json::from_str::<Value>(value).is_ok());
                }
            }
        }
    }
}
