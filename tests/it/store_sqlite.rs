//! The SQLite store keeps the contract of a store.

use std::sync::Arc;

use async_trait::async_trait;
use colloquy::store::{
    Store,
    sqlite::{SqliteOptions, SqliteStore},
};
use tempfile::TempDir;

use crate::conformance::{Subject, store_conformance};

struct Sqlite(TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }
}

#[async_trait]
impl Subject for Sqlite {
    async fn store(&self) -> Arc<dyn Store> {
        let path = self.0.path().join("data/colloquy.db");
        Arc::new(SqliteStore::open(&path, SqliteOptions::default()).unwrap())
    }
}

store_conformance!(Sqlite::new());
