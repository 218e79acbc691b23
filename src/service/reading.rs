//! Reading what a caller is shown: from the cache where it has the exact answer, else from the store.
//!
//! An answer is rendered here, by the function that the caller brings, so that the cache can keep it as it is sent and send
//! it again as it is.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use tracing::{Instrument, instrument};

use super::{Service, events::Asked};
use crate::{
    cache::{Found, Lease, Lookup, Place, Query, Rendered, Shape},
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

/// Writes an answer; always so for the same page, since what one call wrote is sent for others.
pub type Render = fn(&mut Vec<u8>, &ReadPage, Limit);

/// A page of a session's events, as it was read, and the session where it was asked for.
#[derive(Debug, Clone)]
pub struct ReadPage {
    session: Option<SessionRead>,
    events: EventsRead,
    pub next_cursor: Option<String>,
}

#[derive(Debug, Clone)]
enum SessionRead {
    Stored(Box<Session>),
    /// As the API shows it.
    Cached(Bytes),
}

#[derive(Debug, Clone)]
enum EventsRead {
    Stored(Vec<Event>),
    /// As the API shows them, one after the other, with commas between.
    Cached(Bytes),
}

/// What a session and an event take beside their metadata and payload, with the longest of ids that are common.
const SESSION_BYTES: usize = 512;
const EVENT_BYTES: usize = 256;

/// What an answer takes beside its session and its events.
const FRAME_BYTES: usize = 512;

impl ReadPage {
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Appends the session as the API shows it.
    pub fn write_session(&self, out: &mut Vec<u8>) {
        match &self.session {
            Some(SessionRead::Stored(session)) => session.write_json(out),
            Some(SessionRead::Cached(json)) => out.extend_from_slice(json),
            None => {}
        }
    }

    /// Appends the events as the API shows them, with commas between.
    pub fn write_events(&self, out: &mut Vec<u8>) {
        match &self.events {
            EventsRead::Stored(events) => {
                for (at, event) in events.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    event.write_json(out);
                }
            }
            EventsRead::Cached(json) => out.extend_from_slice(json),
        }
    }

    /// The session with all of its events, if that is what `query` gave.
    fn whole(self, query: &EventQuery) -> Option<Newest> {
        let is_whole =
            query.after.is_none() && query.filter == EventFilter::default() && self.next_cursor.is_none();
        let (Some(SessionRead::Stored(session)), EventsRead::Stored(mut events), true) =
            (self.session, self.events, is_whole)
        else {
            return None;
        };
        if session.archived {
            return None;
        }
        if query.order == Order::Ascending {
            events.reverse();
        }
        Some(Newest {
            session,
            events,
            complete: true,
        })
    }

    /// About how long its JSON is; seldom less than that.
    fn json_bytes(&self) -> usize {
        let session = match &self.session {
            Some(SessionRead::Stored(session)) => SESSION_BYTES + session.metadata.as_str().len(),
            Some(SessionRead::Cached(json)) => json.len(),
            None => 0,
        };
        let events = match &self.events {
            EventsRead::Stored(events) => events
                .iter()
                .map(|event| EVENT_BYTES + event.payload.as_str().len())
                .sum(),
            EventsRead::Cached(json) => json.len(),
        };
        FRAME_BYTES + session + events
    }
}

impl Service {
    /// A session with a page of its events.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn read_session(
        &self,
        key: &SessionKey,
        query: &PageQuery<'_>,
        render: Render,
    ) -> Result<Rendered> {
        self.read_page(key, query, true, render).await
    }

    /// A page of a session's events.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn read_events(
        &self,
        key: &SessionKey,
        query: &PageQuery<'_>,
        render: Render,
    ) -> Result<Bytes> {
        Ok(self.read_page(key, query, false, render).await?.body)
    }

    async fn read_page(
        &self,
        key: &SessionKey,
        query: &PageQuery<'_>,
        session: bool,
        render: Render,
    ) -> Result<Rendered> {
        let asked = self.asked(key, query)?;
        // Before the cache is asked: a lease that nobody has room for would keep others from filling.
        let room = self.room_to_fill();
        let wanted = Query {
            shape: Shape {
                filter: asked.query.filter.clone(),
                order: asked.query.order,
                limit: asked.query.limit,
                after: asked.query.after.clone(),
                session,
            },
            min_seq: query.min_seq,
            fill: room.is_some(),
        };
        match self.cache.read(key, &wanted).await {
            Lookup::Same(rendered) => Ok(rendered),
            Lookup::Hit { page, place } => {
                let next_cursor = page.next.map(|position| asked.cursors.event(&position));
                let read = ReadPage {
                    session: session.then_some(SessionRead::Cached(page.session)),
                    events: EventsRead::Cached(page.events),
                    next_cursor,
                };
                Ok(self.rendered(&read, page.version, query.limit, render, place))
            }
            Lookup::Miss { lease, place } => {
                // Who has nothing to fill makes room for others before it waits for the store.
                let right = lease.zip(room);
                let stored = self.stored_page(key, &asked, session).await?;
                let place = place.filter(|_| stored.is_hot);
                let rendered = self.rendered(&stored.page, stored.version, query.limit, render, place);
                if let Some(right) = right.filter(|_| stored.is_hot) {
                    self.fill(right, key, stored.page.whole(&asked.query));
                }
                Ok(rendered)
            }
            Lookup::Bypass => {
                drop(room);
                let stored = self.stored_page(key, &asked, session).await?;
                Ok(self.rendered(&stored.page, stored.version, query.limit, render, None))
            }
        }
    }

    fn rendered(
        &self,
        page: &ReadPage,
        version: i64,
        limit: Limit,
        render: Render,
        place: Option<Place>,
    ) -> Rendered {
        let mut body = Vec::with_capacity(page.json_bytes());
        render(&mut body, page, limit);
        let Some(place) = place else {
            let body = body.into();
            return Rendered { body, version };
        };
        // Kept for long, so without the room that was not needed.
        let body = body.into_boxed_slice().into();
        let rendered = Rendered { body, version };
        self.cache.keep(place, rendered.clone());
        rendered
    }

    async fn stored_page(&self, key: &SessionKey, asked: &Asked, session: bool) -> Result<Stored> {
        let (mut found, hot) = match session {
            true => {
                let (found, hot) = self.store.session_with_events(key, &asked.query).await?;
                (Some(found), hot)
            }
            false => (None, self.store.events(key, &asked.query).await?),
        };
        let is_hot = hot.archived.is_none();
        let page = self.whole(key, &asked.query, hot).await?;
        if session && !is_hot {
            // It may have been restored, and changed, while the archive was read.
            found = Some(self.session(key).await?);
        }
        Ok(Stored {
            is_hot,
            version: found.as_ref().map_or(0, |session| session.version),
            page: ReadPage {
                next_cursor: asked.next_cursor(&page),
                session: found.map(|session| SessionRead::Stored(Box::new(session))),
                events: EventsRead::Stored(page.items),
            },
        })
    }

    /// A place among those that fill the cache; where there is none, or nothing to do, the next reader may.
    fn room_to_fill(&self) -> Option<OwnedSemaphorePermit> {
        self.cache.wants()?;
        Arc::clone(&self.fills).try_acquire_owned().ok()
    }

    /// Fills the cache after the answer, which need not wait for it. Where that was not the whole session, it is read once
    /// more: what the cache wants are the newest events.
    fn fill(&self, (lease, room): (Lease, OwnedSemaphorePermit), key: &SessionKey, whole: Option<Newest>) {
        let Some(wanted) = self.cache.wants() else { return };
        let (service, key) = (self.clone(), key.clone());
        let filling = async move {
            if let Err(error) = service.try_fill(lease, &key, wanted, whole).await {
                tracing::debug!(%error, "the cache was not filled");
            }
            drop(room);
        };
        // Not among the requests in flight: the answer was given, and fills have a limit of their own, which `room` counts in.
        tokio::spawn(filling.in_current_span());
    }

    async fn try_fill(
        &self,
        lease: Lease,
        key: &SessionKey,
        wanted: Limit,
        whole: Option<Newest>,
    ) -> Result<()> {
        let newest = match whole {
            Some(whole) => Some(whole.at_most(wanted)),
            None => self.newest(key, wanted).await?,
        };
        // What is kept at hand is what is in use: of what is archived, nothing.
        if let Some(newest) = newest {
            let found = Found {
                session: &newest.session,
                events: &newest.events,
                complete: newest.complete,
            };
            self.cache.fill(lease, found).await;
        }
        Ok(())
    }

    /// A session with its newest events, unless it is archived.
    async fn newest(&self, key: &SessionKey, wanted: Limit) -> Result<Option<Newest>> {
        let query = EventQuery {
            filter: EventFilter::default(),
            order: Order::Descending,
            after: None,
            limit: wanted,
            payload_bytes_max: self.limits.page_payload_bytes_max,
        };
        let (session, page) = self.store.session_with_events(key, &query).await?;
        let is_hot = page.archived.is_none() && !session.archived;
        Ok(is_hot.then(|| Newest {
            session: Box::new(session),
            events: page.items,
            complete: !page.has_more,
        }))
    }
}

/// A session with its newest events, newest first.
struct Newest {
    session: Box<Session>,
    events: Vec<Event>,
    /// There are no others.
    complete: bool,
}

impl Newest {
    fn at_most(mut self, limit: Limit) -> Self {
        self.complete &= self.events.len() <= limit.get();
        self.events.truncate(limit.get());
        self
    }
}

/// What the store has, with the archive's part of it.
struct Stored {
    page: ReadPage,
    /// The session's, where it was asked for.
    version: i64,
    /// None of it is in the archive.
    is_hot: bool,
}
