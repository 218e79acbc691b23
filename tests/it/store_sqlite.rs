//! The SQLite store keeps the contract of a store.

use std::sync::Arc;

use async_trait::async_trait;
use colloquy::store::{
    Store,
    catalog::Catalog,
    sqlite::{SqliteOptions, SqliteStore},
};
use tempfile::TempDir;

use crate::conformance::{
    Subject,
    catalog::{CatalogSubject, catalog_conformance},
    store_conformance,
};

struct Sqlite(TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn open(&self) -> Arc<SqliteStore> {
        let path = self.0.path().join("data/colloquy.db");
        Arc::new(SqliteStore::open(&path, SqliteOptions::default()).unwrap())
    }
}

#[async_trait]
impl Subject for Sqlite {
    async fn store(&self) -> Arc<dyn Store> {
        self.open()
    }
}

#[async_trait]
impl CatalogSubject for Sqlite {
    async fn catalog(&self) -> Arc<dyn Catalog> {
        self.open()
    }
}

store_conformance!(Sqlite::new());
catalog_conformance!(Sqlite::new());
