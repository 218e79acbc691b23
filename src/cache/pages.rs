//! Local copies: pages as they were sent, kept in this process to be sent again as they are.
//!
//! A copy carries the stamp of what it was made from. Whoever has one must know, at the very moment of sending, that the
//! stamp is still the right one; how is the cache's affair that keeps it. So a copy can be kept late, twice, or long after
//! it is of any use: then it is not sent, and goes when the room is wanted.

use bytes::Bytes;
use quick_cache::{Equivalent, Weighter, sync};

use super::{Rendered, Shape};
use crate::domain::SessionKey;

/// What a copy takes beside its body and its names: about that of the map, of the reference counts, of the names.
const OVERHEAD_BYTES: u64 = 512;

/// About what a copy takes; for the size of the map.
const COPY_BYTES: usize = 8 * 1024;

/// Copies, up to a number of bytes; those that are not sent again go first.
pub(super) struct Pages(Option<Copies>);

type Copies = sync::Cache<Name, Kept, Weight>;

/// What a page was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stamp {
    /// An entry of a shared cache, with this tag.
    Entry(Bytes),
    /// The store, when so many writes had begun, and none was under way.
    Writes(u64),
}

/// A page as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) stamp: Stamp,
    pub(super) rendered: Rendered,
}

/// Where a page is to be kept once it is rendered.
#[derive(Debug)]
pub struct Place {
    name: Name,
    stamp: Stamp,
}

impl Place {
    pub(super) fn new(key: &SessionKey, shape: &Shape, stamp: Stamp) -> Self {
        let name = Name {
            key: key.clone(),
            shape: shape.clone(),
        };
        Self { name, stamp }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    key: SessionKey,
    shape: Shape,
}

/// A name that is only looked up. Hashes as a [`Name`] does: field by field.
#[derive(Hash)]
struct Wanted<'a> {
    key: &'a SessionKey,
    shape: &'a Shape,
}

impl Equivalent<Name> for Wanted<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        *self.key == name.key && *self.shape == name.shape
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Name, Kept> for Weight {
    fn weight(&self, _: &Name, kept: &Kept) -> u64 {
        kept.rendered.body.len() as u64 + OVERHEAD_BYTES
    }
}

impl Pages {
    /// With room for so many bytes; 0: for nothing.
    pub(super) fn new(bytes_max: usize) -> Self {
        if bytes_max == 0 {
            return Self(None);
        }
        let copies = (bytes_max / COPY_BYTES).max(16);
        Self(Some(sync::Cache::with_weighter(copies, bytes_max as u64, Weight)))
    }

    pub(super) fn get(&self, key: &SessionKey, shape: &Shape) -> Option<Kept> {
        self.0.as_ref()?.get(&Wanted { key, shape })
    }

    /// Whether anything is kept at all.
    pub(super) fn has_room(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn keep(&self, place: Place, rendered: Rendered) {
        let Some(copies) = &self.0 else { return };
        let stamp = place.stamp;
        copies.insert(place.name, Kept { stamp, rendered });
    }

    /// Bytes that are kept, in all.
    pub(super) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, sync::Cache::weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Limit, Tenant};

    fn key(nth: usize) -> SessionKey {
        SessionKey::new(Tenant::default(), format!("s{nth}").parse().unwrap())
    }

    fn shape(limit: u16) -> Shape {
        Shape {
            limit: Limit::at_most(limit),
            ..Shape::default()
        }
    }

    fn keep(pages: &Pages, nth: usize, limit: u16, bytes: usize) {
        let place = Place::new(&key(nth), &shape(limit), Stamp::Writes(7));
        let body = Bytes::from(vec![b'x'; bytes]);
        pages.keep(place, Rendered { body, version: 1 });
    }

    #[test]
    fn a_copy_is_found_by_its_session_and_its_shape() {
        let pages = Pages::new(1 << 20);
        keep(&pages, 1, 50, 10);
        let found = pages.get(&key(1), &shape(50)).unwrap();
        assert_eq!((found.stamp, found.rendered.body.len()), (Stamp::Writes(7), 10));
        assert!(pages.get(&key(2), &shape(50)).is_none());
        assert!(pages.get(&key(1), &shape(51)).is_none());
        let with_session = Shape {
            session: true,
            ..shape(50)
        };
        assert!(pages.get(&key(1), &with_session).is_none());
    }

    #[test]
    fn no_more_bytes_are_kept_than_allowed() {
        for bytes_max in [64 * 1024, 1 << 20] {
            let pages = Pages::new(bytes_max);
            for nth in 0..2_000 {
                keep(&pages, nth, 50, 1 + nth * 37 % 20_000);
                assert!(pages.bytes() <= bytes_max as u64);
            }
            assert!(
                pages.bytes() > bytes_max as u64 / 4,
                "{} of {bytes_max}",
                pages.bytes()
            );
            // One that would take all the room is not worth the others.
            keep(&pages, 9_999, 50, bytes_max);
            assert!(pages.get(&key(9_999), &shape(50)).is_none());
        }
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let pages = Pages::new(0);
        keep(&pages, 1, 50, 10);
        assert!(pages.get(&key(1), &shape(50)).is_none());
        assert!(!pages.has_room());
    }
}
