//! What a read of the service shows, taken apart again.

use colloquy::{domain::Limit, service::ReadPage};

/// A page as it was shown; sessions and events as the API shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Empty where it was not asked for.
    pub session: Vec<u8>,
    pub events: Vec<Vec<u8>>,
    pub next_cursor: Option<String>,
}

/// Writes a page as [`Shown::read`] reads it: three lines, since the JSON of the API has no line breaks.
pub fn render(out: &mut Vec<u8>, page: &ReadPage, _: Limit) {
    page.write_session(out);
    out.push(b'\n');
    page.write_events(out);
    out.push(b'\n');
    out.extend_from_slice(page.next_cursor.as_deref().unwrap_or_default().as_bytes());
}

impl Shown {
    pub fn read(body: &[u8]) -> Self {
        let lines: Vec<_> = body.split(|&byte| byte == b'\n').collect();
        let [session, events, cursor] = lines[..] else {
            panic!("no page: {}", String::from_utf8_lossy(body));
        };
        let cursor = String::from_utf8(cursor.to_vec()).expect("a cursor is text");
        Self {
            session: session.to_vec(),
            events: split(events),
            next_cursor: (!cursor.is_empty()).then_some(cursor),
        }
    }
}

/// The objects of a list of them.
fn split(mut list: &[u8]) -> Vec<Vec<u8>> {
    let mut objects = Vec::new();
    while !list.is_empty() {
        let mut values = serde_json::Deserializer::from_slice(list).into_iter::<serde_json::Value>();
        values.next().expect("an object").expect("an object");
        let (object, rest) = list.split_at(values.byte_offset());
        objects.push(object.to_vec());
        list = match rest {
            [] => rest,
            [b',', more @ ..] if !more.is_empty() => more,
            _ => panic!("no list goes on with {}", String::from_utf8_lossy(rest)),
        };
    }
    objects
}
