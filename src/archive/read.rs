//! An archived session as its readers see it, which is as before.
//!
//! What was acknowledged is in the copy that the pointer leads to, or among the hot events that the store gave along with
//! the pointer ([`HotEvents`]). Most of the time there are none of those; there are some while a run is
//! between its commit and its deletions, after it died there, and where an event came late. So a read is the union of the
//! two. Where both have an event, the archived one is the event: a hot one that differs from it was never
//! acknowledged.
//!
//! A segment may be gone by the time it is read, because it was rewritten. Then the pointer has moved, and the store is
//! asked again.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::Archive;
use crate::{
    domain::{
        Error, Event, EventFilter, EventId, EventPosition, EventQuery, Kind, Limit, Order, Page, Pointer,
        Result, SessionKey,
    },
    store::{HotEvent, HotEvents, catalog::Standing, refusal},
};

/// How often a read follows a pointer that moved meanwhile.
const MOVES_MAX: usize = 5;

impl Archive {
    /// A page of events of a session, wherever they lie: as [`Store::events`](crate::store::Store::events), of which `hot` is the
    /// answer to the same query.
    pub async fn page(&self, key: &SessionKey, query: &EventQuery, hot: HotEvents) -> Result<Page<Event>> {
        let mut hot = hot;
        for _ in 0..MOVES_MAX {
            let Some(pointer) = hot.archived.take() else {
                return Ok(Page {
                    items: hot.items,
                    has_more: hot.has_more,
                });
            };
            match self.merged(key, query, &pointer, hot).await {
                Ok(page) => return Ok(page),
                Err(error) => {
                    hot = self.0.catalog.events(key, query).await?;
                    if hot.archived.as_ref() == Some(&pointer) {
                        return Err(self.met(error));
                    }
                }
            }
        }
        Err(moving())
    }

    /// One event, wherever it lies: as [`Store::event`](crate::store::Store::event), of which `hot` is the answer.
    ///
    /// # Errors
    /// [`Kind::EventNotFound`].
    pub async fn event(&self, key: &SessionKey, id: &EventId, hot: HotEvent) -> Result<Event> {
        let mut hot = hot;
        for _ in 0..MOVES_MAX {
            let HotEvent { event, archived } = hot;
            let Some(pointer) = archived else {
                return event.ok_or_else(|| refusal::event_not_found(&key.id, id));
            };
            match self.find(key, &pointer, std::slice::from_ref(id)).await {
                Ok(mut found) => {
                    let archived = found.pop().flatten();
                    return archived
                        .or(event)
                        .ok_or_else(|| refusal::event_not_found(&key.id, id));
                }
                Err(error) => {
                    hot = self.0.catalog.event(key, id).await?;
                    if hot.archived.as_ref() == Some(&pointer) {
                        return Err(self.met(error));
                    }
                }
            }
        }
        Err(moving())
    }

    /// The events of these ids that a session has, wherever they lie, in the order of the ids.
    pub async fn events_of(&self, key: &SessionKey, ids: &[EventId]) -> Result<Vec<Option<Event>>> {
        let mut found = Vec::with_capacity(ids.len());
        let standing = self.0.catalog.standings(std::slice::from_ref(key)).await?.pop();
        let copies = match standing {
            Some(Standing::Archived(archived)) => {
                // One that can't be read, because it moved or for good, is asked for by itself below.
                self.find(key, &archived.pointer, ids).await.unwrap_or_default()
            }
            _ => Vec::new(),
        };
        for (at, id) in ids.iter().enumerate() {
            if let Some(copy) = copies.get(at).cloned().flatten() {
                found.push(Some(copy));
                continue;
            }
            let event = async { self.event(key, id, self.0.catalog.event(key, id).await?).await };
            found.push(match event.await {
                Ok(event) => Some(event),
                Err(error) if error.kind() == Kind::EventNotFound => None,
                Err(error) => return Err(error),
            });
        }
        Ok(found)
    }

    /// The events of these ids in the copy of an archived session.
    pub(super) async fn find(
        &self,
        key: &SessionKey,
        pointer: &Pointer,
        ids: &[EventId],
    ) -> Result<Vec<Option<Event>>> {
        self.0.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.in_time(self.0.reader.find(key, pointer, ids)).await
    }

    /// What a walk over all events of a session asks for next, behind that place.
    pub(super) fn everything(&self, after: Option<EventPosition>) -> EventQuery {
        EventQuery {
            filter: EventFilter::default(),
            order: Order::Ascending,
            after,
            limit: Limit::MAX,
            payload_bytes_max: self.0.options.page_payload_bytes_max,
        }
    }

    /// The next events of such a walk, wherever they lie.
    pub(super) async fn read_page(
        &self,
        key: &SessionKey,
        after: Option<EventPosition>,
    ) -> Result<Page<Event>> {
        let query = self.everything(after);
        let hot = self.0.catalog.events(key, &query).await?;
        self.page(key, &query, hot).await
    }

    async fn merged(
        &self,
        key: &SessionKey,
        query: &EventQuery,
        pointer: &Pointer,
        hot: HotEvents,
    ) -> Result<Page<Event>> {
        self.0.counters.reads.fetch_add(1, Ordering::Relaxed);
        let archived = self.in_time(self.0.reader.page(key, pointer, query)).await?;
        if hot.items.is_empty() {
            return Ok(archived);
        }
        // What both have in the same place is settled; of the rest the archive must say whether it knows the id.
        let places: HashSet<&EventId> = archived.items.iter().map(|event| &event.id).collect();
        let only_hot = hot.items.iter().filter(|event| !places.contains(&event.id));
        let only_hot: Vec<EventId> = only_hot.map(|event| event.id.clone()).collect();
        let late: HashSet<EventId> = match only_hot.as_slice() {
            [] => HashSet::new(),
            ids => {
                let known = self.find(key, pointer, ids).await?;
                let unknown = ids.iter().zip(known).filter(|(_, known)| known.is_none());
                unknown.map(|(id, _)| id.clone()).collect()
            }
        };
        Ok(union(archived, hot, &late, query))
    }

    /// Counts a failed read by what it says of the archive.
    fn met(&self, error: Error) -> Error {
        let counters = &self.0.counters;
        let count = match error.kind() {
            Kind::ArchiveUnavailable => &counters.reads_unavailable,
            Kind::ArchiveDamaged => &counters.reads_damaged,
            _ => return error,
        };
        count.fetch_add(1, Ordering::Relaxed);
        error
    }
}

/// Puts the two parts of a page together: the archived events, and the `late` ones of the hot. A part that has more ends
/// somewhere, and behind that nothing is known of it, so there the page ends too.
fn union(archived: Page<Event>, hot: HotEvents, late: &HashSet<EventId>, query: &EventQuery) -> Page<Event> {
    let is_before = |a: &EventPosition, b: &EventPosition| match query.order {
        Order::Ascending => a <= b,
        Order::Descending => a >= b,
    };
    let end = |has_more: bool, last: Option<&Event>| last.filter(|_| has_more).map(EventPosition::from);
    let ends = [
        end(archived.has_more, archived.items.last()),
        end(hot.has_more, hot.items.last()),
    ];
    let mut has_more = archived.has_more || hot.has_more;
    let hot = hot.items.into_iter().filter(|event| late.contains(&event.id));
    let mut items: Vec<Event> = archived.items.into_iter().chain(hot).collect();
    items.sort_by(|a, b| {
        let order = EventPosition::from(a).cmp(&EventPosition::from(b));
        match query.order {
            Order::Ascending => order,
            Order::Descending => order.reverse(),
        }
    });
    let mut payload_bytes = 0_usize;
    let fitting = items.iter().take(query.limit.get()).take_while(|event| {
        let known = ends
            .iter()
            .flatten()
            .all(|end| is_before(&EventPosition::from(*event), end));
        payload_bytes = payload_bytes.saturating_add(event.payload.as_str().len());
        known && payload_bytes <= query.payload_bytes_max
    });
    let count = fitting.count().max(1).min(items.len());
    has_more |= items.len() > count;
    items.truncate(count);
    Page { items, has_more }
}

fn moving() -> Error {
    Error::new(
        Kind::ArchiveUnavailable,
        "the session moves about in the archive too often to be read; try again shortly",
    )
}
