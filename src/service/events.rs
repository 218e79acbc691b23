//! The use cases of events.

use std::sync::Arc;

use tracing::instrument;

use super::{EventsPage, PageQuery, Service, commit::Appends, writing};
use crate::{
    domain::{
        Appended, Cursor, Error, Event, EventId, EventPosition, EventQuery, Kind, NewEvent, Page, Result,
        SessionKey,
    },
    store::{HotEvent, HotEvents, refusal},
    telemetry::metrics::metrics,
};

impl Service {
    /// Appends one event, or gives back the stored one when this is a replay of it.
    pub async fn append(&self, key: &SessionKey, event: NewEvent) -> Result<Appended> {
        let mut outcomes = self.append_batch(key, vec![event]).await?;
        outcomes.pop().unwrap_or_else(|| {
            Err(Error::new(
                Kind::Internal,
                "the store gave no outcome for an append",
            ))
        })
    }

    /// Appends up to [`BATCH_EVENTS_MAX`](crate::domain::event::BATCH_EVENTS_MAX) events, each on its own; one outcome an event, in order.
    ///
    /// # Errors
    /// As a whole only when the session is not there to append to, or nothing is known of any event.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn append_batch(
        &self,
        key: &SessionKey,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Result<Appended>>> {
        if events.is_empty() {
            return self.session(key).await.map(|_| Vec::new());
        }
        let events: Arc<[NewEvent]> = events.into();
        let appends = Appends {
            key: key.clone(),
            events: Arc::clone(&events),
        };
        let mut outcomes = self.appends.append(appends).await?;
        self.settle_archived(key, &events, &mut outcomes).await?;
        count_outcomes(&outcomes);
        match outcomes
            .iter()
            .find_map(|outcome| outcome.as_ref().err().filter(|error| error.is_of_session()))
        {
            Some(error) => Err(error.share()),
            None => Ok(outcomes),
        }
    }

    /// A page of a session's events, from the store.
    pub async fn events(&self, key: &SessionKey, query: &PageQuery<'_>) -> Result<EventsPage> {
        self.stored(key, &self.asked(key, query)?).await
    }

    /// What a caller's words for a page mean.
    pub(super) fn asked(&self, key: &SessionKey, query: &PageQuery<'_>) -> Result<Asked> {
        let cursors = Cursor::of_events(key, query.order, &query.filter);
        let query = EventQuery {
            filter: query.filter.clone(),
            order: query.order,
            after: query.cursor.map(|text| cursors.read_event(text)).transpose()?,
            limit: query.limit,
            payload_bytes_max: self.limits.page_payload_bytes_max,
        };
        Ok(Asked { cursors, query })
    }

    async fn stored(&self, key: &SessionKey, asked: &Asked) -> Result<EventsPage> {
        let hot = self.store.events(key, &asked.query).await?;
        let page = self.whole(key, &asked.query, hot).await?;
        Ok(EventsPage {
            next_cursor: asked.next_cursor(&page),
            events: page.items,
        })
    }

    /// What the store has of a page, with what the archive has of it.
    pub(super) async fn whole(
        &self,
        key: &SessionKey,
        query: &EventQuery,
        hot: HotEvents,
    ) -> Result<Page<Event>> {
        match hot.archived {
            None => Ok(Page {
                items: hot.items,
                has_more: hot.has_more,
            }),
            // Boxed: it is large, and requests for what is hot would carry the room for it around.
            Some(_) => Box::pin(self.archive()?.page(key, query, hot)).await,
        }
    }

    /// One event.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn event(&self, key: &SessionKey, id: &EventId) -> Result<Event> {
        match self.store.event(key, id).await? {
            HotEvent {
                event: Some(event),
                archived: None,
            } => Ok(event),
            hot => Box::pin(self.archive()?.event(key, id, hot)).await,
        }
    }

    /// Answers the appends that the store left to the archive: those to an archived session, which takes nothing new. One
    /// that it has is a replay, or a clash, wherever the event lies.
    ///
    /// The session may be hot by then, and the event in the store: an append that was late leaves it there, unacknowledged
    /// and unknown to the cache. So the look-up is announced to the cache as a write is, and an entry from before it goes.
    async fn settle_archived(
        &self,
        key: &SessionKey,
        events: &[NewEvent],
        outcomes: &mut [Result<Appended>],
    ) -> Result<()> {
        let is_open = |outcome: &Result<Appended>| matches!(outcome, Err(error) if error.kind() == Kind::SessionArchived);
        let open: Vec<usize> = (0..outcomes.len()).filter(|&at| is_open(&outcomes[at])).collect();
        if open.is_empty() {
            return Ok(());
        }
        let ids: Vec<EventId> = open.iter().map(|&at| events[at].id.clone()).collect();
        let (archive, of) = (self.archive()?.clone(), key.clone());
        let look = async move |_: Self| archive.events_of(&of, &ids).await;
        // Boxed: it is large, and seldom.
        let found = Box::pin(self.write(key, look, |found: &Vec<_>| writing::of_found(found))).await?;
        for (at, stored) in open.into_iter().zip(found) {
            let event = &events[at];
            outcomes[at] = match stored {
                Some(stored) => stored.appended_again(event),
                None => Err(refusal::session_ended(&key.id)),
            };
        }
        Ok(())
    }
}

/// A page that is asked for, and the cursors that belong to it.
pub(super) struct Asked {
    pub(super) cursors: Cursor,
    pub(super) query: EventQuery,
}

impl Asked {
    /// Where the page after this one begins, if there is one.
    pub(super) fn next_cursor(&self, page: &Page<Event>) -> Option<String> {
        let last = page.items.last().filter(|_| page.has_more)?;
        Some(self.cursors.event(&EventPosition::from(last)))
    }
}

/// Counts what became of events.
fn count_outcomes(outcomes: &[Result<Appended>]) {
    let (mut created, mut replayed, mut conflict, mut rejected) = (0, 0, 0, 0);
    for outcome in outcomes {
        match outcome {
            Ok(appended) if appended.replayed => replayed += 1,
            Ok(_) => created += 1,
            Err(error) if error.kind() == Kind::EventIdReused => conflict += 1,
            Err(_) => rejected += 1,
        }
    }
    metrics().appended("created", created);
    metrics().appended("replayed", replayed);
    metrics().appended("conflict", conflict);
    metrics().appended("rejected", rejected);
}
