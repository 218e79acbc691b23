//! Strict JSON in, compact JSON out.
//!
//! Colloquy keeps what a caller sent, or refuses it; it drops and reorders nothing, and an integer is never rounded. (A
//! number with a point or an exponent is a double, the nearest one, as everywhere in JSON's world.) So this module
//! refuses what JSON parsers commonly let through in silence: integers beyond 64 bits, numbers too large for a
//! double, an object with the same key twice, a key with NUL (which BSON can't hold), lone surrogates,
//! nesting without end, and fields nobody knows.
//!
//! What is not JSON by the grammar of RFC 8259, or not UTF-8, is refused as a whole. Everything else is a fault of the value
//! that has it: in a batch, of its item alone.
//!
//! - [`JsonObject`]: an object of the caller's own (`payload`, `metadata`), checked and kept as compact text, so
//!   that answering with it is a copy.
//! - [`Fields`]: reads an object whose fields we know, and collects everything that is wrong with it before it
//!   gives up.
//! - [`ObjectWriter`]: writes one, splicing what is JSON already.

use std::{borrow::Cow, ops::ControlFlow, str::FromStr};

use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};

mod fields;
mod object;
mod walk;
mod writer;

pub use fields::Fields;
pub use object::JsonObject;
pub use writer::{ObjectWriter, write_string};

/// Deepest nesting of a [`JsonObject`], in levels; the object itself is the first.
pub const DEPTH_MAX: usize = 64;

/// Why one field's value was refused: words that complete "the field …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub message: Cow<'static, str>,
    pub too_large: bool,
}

impl Refusal {
    pub fn too_large(message: String) -> Self {
        Self {
            message: message.into(),
            too_large: true,
        }
    }
}

impl From<&'static str> for Refusal {
    fn from(message: &'static str) -> Self {
        Self {
            message: message.into(),
            too_large: false,
        }
    }
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self {
            message: message.into(),
            too_large: false,
        }
    }
}

/// At most 40 characters of `text`, for a message: control characters escaped, since it may end up on a terminal.
pub fn abridged(text: &str) -> Cow<'_, str> {
    let end = text.char_indices().nth(40).map(|(end, _)| end);
    if end.is_none() && !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let shown = text[..end.unwrap_or(text.len())].chars();
    let escaped = shown.flat_map(|c| match c.is_control() {
        true => c.escape_default().collect::<Vec<_>>(),
        false => vec![c],
    });
    Cow::Owned(escaped.chain(end.map(|_| '…')).collect())
}

impl From<JiterError> for Refusal {
    /// What a reader can meet in a text that is valid JSON.
    fn from(error: JiterError) -> Self {
        use JsonErrorType::{LoneLeadingSurrogateInHexEscape, NumberOutOfRange, UnexpectedEndOfHexEscape};
        match error.error_type {
            JiterErrorType::JsonError(LoneLeadingSurrogateInHexEscape | UnexpectedEndOfHexEscape) => {
                "has half of a surrogate pair (\\uD800 to \\uDFFF), which stands for no character".into()
            }
            JiterErrorType::JsonError(NumberOutOfRange) => "holds a number of too many digits".into(),
            other => other.to_string().into(),
        }
    }
}

/// Reads a JSON string.
pub fn string(text: &str) -> Result<String, Refusal> {
    let mut source = Jiter::new(text.as_bytes());
    if source.peek()? != Peek::String {
        return Err("must be a string".into());
    }
    Ok(source.known_str()?.to_owned())
}

/// Reads a JSON string and parses it as a `T`.
pub fn parsed<T>(text: &str) -> Result<T, Refusal>
where
    T: FromStr<Err = &'static str>,
{
    string(text)?.parse().map_err(Refusal::from)
}

/// Reads `null` as `None` and anything else with `read`.
pub fn nullable<'a, T>(
    read: impl FnOnce(&'a str) -> Result<T, Refusal>,
) -> impl FnOnce(&'a str) -> Result<Option<T>, Refusal> {
    move |text| {
        if text == "null" {
            Ok(None)
        } else {
            read(text).map(Some)
        }
    }
}

/// Splits a JSON array into the texts of its elements.
///
/// # Errors
/// Not an array, or more than `items_max` elements.
pub fn elements(text: &str, items_max: usize) -> Result<Vec<&str>, Refusal> {
    let mut items = Vec::new();
    for_each_element(text, |item| {
        if items.len() == items_max {
            return Err(Refusal::too_large(format!("has more than {items_max} items")));
        }
        items.push(item);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(items)
}

/// Goes through a JSON array, element by element, until `each` breaks off.
///
/// # Errors
/// Not an array, or what `each` returns.
pub fn for_each_element<'a>(
    text: &'a str,
    mut each: impl FnMut(&'a str) -> Result<ControlFlow<()>, Refusal>,
) -> Result<(), Refusal> {
    let mut outcome = Ok(());
    let walked = walk::elements(text, |item| match each(item) {
        Ok(flow) => flow.is_continue(),
        Err(refusal) => {
            outcome = Err(refusal);
            false
        }
    });
    match walked {
        Some(()) => outcome,
        None => Err("must be an array".into()),
    }
}
