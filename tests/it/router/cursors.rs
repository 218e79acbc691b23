//! Cursors of a router over cursors of shards: merged where they are sorted, one behind the other where they are not.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use mongodb::bson::{Bson, Document, doc};

use super::{
    order::compare_keys,
    server::{Answered, Call},
    shard::Failure,
};

/// As many documents a first batch has, if nobody says otherwise.
const FIRST_BATCH: usize = 101;

/// The field with which a shard tells by what it sorted a document.
pub const SORT_KEY: &str = "$sortKey";

/// The open cursors of one router. No two routers give the same ids.
pub struct Cursors(Mutex<State>);

struct State {
    next: i64,
    open: HashMap<i64, Cursor>,
}

/// What is still to come of a statement.
pub struct Cursor {
    namespace: String,
    parts: Vec<Part>,
    /// The directions of the sort whose order the parts are in; empty: in no order.
    directions: Vec<bool>,
    /// How many documents the limit leaves.
    left: Option<usize>,
    session: Option<Bson>,
}

/// The cursor of a shard.
struct Part {
    shard: usize,
    member: u16,
    /// 0 once it has no more.
    id: i64,
    ready: VecDeque<Document>,
    _hold: Option<Arc<()>>,
}

impl Cursors {
    pub fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let next = i64::try_from(since.as_nanos() & 0x3fff_ffff_ffff_ffff).expect("62 bits");
        Self(Mutex::new(State {
            next,
            open: HashMap::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forget(&self) {
        self.lock().open.clear();
    }
}

impl Part {
    fn new(answered: Answered) -> Result<(Self, String), Failure> {
        let mut part = Self {
            shard: answered.shard,
            member: answered.member,
            id: 0,
            ready: VecDeque::new(),
            _hold: answered.hold,
        };
        let namespace = part.take(answered.reply)?;
        Ok((part, namespace))
    }

    /// Takes the batch of a reply; gives the cursor's namespace.
    fn take(&mut self, mut reply: Document) -> Result<String, Failure> {
        let strange = || Failure::new(8, "UnknownError", "a reply without a cursor");
        let Some(Bson::Document(mut cursor)) = reply.remove("cursor") else {
            return Err(strange());
        };
        let batch = cursor.remove("firstBatch").or_else(|| cursor.remove("nextBatch"));
        let Some(Bson::Array(batch)) = batch else {
            return Err(strange());
        };
        self.id = cursor.get_i64("id").map_err(|_| strange())?;
        self.ready.extend(batch.into_iter().filter_map(|item| match item {
            Bson::Document(document) => Some(document),
            _ => None,
        }));
        Ok(cursor.get_str("ns").unwrap_or_default().to_owned())
    }

    async fn refill(
        &mut self,
        call: &Call,
        namespace: &str,
        batch_size: Option<usize>,
        session: Option<&Bson>,
    ) -> Result<(), Failure> {
        let (database, collection) = namespace.split_once('.').unwrap_or((namespace, ""));
        let mut command = doc! { "getMore": self.id, "collection": collection, "$db": database };
        if let Some(batch_size) = batch_size {
            command.insert("batchSize", i64::try_from(batch_size).unwrap_or(i64::MAX));
        }
        if let Some(session) = session {
            command.insert("lsid", session.clone());
        }
        let link = Arc::clone(&call.core.shards[self.shard]);
        let member = self.member;
        let asked = call
            .core
            .runtime
            .spawn(async move { link.ask_member(member, &command).await });
        let reply = asked.await.expect("a task of the router")?;
        self.take(reply)?;
        Ok(())
    }

    fn is_dry(&self) -> bool {
        self.ready.is_empty() && self.id != 0
    }
}

impl Cursor {
    /// Over what the shards answered, in the order of these directions.
    pub fn new(
        call: &Call,
        answered: Vec<Answered>,
        directions: Vec<bool>,
        left: Option<usize>,
    ) -> Result<Self, Failure> {
        let parts = answered
            .into_iter()
            .map(Part::new)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            namespace: parts
                .first()
                .map(|(_, namespace)| namespace.clone())
                .unwrap_or_default(),
            parts: parts.into_iter().map(|(part, _)| part).collect(),
            directions,
            left,
            session: call.command.get("lsid").cloned(),
        })
    }

    /// Over documents that the router has.
    pub fn of_ready(namespace: String, ready: Vec<Document>) -> Self {
        let part = Part {
            shard: 0,
            member: 0,
            id: 0,
            ready: ready.into(),
            _hold: None,
        };
        Self {
            namespace,
            parts: vec![part],
            directions: Vec::new(),
            left: None,
            session: None,
        }
    }

    /// All documents, which came in one batch of each shard.
    pub fn into_ready(self) -> Result<Vec<Document>, Failure> {
        if self.parts.iter().any(|part| part.id != 0) {
            return Err(Failure::new(238, "NotImplemented", "groups in several batches"));
        }
        Ok(self.parts.into_iter().flat_map(|part| part.ready).collect())
    }

    /// The part from which the next document comes.
    fn next_part(&self) -> Option<usize> {
        let ready = (0..self.parts.len()).filter(|&part| !self.parts[part].ready.is_empty());
        match self.directions.as_slice() {
            [] => ready.min(),
            directions => ready.min_by(|&a, &b| {
                let key = |part: usize| {
                    let key = self.parts[part].ready[0].get_array(SORT_KEY);
                    key.expect("a shard tells by what it sorted").as_slice()
                };
                compare_keys(key(a), key(b), directions)
            }),
        }
    }

    /// Up to so many documents. Each shard is asked once at most, so that a batch is not longer than what they send.
    async fn batch(
        &mut self,
        call: &Call,
        wanted: usize,
        ask: Option<usize>,
    ) -> Result<Vec<Document>, Failure> {
        let mut batch = Vec::new();
        let mut may_ask = vec![true; self.parts.len()];
        while batch.len() < wanted && self.left != Some(0) {
            let needed: Vec<usize> = match self.directions.is_empty() {
                true if self.next_part().is_some() || !batch.is_empty() => Vec::new(),
                true => (0..self.parts.len())
                    .find(|&part| self.parts[part].is_dry())
                    .into_iter()
                    .collect(),
                false => (0..self.parts.len())
                    .filter(|&part| self.parts[part].is_dry())
                    .collect(),
            };
            if !batch.is_empty() && needed.iter().any(|&part| !may_ask[part]) {
                break;
            }
            let (namespace, session) = (self.namespace.clone(), self.session.clone());
            for part in needed {
                may_ask[part] = false;
                self.parts[part]
                    .refill(call, &namespace, ask, session.as_ref())
                    .await?;
            }
            let Some(part) = self.next_part() else {
                if batch.is_empty() && self.parts.iter().any(Part::is_dry) {
                    continue;
                }
                break;
            };
            let mut document = self.parts[part].ready.pop_front().expect("it is ready");
            document.remove(SORT_KEY);
            batch.push(document);
            self.left = self.left.map(|left| left - 1);
        }
        Ok(batch)
    }

    fn has_more(&self) -> bool {
        let parts = self
            .parts
            .iter()
            .any(|part| part.id != 0 || !part.ready.is_empty());
        parts && self.left != Some(0)
    }

    async fn close(self, call: &Call) {
        let (database, collection) = self.namespace.split_once('.').unwrap_or((&self.namespace, ""));
        for part in self.parts.iter().filter(|part| part.id != 0) {
            let mut kill = doc! { "killCursors": collection, "cursors": [part.id], "$db": database };
            kill.extend(self.session.clone().map(|session| ("lsid".to_owned(), session)));
            let _ = call.core.shards[part.shard].ask_member(part.member, &kill).await;
        }
    }

    /// The first batch, as a command that opens a cursor replies.
    pub async fn open(mut self, call: &Call) -> Result<Document, Failure> {
        let asked_for = batch_size(call);
        let batch = self
            .batch(call, asked_for.unwrap_or(FIRST_BATCH), asked_for)
            .await?;
        let (namespace, single) = (
            self.namespace.clone(),
            call.command.get_bool("singleBatch").unwrap_or(false),
        );
        let id = if single || !self.has_more() {
            self.close(call).await;
            0
        } else {
            let mut cursors = call.core.cursors.lock();
            cursors.next += 1;
            let id = cursors.next;
            cursors.open.insert(id, self);
            id
        };
        Ok(doc! { "cursor": { "firstBatch": batch, "id": id, "ns": namespace }, "ok": 1.0 })
    }
}

fn batch_size(call: &Call) -> Option<usize> {
    let of = |value: &Bson| match value {
        Bson::Int32(size) => usize::try_from(*size).ok(),
        Bson::Int64(size) => usize::try_from(*size).ok(),
        _ => None,
    };
    let command = &call.command;
    let cursor = command.get_document("cursor").ok();
    command
        .get("batchSize")
        .or_else(|| cursor.and_then(|cursor| cursor.get("batchSize")))
        .and_then(of)
}

fn not_found(id: i64) -> Failure {
    Failure::new(43, "CursorNotFound", &format!("cursor id {id} not found"))
}

pub async fn get_more(call: &Call) -> Result<Document, Failure> {
    let id = call.command.get_i64("getMore").unwrap_or_default();
    let taken = call.core.cursors.lock().open.remove(&id);
    let mut cursor = taken.ok_or_else(|| not_found(id))?;
    let asked_for = batch_size(call);
    let batch = cursor
        .batch(call, asked_for.unwrap_or(usize::MAX), asked_for)
        .await?;
    let namespace = cursor.namespace.clone();
    let id = if cursor.has_more() {
        call.core.cursors.lock().open.insert(id, cursor);
        id
    } else {
        cursor.close(call).await;
        0
    };
    Ok(doc! { "cursor": { "nextBatch": batch, "id": id, "ns": namespace }, "ok": 1.0 })
}

pub async fn kill(call: &Call) -> Document {
    let ids = call.command.get_array("cursors");
    let ids: Vec<i64> = ids.into_iter().flatten().filter_map(Bson::as_i64).collect();
    let (mut killed, mut unknown) = (Vec::new(), Vec::new());
    for id in ids {
        let cursor = call.core.cursors.lock().open.remove(&id);
        match cursor {
            Some(cursor) => {
                cursor.close(call).await;
                killed.push(id);
            }
            None => unknown.push(id),
        }
    }
    let none: Vec<i64> = Vec::new();
    doc! {
        "cursorsKilled": killed, "cursorsNotFound": unknown, "cursorsAlive": none.clone(), "cursorsUnknown": none, "ok": 1.0,
    }
}
