//! The records of what the archive did. They are few, on one shard, and not of the request path.

use mongodb::{
    Collection,
    bson::{Bson, DateTime, Document, RawDocumentBuf, doc},
    options::Hint,
};

use super::super::{
    ARCHIVE_RUNS,
    call::Call,
    documents::{Fields, date},
    fault::{Fault, Result},
    payload,
    setup::schema::BY_RUN,
};
use crate::{
    domain::{JsonObject, Timestamp},
    store::catalog::RUN_DAYS_MAX,
};

const DAY_MS: i64 = 86_400_000;

fn runs<T: Send + Sync>(call: &Call) -> Collection<T> {
    call.database().collection(ARCHIVE_RUNS)
}

pub(super) async fn record(call: &Call, id: &str, started_at: Timestamp, record: &JsonObject) -> Result<()> {
    let record = Document::try_from(payload::to_document(record)?).map_err(|_| Fault::Stored("record"))?;
    let document = doc! { "_id": id, "startedAt": date(started_at), "record": record };
    let (runs, id) = (runs::<Document>(call), id.to_owned());
    call.run("update archive_runs", move |_| {
        let (runs, id, document) = (runs.clone(), id.clone(), document.clone());
        async move {
            runs.replace_one(doc! { "_id": id }, document)
                .upsert(true)
                .comment(Bson::from("colloquy: archive run"))
                .await?;
            Ok(())
        }
    })
    .await?;
    drop_older_than(call, date(started_at.saturating_add_ms(-RUN_DAYS_MAX * DAY_MS))).await
}

async fn drop_older_than(call: &Call, oldest: DateTime) -> Result<()> {
    let runs = runs::<Document>(call);
    call.run("delete archive_runs", move |_| {
        let runs = runs.clone();
        async move {
            runs.delete_many(doc! { "startedAt": { "$lt": oldest } })
                .hint(Hint::Name(BY_RUN.to_owned()))
                .comment(Bson::from("colloquy: archive run"))
                .await?;
            Ok(())
        }
    })
    .await
}

pub(super) async fn newest(call: &Call, limit: usize) -> Result<Vec<JsonObject>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let runs = runs::<RawDocumentBuf>(call);
    call.read("find archive_runs", move |attempt| {
        let runs = runs.clone();
        async move {
            let mut found = runs
                .find(doc! {})
                .hint(Hint::Name(BY_RUN.to_owned()))
                .sort(doc! { "startedAt": -1 })
                .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: archive run"))
                .await?;
            let mut records = Vec::new();
            while found.advance().await? {
                records.push(Fields(found.current()).object("record")?);
            }
            Ok(records)
        }
    })
    .await
}
