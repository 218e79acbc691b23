//! What there is to do, and which segments are in use. These statements ask every shard.

use mongodb::{
    Collection,
    bson::{Bson, Document, RawDocumentBuf, doc},
    options::Hint,
};

use super::{claim_stands, statement, unless_empty, update};
use crate::{
    domain::{SegmentName, Timestamp},
    store::{
        catalog::{Archived, CATALOG_BATCH_MAX, Due, Pending},
        mongo::{
            call::Call,
            documents::{Fields, date},
            fault::{Fault, Result},
            setup::schema::{BY_END, BY_LEFT, BY_OWNER, BY_SEGMENT, BY_TIDY},
        },
    },
};

/// What these statements say of themselves.
const COMMENT: &str = "colloquy: archive listing";

pub(super) async fn due(call: &Call, before: Timestamp, limit: usize) -> Result<Vec<Due>> {
    let query = Query {
        filter: doc! {
            "archived": false,
            "endedAt": { "$lt": date(before) },
            "restoredAt": { "$not": { "$gte": date(before) } },
            "$expr": { "$not": [claim_stands()] },
        },
        fields: doc! { "tenant": 1, "sessionId": 1, "endedAt": 1 },
        index: BY_END,
        order: doc! { "endedAt": 1 },
        limit,
    };
    query
        .read(call, |fields| {
            Ok(Due {
                key: fields.key()?,
                ended_at: fields.date("endedAt")?,
            })
        })
        .await
}

/// One that is claimed is left out: a restore may be bringing its events back.
pub(super) async fn untidy(call: &Call, limit: usize) -> Result<Vec<Archived>> {
    let query = Query {
        filter: doc! {
            "$expr": { "$and": [{ "$lte": ["$tidyAt", "$$NOW"] }, { "$not": [claim_stands()] }] },
            "tidyAt": { "$exists": true },
            "archive": { "$exists": true },
        },
        fields: doc! { "tenant": 1, "sessionId": 1, "epoch": 1, "archive": 1 },
        index: BY_TIDY,
        order: doc! { "tidyAt": 1 },
        limit,
    };
    query
        .read(call, |fields| {
            Ok(Archived {
                key: fields.key()?,
                epoch: fields.epoch()?,
                pointer: fields.pointer()?.ok_or(Fault::Stored("archive"))?,
            })
        })
        .await
}

/// Claims first: what has none that stands by then can only have a pointer already.
pub(super) async fn is_needed(call: &Call, segment: &SegmentName) -> Result<bool> {
    let claimed = doc! { "claim.owner": segment.to_string(), "$expr": claim_stands() };
    let pointed_to = doc! { "archive.segment": segment.to_string() };
    Ok(is_any(call, claimed, BY_OWNER).await? || is_any(call, pointed_to, BY_SEGMENT).await?)
}

async fn is_any(call: &Call, filter: Document, index: &'static str) -> Result<bool> {
    let query = Query {
        filter,
        fields: doc! { "_id": 1 },
        index,
        order: doc! {},
        limit: 1,
    };
    Ok(!query.read(call, |_| Ok(())).await?.is_empty())
}

/// Counted while they come in the order of the index: so no more is read than what the segments asked for have.
pub(super) async fn segments(
    call: &Call,
    after: Option<&SegmentName>,
    limit: usize,
) -> Result<Vec<(SegmentName, u64)>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let after = after.map(ToString::to_string).unwrap_or_default();
    let sessions = call.sessions();
    call.read("find sessions", move |attempt| {
        let (sessions, filter) = (sessions.clone(), doc! { "archive.segment": { "$gt": &after } });
        async move {
            let mut found = sessions
                .find(filter)
                .hint(Hint::Name(BY_SEGMENT.to_owned()))
                .projection(doc! { "_id": 0, "archive.segment": 1 })
                .sort(doc! { "archive.segment": 1 })
                .max_time(attempt.time_max)
                .comment(Bson::from(COMMENT))
                .await?;
            let mut segments: Vec<(SegmentName, u64)> = Vec::new();
            while found.advance().await? {
                let archive = Fields(found.current()).get("archive")?;
                let archive = archive.and_then(|archive| archive.as_document());
                let segment = Fields(archive.ok_or(Fault::Stored("archive"))?).segment()?;
                let is_full = segments.len() == limit;
                match segments.last_mut() {
                    Some((last, count)) if *last == segment => *count += 1,
                    _ if is_full => break,
                    _ => segments.push((segment, 1)),
                }
            }
            Ok(segments)
        }
    })
    .await
}

pub(super) async fn pending(call: &Call, limit: usize) -> Result<Pending> {
    let erased = doc! { "$match": { "left": { "$exists": true }, "erased": { "$exists": true } } };
    let count = vec![erased.clone(), doc! { "$count": "sessions" }];
    let counts = aggregate(call, count, |fields| fields.integer("sessions")).await?;
    let names = vec![
        erased,
        doc! { "$unwind": "$left" },
        doc! { "$group": { "_id": "$left" } },
        doc! { "$limit": i64::try_from(limit.max(1)).unwrap_or(i64::MAX) },
    ];
    let mut segments = aggregate(call, names, |fields| fields.parsed("_id")).await?;
    segments.truncate(limit);
    Ok(Pending {
        sessions: counts
            .first()
            .and_then(|count| u64::try_from(*count).ok())
            .unwrap_or_default(),
        segments,
    })
}

async fn aggregate<T: Send + 'static>(
    call: &Call,
    pipeline: Vec<Document>,
    read: fn(Fields<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let sessions = call.sessions();
    call.read("aggregate sessions", move |attempt| {
        let (sessions, pipeline) = (sessions.clone(), pipeline.clone());
        async move {
            let mut found = sessions
                .aggregate(pipeline)
                .hint(Hint::Name(BY_LEFT.to_owned()))
                .max_time(attempt.time_max)
                .comment(Bson::from(COMMENT))
                .await?;
            let mut items = Vec::new();
            while found.advance().await? {
                items.push(read(Fields(found.current()))?);
            }
            Ok(items)
        }
    })
    .await
}

/// Some at a time, until there is none. A tombstone that waited for this alone is due again when its time is over.
pub(super) async fn forget_segment(call: &Call, concern: &Document, segment: &SegmentName) -> Result<()> {
    let segment = segment.to_string();
    loop {
        let query = Query {
            filter: doc! { "left": &segment },
            fields: doc! { "_id": 1 },
            index: BY_LEFT,
            order: doc! {},
            limit: CATALOG_BATCH_MAX,
        };
        let ks = query
            .read(call, |fields| Ok(fields.text("_id")?.to_owned()))
            .await?;
        if ks.is_empty() {
            return Ok(());
        }
        let others = doc! { "$setDifference": ["$left", [{ "$literal": &segment }]] };
        let due = doc! { "$cond": [
            { "$gt": ["$sweepAt", "$erased.forgetAt"] },
            { "$ifNull": ["$erased.forgetAt", "$sweepAt"] },
            "$sweepAt",
        ] };
        let change = doc! { "$set": { "left": unless_empty(others), "sweepAt": due } };
        let forgotten = ks
            .into_iter()
            .map(|k| statement(doc! { "_id": k, "left": &segment }, vec![change.clone()]));
        update(call, concern, "colloquy: forget segment", forgotten).await?;
    }
}

/// A find over all shards, in the order of an index.
#[derive(Clone)]
struct Query {
    filter: Document,
    fields: Document,
    index: &'static str,
    order: Document,
    limit: usize,
}

impl Query {
    async fn read<T: Send + 'static>(self, call: &Call, read: fn(Fields<'_>) -> Result<T>) -> Result<Vec<T>> {
        // A server takes 0 for no limit.
        if self.limit == 0 {
            return Ok(Vec::new());
        }
        let sessions: Collection<RawDocumentBuf> = call.sessions();
        call.read("find sessions", move |attempt| {
            let (sessions, query) = (sessions.clone(), self.clone());
            async move {
                let limit = u32::try_from(query.limit).unwrap_or(u32::MAX);
                let mut found = sessions
                    .find(query.filter)
                    .projection(query.fields)
                    .hint(Hint::Name(query.index.to_owned()))
                    .sort(query.order)
                    .limit(i64::from(limit))
                    .batch_size(limit.saturating_add(1))
                    .max_time(attempt.time_max)
                    .comment(Bson::from(COMMENT))
                    .await?;
                let mut items = Vec::new();
                while found.advance().await? {
                    items.push(read(Fields(found.current()))?);
                }
                Ok(items)
            }
        })
        .await
    }
}
