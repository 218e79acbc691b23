//! The commands beside `serve`: thin, over the use cases.
//!
//! - [`check`]: what `init` and `check` say of the backends.
//! - [`archive`]: runs of the archiver and upkeep of what it wrote.
//! - [`import`]: conversations from JSON Lines into the store.
//! - [`export`]: the way back.
//! - [`progress`]: how these two say how far they are.

pub mod archive;
pub mod check;
pub mod export;
pub mod import;
pub mod progress;
