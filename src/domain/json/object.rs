//! Objects of the caller's own: checked once, kept as compact text.

use std::{fmt, ops::Range, sync::Arc};

use jiter::{Jiter, Peek};
use serde_json::{Map, Value};

use super::{
    DEPTH_MAX, Refusal, abridged,
    writer::{write_json, write_string},
};

/// A JSON object of the caller's, valid by construction: compact, at most [`DEPTH_MAX`] levels deep, every
/// integer an `i64`, every other number a finite double, every key unique in its object and free of NUL.
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonObject(Arc<str>);

impl JsonObject {
    /// Checks the object at `text`, which must be JSON already, and puts it in compact form.
    ///
    /// # Errors
    /// Not an object, too deep, larger than `bytes_max` in compact form, or a value that can't be kept.
    pub fn read(text: &str, bytes_max: usize) -> Result<Self, Refusal> {
        let mut compactor = Compactor {
            source: Jiter::new(text.as_bytes()),
            compact: Vec::with_capacity(text.len()),
            keys: Vec::new(),
        };
        if compactor.source.peek()? != Peek::Object {
            return Err("must be a JSON object".into());
        }
        compactor.value(Peek::Object, 1)?;
        let bytes = compactor.compact.len();
        if bytes > bytes_max {
            return Err(Refusal::too_large(format!(
                "is {bytes} bytes as compact JSON; the limit is {bytes_max}"
            )));
        }
        // The compactor writes only text it read as `str` and what `serde_json` writes.
        let compact = String::from_utf8(compactor.compact).map_err(|_| "must be UTF-8")?;
        Ok(Self(compact.into()))
    }

    /// Takes text that a `JsonObject` gave out earlier, such as a stored one.
    ///
    /// The text is trusted: a store that gives back other text than it was given is at fault, not the caller.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The object as compact JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are the same JSON value: the order of keys does not count, and numbers are compared by
    /// value, so `1`, `1.0` and `1e0` are the same. That is what RFC 8259 promises to survive a client's JSON
    /// library, and a retry may have passed through another one.
    pub fn same_value(&self, other: &Self) -> bool {
        self.0 == other.0 || same(&self.to_value(), &other.to_value())
    }

    /// Applies a JSON Merge Patch (RFC 7396) to the object.
    ///
    /// # Errors
    /// When the outcome breaks a rule that [`JsonObject::read`] holds.
    pub fn merged(&self, patch: &Self, bytes_max: usize) -> Result<Self, Refusal> {
        let mut target = self.to_value();
        merge(&mut target, patch.to_value());
        Self::read(&target.to_string(), bytes_max)
    }

    fn to_value(&self) -> Value {
        // Valid by construction, and less deep than serde_json's own limit of 128.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl Default for JsonObject {
    fn default() -> Self {
        Self("{}".into())
    }
}

impl fmt::Display for JsonObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (a, b) => a == b,
    }
}

/// Compares by value without rounding: an `i64` and a double are equal when the double is whole and in range.
fn same_number(a: &serde_json::Number, b: &serde_json::Number) -> bool {
    const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
    #[allow(clippy::cast_possible_truncation)] // In range and whole, as just checked.
    let whole = |x: f64| (x.trunc() == x && (-TWO_POW_63..TWO_POW_63).contains(&x)).then_some(x as i64);
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a == b,
        (Some(int), None) => b.as_f64().and_then(whole) == Some(int),
        (None, Some(int)) => a.as_f64().and_then(whole) == Some(int),
        (None, None) => a.as_f64() == b.as_f64(),
    }
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Walks a value once, checking it and writing it in compact form.
struct Compactor<'a> {
    source: Jiter<'a>,
    compact: Vec<u8>,
    /// Where the keys of the objects being written stand in `compact`; each object uses the end of it.
    keys: Vec<Range<usize>>,
}

impl Compactor<'_> {
    fn value(&mut self, peek: Peek, depth: usize) -> Result<(), Refusal> {
        match peek {
            Peek::Null => {
                self.source.known_null()?;
                self.compact.extend_from_slice(b"null");
            }
            Peek::True | Peek::False => {
                let value = self.source.known_bool(peek)?;
                self.compact
                    .extend_from_slice(if value { b"true" } else { b"false" });
            }
            Peek::String => {
                let text = self.source.known_str()?;
                write_string(&mut self.compact, text);
            }
            Peek::Array => self.array(depth)?,
            Peek::Object => self.object(depth)?,
            number => self.number(number)?,
        }
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), Refusal> {
        check_depth(depth)?;
        self.compact.push(b'[');
        let mut next = self.source.known_array()?;
        while let Some(peek) = next {
            self.value(peek, depth + 1)?;
            next = self.source.array_step()?;
            if next.is_some() {
                self.compact.push(b',');
            }
        }
        self.compact.push(b']');
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), Refusal> {
        check_depth(depth)?;
        let first_key = self.keys.len();
        self.compact.push(b'{');
        let mut next = self.source.known_object()?;
        while let Some(key) = next {
            if key.contains('\0') {
                return Err("has a key with the character NUL (U+0000), which can't be kept".into());
            }
            if self.keys.len() > first_key {
                self.compact.push(b',');
            }
            let start = self.compact.len();
            write_string(&mut self.compact, key);
            self.keys.push(start..self.compact.len());
            self.compact.push(b':');
            let peek = self.source.peek()?;
            self.value(peek, depth + 1)?;
            next = self.source.next_key()?;
        }
        self.compact.push(b'}');
        self.check_unique(first_key)
    }

    fn check_unique(&mut self, first_key: usize) -> Result<(), Refusal> {
        let compact = &self.compact;
        let keys = &mut self.keys[first_key..];
        keys.sort_unstable_by(|a, b| compact[a.clone()].cmp(&compact[b.clone()]));
        let twice = keys
            .windows(2)
            .find(|pair| compact[pair[0].clone()] == compact[pair[1].clone()]);
        if let Some(pair) = twice {
            let key = String::from_utf8_lossy(&compact[pair[0].clone()]);
            return Err(format!("has the key {} twice in one object", abridged(&key)).into());
        }
        self.keys.truncate(first_key);
        Ok(())
    }

    fn number(&mut self, peek: Peek) -> Result<(), Refusal> {
        let text = std::str::from_utf8(self.source.known_number_bytes(peek)?)
            .map_err(|_| "holds a number that is not one")?;
        if text.contains(['.', 'e', 'E']) {
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
            let number = number
                .ok_or_else(|| format!("holds the number {}, which is beyond a double", abridged(text)))?;
            write_json(&mut self.compact, &number);
        } else {
            let number: i64 = text
                .parse()
                .map_err(|_| format!("holds the integer {}, which is beyond int64", abridged(text)))?;
            write_json(&mut self.compact, &number);
        }
        Ok(())
    }
}

fn check_depth(depth: usize) -> Result<(), Refusal> {
    if depth > DEPTH_MAX {
        return Err(format!("is nested more than {DEPTH_MAX} levels deep").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Result<String, String> {
        JsonObject::read(text, 1 << 20)
            .map(|object| object.to_string())
            .map_err(|refusal| refusal.message.into_owned())
    }

    #[test]
    fn what_is_kept_is_compact_and_says_the_same() {
        assert_eq!(
            object(
                " { \"b\" : [ 1 , -0, 2.50, 1E3, 1e-7 ] , \"a\\u0041\" : \"\\u00e9\\ud83d\\ude00\\u0000\" } "
            )
            .unwrap(),
            "{\"b\":[1,0,2.5,1000.0,1e-7],\"aA\":\"é😀\\u0000\"}"
        );
        assert_eq!(object("{}").unwrap(), "{}");
    }

    #[test]
    fn compact_form_is_a_fixed_point() {
        let once =
            object(r#"{"n":[9223372036854775807,-9223372036854775808,1e308,5e-324,0.1,-0.0]}"#).unwrap();
        assert_eq!(object(&once).unwrap(), once);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        for (text, words) in [
            ("[]", "JSON object"),
            (r#"{"a":9223372036854775808}"#, "beyond int64"),
            (r#"{"a":-9223372036854775809}"#, "beyond int64"),
            (r#"{"a":123456789012345678901234567890}"#, "beyond int64"),
            (r#"{"a":1e400}"#, "beyond a double"),
            (r#"{"a":1,"b":2,"a":3}"#, "twice"),
            (r#"{"a":1,"\u0061":3}"#, "twice"),
            (r#"{"a\u0000b":1}"#, "NUL"),
            (r#"{"a":"\ud800"}"#, "half of a surrogate pair"),
            (r#"{"a":"\udfff and more"}"#, "half of a surrogate pair"),
            (r#"{"a":"\ud83d\ud83d"}"#, "half of a surrogate pair"),
            (r#"{"a":"\ud83d\n"}"#, "half of a surrogate pair"),
            (r#"{"a":["\ud83d\u0041"]}"#, "half of a surrogate pair"),
            (r#"{"\ud83d":1}"#, "half of a surrogate pair"),
            (r#"{"a":NaN}"#, ""),
        ] {
            let message = object(text).expect_err(text);
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn nesting_stops_at_64_levels() {
        let nested = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        assert!(object(&nested(DEPTH_MAX)).is_ok());
        assert!(object(&nested(DEPTH_MAX + 1)).unwrap_err().contains("64 levels"));
        assert!(object(&nested(100_000)).unwrap_err().contains("64 levels"));
    }

    #[test]
    fn sameness_is_of_values_not_of_text() {
        let read = |text| JsonObject::read(text, 1 << 20).unwrap();
        let same = |a, b| read(a).same_value(&read(b));
        assert!(same(r#"{"a":1,"b":[1.0]}"#, r#"{"b":[1],"a":1e0}"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":1,"b":null}"#));
        assert!(!same(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#));
        assert!(!same(r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992.0}"#));
        assert!(!same(r#"{"a":"1"}"#, r#"{"a":1}"#));
    }

    #[test]
    fn merge_patch_follows_rfc_7396() {
        let merged = |target, patch| {
            let read = |text| JsonObject::read(text, 100).unwrap();
            read(target).merged(&read(patch), 100).unwrap().to_string()
        };
        assert_eq!(
            merged(
                r#"{"a":"b","c":{"d":"e","f":"g"}}"#,
                r#"{"a":"z","c":{"f":null}}"#
            ),
            r#"{"a":"z","c":{"d":"e"}}"#
        );
        assert_eq!(
            merged(r#"{"a":[1]}"#, r#"{"a":{"b":null,"c":1}}"#),
            r#"{"a":{"c":1}}"#
        );
        assert_eq!(merged(r#"{"a":1}"#, r#"{"x":null}"#), r#"{"a":1}"#);
    }
}
