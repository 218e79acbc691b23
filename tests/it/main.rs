//! The integration tests: one binary, one file a subject. They drive the real `colloquy` over HTTP and its command
//! line; nothing here reaches into the library but for the stores' conformance suite and the configuration.

mod harness;
mod refusal;
mod talk;
mod wire;

mod bad_bodies;
mod bad_json;
mod bad_requests;
mod config;
#[path = "../../src/store/conformance/mod.rs"]
mod conformance;
mod connections;
mod envelope;
mod event_batches;
mod event_pages;
mod events;
mod house;
mod openapi;
mod payloads;
mod session_lists;
mod session_patches;
mod sessions;
mod store_sqlite;
