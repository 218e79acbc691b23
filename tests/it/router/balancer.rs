//! What a balancer does, without its reasons: it moves chunks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mongodb::bson::{Document, doc};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    config::{Config, shard_name},
    server::ask,
};
use crate::random::Random;

/// How many collections it is at: those that came last. Tests that are over have no use for it.
const COLLECTIONS: usize = 8;

/// Stops when it is dropped, after the move that it is at.
pub struct Balancer {
    over: Arc<AtomicBool>,
    task: Option<JoinHandle<Moves>>,
}

/// What it did.
#[derive(Debug, Default)]
pub struct Moves {
    pub done: usize,
    /// What routers refused moves with.
    pub refused: Vec<Document>,
}

impl Balancer {
    pub(super) fn start(
        runtime: &Handle,
        config: Arc<Config>,
        router: String,
        rest: Duration,
        mut random: Random,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let task = runtime.spawn(async move {
            let mut moves = Moves::default();
            while !until.load(Ordering::Relaxed) {
                tokio::time::sleep(rest).await;
                let namespaces = config.newest(COLLECTIONS);
                if namespaces.is_empty() {
                    continue;
                }
                let namespace = random.pick(&namespaces);
                let table = config.table(namespace);
                let chunks: Vec<_> = table.chunks.iter().collect();
                let (from, shard) = *random.pick(&chunks);
                let to = (shard + 1 + random.below(config.shards() - 1)) % config.shards();
                let field = table.field.as_deref().expect("it is sharded");
                let change = doc! { "moveChunk": namespace, "find": { field: from }, "to": shard_name(to) };
                match ask(&router, "admin", change).await {
                    Ok(_) => moves.done += 1,
                    Err(refusal) => moves.refused.push(refusal),
                }
            }
            moves
        });
        Self {
            over,
            task: Some(task),
        }
    }

    /// Stops it; gives what it did.
    pub async fn stop(mut self) -> Moves {
        self.over.store(true, Ordering::Relaxed);
        let task = self.task.take().expect("it runs");
        task.await.expect("the balancer does not panic")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
