//! The commands beside `serve`: thin, over the use cases.
//!
//! - [`import`]: conversations from JSON Lines into the store.
//! - [`export`]: the way back.
//! - [`progress`]: how both say how far they are.

pub mod export;
pub mod import;
pub mod progress;
