//! Reading events. Each statement names the key that the events of the session share, which is the shard key.
//!
//! The events are read first, and then how their session stands. An erasure hides the session before it deletes, so
//! a session that is still there afterwards was whole when its events were read. Which [`Life`] it is in is only known then:
//! it is taken to be the first, which nearly all are, and the events of another are read next.
//!
//! The same look tells whether the session is archived. If it has a pointer by then, an event that was acknowledged
//! before is among those that the pointer leads to, or it was not there to be deleted, and so it was among those that were
//! read. If it has none, it may have been archived and restored between the two reads, and then the first may
//! have missed what came back. A restore takes a claim, which gives the session another epoch: so the events are
//! good when the session was hot under the same epoch before they were read, and else are read once more. A session that
//! nobody ever claimed has the epoch 0, which is what is assumed at first.
//!
//! A page is one range of the index `{session, timestamp, seq, type}`, from exactly where the last page ended; a filter by
//! type is tested on the keys ([`covered`]). The index does not hold the event's id, which orders events of one timestamp and one `seq`: so few, if any, that they are put in
//! order here. Two events share a `seq` only when two processes gave it at the same microsecond.

use mongodb::{
    bson::{Bson, Document, doc},
    options::Hint,
};

use super::{
    call::Call,
    covered,
    documents::{self, Place, date},
    fault::Result,
    keys::{self, Life},
    sessions,
    setup::schema::IN_ORDER,
};
use crate::{
    domain::{Event, EventId, EventPosition, EventQuery, Order, Page, Session, SessionKey, Timestamp},
    store::{HotEvent, HotEvents, refusal},
};

pub(super) async fn get(call: &Call, key: &SessionKey, id: &EventId) -> Result<HotEvent> {
    let mut view = View::default();
    loop {
        let session = keys::of_events(&keys::of_session(key), view.life);
        let wanted = vec![(keys::of_event(&session, id), session)];
        let found = find(call, wanted).await?.pop();
        let Some(place) = view.confirm(sessions::place(call, key).await?) else {
            continue;
        };
        let event = found
            .map(|(_, document)| documents::read_event(&document, &key.id))
            .transpose()?;
        if event.is_none() && place.pointer.is_none() {
            return Err(refusal::event_not_found(&key.id, id).into());
        }
        return Ok(HotEvent {
            event,
            archived: place.pointer,
        });
    }
}

/// What is taken to be so of a session while its events are read.
struct View {
    life: Life,
    /// Hot, under this epoch; `None` when it was known to be archived.
    hot: Option<i64>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            life: Life::FIRST,
            hot: Some(0),
        }
    }
}

impl View {
    /// Gives where the session is, if events that were read under this view are all there are with it. Else the view is that of
    /// `now`.
    fn confirm(&mut self, now: Place) -> Option<Place> {
        let hot = now.pointer.is_none().then_some(now.epoch);
        if now.life == self.life && (hot.is_none() || hot == self.hot) {
            return Some(now);
        }
        self.life = now.life;
        self.hot = hot;
        None
    }
}

/// The stored ones of some events, each named by its key and the key that its session's events share.
pub(super) async fn find(
    call: &Call,
    wanted: Vec<(String, String)>,
) -> Result<Vec<(String, mongodb::bson::RawDocumentBuf)>> {
    let (ids, mut sessions): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    sessions.sort_unstable();
    sessions.dedup();
    let filter = match (ids.as_slice(), sessions.as_slice()) {
        ([id], [session]) => doc! { "_id": id, "session": session },
        (ids, [session]) => doc! { "_id": { "$in": ids }, "session": session },
        (ids, sessions) => doc! { "_id": { "$in": ids }, "session": { "$in": sessions } },
    };
    let (events, count) = (call.events(), ids.len());
    call.read("find events", move |attempt| {
        let (events, filter) = (events.clone(), filter.clone());
        async move {
            let mut cursor = events
                .find(filter)
                // There is an index for either field; the id is the one that finds exactly these.
                .hint(Hint::Name("_id_".to_owned()))
                .batch_size(u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: events by id"))
                .await?;
            let mut found = Vec::with_capacity(count);
            while cursor.advance().await? {
                let document = cursor.current();
                found.push((
                    documents::Fields(document).text("_id")?.to_owned(),
                    document.to_owned(),
                ));
            }
            Ok(found)
        }
    })
    .await
}

pub(super) async fn page(call: &Call, key: &SessionKey, query: &EventQuery) -> Result<HotEvents> {
    let mut view = View::default();
    loop {
        let page = page_of(call, key, view.life, query).await?;
        if let Some(place) = view.confirm(sessions::place(call, key).await?) {
            return Ok(hot(page, place));
        }
    }
}

/// As [`page`], with the session as the same look at it shows it.
pub(super) async fn page_with_session(
    call: &Call,
    key: &SessionKey,
    query: &EventQuery,
) -> Result<(Session, HotEvents)> {
    let mut view = View::default();
    loop {
        let page = page_of(call, key, view.life, query).await?;
        let (session, place) = sessions::load_with_place(call, key).await?;
        if let Some(place) = view.confirm(place) {
            return Ok((session, hot(page, place)));
        }
    }
}

fn hot(page: Page<Event>, place: Place) -> HotEvents {
    HotEvents {
        archived: place.pointer,
        ..page.into()
    }
}

async fn page_of(call: &Call, key: &SessionKey, life: Life, query: &EventQuery) -> Result<Page<Event>> {
    let session = keys::of_events(&keys::of_session(key), life);
    let Some(filter) = filter(&session, query) else {
        return Ok(Page {
            items: Vec::new(),
            has_more: false,
        });
    };
    // One more to know whether there are more, and one that may be where the last page ended.
    let mut wanted = query.limit.get() + 2;
    loop {
        if let Some(page) = read_page(call, key, query, &filter, wanted).await? {
            return Ok(page);
        }
        // So many events at one place that they have to be read further.
        wanted = wanted.saturating_mul(4);
    }
}

/// Reads up to `wanted` events; `None` when those do not decide the page.
async fn read_page(
    call: &Call,
    key: &SessionKey,
    query: &EventQuery,
    filter: &Document,
    wanted: usize,
) -> Result<Option<Page<Event>>> {
    let (events, key, query, filter) = (call.events(), key.clone(), query.clone(), filter.clone());
    call.read("find events", move |attempt| {
        let (events, key, query, filter) = (events.clone(), key.clone(), query.clone(), filter.clone());
        async move {
            let mut found = events
                .find(filter)
                .hint(Hint::Name(IN_ORDER.to_owned()))
                .sort(match query.order {
                    Order::Ascending => doc! { "timestamp": 1, "seq": 1 },
                    Order::Descending => doc! { "timestamp": -1, "seq": -1 },
                })
                .limit(i64::try_from(wanted).unwrap_or(i64::MAX))
                .batch_size(u32::try_from(wanted).unwrap_or(u32::MAX))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: events"))
                .await?;
            let mut page = Pager::new(&query);
            let mut read = 0;
            while found.advance().await? {
                read += 1;
                let event = documents::read_event(found.current(), &key.id)?;
                if page.is_full_before(&event) {
                    return Ok(Some(page.cut()));
                }
                page.push(event);
            }
            Ok((read < wanted || page.is_decided()).then(|| page.cut()))
        }
    })
    .await
}

/// Puts a page together from events that come by timestamp and number.
struct Pager<'a> {
    query: &'a EventQuery,
    items: Vec<Event>,
    payload_bytes: usize,
    /// Where the events begin that share the last place read.
    last_place: usize,
}

impl<'a> Pager<'a> {
    fn new(query: &'a EventQuery) -> Self {
        Self {
            query,
            items: Vec::new(),
            payload_bytes: 0,
            last_place: 0,
        }
    }

    fn is_at_last_place(&self, event: &Event) -> bool {
        let last = self.items.last().map(|last| (last.timestamp, last.seq));
        last == Some((event.timestamp, event.seq))
    }

    /// Whether there is more than the page takes already, and `event` is not one of those still to be sorted.
    fn is_full_before(&self, event: &Event) -> bool {
        let too_much =
            self.items.len() > self.query.limit.get() || self.payload_bytes > self.query.payload_bytes_max;
        too_much && self.items.len() > 1 && !self.is_at_last_place(event)
    }

    fn push(&mut self, event: Event) {
        if !is_behind(&event, self.query) {
            return;
        }
        if !self.is_at_last_place(&event) {
            self.last_place = self.items.len();
        }
        self.payload_bytes = self.payload_bytes.saturating_add(event.payload.as_str().len());
        self.items.push(event);
    }

    /// Whether the page ends before the last place, of which not all may have been read.
    fn is_decided(&self) -> bool {
        self.last_place >= self.query.limit.get()
    }

    fn cut(mut self) -> Page<Event> {
        self.items.sort_by(|a, b| {
            let order = position(a).cmp(&position(b));
            match self.query.order {
                Order::Ascending => order,
                Order::Descending => order.reverse(),
            }
        });
        let mut payload_bytes = 0_usize;
        let fitting = self
            .items
            .iter()
            .take(self.query.limit.get())
            .take_while(|event| {
                payload_bytes = payload_bytes.saturating_add(event.payload.as_str().len());
                payload_bytes <= self.query.payload_bytes_max
            });
        let count = fitting.count().max(1).min(self.items.len());
        let has_more = self.items.len() > count;
        self.items.truncate(count);
        Page {
            items: self.items,
            has_more,
        }
    }
}

fn position(event: &Event) -> (Timestamp, i64, &EventId) {
    (event.timestamp, event.seq, &event.id)
}

/// Whether the event lies behind where the last page ended; of those at the very place, the id decides.
fn is_behind(event: &Event, query: &EventQuery) -> bool {
    let Some(after) = &query.after else {
        return true;
    };
    let position = EventPosition::from(event);
    match query.order {
        Order::Ascending => position > *after,
        Order::Descending => position < *after,
    }
}

/// What a page asks for; `None` where its bounds leave nothing.
///
/// Behind a position there are two ranges of the index, which the server merges: the other events of that time, and
/// those of the times behind it. Each names the session and the type: with either beside the `$or`, the planner has a
/// second plan, one range from the start of the session on, and takes that for good if it is the better one once.
fn filter(session: &str, query: &EventQuery) -> Option<Document> {
    let (since, until) = (query.filter.since, query.filter.until);
    if since.zip(until).is_some_and(|(since, until)| since >= until) {
        return None;
    }
    let mut filter = doc! { "session": session };
    if let Some(event_type) = &query.filter.event_type {
        filter.insert("type", covered::is(event_type.as_str()));
    }
    let mut times = Document::new();
    times.extend(since.map(|since| ("$gte".to_owned(), date(since).into())));
    times.extend(until.map(|until| ("$lt".to_owned(), date(until).into())));
    let Some(after) = &query.after else {
        if !times.is_empty() {
            filter.insert("timestamp", times);
        }
        return Some(filter);
    };
    let is_before = since.is_some_and(|since| after.timestamp < since);
    let is_behind = until.is_some_and(|until| after.timestamp >= until);
    let (narrower, seqs) = match query.order {
        Order::Ascending if is_behind => return None,
        Order::Descending if is_before => return None,
        // The position lies outside, and all that is asked for is behind it.
        Order::Ascending | Order::Descending if is_before || is_behind => {
            filter.insert("timestamp", times);
            return Some(filter);
        }
        Order::Ascending => {
            times.remove("$gte");
            ("$gt", doc! { "$gte": after.seq })
        }
        Order::Descending => {
            times.remove("$lt");
            ("$lt", doc! { "$lte": after.seq })
        }
    };
    times.insert(narrower, date(after.timestamp));
    let mut of_that_time = filter.clone();
    of_that_time.extend(doc! { "timestamp": date(after.timestamp), "seq": seqs });
    filter.insert("timestamp", times);
    Some(doc! { "$or": [of_that_time, filter] })
}
