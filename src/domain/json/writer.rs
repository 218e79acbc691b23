//! Writes objects, splicing what is JSON already.

use std::{fmt, io::Write as _};

/// Appends `text` as a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    write_json(out, text);
}

pub(super) fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Strings and numbers serialise, and writing to a `Vec` can't fail, so the result is always `Ok`.
    let _ = serde_json::to_writer(out, value);
}

/// Writes a JSON object, field by field; finish it with [`ObjectWriter::end`].
///
/// Names must need no escaping, as ours do not.
pub struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> ObjectWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn name(&mut self, name: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        write_string(self.out, value);
    }

    /// Leaves the field out where there is no value.
    pub fn optional_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A value whose characters need no escaping, such as an id or a timestamp.
    pub fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.json(name, format_args!("\"{value}\""));
    }

    pub fn integer(&mut self, name: &str, value: i64) {
        self.json(name, value);
    }

    pub fn boolean(&mut self, name: &str, value: bool) {
        self.json(name, value);
    }

    /// A value that is JSON already.
    pub fn json(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name);
        // Writing to a `Vec` can't fail.
        let _ = write!(self.out, "{value}");
    }

    /// A value that `write` appends as JSON.
    pub fn value(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        write(self.out);
    }

    /// A nested object.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut ObjectWriter<'_>)) {
        self.name(name);
        let mut object = ObjectWriter::new(self.out);
        write(&mut object);
        object.end();
    }

    /// An array with one element an item.
    pub fn array<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Vec<u8>, T),
    ) {
        self.name(name);
        self.out.push(b'[');
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            write(self.out, item);
        }
        self.out.push(b']');
    }

    pub fn end(self) {
        self.out.push(b'}');
    }
}
