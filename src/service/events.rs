//! The use cases of events.

use super::{EventsPage, PageQuery, Service, writing};
use crate::{
    domain::{
        Appended, Cursor, Error, Event, EventId, EventPosition, EventQuery, Kind, NewEvent, Result,
        SessionKey,
    },
    store::Append,
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
    pub async fn append_batch(
        &self,
        key: &SessionKey,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Result<Appended>>> {
        if events.is_empty() {
            return self.session(key).await.map(|_| Vec::new());
        }
        let (count, of) = (events.len(), key.clone());
        let append = async move |service: Self, first_seq| {
            let now = service.clock.now();
            let first_seq = service.clock.take_seqs(events.len(), first_seq);
            let append = |(seq, event)| Append {
                key: of.clone(),
                event,
                now,
                seq,
            };
            let appends = (first_seq..).zip(events).map(append).collect();
            service.appends.append(appends).await
        };
        let outcomes = self
            .write(key, count, append, |outcomes| writing::of_appends(outcomes))
            .await?;
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

    pub(super) async fn stored(&self, key: &SessionKey, asked: &Asked) -> Result<EventsPage> {
        let page = self.store.events(key, &asked.query).await?;
        let last = page.items.last().filter(|_| page.has_more);
        Ok(EventsPage {
            next_cursor: last.map(|event| asked.cursors.event(&EventPosition::from(event))),
            events: page.items,
        })
    }

    /// One event.
    pub async fn event(&self, key: &SessionKey, id: &EventId) -> Result<Event> {
        let found = self.store.event(key, id).await?;
        found.event.ok_or_else(|| Error::new(Kind::Internal, "not yet"))
    }
}

/// A page that is asked for, and the cursors that belong to it.
pub(super) struct Asked {
    pub(super) cursors: Cursor,
    pub(super) query: EventQuery,
}
