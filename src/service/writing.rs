//! Writing with the cache in front: told before the store is asked, and told what came of it before anyone else is.

use tracing::Instrument;

use super::Service;
use crate::{
    cache::{Change, Wanted},
    domain::{Error, Event, Kind, Result, Session, SessionKey},
    in_flight,
    store::Opened,
};

impl Service {
    /// Runs a write to a session, other than an append; `change` says what its outcome means for the session.
    ///
    /// A caller that goes away changes nothing: the write, and what the cache must be told of it, go on without it.
    pub(super) async fn write<T, W>(
        &self,
        key: &SessionKey,
        work: impl FnOnce(Self) -> W + Send + 'static,
        change: fn(&T) -> Change<'_>,
    ) -> Result<T>
    where
        T: Send + Sync + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let (service, key) = (self.clone(), key.clone());
        let writing = async move {
            let begun = service.cache.begin(&key, Wanted::default()).await;
            let outcome = work(service.clone()).await;
            let change = match &outcome {
                Ok(value) => change(value),
                Err(error) => of_failure(error),
            };
            service.cache.finish(begun, change).await;
            outcome
        };
        in_flight::spawn(writing.in_current_span())
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the write was interrupted")))
    }
}

/// What a write that failed so means for its session.
pub(super) fn of_failure(error: &Error) -> Change<'static> {
    match error.kind() {
        // It may be in the store all the same, now or soon.
        Kind::Unavailable | Kind::Internal => Change::Unknown { acknowledged: false },
        // The cache should have nothing of it; if it does, by a fault, this is when to mend it.
        Kind::SessionNotFound | Kind::SessionErased => Change::Replaced,
        _ => Change::Nothing,
    }
}

/// What opening a session means for it; beside the outcome stands the session's [`Session::seq_min`].
pub(super) fn of_opened((opened, seq_min): &(Opened, Option<i64>)) -> Change<'_> {
    match opened.created {
        true => Change::Opened { seq_min: *seq_min },
        false => Change::Nothing,
    }
}

/// What it means for a session that these events were found in it, and that their caller is told so. An entry may be from
/// before they were stored.
pub(super) fn of_found(found: &[Option<Event>]) -> Change<'static> {
    match found.iter().any(Option::is_some) {
        true => Change::Replaced,
        false => Change::Nothing,
    }
}

/// What it means for a session that it is now this one.
pub(super) fn of_changed(session: &Session) -> Change<'_> {
    Change::Session(session)
}

/// What it means for a session that it was ended, or was in use after all.
pub(super) fn of_ended_idle(ended: &Option<Session>) -> Change<'_> {
    ended.as_ref().map_or(Change::Nothing, Change::Session)
}

/// What erasing a session means for it.
pub(super) fn of_erased((): &()) -> Change<'_> {
    Change::Replaced
}
