//! Colloquy: the system of record for AI conversations.
//!
//! The modules, in the order a reader should meet them; each imports only from those above it, but for [`app`],
//! which puts everything together. `docs/ARCHITECTURE.md` walks through what happens when an event is posted.
//!
//! - [`domain`]: sessions, events, ids, pages, strict JSON, the kinds of failure. Pure.
//! - [`store`]: where sessions and events live; the contract and its implementations.
//! - [`cache`]: what of it is kept at hand, and how that never lies; none, or Redis.
//! - [`archive`]: where ended sessions go, and how they are read there.
//! - [`service`]: the use cases, and group commit.
//! - [`api`]: the use cases over HTTP.
//! - [`commands`]: import, export, init and check.
//! - [`in_flight`]: the permits of requests in flight, which the work done for them holds.
//! - [`config`], [`telemetry`]: what the process is told, and what it tells.
//! - [`app`]: the composition root.

pub mod api;
pub mod app;
pub mod archive;
pub mod cache;
pub mod commands;
pub mod config;
pub mod domain;
pub mod in_flight;
pub mod service;
pub mod store;
pub mod telemetry;
