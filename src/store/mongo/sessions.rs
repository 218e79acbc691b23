//! Statements about sessions. Each names its session's `_id`, which is the shard key, but for the listing.

use mongodb::{
    bson::{Bson, Document, RawDocumentBuf, doc},
    options::{Hint, ReturnDocument},
};

use super::{
    call::Call,
    documents::{self, Standing, Stored, Tombstone, date},
    fault::{Fault, Result},
    keys::{self, Life},
    payload,
    setup::schema::{BY_START, BY_STATUS, BY_USER},
};
use crate::{
    domain::{
        End, Expected, Page, Session, SessionKey, SessionPatch, SessionQuery, Status, Tenant, Timestamp,
    },
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
    let document = documents::session(tenant, &session, Life::FIRST, None)?;
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
                if tombstone.forget_at > now {
                    return Err(refusal::session_erased(&key.id).into());
                }
                if reopen(call, &key, &session, tombstone).await? {
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
    call.run(move |_| {
        let (sessions, document) = (sessions.clone(), document.clone());
        async move {
            sessions.insert_one(document).comment("colloquy: open").await?;
            Ok(())
        }
    })
    .await
}

/// Puts the session in the place of a tombstone whose time is over, unless somebody else was faster. What the erased
/// one may have left behind stays due for the sweep.
async fn reopen(call: &Call, key: &SessionKey, session: &Session, tombstone: Tombstone) -> Result<bool> {
    let life = tombstone.life.next();
    let document = documents::session(&key.tenant, session, life, Some(tombstone.sweep_at))?;
    let mut filter = doc! { "_id": keys::of_session(key), "erased.forgetAt": date(tombstone.forget_at) };
    require_life(&mut filter, tombstone.life);
    let sessions = call.sessions();
    call.run(move |attempt| {
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

fn require_life(filter: &mut Document, life: Life) {
    match life.number() {
        Some(number) => filter.insert("life", number),
        None => filter.insert("life", doc! { "$exists": false }),
    };
}

pub(super) async fn find(call: &Call, key: &SessionKey) -> Result<Option<Stored>> {
    let (sessions, k) = (call.sessions(), keys::of_session(key));
    call.read(move |attempt| {
        let (sessions, k) = (sessions.clone(), k.clone());
        async move {
            let found = sessions
                .find_one(doc! { "_id": k })
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: session"))
                .await?;
            found
                .map(|document| documents::read_session(&document))
                .transpose()
        }
    })
    .await
}

pub(super) async fn load(call: &Call, key: &SessionKey) -> Result<(Session, Life)> {
    match find(call, key).await? {
        Some(Stored::Session(session, life)) => Ok((session, life)),
        Some(Stored::Tombstone(_)) => Err(refusal::session_erased(&key.id).into()),
        None => Err(refusal::session_not_found(&key.id).into()),
    }
}

/// The life that the key's session is in.
pub(super) async fn life(call: &Call, key: &SessionKey) -> Result<Life> {
    let standing = standings(call, vec![keys::of_session(key)]).await?.pop();
    match standing {
        Some((_, Standing::Session(_, life))) => Ok(life),
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
    call.read(move |attempt| {
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

/// Makes the initiated ones of these sessions active, each in the life named. One command, one statement a session:
/// an update of many by one filter is neither retried nor exact while chunks move.
pub(super) async fn activate(call: &Call, sessions: Vec<(String, Life)>, concern: Document) -> Result<()> {
    let statement = |(k, life): (String, Life)| {
        let mut filter = doc! { "_id": k, "status": Status::Initiated.as_str() };
        require_life(&mut filter, life);
        Bson::from(doc! {
            "q": filter,
            "u": { "$set": { "status": Status::Active.as_str() }, "$inc": { "version": 1_i64 } },
        })
    };
    let updates: Vec<Bson> = sessions.into_iter().map(statement).collect();
    let database = call.database();
    call.run(move |attempt| {
        let (database, updates, concern) = (database.clone(), updates.clone(), concern.clone());
        async move {
            let time_max = i64::try_from(attempt.time_max.as_millis()).unwrap_or(i64::MAX);
            let command = doc! {
                "update": super::SESSIONS, "updates": updates, "ordered": false,
                "writeConcern": concern, "maxTimeMS": time_max, "comment": "colloquy: activate",
            };
            let reply = database.run_command(command).await?;
            // The driver looks into replies of its own commands only.
            confirmed(&reply)
        }
    })
    .await
}

/// Whether a reply to a write says that all of it was done, and confirmed.
pub(super) fn confirmed(reply: &Document) -> Result<()> {
    let refused = reply
        .get_array("writeErrors")
        .ok()
        .and_then(|errors| errors.first()?.as_document());
    let unconfirmed = reply.get_document("writeConcernError").ok();
    match refused.or(unconfirmed) {
        Some(error) => Err(Fault::of_code(error.get_i32("code").unwrap_or_default())),
        None => Ok(()),
    }
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
        let version = session.version;
        if !session.patch(patch, expected)? {
            return Ok(session);
        }
        match replace_version(call, key, version, life, &session).await? {
            Swapped::Yes => return Ok(session),
            Swapped::No => {}
            // An earlier try may have been the one that moved the version.
            Swapped::Unclear => match load(call, key).await? {
                (stored, now) if stored == session && now == life => return Ok(session),
                _ => {}
            },
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
    let mut filter = doc! { "_id": keys::of_session(key), "version": version };
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
    call.run(move |attempt| {
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
    let going_on = Status::ALL.iter().filter(|status| !status.has_ended());
    let going_on: Vec<&str> = going_on.map(|status| status.as_str()).collect();
    let filter = doc! { "_id": keys::of_session(key), "status": { "$in": going_on } };
    let mut set = doc! {
        "status": Status::from(end.status).as_str(),
        "endedAt": date(end.ended_at.unwrap_or(now)),
    };
    if let Some(reason) = &end.reason {
        set.insert("endReason", reason);
    }
    let change = doc! { "$set": set, "$inc": { "version": 1_i64 } };
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            call.pause(round.min(3)).await?;
        }
        let (sessions, filter, change) = (call.sessions(), filter.clone(), change.clone());
        let ended = call
            .run(move |attempt| {
                let (sessions, filter, change) = (sessions.clone(), filter.clone(), change.clone());
                async move {
                    let ended = sessions
                        .find_one_and_update(filter, change)
                        .return_document(ReturnDocument::After)
                        .max_time(attempt.time_max)
                        .comment(Bson::from("colloquy: end"))
                        .await?;
                    ended
                        .map(|document| documents::read_session(&document))
                        .transpose()
                }
            })
            .await?;
        if let Some(Stored::Session(session, _)) = ended {
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
    call.read(move |attempt| {
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
