//! [`Leases`] on this store: a small collection, `leases`, on one shard.
//!
//! ```text
//! _id: "idle"                   the name
//! owner: "…"                    the process that has it
//! until: ISODate(…)             when it ends by itself, by the clock of the server, or the router, that wrote it
//! timeMs: 30000                 how long it was taken for
//! ```
//!
//! `$$NOW` is the clock of the router that a statement goes through, and in a replica set that of the primary. The room
//! for two of them to differ is the option `clocks_apart_max`; see the invariants L1 to L5 of [`leases`](crate::store::leases).

use std::time::Duration;

use async_trait::async_trait;
use mongodb::{
    Collection,
    bson::{Bson, Document, RawDocumentBuf, doc},
    options::{Hint, ReturnDocument},
};

use super::{
    LEASES, MongoStore,
    call::Call,
    documents::Fields,
    fault::{Fault, Result},
};
use crate::{
    domain,
    store::leases::{Leases, Taken},
};

fn leases<T: Send + Sync>(call: &Call) -> Collection<T> {
    call.database().collection(LEASES)
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Whether `owner` may have the lease, as an expression on the document as it was: nobody else has it (L3), or it lasts for
/// longer than it can (L4).
fn is_free(owner: &str, apart_ms: i64) -> Document {
    let owner = doc! { "$literal": owner };
    doc! { "$or": [
        { "$eq": [{ "$ifNull": ["$owner", &owner] }, &owner] },
        { "$lte": [{ "$add": ["$until", apart_ms] }, "$$NOW"] },
        { "$gt": ["$until", { "$add": ["$$NOW", "$timeMs", apart_ms] }] },
    ] }
}

/// Takes the lease or leaves it as it is, in one statement (L5).
async fn take(call: &Call, name: &str, owner: &str, time: Duration) -> Result<Taken> {
    let apart_ms = ms(call.clocks_apart_max());
    let free = is_free(owner, apart_ms);
    let either = |ours: Bson, theirs: &str| doc! { "$cond": [&free, ours, theirs] };
    let change = vec![doc! { "$set": {
        "owner": either(doc! { "$literal": owner }.into(), "$owner"),
        "until": either(doc! { "$add": ["$$NOW", ms(time)] }.into(), "$until"),
        "timeMs": either(ms(time).into(), "$timeMs"),
    } }];
    let (leases, filter, owner) = (
        leases::<RawDocumentBuf>(call),
        doc! { "_id": name },
        owner.to_owned(),
    );
    call.run("findAndModify leases", move |attempt| {
        let (leases, filter, change, owner) = (leases.clone(), filter.clone(), change.clone(), owner.clone());
        async move {
            let after = leases
                .find_one_and_update(filter, change)
                .upsert(true)
                .hint(Hint::Name("_id_".to_owned()))
                .projection(doc! { "owner": 1, "leftMs": { "$subtract": ["$until", "$$NOW"] } })
                .return_document(ReturnDocument::After)
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: lease"))
                .await?;
            let after = after.ok_or(Fault::Contended)?;
            let fields = Fields(&after);
            if fields.text("owner")? == owner {
                return Ok(Taken::Held);
            }
            let left_ms = fields.integer("leftMs")?.saturating_add(apart_ms);
            let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
            Ok(Taken::ByAnother(left))
        }
    })
    .await
}

async fn give_up(call: &Call, name: &str, owner: &str) -> Result<()> {
    let (leases, filter) = (leases::<Document>(call), doc! { "_id": name, "owner": owner });
    call.run("delete leases", move |_| {
        let (leases, filter) = (leases.clone(), filter.clone());
        async move {
            leases
                .delete_one(filter)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from("colloquy: lease"))
                .await?;
            Ok(())
        }
    })
    .await
}

#[async_trait]
impl Leases for MongoStore {
    async fn take_lease(&self, name: &str, owner: &str, time: Duration) -> domain::Result<Taken> {
        let call = self.calls.begin().await?;
        match take(&call, name, owner, time).await {
            // Two made the lease at the same moment: the second one finds it there.
            Err(fault) if fault.is_duplicate() => Ok(take(&call, name, owner, time).await?),
            taken => Ok(taken?),
        }
    }

    async fn give_up_lease(&self, name: &str, owner: &str) -> domain::Result<()> {
        let call = self.calls.begin().await?;
        Ok(give_up(&call, name, owner).await?)
    }
}
