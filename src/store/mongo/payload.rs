//! JSON as native BSON and back: `payload` and `metadata` are documents that queries can look into.
//!
//! What comes back is byte for byte what was stored: keys in their order, integers as int64, every other number as the
//! same double. Keys need no escaping, whether they begin with `$` or hold dots: such keys mean something in a query,
//! not in a document. An int32, which only another program writes, is read as an integer.

use jiter::{Jiter, JiterError, Peek};
use mongodb::bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};

use super::fault::{Fault, Result};
use crate::domain::{JsonObject, Timestamp, json};

const DOUBLE: u8 = 0x01;
const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
const BOOLEAN: u8 = 0x08;
const DATE: u8 = 0x09;
const NULL: u8 = 0x0a;
const INT64: u8 = 0x12;

/// A BSON document, written field by field in one pass.
pub(super) struct DocumentWriter(Vec<u8>);

impl DocumentWriter {
    /// A document of about `bytes`.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(&[0; 4]);
        Self(out)
    }

    /// Names are ours, and free of NUL.
    fn name(&mut self, kind: u8, name: &str) {
        self.0.push(kind);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(STRING, name);
        write_text(&mut self.0, value);
    }

    pub(super) fn optional_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub(super) fn integer(&mut self, name: &str, value: i64) {
        self.name(INT64, name);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn boolean(&mut self, name: &str, value: bool) {
        self.name(BOOLEAN, name);
        self.0.push(u8::from(value));
    }

    pub(super) fn date(&mut self, name: &str, at: Timestamp) {
        self.name(DATE, name);
        self.0.extend_from_slice(&at.unix_ms().to_le_bytes());
    }

    /// An object of a caller's, as a document.
    pub(super) fn object(&mut self, name: &str, value: &JsonObject) -> Result<()> {
        self.name(DOCUMENT, name);
        let mut source = Jiter::new(value.as_str().as_bytes());
        // Valid by construction, so this fails only for text that a store gave out wrong.
        read_object(&mut source, &mut self.0).map_err(|_| Fault::Stored("object"))
    }

    pub(super) fn finish(mut self) -> Result<RawDocumentBuf> {
        close(&mut self.0, 0);
        RawDocumentBuf::from_bytes(self.0).map_err(|_| Fault::Stored("document"))
    }
}

/// An object of a caller's, as a document of its own.
pub(super) fn to_document(object: &JsonObject) -> Result<RawDocumentBuf> {
    let mut out = Vec::with_capacity(object.as_str().len() * 2);
    let mut source = Jiter::new(object.as_str().as_bytes());
    read_object(&mut source, &mut out).map_err(|_| Fault::Stored("object"))?;
    RawDocumentBuf::from_bytes(out).map_err(|_| Fault::Stored("object"))
}

/// Ends the document that began at `start`.
fn close(out: &mut Vec<u8>, start: usize) {
    out.push(0);
    let length = out.len() - start;
    write_length(out, start, length);
}

/// A document is at most 16 MiB, which the server sees to, so the length of anything in it fits.
fn write_length(out: &mut [u8], at: usize, length: usize) {
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn write_text(out: &mut Vec<u8>, value: &str) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write_length(out, start, value.len() + 1);
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

fn read_object(source: &mut Jiter<'_>, out: &mut Vec<u8>) -> Result<(), JiterError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut next = source.next_object()?;
    while let Some(key) = next {
        let kind_at = out.len();
        out.push(0);
        out.extend_from_slice(key.as_bytes());
        out.push(0);
        out[kind_at] = read_value(source, out)?;
        next = source.next_key()?;
    }
    close(out, start);
    Ok(())
}

fn read_array(source: &mut Jiter<'_>, out: &mut Vec<u8>) -> Result<(), JiterError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut next = source.known_array()?;
    let mut index = 0_usize;
    while next.is_some() {
        let kind_at = out.len();
        out.push(0);
        out.extend_from_slice(index.to_string().as_bytes());
        out.push(0);
        out[kind_at] = read_value(source, out)?;
        index += 1;
        next = source.array_step()?;
    }
    close(out, start);
    Ok(())
}

/// Writes the value that comes next; gives its kind.
fn read_value(source: &mut Jiter<'_>, out: &mut Vec<u8>) -> Result<u8, JiterError> {
    let peek = source.peek()?;
    Ok(match peek {
        Peek::Null => {
            source.known_null()?;
            NULL
        }
        Peek::True | Peek::False => {
            out.push(u8::from(source.known_bool(peek)?));
            BOOLEAN
        }
        Peek::String => {
            write_text(out, source.known_str()?);
            STRING
        }
        Peek::Array => {
            read_array(source, out)?;
            ARRAY
        }
        Peek::Object => {
            read_object(source, out)?;
            DOCUMENT
        }
        number => {
            let text = source.known_number_bytes(number)?;
            let text = std::str::from_utf8(text).unwrap_or_default();
            if let Ok(integer) = text.parse::<i64>() {
                out.extend_from_slice(&integer.to_le_bytes());
                INT64
            } else {
                // Not an integer within 64 bits, so by construction a finite double.
                let double: f64 = text.parse().unwrap_or_default();
                out.extend_from_slice(&double.to_le_bytes());
                DOUBLE
            }
        }
    })
}

/// A stored document as an object, compact.
pub(super) fn to_object(document: &RawDocument) -> Result<JsonObject> {
    let mut out = Vec::with_capacity(document.as_bytes().len());
    write_document(document, &mut out)?;
    // Written from strings and ASCII alone.
    let text = String::from_utf8(out).map_err(|_| Fault::Stored("object"))?;
    Ok(JsonObject::from_stored(text))
}

fn write_document(document: &RawDocument, out: &mut Vec<u8>) -> Result<()> {
    out.push(b'{');
    for (at, field) in document.iter().enumerate() {
        let (key, value) = field.map_err(|_| Fault::Stored("object"))?;
        if at > 0 {
            out.push(b',');
        }
        json::write_string(out, key.as_str());
        out.push(b':');
        write_value(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_array(array: &RawArray, out: &mut Vec<u8>) -> Result<()> {
    out.push(b'[');
    for (at, value) in array.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_value(value.map_err(|_| Fault::Stored("array"))?, out)?;
    }
    out.push(b']');
    Ok(())
}

fn write_value(value: RawBsonRef<'_>, out: &mut Vec<u8>) -> Result<()> {
    match value {
        RawBsonRef::Null => out.extend_from_slice(b"null"),
        RawBsonRef::Boolean(true) => out.extend_from_slice(b"true"),
        RawBsonRef::Boolean(false) => out.extend_from_slice(b"false"),
        RawBsonRef::String(text) => json::write_string(out, text),
        RawBsonRef::Int64(integer) => out.extend_from_slice(integer.to_string().as_bytes()),
        RawBsonRef::Int32(integer) => out.extend_from_slice(integer.to_string().as_bytes()),
        // Written as the domain writes it, so that it reads the same.
        RawBsonRef::Double(double) if double.is_finite() => {
            serde_json::to_writer(out, &double).map_err(|_| Fault::Stored("number"))?;
        }
        RawBsonRef::Document(document) => write_document(document, out)?,
        RawBsonRef::Array(array) => write_array(array, out)?,
        _ => return Err(Fault::Stored("value of a type that JSON lacks")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, Document, doc};
    use proptest::prelude::*;
    use serde_json::{Map, Number, Value};

    use super::*;

    fn object(text: &str) -> JsonObject {
        JsonObject::read(text, 1 << 20).unwrap()
    }

    fn round_trip(object: &JsonObject) -> JsonObject {
        to_object(&to_document(object).unwrap()).unwrap()
    }

    #[test]
    fn a_payload_is_the_document_that_the_driver_would_make() {
        let text = r#"{"z":1,"a":{"$set":{"a.b":[true,null,"x\u0000y"]}},"n":-2.5,"e":[],"o":{}}"#;
        let document = Document::try_from(to_document(&object(text)).unwrap()).unwrap();
        let expected = doc! {
            "z": 1_i64, "a": { "$set": { "a.b": [true, Bson::Null, "x\0y"] } }, "n": -2.5, "e": [], "o": {}
        };
        assert_eq!(document, expected);
        assert_eq!(round_trip(&object(text)).as_str(), text);
    }

    #[test]
    fn numbers_keep_their_type_and_value() {
        let text = r#"{"n":[0,-1,1.0,-0.0,9007199254740993,9223372036854775807,-9223372036854775808,0.1,5e-324,1e308,1000.0]}"#;
        let document = to_document(&object(text)).unwrap();
        let kinds: Vec<_> = document
            .get_array("n")
            .unwrap()
            .into_iter()
            .map(|n| n.unwrap().as_i64().is_some())
            .collect();
        assert_eq!(
            kinds,
            [
                true, true, false, false, true, true, true, false, false, false, false
            ]
        );
        assert_eq!(to_object(&document).unwrap().as_str(), object(text).as_str());
    }

    #[test]
    fn what_another_program_wrote_is_read_where_json_has_it() {
        let theirs = RawDocumentBuf::try_from(&doc! { "a": 7_i32 }).unwrap();
        assert_eq!(to_object(&theirs).unwrap().as_str(), r#"{"a":7}"#);
        let beyond = RawDocumentBuf::try_from(&doc! { "a": f64::NAN }).unwrap();
        assert!(to_object(&beyond).is_err());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            "[a-z$._]{0,4}",
            any::<String>().prop_map(|key| key.replace('\0', ""))
        ];
        let double = any::<f64>()
            .prop_filter_map("finite", Number::from_f64)
            .prop_map(Value::Number);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            double,
            any::<String>().prop_map(Value::String),
        ];
        leaf.prop_recursive(6, 60, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_comes_back_byte_for_byte(value in any_value()) {
            let given = object(&serde_json::json!({ "": value }).to_string());
            let back = round_trip(&given);
            prop_assert_eq!(back.as_str(), given.as_str());
            // And it is a document that anybody can read.
            prop_assert!(Document::try_from(to_document(&given).unwrap()).is_ok());
        }
    }
}
