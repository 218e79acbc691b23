//! Claims: taken, made to last, given up.

use std::{collections::HashMap, time::Duration};

use mongodb::{
    bson::{Bson, Document, doc},
    options::Hint,
};

use super::{claim_is_over, claim_stands, from_now, left_with, next_epoch, statement, update, while_claimed};
use crate::{
    domain::{Pointer, SegmentName, SessionKey},
    store::{
        catalog::{Claim, Claimed, Written},
        mongo::{call::Call, documents::Fields, fault::Result, keys},
    },
};

/// Claims what can be; then reads which are the owner's, by whatever try.
pub(super) async fn claim(
    call: &Call,
    concern: &Document,
    sessions: &[SessionKey],
    claim: Claim,
    owner: &SegmentName,
    lease: Duration,
) -> Result<Vec<Claimed>> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let ks: Vec<String> = sessions.iter().map(keys::of_session).collect();
    let change = doc! {
        "epoch": next_epoch(),
        "claim": { "owner": { "$literal": owner.to_string() }, "until": from_now(lease) },
        "left": left_with(vec!["$claim.owner".into()]),
    };
    let taken = ks.iter().map(|k| {
        let mut filter = doc! { "_id": k, "$expr": claim_is_over(call) };
        match claim {
            Claim::Hot => filter.extend(doc! { "archived": false, "endedAt": { "$exists": true } }),
            Claim::Archived => filter.extend(doc! { "archived": true, "archive": { "$exists": true } }),
        }
        statement(filter, vec![doc! { "$set": &change }])
    });
    update(call, concern, "colloquy: claim", taken).await?;
    let held = held(call, ks.clone(), owner).await?;
    let claimed = sessions.iter().zip(ks).filter_map(|(key, k)| {
        // A claim that ended since was taken all the same; whoever is too late learns it from the next statement.
        let Held {
            epoch,
            version,
            pointer,
            ..
        } = held.get(&k)?;
        (pointer.is_some() == (claim == Claim::Archived)).then(|| Claimed {
            key: key.clone(),
            epoch: *epoch,
            version: *version,
            pointer: pointer.clone(),
        })
    });
    Ok(claimed.collect())
}

pub(super) async fn renew(
    call: &Call,
    concern: &Document,
    claimed: &[Claimed],
    owner: &SegmentName,
    lease: Duration,
) -> Result<Vec<bool>> {
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    let longer = claimed.iter().map(|claimed| {
        let filter = while_claimed(keys::of_session(&claimed.key), claimed.epoch, owner);
        statement(filter, vec![doc! { "$set": { "claim.until": from_now(lease) } }])
    });
    update(call, concern, "colloquy: claim", longer).await?;
    let ks: Vec<String> = claimed
        .iter()
        .map(|claimed| keys::of_session(&claimed.key))
        .collect();
    let held = held(call, ks.clone(), owner).await?;
    let stands = |(claimed, k): (&Claimed, &String)| {
        held.get(k)
            .is_some_and(|held| held.stands && held.epoch == claimed.epoch)
    };
    Ok(claimed.iter().zip(&ks).map(stands).collect())
}

pub(super) async fn release(
    call: &Call,
    concern: &Document,
    claimed: &[Claimed],
    owner: &SegmentName,
    written: Written,
) -> Result<()> {
    let given_up = claimed.iter().map(|claimed| {
        let filter = while_claimed(keys::of_session(&claimed.key), claimed.epoch, owner);
        let mut change = vec![doc! { "$unset": "claim" }];
        if written == Written::Maybe {
            change.insert(
                0,
                doc! { "$set": { "left": left_with(vec!["$claim.owner".into()]) } },
            );
        }
        statement(filter, change)
    });
    update(call, concern, "colloquy: claim", given_up).await
}

/// A claim of an owner, as it is found.
struct Held {
    epoch: i64,
    version: i64,
    /// Of an archived session.
    pointer: Option<Pointer>,
    stands: bool,
}

/// The claims of the owner among these sessions, by their keys.
async fn held(call: &Call, ks: Vec<String>, owner: &SegmentName) -> Result<HashMap<String, Held>> {
    let (sessions, owner) = (call.sessions(), owner.to_string());
    call.read("find sessions", move |attempt| {
        let sessions = sessions.clone();
        let count = u32::try_from(ks.len()).unwrap_or(u32::MAX);
        let filter = doc! { "_id": { "$in": &ks }, "claim.owner": &owner };
        async move {
            let mut found = sessions
                .find(filter)
                .hint(Hint::Name("_id_".to_owned()))
                .projection(doc! { "epoch": 1, "version": 1, "archive": 1, "stands": claim_stands() })
                .batch_size(count.saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: claim"))
                .await?;
            let mut held = HashMap::new();
            while found.advance().await? {
                let fields = Fields(found.current());
                let one = Held {
                    epoch: fields.epoch()?,
                    version: fields.integer("version")?,
                    pointer: fields.pointer()?,
                    stands: fields.boolean("stands")?,
                };
                held.insert(fields.text("_id")?.to_owned(), one);
            }
            Ok(held)
        }
    })
    .await
}
