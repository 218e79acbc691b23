//! Pointers, and the hot events of sessions that have one.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use mongodb::{
    bson::{Bson, Document, doc},
    options::Hint,
};

use super::{claim_is_over, from_now, left_with, statement, update, while_claimed};
use crate::{
    domain::{EventId, Pointer, SegmentName, SessionKey},
    store::{
        catalog::{self, Archived, Commit, Copies},
        mongo::{
            call::Call,
            documents::{self, Fields, Place, Standing},
            fault::Result,
            keys, sessions,
            setup::schema::IN_ORDER,
        },
    },
};

/// Commits what may be; then reads which sessions have their pointers, by whatever try. The epoch may be that of a later claim
/// by then: no other claim writes this segment, so a pointer that leads there was committed.
pub(super) async fn commit(
    call: &Call,
    concern: &Document,
    commits: &[Commit],
    owner: &SegmentName,
    copies: Copies,
) -> Result<Vec<bool>> {
    let pointed = commits.iter().map(|commit| {
        let mut filter = while_claimed(keys::of_session(&commit.key), commit.epoch, owner);
        filter.insert("version", commit.version);
        let mut change = doc! {
            "left": left_with(vec!["$archive.segment".into()]),
            "archive": { "$literal": documents::archive(&commit.pointer) },
            "archived": true,
        };
        if copies == Copies::Made {
            change.insert("tidyAt", "$$NOW");
        }
        statement(filter, vec![doc! { "$set": change }, doc! { "$unset": "claim" }])
    });
    update(call, concern, "colloquy: commit", pointed).await?;
    let places = places(call, commits.iter().map(|commit| &commit.key)).await?;
    let is_done = |commit: &Commit| {
        let place = places.get(&keys::of_session(&commit.key));
        place.is_some_and(|place| {
            place.pointer.as_ref() == Some(&commit.pointer) && place.epoch >= commit.epoch
        })
    };
    Ok(commits.iter().map(is_done).collect())
}

/// How the sessions with these keys stand, by their stored keys; those that are not there or erased are left out.
async fn places(call: &Call, keys: impl Iterator<Item = &SessionKey>) -> Result<HashMap<String, Place>> {
    let ks: Vec<String> = keys.map(keys::of_session).collect();
    if ks.is_empty() {
        return Ok(HashMap::new());
    }
    let standings = sessions::standings(call, ks).await?;
    let places = standings.into_iter().filter_map(|(k, standing)| match standing {
        Standing::Session(place) => Some((k, place)),
        Standing::Erased => None,
    });
    Ok(places.collect())
}

pub(super) async fn standings(call: &Call, keys: &[SessionKey]) -> Result<Vec<catalog::Standing>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let ks: Vec<String> = keys.iter().map(keys::of_session).collect();
    let found: HashMap<_, _> = sessions::standings(call, ks.clone()).await?.into_iter().collect();
    let standing = |(key, k): (&SessionKey, String)| match found.get(&k) {
        None => catalog::Standing::Unknown,
        Some(Standing::Erased) => catalog::Standing::Erased,
        Some(Standing::Session(place)) => match &place.pointer {
            None => catalog::Standing::Hot,
            Some(pointer) => catalog::Standing::Archived(Archived {
                key: key.clone(),
                epoch: place.epoch,
                pointer: pointer.clone(),
            }),
        },
    };
    Ok(keys.iter().zip(ks).map(standing).collect())
}

pub(super) async fn known(call: &Call, segment: &SegmentName, keys: &[SessionKey]) -> Result<Vec<bool>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let ks: Vec<String> = keys.iter().map(keys::of_session).collect();
    let (sessions, segment, wanted) = (call.sessions(), segment.clone(), ks.clone());
    let knowing: HashSet<String> = call
        .read("find sessions", move |attempt| {
            let (sessions, segment) = (sessions.clone(), segment.clone());
            let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
            let filter = doc! { "_id": { "$in": &wanted } };
            async move {
                let mut found = sessions
                    .find(filter)
                    .hint(Hint::Name("_id_".to_owned()))
                    .projection(doc! { "archive.segment": 1, "claim.owner": 1, "left": 1 })
                    .batch_size(count.saturating_add(1))
                    .max_time(attempt.time_max)
                    .comment(Bson::from("colloquy: standing"))
                    .await?;
                let mut knowing = HashSet::new();
                while found.advance().await? {
                    let fields = Fields(found.current());
                    if fields.knows(&segment)? {
                        knowing.insert(fields.text("_id")?.to_owned());
                    }
                }
                Ok(knowing)
            }
        })
        .await?;
    Ok(ks.iter().map(|k| knowing.contains(k)).collect())
}

/// Deletes events of a session that is archived under `epoch`. The condition on each event is what makes it safe: an
/// event that a later restore brought back has that restore's epoch, however late this deletion comes.
pub(super) async fn delete_archived(
    call: &Call,
    key: &SessionKey,
    epoch: i64,
    ids: &[EventId],
) -> Result<usize> {
    let k = keys::of_session(key);
    let place = places(call, [key].into_iter()).await?.remove(&k);
    let Some(place) = place.filter(|place| place.epoch == epoch && place.pointer.is_some()) else {
        return Ok(0);
    };
    if ids.is_empty() {
        return Ok(0);
    }
    // Under the epoch of a claim that is good still, a restore may be bringing events back.
    let epoch_max = match place.is_claimed && !withdraw(call, &k, epoch).await? {
        true => epoch - 1,
        false => epoch,
    };
    let session = keys::of_events(&k, place.life);
    let ids: Vec<String> = ids.iter().map(|id| keys::of_event(&session, id)).collect();
    let doomed = doc! {
        "session": session,
        "_id": { "$in": ids },
        "epoch": { "$not": { "$gt": epoch_max } },
    };
    let events = call.events();
    call.run("delete events", move |_| {
        let (events, doomed) = (events.clone(), doomed.clone());
        async move {
            let deleted = events
                .delete_many(doomed)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from("colloquy: delete archived"))
                .await?;
            Ok(usize::try_from(deleted.deleted_count).unwrap_or(usize::MAX))
        }
    })
    .await
}

/// Takes a claim off that has ended, so that nothing can be done under it any more; says whether it did. Its owner may have
/// written a copy, so goes to `left`.
async fn withdraw(call: &Call, k: &str, epoch: i64) -> Result<bool> {
    let filter = doc! {
        "_id": k,
        "epoch": epoch,
        "claim": { "$exists": true },
        "$expr": claim_is_over(call),
    };
    let sessions = call.sessions();
    call.run("update sessions", move |_| {
        let (sessions, filter) = (sessions.clone(), filter.clone());
        let left = left_with(vec!["$claim.owner".into()]);
        let change = vec![doc! { "$set": { "left": left } }, doc! { "$unset": "claim" }];
        async move {
            let withdrawn = sessions
                .update_one(filter, change)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from("colloquy: claim"))
                .await?;
            Ok(withdrawn.matched_count > 0)
        }
    })
    .await
}

pub(super) async fn with_hot_events(call: &Call, sessions: &[SessionKey]) -> Result<Vec<SessionKey>> {
    let places = places(call, sessions.iter()).await?;
    let archived: HashMap<String, &SessionKey> = sessions
        .iter()
        .filter_map(|key| {
            let k = keys::of_session(key);
            let place = places.get(&k).filter(|place| place.pointer.is_some())?;
            Some((keys::of_events(&k, place.life), key))
        })
        .collect();
    if archived.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<String> = archived.keys().cloned().collect();
    let hot = with_events(call, wanted).await?;
    Ok(hot
        .iter()
        .filter_map(|session| archived.get(session).copied().cloned())
        .collect())
}

/// Those of these keys of sessions' events that there are events under: the index tells, by its first entry of each.
pub(super) async fn with_events(call: &Call, wanted: Vec<String>) -> Result<Vec<String>> {
    let events = call.events();
    call.read("aggregate events", move |attempt| {
        let events = events.clone();
        let pipeline = [
            doc! { "$match": { "session": { "$in": &wanted } } },
            doc! { "$group": { "_id": "$session" } },
        ];
        async move {
            let mut found = events
                .aggregate(pipeline)
                .hint(Hint::Name(IN_ORDER.to_owned()))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: hot events"))
                .await?;
            let mut sessions = Vec::new();
            while found.advance().await? {
                sessions.push(Fields(found.current()).text("_id")?.to_owned());
            }
            Ok(sessions)
        }
    })
    .await
}

pub(super) async fn tidied(
    call: &Call,
    concern: &Document,
    sessions: &[Archived],
    again_after: Option<Duration>,
) -> Result<()> {
    let looked_at = sessions.iter().map(|session| {
        let Pointer { segment, .. } = &session.pointer;
        let filter = doc! {
            "_id": keys::of_session(&session.key),
            "epoch": session.epoch,
            "archive.segment": segment.to_string(),
        };
        let change = match again_after {
            Some(time) => doc! { "$set": { "tidyAt": from_now(time) } },
            None => doc! { "$unset": "tidyAt" },
        };
        statement(filter, vec![change])
    });
    update(call, concern, "colloquy: tidied", looked_at).await
}
