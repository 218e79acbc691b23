//! The commands beside `serve`: thin, over the use cases.
//!
//! - [`check`]: what `init` and `check` say of the backends.
//! - [`archive`]: runs of the archiver and upkeep of what it wrote.
//! - [`import`]: conversations from JSON Lines into the store.
//! - [`export`]: the way back.
//! - [`upkeep`]: a round of what keeps the archive in order, which servers do on schedule.
//! - [`health`]: how a running server is.
//! - [`output`]: where a command writes, and what becomes of a file that is not whole.
//! - [`progress`]: how imports and exports say how far they are.

pub mod archive;
pub mod check;
pub mod export;
pub mod health;
pub mod import;
pub mod output;
pub mod progress;
pub mod upkeep;
