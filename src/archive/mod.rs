//! The archive: ended sessions leave the hot store for object storage, and stay readable.

pub mod objects;
pub mod segment;
