//! The MongoDB store keeps the contract of a store: on a replica set or, with `COLLOQUY_TEST_STORE=sharded`, on a cluster.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use colloquy::store::{
    Store,
    catalog::Catalog,
    mongo::{self, CHUNKS_DEFAULT, MongoOptions, MongoStore},
};

use crate::{
    backends::is_sharded,
    conformance::{
        Subject,
        catalog::{CatalogSubject, catalog_conformance},
        store_conformance,
    },
    engines, router,
};

/// One server has one clock. Tests that wait for the end of a lease wait for this, too.
const CLOCKS_APART_MAX: Duration = Duration::from_millis(10);

/// A database of its own.
struct Mongo(String);

impl Mongo {
    async fn new() -> Self {
        if is_sharded() {
            return Self(router::database().await);
        }
        let url = engines::mongodb().await;
        mongo::init(&url, &MongoOptions::default(), CHUNKS_DEFAULT)
            .await
            .unwrap();
        Self(url)
    }
}

impl Mongo {
    async fn connect(&self) -> Arc<MongoStore> {
        let options = MongoOptions {
            pool_min: 0,
            clocks_apart_max: CLOCKS_APART_MAX,
            ..MongoOptions::default()
        };
        Arc::new(MongoStore::connect(&self.0, options).await.unwrap())
    }
}

#[async_trait]
impl Subject for Mongo {
    async fn store(&self) -> Arc<dyn Store> {
        self.connect().await
    }
}

#[async_trait]
impl CatalogSubject for Mongo {
    async fn catalog(&self) -> Arc<dyn Catalog> {
        self.connect().await
    }
}

store_conformance!(Mongo::new().await);

mod catalog {
    use super::*;

    catalog_conformance!(Mongo::new().await);
}
