//! What a replica does for as long as it lives: it vouches, and finds back to Redis when that was away.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use super::{
    link::{Fault, Link},
    vouching::Vouching,
};

/// A replica vouches this many times while one word of it lasts.
const VOUCHES_A_LEASE: u32 = 5;

/// While Redis is away, a replica tries to reach it this often.
const RECONNECT_EVERY: Duration = Duration::from_millis(100);

/// Done until they are dropped.
pub(super) struct Duties {
    runtime: Handle,
    task: JoinHandle<()>,
    thread: Option<Runtime>,
}

impl Duties {
    /// Begins them among the caller's tasks, once the first round was made.
    pub(super) async fn begin(vouching: Arc<Vouching>, link: Arc<dyn Link>, lease: Duration) -> Self {
        Self::on(&Handle::current(), vouching, link, lease).await
    }

    /// Begins them on a thread of their own, and with them whatever reads from Redis: where requests queue for the processor,
    /// a word that comes too late, or an answer that is read too late, would have all reads go to the store, and that when
    /// there is least to spare.
    pub(super) async fn begin_apart(vouching: Arc<Vouching>, link: Arc<dyn Link>, lease: Duration) -> Self {
        let thread = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("redis")
            .enable_all()
            .build();
        match thread {
            Ok(thread) => {
                let mut duties = Self::on(thread.handle(), vouching, link, lease).await;
                duties.thread = Some(thread);
                duties
            }
            Err(error) => {
                tracing::warn!(%error, "the cache has no thread of its own");
                Self::begin(vouching, link, lease).await
            }
        }
    }

    async fn on(runtime: &Handle, vouching: Arc<Vouching>, link: Arc<dyn Link>, lease: Duration) -> Self {
        // The first round before anything is written: a replica that the others don't know of can't warn them.
        // Failing that, it goes without, and has said so.
        let (first, to) = (Arc::clone(&vouching), Arc::clone(&link));
        let _ = runtime.spawn(async move { first.round(to.as_ref()).await }).await;
        Self {
            runtime: runtime.clone(),
            task: runtime.spawn(vouch(vouching, link, lease / VOUCHES_A_LEASE)),
            thread: None,
        }
    }

    /// Where they are done.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn end(&self) {
        self.task.abort();
    }
}

impl Drop for Duties {
    fn drop(&mut self) {
        self.end();
        // To wait for it is not allowed among tasks.
        if let Some(thread) = self.thread.take() {
            thread.shutdown_background();
        }
    }
}

async fn vouch(vouching: Arc<Vouching>, link: Arc<dyn Link>, every: Duration) {
    let mut rounds = tokio::time::interval_at(Instant::now() + every, every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if let Err(Fault::Lost(_) | Fault::Refused(_)) = vouching.round(link.as_ref()).await {
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }
}
