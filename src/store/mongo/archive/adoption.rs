//! Copies of sessions that were found in the archive, when the store was lost or an older backup of it was restored.
//!
//! Each change names what was read of the session (its epoch and its version) and does nothing where that is no more; then
//! it is read again. So what was decided holds for the document that is changed.

use mongodb::{
    bson::{Bson, Document, RawDocument, doc},
    options::Hint,
};

use super::{left_with, when, while_claimed};
use crate::{
    domain::{SegmentName, Session, SessionKey, Timestamp},
    store::{
        catalog::{Adopted, Archived, Claimed, reconciled},
        mongo::{
            MongoOptions,
            call::Call,
            documents::{self, Bookkeeping, Fields, Stored},
            erasure,
            fault::{Fault, Result},
            keys::{self, Life},
        },
    },
};

/// What these statements say of themselves.
const COMMENT: &str = "colloquy: adopt";

/// How often a session is looked at anew because it changed between two statements.
const ROUNDS_MAX: u32 = 8;

/// What the store has under a key.
struct Found {
    stored: Stored,
    epoch: i64,
    pointer: Option<crate::domain::Pointer>,
    opened_at: Option<Timestamp>,
    /// The copy that is looked for is known.
    is_known: bool,
}

impl Found {
    fn read(document: &RawDocument, segment: Option<&SegmentName>) -> Result<Self> {
        let fields = Fields(document);
        Ok(Self {
            stored: documents::read_session(document)?,
            epoch: fields.epoch()?,
            pointer: fields.pointer()?,
            opened_at: fields.optional_date("openedAt")?,
            is_known: match segment {
                Some(segment) => fields.knows(segment)?,
                None => false,
            },
        })
    }

    /// Whether the session was opened at or before that time, as far as the store can tell; a tombstone never was.
    fn is_older(&self, than: Timestamp) -> bool {
        let Stored::Session(session, _) = &self.stored else {
            return false;
        };
        let of_segment = || self.pointer.as_ref().map(|pointer| pointer.segment.begun_at());
        self.opened_at.or_else(of_segment).unwrap_or(session.started_at) <= than
    }

    /// The filter for this very state of the session with the key.
    fn condition(&self, k: &str) -> Document {
        let mut condition = doc! { "_id": k, "epoch": epoch_is(self.epoch) };
        match &self.stored {
            Stored::Session(session, _) => condition.extend(doc! {
                "version": session.version, "archived": session.archived,
            }),
            Stored::Tombstone(_) => condition.extend(doc! { "erased": { "$exists": true } }),
        }
        condition
    }
}

/// A session that was never claimed has none.
fn epoch_is(epoch: i64) -> Bson {
    match epoch {
        0 => doc! { "$in": [0_i64, Bson::Null] }.into(),
        epoch => epoch.into(),
    }
}

async fn look(call: &Call, k: &str, segment: Option<&SegmentName>) -> Result<Option<Found>> {
    let (sessions, k, segment) = (call.sessions(), k.to_owned(), segment.cloned());
    call.read("find sessions", move |attempt| {
        let (sessions, k, segment) = (sessions.clone(), k.clone(), segment.clone());
        async move {
            let found = sessions
                .find_one(doc! { "_id": k })
                .hint(Hint::Name("_id_".to_owned()))
                .max_time(attempt.time_max)
                .comment(Bson::from(COMMENT))
                .await?;
            found
                .map(|document| Found::read(&document, segment.as_ref()))
                .transpose()
        }
    })
    .await
}

/// The epoch of the erasure, where the session's marker is owed.
pub(super) async fn owed_marker(call: &Call, key: &SessionKey) -> Result<Option<i64>> {
    let found = look(call, &keys::of_session(key), Some(&SegmentName::owed_marker())).await?;
    let owed = found.filter(|found| found.is_known && matches!(found.stored, Stored::Tombstone(_)));
    Ok(owed.map(|found| found.epoch))
}

async fn again(call: &Call, round: u32) -> Result<()> {
    match round {
        0 => Ok(()),
        round => call.pause(round.min(3)).await,
    }
}

pub(super) async fn adopt(call: &Call, copy: &Archived, session: &Session) -> Result<Adopted> {
    let k = keys::of_session(&copy.key);
    let segment = &copy.pointer.segment;
    for round in 0..ROUNDS_MAX {
        again(call, round).await?;
        if insert(call, document(copy, session)?).await? {
            return Ok(Adopted::Created);
        }
        let Some(found) = look(call, &k, Some(segment)).await? else {
            continue;
        };
        if found.is_known {
            return Ok(Adopted::Kept);
        }
        match (&found.stored, &found.pointer) {
            (Stored::Tombstone(_), _) if copy.epoch > found.epoch => return Ok(Adopted::Refused),
            (Stored::Tombstone(_), _) => {
                let left = doc! { "$set": { "left": left_with(vec![literal(segment)]) } };
                if change(call, found.condition(&k), vec![left]).await? {
                    return Ok(Adopted::Kept);
                }
            }
            (Stored::Session(..), Some(pointer)) => {
                return Ok(Adopted::Apart(Archived {
                    key: copy.key.clone(),
                    epoch: found.epoch,
                    pointer: pointer.clone(),
                }));
            }
            (Stored::Session(stored, _), None) => {
                let session = reconciled(session, stored);
                let change_to = replacement(copy, &session, vec!["$claim.owner".into()])?;
                if change(call, found.condition(&k), change_to).await? {
                    return Ok(Adopted::Moved);
                }
            }
        }
    }
    Err(Fault::Contended)
}

pub(super) async fn merge(
    call: &Call,
    claimed: &Claimed,
    owner: &SegmentName,
    copy: &Archived,
    session: &Session,
    takes_over: bool,
) -> Result<bool> {
    let (k, segment) = (keys::of_session(&copy.key), &copy.pointer.segment);
    let Some(found) = look(call, &k, Some(segment)).await? else {
        return Ok(false);
    };
    let (Stored::Session(stored, _), Some(pointer)) = (&found.stored, &found.pointer) else {
        return Ok(false);
    };
    let mut filter = while_claimed(k.clone(), claimed.epoch, owner);
    filter.extend(doc! { "version": stored.version, "archive.segment": pointer.segment.to_string() });
    let session = reconciled(session, stored);
    let (winner, loser) = match takes_over {
        true => (copy.clone(), &pointer.segment),
        false => {
            let pointer = pointer.clone();
            (
                Archived {
                    pointer,
                    ..copy.clone()
                },
                segment,
            )
        }
    };
    if change(
        call,
        filter,
        replacement(&winner, &session, vec![literal(loser)])?,
    )
    .await?
    {
        return Ok(true);
    }
    // An earlier try of this may have been the one that did it.
    let now = look(call, &k, Some(segment)).await?;
    Ok(now.is_some_and(|now| now.is_known))
}

pub(super) async fn adopt_erased(
    call: &Call,
    copy: &Archived,
    erased_at: Timestamp,
    forget_at: Timestamp,
    options: &MongoOptions,
) -> Result<()> {
    for round in 0..ROUNDS_MAX {
        again(call, round).await?;
        if bury_nothing(call, copy, forget_at).await? {
            return Ok(());
        }
        erase_older(call, &copy.key, erased_at, forget_at, options).await?;
        if leave(call, copy).await? {
            return Ok(());
        }
    }
    Err(Fault::Contended)
}

pub(super) async fn erase_older(
    call: &Call,
    key: &SessionKey,
    erased_at: Timestamp,
    forget_at: Timestamp,
    options: &MongoOptions,
) -> Result<bool> {
    let k = keys::of_session(key);
    for round in 0..ROUNDS_MAX {
        again(call, round).await?;
        let found = look(call, &k, None).await?;
        let Some(found) = found.filter(|found| found.is_older(erased_at)) else {
            return Ok(false);
        };
        if erasure::erase_again(call, found.condition(&k), forget_at, options).await? {
            return Ok(true);
        }
    }
    Err(Fault::Contended)
}

/// Puts a tombstone where there is nothing; says whether it did.
async fn bury_nothing(call: &Call, copy: &Archived, forget_at: Timestamp) -> Result<bool> {
    // No document is both. What the upsert makes has these fields, so that the tombstone takes epoch and segment from them.
    let filter = doc! {
        "_id": keys::of_session(&copy.key),
        "archive.segment": copy.pointer.segment.to_string(),
        "epoch": copy.epoch,
        "erased": { "$exists": true },
    };
    let (sessions, tombstone) = (call.sessions(), erasure::tombstone(forget_at));
    let buried = call.run("update sessions", move |_| {
        let (sessions, filter) = (sessions.clone(), filter.clone());
        let change = vec![doc! { "$replaceWith": &tombstone }];
        async move {
            sessions
                .update_one(filter, change)
                .upsert(true)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from(COMMENT))
                .await?;
            Ok(())
        }
    });
    match buried.await {
        Ok(()) => Ok(true),
        Err(fault) if fault.is_duplicate() => Ok(false),
        Err(fault) => Err(fault),
    }
}

fn literal(segment: &SegmentName) -> Bson {
    doc! { "$literal": segment.to_string() }.into()
}

/// The document of a session that is known from the archive alone.
fn document(copy: &Archived, session: &Session) -> Result<Document> {
    let session = Session {
        archived: true,
        ..session.clone()
    };
    let besides = Bookkeeping {
        life: Life::FIRST,
        epoch: copy.epoch,
        opened_at: None,
        sweep_at: None,
    };
    let document = documents::session(&copy.key.tenant, &session, &besides)?;
    let mut document = Document::try_from(document).map_err(|_| Fault::Stored("metadata"))?;
    document.insert("archive", documents::archive(&copy.pointer));
    Ok(document)
}

/// Puts the session with the pointer to this copy in the place of what there is, without a claim, under an epoch greater than
/// all before; what is `left` goes to its `left`. Its hot events are looked at soon.
fn replacement(copy: &Archived, session: &Session, left: Vec<Bson>) -> Result<Vec<Document>> {
    let kept = doc! {
        "left": left_with(left),
        "openedAt": "$openedAt", "life": "$life", "sweepAt": "$sweepAt", "tidyAt": "$$NOW",
        "epoch": { "$max": [copy.epoch, super::next_epoch()] },
    };
    let document = document(copy, session)?;
    Ok(vec![doc! {
        "$replaceWith": { "$mergeObjects": [{ "$literal": document }, kept] },
    }])
}

/// Whether it was not there.
async fn insert(call: &Call, document: Document) -> Result<bool> {
    let sessions = call.sessions().clone_with_type::<Document>();
    let inserted = call.run("insert sessions", move |_| {
        let (sessions, document) = (sessions.clone(), document.clone());
        async move {
            sessions.insert_one(document).comment(COMMENT).await?;
            Ok(())
        }
    });
    match inserted.await {
        Ok(()) => Ok(true),
        Err(fault) if fault.is_duplicate() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Notes that this segment holds a copy that no pointer leads to, unless one does; says whether there is anything under the key.
async fn leave(call: &Call, copy: &Archived) -> Result<bool> {
    let filter = doc! { "_id": keys::of_session(&copy.key) };
    let segment = literal(&copy.pointer.segment);
    let is_pointed_to = doc! { "$eq": ["$archive.segment", &segment] };
    let left = left_with(vec![when(doc! { "$not": [is_pointed_to] }, segment)]);
    change(call, filter, vec![doc! { "$set": { "left": left } }]).await
}

async fn change(call: &Call, filter: Document, pipeline: Vec<Document>) -> Result<bool> {
    let sessions = call.sessions();
    call.run("update sessions", move |_| {
        let (sessions, filter, pipeline) = (sessions.clone(), filter.clone(), pipeline.clone());
        async move {
            let changed = sessions
                .update_one(filter, pipeline)
                .hint(Hint::Name("_id_".to_owned()))
                .comment(Bson::from(COMMENT))
                .await?;
            Ok(changed.matched_count > 0)
        }
    })
    .await
}
