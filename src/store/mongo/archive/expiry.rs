//! Archived sessions whose time is over: they become tombstones, many in one command, each under a condition of its own.

use std::collections::HashSet;

use mongodb::bson::{Document, doc};

use super::{claim_is_over, commits, statement, update};
use crate::{
    domain::Timestamp,
    store::{
        catalog::Archived,
        mongo::{
            MongoOptions,
            call::Call,
            documents::date,
            erasure::{self, Buried},
            fault::Result,
            keys,
        },
    },
};

/// Buries those that are as they are said to be; then reads which are buried, by whatever try.
pub(super) async fn expire(
    call: &Call,
    concern: &Document,
    archived: &[Archived],
    forget_at: Timestamp,
    options: &MongoOptions,
) -> Result<Vec<bool>> {
    if archived.is_empty() {
        return Ok(Vec::new());
    }
    let tombstone = erasure::tombstone(forget_at);
    let expired = archived.iter().map(|archived| {
        let filter = doc! {
            "_id": keys::of_session(&archived.key),
            "archive.segment": archived.pointer.segment.to_string(),
            "epoch": archived.epoch,
            "$expr": claim_is_over(call),
        };
        statement(filter, vec![doc! { "$replaceWith": &tombstone }])
    });
    update(call, concern, "colloquy: expire", expired).await?;
    let ks: Vec<String> = archived
        .iter()
        .map(|archived| keys::of_session(&archived.key))
        .collect();
    let buried = erasure::buried(call, ks.clone()).await?;
    let erased: HashSet<String> = buried.iter().map(|buried| buried.k.clone()).collect();
    clear(call, concern, buried, options).await?;
    Ok(ks.iter().map(|k| erased.contains(k)).collect())
}

/// Deletes the hot events of those that have any, which are few, and says for the others in one command when upkeep looks
/// again.
async fn clear(
    call: &Call,
    concern: &Document,
    mut buried: Vec<Buried>,
    options: &MongoOptions,
) -> Result<()> {
    // All others were looked at before.
    buried.retain(|buried| buried.tombstone.sweep_at == buried.tombstone.at);
    let of_events = |buried: &Buried| keys::of_events(&buried.k, buried.tombstone.life);
    let wanted: Vec<String> = buried.iter().map(of_events).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let hot: HashSet<String> = commits::with_events(call, wanted).await?.into_iter().collect();
    let (hot, clean): (Vec<_>, Vec<_>) = buried
        .into_iter()
        .partition(|buried| hot.contains(&of_events(buried)));
    let looked_at = clean.iter().map(|Buried { k, tombstone, .. }| {
        let next = doc! { "$set": { "sweepAt": date(tombstone.stragglers_at()) } };
        statement(doc! { "_id": k, "sweepAt": date(tombstone.sweep_at) }, vec![next])
    });
    update(call, concern, "colloquy: expire", looked_at).await?;
    for Buried { k, tombstone, .. } in hot {
        erasure::clear(call, &k, tombstone, options).await;
    }
    Ok(())
}
