//! Statements about sessions. Each names its session's `_id`, which is the shard key.

use std::{collections::HashMap, time::Duration};

use mongodb::{
    bson::{Bson, Document, RawDocument, RawDocumentBuf, doc},
    options::ReturnDocument,
};

use super::{
    bulk::Bulk,
    call::Call,
    documents::{self, Bookkeeping, Place, Standing, Stored, Tombstone, date},
    fault::{Fault, Result},
    inserts::{last_sequences, last_sequences_ahead},
    keys::{self, Life},
    payload,
};
use crate::{
    domain::{End, Expected, Session, SessionKey, SessionPatch, Status, Tenant, Timestamp},
    store::{Opened, refusal},
};

/// How often a change is made anew because the session changed meanwhile.
const ROUNDS_MAX: u32 = 200;

/// Opens a session; also gives the life it is in.
pub(super) async fn open(
    call: &Call,
    tenant: &Tenant,
    session: Session,
    now: Timestamp,
) -> Result<(Opened, Life)> {
    let key = SessionKey::new(tenant.clone(), session.id.clone());
    let document = documents::session(tenant, &session, &Bookkeeping::new(now))?;
    let opened = |session, created, life| Ok((Opened { session, created }, life));
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            call.pause(round.min(3)).await?;
        }
        match insert(call, document.clone()).await {
            Ok(()) => return opened(session, true, Life::FIRST),
            Err(fault) if fault.is_duplicate() => {}
            Err(fault) => return Err(fault),
        }
        match find(call, &key).await? {
            Some(Stored::Session(session, life)) => return opened(session, false, life),
            Some(Stored::Tombstone(tombstone)) => {
                // While the archive holds something of the erased session, the tombstone is what says so.
                if tombstone.forget_at > now || tombstone.is_left {
                    return Err(refusal::session_erased(&key.id).into());
                }
                if reopen(call, &key, &session, tombstone, now).await? {
                    return opened(session, true, tombstone.life.next());
                }
            }
            // Upkeep dropped the tombstone meanwhile.
            None => {}
        }
    }
    Err(Fault::Contended)
}

async fn insert(call: &Call, document: RawDocumentBuf) -> Result<()> {
    let sessions = call.sessions();
    call.run("insert sessions", move |_| {
        let (sessions, document) = (sessions.clone(), document.clone());
        async move {
            sessions.insert_one(document).comment("colloquy: open").await?;
            Ok(())
        }
    })
    .await
}

/// Puts the session in the place of a tombstone whose time is over, unless somebody else was faster. What the erased
/// one may have left behind stays due for the sweep, and epochs go on from where they were.
async fn reopen(
    call: &Call,
    key: &SessionKey,
    session: &Session,
    tombstone: Tombstone,
    now: Timestamp,
) -> Result<bool> {
    let besides = Bookkeeping {
        life: tombstone.life.next(),
        epoch: tombstone.epoch,
        opened_at: Some(now),
        sweep_at: Some(tombstone.sweep_at),
    };
    let document = documents::session(&key.tenant, session, &besides)?;
    let mut filter = doc! {
        "_id": keys::of_session(key),
        "erased.forgetAt": date(tombstone.forget_at),
        "left": { "$exists": false },
    };
    require_life(&mut filter, tombstone.life);
    let sessions = call.sessions();
    call.run("findAndModify sessions", move |attempt| {
        let (sessions, document, filter) = (sessions.clone(), document.clone(), filter.clone());
        async move {
            let replaced = sessions
                .find_one_and_replace(filter, document)
                .projection(doc! { "_id": 1 })
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: open"))
                .await?;
            Ok(replaced.is_some())
        }
    })
    .await
}

pub(super) fn require_life(filter: &mut Document, life: Life) {
    match life.number() {
        Some(number) => filter.insert("life", number),
        None => filter.insert("life", doc! { "$exists": false }),
    };
}

pub(super) async fn find(call: &Call, key: &SessionKey) -> Result<Option<Stored>> {
    look(call, key, documents::read_session).await
}

/// What `read` makes of the key's document.
async fn look<T: Send + 'static>(
    call: &Call,
    key: &SessionKey,
    read: fn(&RawDocument) -> Result<T>,
) -> Result<Option<T>> {
    let (sessions, k) = (call.sessions(), keys::of_session(key));
    call.read("find sessions", move |attempt| {
        let (sessions, k) = (sessions.clone(), k.clone());
        async move {
            let found = sessions
                .find_one(doc! { "_id": k })
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: session"))
                .await?;
            found.map(|document| read(&document)).transpose()
        }
    })
    .await
}

/// The session, and where it is, by one look.
pub(super) async fn load_with_place(call: &Call, key: &SessionKey) -> Result<(Session, Place)> {
    let both = |document: &RawDocument| {
        Ok((
            documents::read_session(document)?,
            documents::read_standing(document)?,
        ))
    };
    match look(call, key, both).await? {
        Some((Stored::Session(session, _), Standing::Session(place))) => Ok((session, place)),
        Some(_) => Err(refusal::session_erased(&key.id).into()),
        None => Err(refusal::session_not_found(&key.id).into()),
    }
}

pub(super) async fn load(call: &Call, key: &SessionKey) -> Result<(Session, Life)> {
    match find(call, key).await? {
        Some(Stored::Session(session, life)) => Ok((session, life)),
        Some(Stored::Tombstone(_)) => Err(refusal::session_erased(&key.id).into()),
        None => Err(refusal::session_not_found(&key.id).into()),
    }
}

/// Where the key's session is.
pub(super) async fn place(call: &Call, key: &SessionKey) -> Result<Place> {
    let standing = standings(call, vec![keys::of_session(key)]).await?.pop();
    match standing {
        Some((_, Standing::Session(place))) => Ok(place),
        Some((_, Standing::Erased)) => Err(refusal::session_erased(&key.id).into()),
        None => Err(refusal::session_not_found(&key.id).into()),
    }
}

/// How the sessions with these keys stand; what is not there is left out.
pub(super) async fn standings(call: &Call, keys: Vec<String>) -> Result<Vec<(String, Standing)>> {
    let sessions = call.sessions();
    let fields: Document = documents::STANDING_FIELDS
        .iter()
        .map(|name| ((*name).to_owned(), Bson::Int32(1)))
        .collect();
    call.read("find sessions", move |attempt| {
        let (sessions, fields) = (sessions.clone(), fields.clone());
        let filter = match keys.as_slice() {
            [only] => doc! { "_id": only },
            keys => doc! { "_id": { "$in": keys } },
        };
        let count = keys.len();
        async move {
            let mut found = sessions
                .find(filter)
                .projection(fields)
                .batch_size(u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: standing"))
                .await?;
            let mut standings = Vec::with_capacity(count);
            while found.advance().await? {
                let document = found.current();
                let k = documents::Fields(document).text("_id")?.to_owned();
                standings.push((k, documents::read_standing(document)?));
            }
            Ok(standings)
        }
    })
    .await
}

/// Makes the initiated ones of these sessions active, each in the life named.
pub(super) async fn activate(call: &Call, sessions: Vec<(String, Life)>, concern: &Document) -> Result<()> {
    let statement = |(k, life): (String, Life)| {
        let mut filter = doc! { "_id": k, "status": Status::Initiated.as_str() };
        require_life(&mut filter, life);
        doc! {
            "q": filter,
            "u": { "$set": { "status": Status::Active.as_str() }, "$inc": { "version": 1_i64 } },
        }
    };
    let bulk = Bulk {
        collection: super::SESSIONS,
        comment: "colloquy: activate",
        statements: sessions.into_iter().map(statement).collect(),
    };
    bulk.run(call, concern).await?;
    Ok(())
}

pub(super) async fn patch(
    call: &Call,
    key: &SessionKey,
    patch: &SessionPatch,
    expected: &Expected,
) -> Result<Session> {
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            call.pause(round.min(2)).await?;
        }
        let (mut session, life) = load(call, key).await?;
        if session.archived {
            return Err(refusal::session_archived(&key.id).into());
        }
        let version = session.version;
        if !session.patch(patch, expected)? {
            return Ok(session);
        }
        match replace_version(call, key, version, life, &session).await? {
            Swapped::Yes => return Ok(session),
            Swapped::No => {}
            // An earlier try may have been the one that moved the version.
            Swapped::Unclear => {
                let (mut stored, now) = load(call, key).await?;
                // It may have been archived since.
                stored.archived = session.archived;
                if stored == session && now == life {
                    return Ok(session);
                }
            }
        }
    }
    Err(Fault::Contended)
}

enum Swapped {
    Yes,
    No,
    Unclear,
}

/// Writes what a patch can change, if the session is still the one that was patched.
async fn replace_version(
    call: &Call,
    key: &SessionKey,
    version: i64,
    life: Life,
    session: &Session,
) -> Result<Swapped> {
    let mut filter = doc! { "_id": keys::of_session(key), "version": version, "archived": false };
    require_life(&mut filter, life);
    let metadata = Document::try_from(payload::to_document(&session.metadata)?)
        .map_err(|_| Fault::Stored("metadata"))?;
    let mut set = doc! { "metadata": metadata, "version": session.version };
    let mut unset = Document::new();
    let user_id = session.user_id.as_ref().map(|id| id.as_str());
    let language = session.language.as_ref().map(|tag| tag.as_str());
    for (name, value) in [("userId", user_id), ("language", language)] {
        match value {
            Some(value) => set.insert(name, value),
            None => unset.insert(name, ""),
        };
    }
    let mut change = doc! { "$set": set };
    if !unset.is_empty() {
        change.insert("$unset", unset);
    }
    let sessions = call.sessions();
    call.run("update sessions", move |attempt| {
        let (sessions, filter, change) = (sessions.clone(), filter.clone(), change.clone());
        async move {
            let updated = sessions
                .update_one(filter, change)
                .comment(Bson::from("colloquy: patch"))
                .await?;
            Ok(match updated.matched_count {
                0 if attempt.again => Swapped::Unclear,
                0 => Swapped::No,
                _ => Swapped::Yes,
            })
        }
    })
    .await
}

pub(super) async fn end(call: &Call, key: &SessionKey, end: &End, now: Timestamp) -> Result<Session> {
    let filter = doc! { "_id": keys::of_session(key), "status": { "$in": going_on() } };
    let now = match end.ended_at {
        Some(_) => now,
        None => now.max(last_stamp(call, key, now).await?),
    };
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            call.pause(round.min(3)).await?;
        }
        if let (Some(session), _) = end_where(call, filter.clone(), end, now).await? {
            return Ok(session);
        }
        // Somebody else ended it, or it is not there; one that goes on was opened again meanwhile.
        let (session, _) = load(call, key).await?;
        if session.status.has_ended() {
            return Ok(session);
        }
    }
    Err(Fault::Contended)
}

/// The time of the last event that was stamped by a clock ahead of `now`; `now` where there is none.
async fn last_stamp(call: &Call, key: &SessionKey, now: Timestamp) -> Result<Timestamp> {
    let place = place(call, key).await?;
    if place.status.has_ended() {
        return Ok(now);
    }
    let events = keys::of_events(&keys::of_session(key), place.life);
    let ahead = last_sequences_ahead(call, vec![events], now, Duration::MAX).await?;
    Ok(ahead.into_values().max().map_or(now, Timestamp::of_unix_us))
}

/// For each session the number that the `seq` of its next event must exceed.
pub(super) async fn last_seqs(call: &Call, keys: &[SessionKey]) -> Result<Vec<Option<i64>>> {
    let names: Vec<_> = keys.iter().map(keys::of_session).collect();
    let standings: HashMap<_, _> = standings(call, names.clone()).await?.into_iter().collect();
    let place = |k: &String| match standings.get(k)? {
        Standing::Session(place) => Some((keys::of_events(k, place.life), place)),
        Standing::Erased => None,
    };
    let begun = names.iter().filter_map(place);
    let begun = begun.filter(|(_, place)| place.status != Status::Initiated);
    let begun: Vec<_> = begun.map(|(events, _)| events).collect();
    let lasts = match begun.is_empty() {
        true => HashMap::new(),
        false => last_sequences(call, begun).await?,
    };
    let last_seq = |k: &String| {
        let (events, place) = place(k)?;
        lasts
            .get(&events)
            .copied()
            .max(place.seq_min.map(|least| least - 1))
    };
    Ok(names.iter().map(last_seq).collect())
}

/// The statuses of sessions that have not ended.
pub(super) fn going_on() -> Vec<&'static str> {
    let going_on = Status::ALL.iter().filter(|status| !status.has_ended());
    going_on.map(|status| status.as_str()).collect()
}

/// Ends the session that is as `filter` says; else also gives whether an earlier try of this may have done so. Where `end`
/// does not say when, that is `now`, or its start if that is later.
pub(super) async fn end_where(
    call: &Call,
    filter: Document,
    end: &End,
    now: Timestamp,
) -> Result<(Option<Session>, bool)> {
    let ended_at = match end.ended_at {
        Some(ended_at) => date(ended_at).into(),
        None => Bson::from(doc! { "$max": [date(now), "$startedAt"] }),
    };
    let mut set = doc! {
        "status": Status::from(end.status).as_str(),
        "endedAt": ended_at,
        "version": { "$add": ["$version", 1_i64] },
    };
    if let Some(reason) = &end.reason {
        // As it is: a text that begins with a dollar sign would name a field.
        set.insert("endReason", doc! { "$literal": reason });
    }
    let change = vec![doc! { "$set": set }, doc! { "$unset": ["usedAt", "idle"] }];
    let sessions = call.sessions();
    call.run("findAndModify sessions", move |attempt| {
        let (sessions, filter, change) = (sessions.clone(), filter.clone(), change.clone());
        async move {
            let ended = sessions
                .find_one_and_update(filter, change)
                .return_document(ReturnDocument::After)
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: end"))
                .await?;
            let ended = ended.map(|document| documents::read_session(&document));
            match ended.transpose()? {
                Some(Stored::Session(session, _)) => Ok((Some(session), false)),
                _ => Ok((None, attempt.again)),
            }
        }
    })
    .await
}
