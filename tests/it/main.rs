//! The integration tests: one binary, one file a subject. They drive the real `colloquy` over HTTP and its command
//! line; nothing here reaches into the library but for the conformance suites of stores and objects, the configuration,
//! the group commit, whose store must fail on demand, clocks that are apart, what requests cost, and a look at what a killed archiver left. `backends` says how to run them on another store.

mod backends;
mod clients;
mod conversations;
mod harness;
mod ledger;
mod random;
mod refusal;
mod shown;
mod talk;
mod telemetry;
mod wire;

mod abandoned;
mod archive;
mod archive_faults;
mod archive_kill;
mod bad_bodies;
mod bad_json;
mod bad_requests;
mod behind_nginx;
mod cache;
mod cache_model;
mod chores;
mod config;
#[path = "../../src/store/conformance/mod.rs"]
mod conformance;
mod connections;
mod costs;
mod crash;
mod engines;
mod envelope;
mod event_batches;
mod event_pages;
mod events;
mod export;
mod export_archived;
mod failures;
mod group_commit;
mod health;
mod house;
mod idle;
mod import_export;
mod import_faults;
mod import_known;
mod init_and_check;
mod limits;
mod mongo;
mod objects;
#[path = "../../src/archive/objects/conformance/mod.rs"]
mod objects_conformance;
mod objects_faults;
mod openapi;
mod optional_fields;
mod order;
mod payloads;
mod races;
mod refusals_unread;
mod request_log;
mod rolling;
mod router;
mod session_lists;
mod session_patches;
mod sessions;
mod sharded;
mod shared_settings;
mod shedding;
mod shutdown;
mod slow_takers;
mod startup;
mod store_mongo;
mod store_sqlite;
mod swagger;
mod user_ids;
