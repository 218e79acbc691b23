//! The contract of a store, and of what the archive asks of it, on the shared cluster: while chunks move.

use std::sync::Arc;

use async_trait::async_trait;
use colloquy::store::{
    Store,
    catalog::Catalog,
    mongo::{MongoOptions, MongoStore},
};

use crate::{
    conformance::{
        Subject,
        catalog::{CatalogSubject, catalog_conformance},
        store_conformance,
    },
    router,
};

struct Sharded(String);

impl Sharded {
    async fn new() -> Self {
        Self(router::database().await)
    }

    async fn connect(&self) -> Arc<MongoStore> {
        let options = MongoOptions {
            pool_min: 0,
            ..MongoOptions::default()
        };
        Arc::new(MongoStore::connect(&self.0, options).await.unwrap())
    }
}

#[async_trait]
impl Subject for Sharded {
    async fn store(&self) -> Arc<dyn Store> {
        self.connect().await
    }
}

#[async_trait]
impl CatalogSubject for Sharded {
    async fn catalog(&self) -> Arc<dyn Catalog> {
        self.connect().await
    }
}

store_conformance!(Sharded::new().await);

mod catalog {
    use super::*;

    catalog_conformance!(Sharded::new().await);
}
