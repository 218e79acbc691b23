//! The listing of a tenant's sessions. It asks every shard.

use mongodb::{
    action::Action,
    bson::{Bson, Document, doc},
    options::Hint,
};

use super::{
    call::Call,
    covered,
    documents::{self, Stored, date},
    fault::Result,
    setup::schema::{BY_START, BY_STATUS, BY_USER},
};
use crate::domain::{Page, Session, SessionFilter, SessionPosition, SessionQuery, Tenant, Timestamp};

/// A page of the listing: one range of the index made for its filters, from exactly where the last page ended. A session is
/// read only if it is on the page: a status beside a user is tested on the keys.
pub(super) async fn list(call: &Call, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
    let Some(listing) = Listing::of(tenant, query) else {
        return Ok(Page {
            items: Vec::new(),
            has_more: false,
        });
    };
    let (limit, sessions) = (query.limit.get(), call.sessions());
    call.read("find sessions", move |attempt| {
        let (sessions, listing) = (sessions.clone(), listing.clone());
        async move {
            // One more to know whether there are more.
            let wanted = u32::try_from(limit + 1).unwrap_or(u32::MAX);
            let (min, max) = listing.range.unzip();
            let mut found = sessions
                .find(listing.filter)
                .hint(Hint::Name(listing.index.to_owned()))
                .optional(min, |find, min| find.min(min))
                .optional(max, |find, max| find.max(max))
                .sort(doc! { "startedAt": -1, "sessionId": -1 })
                .limit(i64::from(wanted))
                .batch_size(wanted.saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: listing"))
                .await?;
            let mut items = Vec::with_capacity(limit.min(64));
            while found.advance().await? {
                let Stored::Session(session, _) = documents::read_session(found.current())? else {
                    continue;
                };
                if items.len() == limit {
                    return Ok(Page {
                        items,
                        has_more: true,
                    });
                }
                items.push(session);
            }
            Ok(Page {
                items,
                has_more: false,
            })
        }
    })
    .await
}

/// What a page asks for.
#[derive(Debug, Clone)]
struct Listing {
    index: &'static str,
    filter: Document,
    /// The first key, and the one behind the last, where the filter does not say.
    range: Option<(Document, Document)>,
}

impl Listing {
    /// `None` where the bounds leave nothing.
    fn of(tenant: &Tenant, query: &SessionQuery) -> Option<Self> {
        let SessionFilter {
            status,
            user_id,
            started_after,
            started_before,
        } = &query.filter;
        let is_before = |at| started_before.is_none_or(|before| at < before);
        let position = query.after.as_ref().filter(|after| is_before(after.started_at));
        let window = Window {
            after: *started_after,
            before: *started_before,
            position,
        };
        if window.is_empty() {
            return None;
        }
        let mut filter = doc! { "tenant": tenant.as_str() };
        filter.extend(
            user_id
                .as_ref()
                .map(|id| ("userId".to_owned(), id.as_str().into())),
        );
        let (index, range) = match (user_id, status) {
            (Some(_), Some(status)) => {
                filter.insert("status", covered::is(status.as_str()));
                (BY_USER, None)
            }
            (Some(_), None) => (BY_USER, Some(window.range(&filter))),
            (None, Some(status)) => {
                filter.insert("status", status.as_str());
                (BY_STATUS, None)
            }
            (None, None) => (BY_START, None),
        };
        if range.is_none() {
            filter = window.narrow(filter);
        }
        Some(Self { index, filter, range })
    }
}

/// The starts that are asked for, newest first.
struct Window<'a> {
    /// Inclusive.
    after: Option<Timestamp>,
    /// Exclusive.
    before: Option<Timestamp>,
    /// Where the last page ended, if that is before `before`.
    position: Option<&'a SessionPosition>,
}

impl Window<'_> {
    /// At the time of a position there may be more sessions; at `before` there are none.
    fn is_empty(&self) -> bool {
        let Some(after) = self.after else { return false };
        match (self.position, self.before) {
            (Some(position), _) => position.started_at < after,
            (None, Some(before)) => before <= after,
            (None, None) => false,
        }
    }

    /// The filter with these bounds.
    ///
    /// Behind a position there are two ranges of the index, which the server merges: the other sessions that started at that
    /// time, and those that started earlier. Each names all of the filters: with one beside the `$or`, the planner has a
    /// second plan, one range from the newest session on, and takes that for good if it is the better one once.
    fn narrow(&self, mut filter: Document) -> Document {
        let before = self.position.map(|position| position.started_at).or(self.before);
        let mut times = Document::new();
        times.extend(self.after.map(|after| ("$gte".to_owned(), date(after).into())));
        times.extend(before.map(|before| ("$lt".to_owned(), date(before).into())));
        let at_the_position = self.position.map(|position| {
            let mut filter = filter.clone();
            filter.insert("startedAt", date(position.started_at));
            filter.insert("sessionId", doc! { "$lt": position.id.as_str() });
            filter
        });
        if !times.is_empty() {
            filter.insert("startedAt", times);
        }
        match at_the_position {
            Some(others) => doc! { "$or": [others, filter] },
            None => filter,
        }
    }

    /// The keys of [`BY_USER`] with this prefix that lie within these bounds.
    ///
    /// A session's key there changes with its status, which is not asked for. A merge reads a key some time before the
    /// session, and leaves the session out if its key is another by then. A single range reads both at once.
    fn range(&self, prefix: &Document) -> (Document, Document) {
        let key = |started_at: Bson, id: Bson, status: Bson| {
            let mut key = prefix.clone();
            key.extend(doc! { "startedAt": started_at, "sessionId": id, "status": status });
            key
        };
        let from = match (self.position, self.before) {
            (Some(position), _) => key(
                date(position.started_at).into(),
                position.id.as_str().into(),
                Bson::MaxKey,
            ),
            (None, Some(before)) => key(date(before).into(), Bson::MinKey, Bson::MaxKey),
            (None, None) => key(Bson::MaxKey, Bson::MaxKey, Bson::MinKey),
        };
        let to = match self.after {
            Some(after) => key(date(after).into(), Bson::MinKey, Bson::MaxKey),
            None => key(Bson::MinKey, Bson::MinKey, Bson::MaxKey),
        };
        (from, to)
    }
}
