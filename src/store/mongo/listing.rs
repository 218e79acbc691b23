//! The listing of a tenant's sessions. It asks every shard.

use mongodb::{
    bson::{Bson, Document, doc},
    options::Hint,
};

use super::{
    call::Call,
    documents::{self, Stored, date},
    fault::Result,
    setup::schema::{BY_START, BY_STATUS, BY_USER},
};
use crate::domain::{Page, Session, SessionQuery, Tenant};

/// A page of the listing: one range of the index made for its filters, from exactly where the last page ended.
pub(super) async fn list(call: &Call, tenant: &Tenant, query: &SessionQuery) -> Result<Page<Session>> {
    let Some(range) = Listing::of(tenant, query) else {
        return Ok(Page {
            items: Vec::new(),
            has_more: false,
        });
    };
    let (limit, after) = (query.limit.get(), query.after.clone());
    let sessions = call.sessions();
    call.read("find sessions", move |attempt| {
        let (sessions, range, after) = (sessions.clone(), range.clone(), after.clone());
        async move {
            // One more to know whether there are more, and one that may be where the last page ended.
            let wanted = u32::try_from(limit + 2).unwrap_or(u32::MAX);
            let mut found = sessions
                .find(range.filter)
                .hint(Hint::Name(range.index.to_owned()))
                .min(range.from)
                .max(range.to)
                .sort(doc! { "startedAt": -1, "sessionId": -1 })
                .limit(i64::from(wanted))
                .batch_size(wanted)
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: listing"))
                .await?;
            let mut items = Vec::with_capacity(limit.min(64));
            while found.advance().await? {
                let Stored::Session(session, _) = documents::read_session(found.current())? else {
                    continue;
                };
                let is_last_of_page_before = after
                    .as_ref()
                    .is_some_and(|after| after.started_at == session.started_at && after.id == session.id);
                if is_last_of_page_before {
                    continue;
                }
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

#[derive(Debug, Clone)]
struct Listing {
    index: &'static str,
    filter: Document,
    /// Inclusive, in the order of the index: newest first.
    from: Document,
    /// Exclusive.
    to: Document,
}

impl Listing {
    /// `None` where the bounds leave nothing.
    fn of(tenant: &Tenant, query: &SessionQuery) -> Option<Self> {
        let bounds = &query.filter;
        let mut filter = doc! { "tenant": tenant.as_str() };
        let index = match (&bounds.user_id, bounds.status) {
            (Some(_), _) => BY_USER,
            (None, Some(_)) => BY_STATUS,
            (None, None) => BY_START,
        };
        if let Some(user_id) = &bounds.user_id {
            filter.insert("userId", user_id.as_str());
        }
        let prefix = match (&bounds.user_id, bounds.status) {
            (None, Some(status)) => {
                filter.insert("status", status.as_str());
                filter.clone()
            }
            (Some(_), Some(status)) => {
                let prefix = filter.clone();
                filter.insert("status", status.as_str());
                prefix
            }
            (_, None) => filter.clone(),
        };
        let position = |at: Bson, id: Bson| {
            let mut position = prefix.clone();
            position.insert("startedAt", at);
            position.insert("sessionId", id);
            position
        };
        let before = bounds.started_before;
        let from = match &query.after {
            Some(after) if before.is_none_or(|before| after.started_at < before) => (
                Some(after.started_at),
                position(date(after.started_at).into(), after.id.as_str().into()),
            ),
            _ => match before {
                Some(before) => (Some(before), position(date(before).into(), Bson::MinKey)),
                None => (None, position(Bson::MaxKey, Bson::MaxKey)),
            },
        };
        let to = match bounds.started_after {
            Some(after) => position(date(after).into(), Bson::MaxKey),
            None => position(Bson::MinKey, Bson::MinKey),
        };
        let empty = match (from.0, bounds.started_after) {
            (Some(newest), Some(oldest)) => newest <= oldest,
            _ => false,
        };
        (!empty).then_some(Self {
            index,
            filter,
            from: from.1,
            to,
        })
    }
}
