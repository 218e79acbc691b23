//! [`Leases`] on this store. One process has the file, so that is who has its leases: they are kept in its memory, and end
//! with it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{SqliteStore, fault};
use crate::{
    domain::Result,
    store::leases::{Leases, Taken},
};

/// The leases by their names: the owner, and until when.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<String, (String, Instant)>>);

impl Held {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<String, (String, Instant)>) -> T) -> T {
        // Nothing panics while it holds the lock.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Leases for SqliteStore {
    async fn take_lease(&self, name: &str, owner: &str, time: Duration) -> Result<Taken> {
        if !self.writer.is_open() {
            return Err(fault::closed());
        }
        let now = Instant::now();
        Ok(self.leases.with(|leases| match leases.get(name) {
            Some((other, until)) if other != owner && *until > now => Taken::ByAnother(*until - now),
            _ => {
                leases.insert(name.to_owned(), (owner.to_owned(), now + time));
                Taken::Held
            }
        }))
    }

    async fn give_up_lease(&self, name: &str, owner: &str) -> Result<()> {
        self.leases.with(|leases| {
            if leases.get(name).is_some_and(|(holder, _)| holder == owner) {
                leases.remove(name);
            }
        });
        Ok(())
    }
}
