//! Objects whose fields we know: every fault reported at once.

use super::{Refusal, abridged, walk};
use crate::domain::error::{Error, FAULTS_TOLD_MAX, FieldError, Kind, Result};

/// Fields of one object that are kept while it is split: far more than any object of ours has.
const FIELDS_MAX: usize = 64;

/// The fields of one JSON object whose fields we know, each still as text.
///
/// Take the fields by name, then [`Fields::finish`]: it reports every rule that was broken at once, fields that
/// nobody took among them.
pub struct Fields<'a> {
    /// What stands before a field's name in messages: `""` or `"session."`.
    prefix: &'a str,
    fields: Vec<walk::Member<'a>>,
    faults: Vec<FieldError>,
    too_large: bool,
}

impl<'a> Fields<'a> {
    /// Splits the object that `bytes` are.
    ///
    /// # Errors
    /// [`Kind::MalformedJson`] when the bytes are not JSON, [`Kind::Invalid`] when they are, but not an object.
    pub fn split(bytes: &'a [u8], prefix: &'a str) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            Error::new(Kind::MalformedJson, format!("the JSON is not UTF-8 at byte {at}"))
        })?;
        let mut fields = Vec::new();
        let split = walk::members(text, |member| {
            // Past the bound the object is refused anyway; what follows is only checked to be JSON.
            fields.truncate(FIELDS_MAX);
            fields.push(member);
        });
        split.ok_or_else(|| refused(text, prefix))?;
        Ok(Self {
            prefix,
            fields,
            faults: Vec::new(),
            too_large: false,
        })
    }

    /// Whether there is a field of this name that was not taken yet.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field == name)
    }

    /// Takes a field that must be there.
    pub fn required<T>(&mut self, name: &str, read: impl FnOnce(&'a str) -> Result<T, Refusal>) -> Option<T> {
        let before = self.faults.len();
        let value = self.optional(name, read);
        if value.is_none() && self.faults.len() == before {
            self.missing(name);
        }
        value
    }

    /// Takes a field that may be left out; `null` is a value like any other, and mostly a wrong one.
    pub fn optional<T>(&mut self, name: &str, read: impl FnOnce(&'a str) -> Result<T, Refusal>) -> Option<T> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        let (_, text) = self.fields.swap_remove(at);
        match read(text) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.fault(name, refusal);
                None
            }
        }
    }

    /// Takes a field that is an object or an array of its own, whose reader names its faults itself.
    pub fn nested<T>(&mut self, name: &str, read: impl FnOnce(&'a str) -> Result<T>) -> Option<T> {
        match read(self.optional(name, Ok)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.too_large |= error.kind() == Kind::TooLarge;
                self.faults.extend(error.faults_of(name));
                None
            }
        }
    }

    /// As [`Fields::nested`], of a field that must be there.
    pub fn required_nested<T>(&mut self, name: &str, read: impl FnOnce(&'a str) -> Result<T>) -> Option<T> {
        let before = self.faults.len();
        let value = self.nested(name, read);
        if value.is_none() && self.faults.len() == before {
            self.missing(name);
        }
        value
    }

    fn missing(&mut self, name: &str) {
        self.fault(name, "is required".into());
    }

    fn fault(&mut self, name: &str, refusal: Refusal) {
        self.too_large |= refusal.too_large;
        self.faults.push(FieldError {
            field: format!("{}{name}", self.prefix),
            message: refusal.message.into_owned(),
        });
    }

    /// Builds the value from what was taken.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] or [`Kind::Invalid`] with every fault of a field that we know, and of the others so many that
    /// they are [`FAULTS_TOLD_MAX`] in all.
    pub fn finish<T>(mut self, build: impl FnOnce() -> Option<T>) -> Result<T> {
        self.fields.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, _) in std::mem::take(&mut self.fields) {
            if self.faults.len() >= FAULTS_TOLD_MAX {
                break;
            }
            // A field taken once and still there was sent twice; so was one that stands here twice.
            self.fault(
                &abridged(&name),
                "is not a field of this object, or is there twice".into(),
            );
        }
        let kind = if self.too_large {
            Kind::TooLarge
        } else {
            Kind::Invalid
        };
        match build() {
            Some(value) if self.faults.is_empty() => Ok(value),
            _ => Err(Error::of_fields(kind, self.faults)),
        }
    }
}

/// What is not JSON at all is told from JSON that is not an object.
fn refused(text: &str, prefix: &str) -> Error {
    if let Err(malformed) = walk::check(text) {
        let walk::Malformed { line, column, reason } = malformed;
        let detail = format!("not valid JSON at line {line}, column {column}: {reason}");
        return Error::new(Kind::MalformedJson, detail);
    }
    let field = match prefix.trim_end_matches('.') {
        "" => String::from("body"),
        place => place.to_owned(),
    };
    let message = String::from("must be a JSON object");
    Error::of_fields(Kind::Invalid, vec![FieldError { field, message }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::json::string;

    #[test]
    fn fields_report_everything_at_once() {
        let mut fields = Fields::split(br#"{"a":1,"zz":2,"b":"x","b":"y"}"#, "event.").unwrap();
        let a = fields.required("a", string);
        let b = fields.required("b", string);
        let c = fields.required("c", string);
        let error = fields.finish(|| Some((a?, b?, c?))).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        let named: Vec<_> = error.fields().iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(named, ["event.a", "event.c", "event.b", "event.zz"]);
    }

    #[test]
    fn the_number_of_faults_told_is_bounded() {
        let text: Vec<String> = (0..1000).map(|at| format!("\"f{at}\":1")).collect();
        let text = format!("{{{}}}", text.join(","));
        let fields = Fields::split(text.as_bytes(), "").unwrap();
        let error = fields.finish(|| Some(())).unwrap_err();
        assert_eq!(error.fields().len(), FAULTS_TOLD_MAX);
    }

    #[test]
    fn malformed_json_is_told_from_wrong_json() {
        let kind = |text: &str| Fields::split(text.as_bytes(), "").err().map(|error| error.kind());
        assert_eq!(kind("{\"a\":}"), Some(Kind::MalformedJson));
        assert_eq!(kind("{} x"), Some(Kind::MalformedJson));
        assert_eq!(kind(""), Some(Kind::MalformedJson));
        assert_eq!(kind("[1]"), Some(Kind::Invalid));
        assert_eq!(kind("null"), Some(Kind::Invalid));
        assert_eq!(kind("[1"), Some(Kind::MalformedJson));
        assert_eq!(kind("nul"), Some(Kind::MalformedJson));
        assert_eq!(kind(&"[".repeat(100_000)), Some(Kind::MalformedJson));
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(kind(&nested), Some(Kind::Invalid));
        assert_eq!(kind(&format!("{{\"a\":{nested}}}")), None);
        assert_eq!(kind(&format!("{{\"a\":{}}}", "9".repeat(100_000))), None);
        assert_eq!(kind(r#"{"a":"\ud800","\udc00":1}"#), None);
        assert!(Fields::split(b"{\"a\":\"\xff\"}", "").is_err());
        assert_eq!(kind("{}"), None);
    }
}
