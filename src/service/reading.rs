//! Reading what a caller is shown: from the cache where it has the exact answer, else from the store.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use tracing::{Instrument, instrument};

use super::{EventsPage, Service, events::Asked};
use crate::{
    cache::{Found, Lease, Lookup, Query},
    domain::{Event, EventFilter, EventQuery, Limit, Order, Result, Session, SessionKey},
};

/// Which page of a session's events.
#[derive(Debug, Clone, Default)]
pub struct PageQuery<'a> {
    pub filter: EventFilter,
    pub order: Order,
    pub limit: Limit,
    pub cursor: Option<&'a str>,
    /// The page must not be older than the event that got this `seq`.
    pub min_seq: Option<i64>,
}

/// A session, as it was read.
#[derive(Debug, Clone)]
pub enum SessionRead {
    Stored(Box<Session>),
    /// As the API shows it.
    Cached {
        json: Bytes,
        version: i64,
    },
}

impl SessionRead {
    pub fn version(&self) -> i64 {
        match self {
            Self::Stored(session) => session.version,
            Self::Cached { version, .. } => *version,
        }
    }

    /// Appends it as the API shows it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stored(session) => session.write_json(out),
            Self::Cached { json, .. } => out.extend_from_slice(json),
        }
    }
}

/// An event, as it was read.
#[derive(Debug, Clone)]
pub enum EventRead {
    Stored(Event),
    /// As the API shows it.
    Cached(Bytes),
}

impl EventRead {
    /// Appends it as the API shows it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stored(event) => event.write_json(out),
            Self::Cached(json) => out.extend_from_slice(json),
        }
    }
}

impl Service {
    /// A session with a page of its events.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn read_session(
        &self,
        key: &SessionKey,
        query: &PageQuery<'_>,
    ) -> Result<(SessionRead, EventsPage<EventRead>)> {
        let asked = self.asked(key, query)?;
        let lease = match self.look_up(key, &asked, query.min_seq, true).await {
            Cached::Page(session, page) => return Ok((session, page)),
            Cached::Nothing(lease) => lease,
        };
        // The events first, so that the session is never older than the events beside it.
        let page = self.stored_page(key, &asked).await?;
        let session = self.session(key).await?;
        self.fill(lease);
        Ok((SessionRead::Stored(Box::new(session)), page))
    }

    /// A page of a session's events.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn read_events(
        &self,
        key: &SessionKey,
        query: &PageQuery<'_>,
    ) -> Result<EventsPage<EventRead>> {
        let asked = self.asked(key, query)?;
        let lease = match self.look_up(key, &asked, query.min_seq, false).await {
            Cached::Page(_, page) => return Ok(page),
            Cached::Nothing(lease) => lease,
        };
        let page = self.stored_page(key, &asked).await?;
        self.fill(lease);
        Ok(page)
    }

    async fn look_up(&self, key: &SessionKey, asked: &Asked, min_seq: Option<i64>, session: bool) -> Cached {
        let query = Query {
            order: asked.query.order,
            limit: asked.query.limit,
            after: asked.query.after.clone(),
            min_seq,
            session,
            filtered: asked.query.filter != EventFilter::default(),
        };
        match self.cache.read(key, &query).await {
            Lookup::Hit(page) => {
                let session = SessionRead::Cached {
                    json: page.session,
                    version: page.version,
                };
                let events = page.events.into_iter().map(EventRead::Cached).collect();
                let next_cursor = page.next.map(|position| asked.cursors.event(&position));
                Cached::Page(session, EventsPage { events, next_cursor })
            }
            Lookup::Miss(Some(lease)) => {
                Cached::Nothing(self.room_to_fill().map(|room| (lease, key.clone(), room)))
            }
            Lookup::Miss(None) | Lookup::Bypass => Cached::Nothing(None),
        }
    }

    async fn stored_page(&self, key: &SessionKey, asked: &Asked) -> Result<EventsPage<EventRead>> {
        let page = self.stored(key, asked).await?;
        Ok(EventsPage {
            events: page.events.into_iter().map(EventRead::Stored).collect(),
            next_cursor: page.next_cursor,
        })
    }

    /// A place among those that fill the cache; where there is none, the next reader may.
    fn room_to_fill(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.fills).try_acquire_owned().ok()
    }

    /// Fills the cache after the answer, which need not wait for it: reads the session and its newest events once more,
    /// since the page asked for is seldom what the cache wants.
    fn fill(&self, fill: Option<Fill>) {
        let (Some((lease, key, room)), Some(wanted)) = (fill, self.cache.wants()) else {
            return;
        };
        let service = self.clone();
        let filling = async move {
            if let Err(error) = service.try_fill(lease, &key, wanted).await {
                tracing::debug!(%error, "the cache was not filled");
            }
            drop(room);
        };
        tokio::spawn(filling.in_current_span());
    }

    async fn try_fill(&self, lease: Lease, key: &SessionKey, wanted: Limit) -> Result<()> {
        let query = EventQuery {
            filter: EventFilter::default(),
            order: Order::Descending,
            after: None,
            limit: wanted,
            payload_bytes_max: self.limits.page_payload_bytes_max,
        };
        let page = self.store.events(key, &query).await?;
        let session = self.store.session(key).await?;
        // What is kept at hand is what is in use.
        if page.archived.is_some() || session.archived {
            return Ok(());
        }
        let found = Found {
            session: &session,
            events: &page.items,
            complete: !page.has_more,
        };
        self.cache.fill(lease, found).await;
        Ok(())
    }
}

/// What a fill needs: the right to it, what to read, and its place among the others.
type Fill = (Lease, SessionKey, OwnedSemaphorePermit);

/// What the cache had.
enum Cached {
    Page(SessionRead, EventsPage<EventRead>),
    Nothing(Option<Fill>),
}
