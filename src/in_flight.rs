//! The permit of a request among those in flight, held by the work that is done for it (I9).
//!
//! A caller that hangs up takes its request's future along, but not what that has begun: a write in a task of its own, an
//! append in the queue of group commit, a read on a thread that blocks. Each of these holds a clone of the request's permit,
//! so a limit of requests in flight also holds for callers that send and hang up. The permit is known to the task that
//! works for the request; [`spawn`] and [`spawn_blocking`] carry it into further ones, and [`permit`] into a queue.

use std::{any::Any, fmt, sync::Arc};

use tokio::task::JoinHandle;

tokio::task_local! {
    static PERMIT: Permit;
}

/// Counts a request as in flight until the last clone is dropped.
#[derive(Clone)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] Arc<dyn Any + Send + Sync>);

impl Permit {
    /// A permit that gives `held` back, by dropping it, when its last clone is dropped.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Arc::new(held))
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// Does the work of the request that has this permit.
pub async fn with<T>(permit: Permit, work: impl Future<Output = T>) -> T {
    PERMIT.scope(permit, work).await
}

/// The permit of the request that this task works for; `None` where there is none, as in background tasks.
pub fn permit() -> Option<Permit> {
    PERMIT.try_with(Permit::clone).ok()
}

/// As [`tokio::spawn`], for work that goes on when the request it is done for is dropped.
pub fn spawn<T>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
{
    match permit() {
        Some(permit) => tokio::spawn(PERMIT.scope(permit, work)),
        None => tokio::spawn(work),
    }
}

/// As [`tokio::task::spawn_blocking`], likewise.
pub fn spawn_blocking<T>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
{
    let permit = permit();
    tokio::task::spawn_blocking(move || {
        let _held = permit;
        work()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    fn counted() -> (Permit, Weak<()>) {
        let held = Arc::new(());
        let watch = Arc::downgrade(&held);
        (Permit::new(held), watch)
    }

    #[tokio::test]
    async fn work_keeps_the_permit_of_a_request_that_was_dropped_until_it_ends() {
        let (permit, watch) = counted();
        let (end, ended) = oneshot::channel::<()>();
        let (give, task) = oneshot::channel();
        let request = with(permit, async move {
            let nested = spawn(async move {
                let _ = spawn(ended).await;
            });
            let _ = give.send(nested);
            std::future::pending::<()>().await;
        });
        let mut request = Box::pin(request);
        assert!(futures_util::poll!(request.as_mut()).is_pending());
        drop(request);
        let task = task.await.unwrap();
        assert!(watch.upgrade().is_some(), "given back before the work has ended");
        end.send(()).unwrap();
        task.await.unwrap();
        assert!(watch.upgrade().is_none(), "never given back");
    }

    #[tokio::test]
    async fn work_on_a_blocking_thread_keeps_the_permit_until_it_ends() {
        let (permit, watch) = counted();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let task = with(
            permit,
            std::future::ready(()).map(|()| spawn_blocking(move || ended.recv())),
        )
        .await;
        assert!(watch.upgrade().is_some(), "given back before the work has ended");
        end.send(()).unwrap();
        task.await.unwrap().unwrap();
        assert!(watch.upgrade().is_none(), "never given back");
    }

    #[tokio::test]
    async fn background_work_has_no_permit() {
        assert!(permit().is_none());
        spawn(async { assert!(permit().is_none()) }).await.unwrap();
    }
}
