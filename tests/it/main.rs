//! The integration tests: one binary, one file a subject. They drive the real `colloquy` over HTTP and its command
//! line; nothing here reaches into the library but for the stores' conformance suite and the configuration.

mod harness;

mod config;
#[path = "../../src/store/conformance/mod.rs"]
mod conformance;
mod house;
mod store_sqlite;
