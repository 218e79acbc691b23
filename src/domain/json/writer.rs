//! Writes objects, splicing what is JSON already.

use crate::domain::Timestamp;

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

    #[inline]
    fn name(&mut self, name: &str) {
        self.out.reserve(name.len() + 4);
        let before: &[u8] = if self.empty { b"\"" } else { b",\"" };
        self.empty = false;
        self.out.extend_from_slice(before);
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

    /// A value whose characters need no escaping, such as an id.
    pub fn plain(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.reserve(value.len() + 2);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    pub fn timestamp(&mut self, name: &str, value: Timestamp) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(&value.to_text());
        self.out.push(b'"');
    }

    pub fn integer(&mut self, name: &str, value: impl itoa::Integer) {
        self.name(name);
        // A page of 50 events took a quarter of its instructions in `fmt` before its numbers and times went past it.
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    pub fn boolean(&mut self, name: &str, value: bool) {
        self.raw(name, if value { "true" } else { "false" });
    }

    /// A value that is JSON already.
    pub fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.out.extend_from_slice(json.as_bytes());
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
