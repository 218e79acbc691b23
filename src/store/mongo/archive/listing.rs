//! What there is to do, and which segments are in use. These statements ask every shard.

use mongodb::{
    Collection,
    bson::{Bson, Document, RawDocumentBuf, doc},
    options::Hint,
};

use super::{claim_is_over, claim_may_stand, statement, unless_empty, update};
use crate::{
    domain::{SegmentName, SessionKey, Timestamp},
    store::{
        catalog::{Affected, Archived, CATALOG_BATCH_MAX, Due, Pending, Unmarked},
        mongo::{
            call::Call,
            documents::{Fields, date},
            fault::{Fault, Result},
            keys,
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
            "$expr": claim_is_over(call),
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
            "$expr": { "$and": [{ "$lte": ["$tidyAt", "$$NOW"] }, claim_is_over(call)] },
            "tidyAt": { "$exists": true },
            "archive": { "$exists": true },
        },
        fields: doc! { "tenant": 1, "sessionId": 1, "epoch": 1, "archive": 1 },
        index: BY_TIDY,
        order: doc! { "tidyAt": 1 },
        limit,
    };
    query.read(call, archived).await
}

/// Claims first: what has none that stands by then can only have a pointer already.
pub(super) async fn is_needed(call: &Call, segment: &SegmentName) -> Result<bool> {
    let claimed = doc! { "claim.owner": segment.to_string(), "$expr": claim_may_stand(call) };
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

/// Each name costs a look at the index, however many sessions have it. Under a shard key the values may also be those of
/// documents that a chunk's move left behind: then a segment seems to be in use that is not.
pub(super) async fn pointed_to(
    call: &Call,
    after: Option<&SegmentName>,
    until: Option<&SegmentName>,
    limit: usize,
) -> Result<Vec<SegmentName>> {
    let mut range = doc! { "$gt": after.map(ToString::to_string).unwrap_or_default() };
    if let Some(until) = until {
        range.insert("$lte", until.to_string());
    }
    let sessions = call.sessions();
    let names = call.read("distinct sessions", move |attempt| {
        let (sessions, filter) = (sessions.clone(), doc! { "archive.segment": range.clone() });
        async move {
            let distinct = sessions.distinct("archive.segment", filter);
            let distinct = distinct.max_time(attempt.time_max);
            Ok(distinct.comment(Bson::from(COMMENT)).await?)
        }
    });
    let mut names: Vec<String> = names
        .await?
        .into_iter()
        .map(|name| name.as_str().map(str::to_owned).ok_or(Fault::Stored("archive")))
        .collect::<Result<_>>()?;
    names.sort_unstable();
    names.truncate(limit);
    let parsed = |name: &String| name.parse().map_err(|_| Fault::Stored("archive"));
    names.iter().map(parsed).collect()
}

pub(super) async fn residual(call: &Call, limit: usize) -> Result<Vec<SegmentName>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let names = vec![
        doc! { "$match": { "left": { "$exists": true } } },
        doc! { "$unwind": "$left" },
        doc! { "$match": { "left": { "$ne": SegmentName::owed_marker().to_string() } } },
        doc! { "$group": { "_id": "$left" } },
        doc! { "$limit": i64::try_from(limit).unwrap_or(i64::MAX) },
    ];
    aggregate(call, names, |fields| fields.parsed("_id")).await
}

/// A tombstone does not say whose it is, but for its key.
pub(super) async fn unmarked(call: &Call, limit: usize) -> Result<Vec<Unmarked>> {
    let query = Query {
        filter: doc! { "left": SegmentName::owed_marker().to_string(), "erased": { "$exists": true } },
        fields: doc! { "epoch": 1 },
        index: BY_LEFT,
        order: doc! {},
        limit,
    };
    query
        .read(call, |fields| {
            Ok(Unmarked {
                key: keys::session_of(fields.text("_id")?).ok_or(Fault::Stored("_id"))?,
                epoch: fields.epoch()?,
            })
        })
        .await
}

/// A tombstone that waited for this alone is due again when its time is over.
pub(super) async fn marked(call: &Call, concern: &Document, sessions: &[SessionKey]) -> Result<()> {
    let owed = SegmentName::owed_marker().to_string();
    let statements = sessions.iter().map(|key| {
        let filter = doc! { "_id": keys::of_session(key), "left": &owed };
        statement(filter, vec![without(&owed)])
    });
    update(call, concern, "colloquy: marked", statements).await
}

/// In the order of their keys; what is erased is left out.
pub(super) async fn walk(call: &Call, after: Option<&SessionKey>, limit: usize) -> Result<Vec<SessionKey>> {
    let after = after.map(keys::of_session).unwrap_or_default();
    let query = Query {
        filter: doc! { "_id": { "$gt": after }, "erased": { "$exists": false } },
        fields: doc! { "tenant": 1, "sessionId": 1 },
        index: "_id_",
        order: doc! { "_id": 1 },
        limit,
    };
    query.read(call, |fields| fields.key()).await
}

pub(super) async fn archived_in(call: &Call, segment: &SegmentName, limit: usize) -> Result<Vec<Archived>> {
    let query = Query {
        filter: doc! { "archive.segment": segment.to_string() },
        fields: doc! { "tenant": 1, "sessionId": 1, "epoch": 1, "archive": 1 },
        index: BY_SEGMENT,
        order: doc! {},
        limit,
    };
    query.read(call, archived).await
}

fn archived(fields: Fields<'_>) -> Result<Archived> {
    Ok(Archived {
        key: fields.key()?,
        epoch: fields.epoch()?,
        pointer: fields.pointer()?.ok_or(Fault::Stored("archive"))?,
    })
}

fn erased() -> Document {
    doc! { "$match": { "left": { "$exists": true }, "erased": { "$exists": true } } }
}

pub(super) async fn pending(call: &Call) -> Result<Pending> {
    let all = doc! { "$group": {
        "_id": Bson::Null, "sessions": { "$sum": 1_i64 }, "since": { "$min": "$erased.at" },
    } };
    let read = |fields: Fields<'_>| {
        Ok(Pending {
            sessions: u64::try_from(fields.integer("sessions")?).unwrap_or_default(),
            since: Some(fields.date("since")?),
        })
    };
    let found = aggregate(call, vec![erased(), all], read).await?;
    Ok(found.first().copied().unwrap_or_default())
}

pub(super) async fn affected(
    call: &Call,
    after: Option<&SegmentName>,
    limit: usize,
) -> Result<Vec<Affected>> {
    // No name is empty, so all of them come after that.
    let after = after.map(ToString::to_string).unwrap_or_default();
    let by_segment = vec![
        erased(),
        doc! { "$unwind": "$left" },
        doc! { "$match": { "left": { "$gt": after, "$ne": SegmentName::owed_marker().to_string() } } },
        doc! { "$group": {
            "_id": "$left", "sessions": { "$sum": 1_i64 }, "since": { "$min": "$erased.at" },
        } },
    ];
    let read = |fields: Fields<'_>| {
        Ok(Affected {
            segment: fields.parsed("_id")?,
            sessions: u64::try_from(fields.integer("sessions")?).unwrap_or_default(),
            since: fields.date("since")?,
        })
    };
    // Sorted here: there is a group for each segment, and a server would sort them in memory as well.
    let mut affected = aggregate(call, by_segment, read).await?;
    affected.sort_by_cached_key(|affected| affected.segment.to_string());
    affected.truncate(limit);
    Ok(affected)
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
        let change = without(&segment);
        let forgotten = ks
            .into_iter()
            .map(|k| statement(doc! { "_id": k, "left": &segment }, vec![change.clone()]));
        update(call, concern, "colloquy: forget segment", forgotten).await?;
    }
}

/// Takes a name off `left`.
fn without(segment: &str) -> Document {
    let others = doc! { "$setDifference": ["$left", [{ "$literal": segment }]] };
    let due = doc! { "$cond": [
        { "$gt": ["$sweepAt", "$erased.forgetAt"] },
        { "$ifNull": ["$erased.forgetAt", "$sweepAt"] },
        "$sweepAt",
    ] };
    doc! { "$set": { "left": unless_empty(others), "sweepAt": due } }
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
