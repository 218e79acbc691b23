//! A cache in Redis, shared by all replicas.
//!
//! Four things keep it from ever lying (I3):
//! - **A write is marked first.** `begin.lua` leaves a token; while there is one, readers ask the store. `finish.lua` applies
//!   the change and takes the token back in one step, and only then is the write acknowledged. A writer whose token ran
//!   out or was lost takes the whole entry away.
//! - **A reader fills only what no write overtook.** It gets a fill token when it finds nothing; every write takes that
//!   away, and then the fill is refused.
//! - **A local copy is sent only while it is the entry.** An entry has a tag, made of the fill it came from and of a
//!   revision, and each change of an entry changes its revision in the same step. A reader that has a page as it was sent before
//!   asks with the tag that it was made from; `read.lua` makes all its checks, and says that nothing has changed only
//!   when the entry that it would answer from has this tag.
//! - **What could not be marked is waited for.** See [`vouching`], for when Redis is away, was restarted or flushed.
//!
//! Redis is asked once before and once after a write, and once for a read. The scripts and what lies in the keys are in
//! `src/cache/scripts`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::Value;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use uuid::Uuid;

use super::{
    Begun, Cache, Change, Found, Health, Lease, Lookup, Place, Query, Rendered,
    pages::{Kept, Pages, Stamp},
};
use crate::{
    domain::{Appended, Error, EventFilter, Kind, Limit, Order, Result, Session, SessionKey, Status},
    telemetry::calls::{self, System},
};

mod entry;
pub mod link;
mod outcomes;
mod vouching;

use entry::Answer;
pub use link::RedisUrl;
use link::{Call, Fault, Link, RedisLink, Script, Wire};
use outcomes::{Counts, Outcome};
use vouching::{Doubt, Terms, View, Vouching};

/// A replica vouches this many times while one word of it lasts.
const VOUCHES_A_LEASE: u32 = 5;

/// While Redis is away, a replica tries to reach it this often.
const RECONNECT_EVERY: Duration = Duration::from_millis(100);

/// The limits of a [`RedisCache`].
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// What every key begins with.
    pub prefix: String,
    /// Longest that a call may take.
    pub call_time_max: Duration,
    /// Most events of a session that are kept; the newest.
    pub events_max: Limit,
    /// Most bytes of JSON that the events of a session may take.
    pub session_bytes_max: usize,
    /// Longest that an entry lives, however often it is used.
    pub age_max: Duration,
    /// After how long a writer counts as dead; longer than a write takes.
    pub write_time_max: Duration,
    /// Longest that a reader may take from the store to the fill.
    pub fill_time_max: Duration,
    /// For how long a replica vouches at a time; what a write may have to wait when Redis goes away.
    pub lease: Duration,
    /// After how long a silence a replica is given up, and all entries with it.
    pub absence_max: Duration,
    /// How long nobody believes a Redis that is new.
    pub gathering: Duration,
    /// Sessions that were written to while Redis was away and are remembered one by one; past that, all entries go.
    pub unmarked_max: usize,
    /// Most bytes of answers that are kept in this process as they were sent; 0: none are.
    pub pages_bytes_max: usize,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "colloquy".to_owned(),
            call_time_max: Duration::from_millis(50),
            events_max: Limit::at_most(200),
            session_bytes_max: 1024 * 1024,
            age_max: Duration::from_mins(5),
            write_time_max: Duration::from_secs(30),
            fill_time_max: Duration::from_secs(5),
            lease: Duration::from_millis(80),
            absence_max: Duration::from_secs(10),
            gathering: Duration::from_secs(1),
            unmarked_max: 10_000,
            pages_bytes_max: 32 * 1024 * 1024,
        }
    }
}

/// A cache in Redis.
pub struct RedisCache {
    vouching: Arc<Vouching>,
    options: RedisOptions,
    pages: Pages,
    counts: Counts,
    duties: JoinHandle<()>,
}

impl RedisCache {
    /// Joins the replicas that use the Redis at `url`. Where it can't be reached, the cache is degraded until it can.
    pub async fn connect(url: RedisUrl, options: RedisOptions) -> Self {
        let link = RedisLink::new(url, options.call_time_max);
        Self::over(Arc::new(link), options).await
    }

    /// As [`connect`](Self::connect), with connections from `link`.
    pub async fn over(link: Arc<dyn Link>, options: RedisOptions) -> Self {
        let terms = Terms {
            lease: options.lease,
            absence_max: options.absence_max,
            gathering: options.gathering,
            unmarked_max: options.unmarked_max,
        };
        let replica = Uuid::new_v4().simple().to_string();
        let vouching = Arc::new(Vouching::new(replica, &options.prefix, terms));
        // The first round before anything is written: a replica that the others don't know of can't warn them.
        // Failing that, it goes without, and has said so.
        let _ = vouching.round(link.as_ref()).await;
        let duties = tokio::spawn(duties(
            Arc::clone(&vouching),
            link,
            options.lease / VOUCHES_A_LEASE,
        ));
        Self {
            vouching,
            pages: Pages::new(options.pages_bytes_max),
            options,
            counts: Counts::default(),
            duties,
        }
    }

    /// Says what Redis is at `url`, once a script has run there.
    ///
    /// # Errors
    /// [`Kind::Unavailable`]: it can't be reached, or refuses.
    pub async fn check(url: RedisUrl, options: &RedisOptions) -> Result<String> {
        let link = RedisLink::new(url, options.call_time_max);
        let about = Call {
            script: Script::About,
            keys: &[format!("{}:about", options.prefix)],
            args: Vec::new(),
        };
        let found = async { link.connect().await?.call(about).await };
        let found = found
            .await
            .map_err(|fault| Error::new(Kind::Unavailable, fault.to_string()).with_source(fault))?;
        let text = entry::bytes(found).and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.unwrap_or_default())
    }

    async fn call(&self, wire: &dyn Wire, call: Call<'_>) -> Option<Value> {
        let name = call.script.name();
        match calls::database(System::Redis, name, Fault::name, wire.call(call)).await {
            Ok(value) => {
                self.vouching.went_through();
                Some(value)
            }
            Err(fault) => {
                self.vouching.failed(&fault);
                None
            }
        }
    }

    /// How long keys live that nobody touches; longer than any entry that they must outlive.
    fn keys_live_ms(&self) -> Vec<u8> {
        ms(self.options.age_max + self.options.write_time_max)
    }

    /// Asks for what `query` wants, with the tag of the copy that this process has of it, or nothing.
    async fn ask(
        &self,
        view: &View,
        key: &SessionKey,
        query: &Query,
        token: &str,
        tag: &[u8],
    ) -> Option<Answer> {
        let shape = &query.shape;
        let (score, beginning) = match &shape.after {
            Some(after) => (
                entry::score(after.timestamp),
                entry::beginning(after.seq, &after.id),
            ),
            None => (String::new(), String::new()),
        };
        let args = vec![
            view.generation.clone().into_bytes(),
            match shape.order {
                Order::Ascending => "asc".into(),
                Order::Descending => "desc".into(),
            },
            number(shape.limit.get()),
            score.into_bytes(),
            beginning.into_bytes(),
            query.min_seq.map_or_else(Vec::new, number),
            token.into(),
            ms(self.options.fill_time_max),
            flag(shape.session),
            tag.to_vec(),
        ];
        let call = Call {
            script: Script::Read,
            keys: &entry::keys(&self.options.prefix, key),
            args,
        };
        let answer = Answer::read(self.call(view.wire.as_ref(), call).await?);
        if answer.is_none() {
            self.vouching.failed(&Fault::Senseless);
        }
        answer
    }

    /// Tells Redis how a marked write ended; whether it heard.
    async fn tell(&self, begun: &Begun, keys: &[String], change: Change<'_>) -> bool {
        let Some(wire) = self.vouching.wire() else {
            return false;
        };
        let mut args = vec![begun.token.clone().into_bytes()];
        match change {
            Change::Replaced => args.push("drop".into()),
            // Nothing was there when this write began, and nothing can have been filled in since.
            _ if !begun.cached => args.push("nothing".into()),
            Change::Nothing | Change::Unknown => args.push("nothing".into()),
            Change::Session(session) => {
                args.push("session".into());
                args.extend(shown(session));
            }
            Change::Events(outcomes) => {
                let appended = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
                self.push_events(&mut args, &appended.collect::<Vec<_>>());
            }
        }
        let script = Script::Finish;
        self.call(wire.as_ref(), Call { script, keys, args })
            .await
            .is_some()
    }

    fn push_events(&self, args: &mut Vec<Vec<u8>>, events: &[&Appended]) {
        let bytes: usize = events.iter().map(|one| one.event.payload.as_str().len()).sum();
        if bytes > self.options.session_bytes_max {
            return args.push("drop".into());
        }
        args.push("events".into());
        args.push(number(self.options.events_max.get()));
        args.push(number(self.options.session_bytes_max));
        args.push(number(events.iter().map(|one| one.event.seq).max().unwrap_or(0)));
        for Appended { event, replayed } in events {
            args.push(entry::score(event.timestamp).into_bytes());
            args.push(entry::member(event));
            args.push(match replayed {
                true => entry::beginning(event.seq, &event.id).into_bytes(),
                false => Vec::new(),
            });
        }
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn begin(&self, key: &SessionKey, events: usize) -> Begun {
        let token = Uuid::new_v4().simple().to_string();
        let answer = match self.vouching.wire() {
            Some(wire) => {
                let args = vec![
                    token.clone().into_bytes(),
                    number(self.options.write_time_max.as_micros()),
                    number(events.max(1)),
                    self.keys_live_ms(),
                ];
                let call = Call {
                    script: Script::Begin,
                    keys: &entry::keys(&self.options.prefix, key),
                    args,
                };
                self.call(wire.as_ref(), call).await.and_then(begun)
            }
            None => None,
        };
        Begun {
            key: key.clone(),
            token,
            marked: answer.is_some(),
            cached: answer.is_some_and(|(_, cached)| cached),
            first_seq: answer.map(|(first, _)| first),
            nth: 0,
        }
    }

    async fn finish(&self, begun: Begun, change: Change<'_>) {
        let keys = entry::keys(&self.options.prefix, &begun.key);
        match change {
            // The token stays until the writer counts as dead, and takes the entry with it: until then it may yet come to
            // something.
            Change::Unknown if begun.marked => return,
            Change::Nothing if !begun.marked => return,
            _ if begun.marked && self.tell(&begun, &keys, change).await => return,
            Change::Nothing => return,
            _ => {}
        }
        let write = self.vouching.unmarked(keys, begun.token);
        if !matches!(change, Change::Unknown) {
            self.vouching.acknowledgeable(write).await;
        }
    }

    async fn read(&self, key: &SessionKey, query: &Query) -> Lookup {
        if query.shape.filter != EventFilter::default() {
            self.counts.count(Outcome::Filtered);
            return Lookup::Bypass;
        }
        let view = match self.vouching.view() {
            Ok(view) => view,
            Err(doubt) => {
                self.counts.count(match doubt {
                    Doubt::Unreachable => Outcome::Unreachable,
                    Doubt::Suspended => Outcome::Suspended,
                });
                return Lookup::Bypass;
            }
        };
        // Held while Redis is asked: what it calls the same is this very copy, whatever is kept meanwhile.
        let copy = self.pages.get(key, &query.shape);
        let tag = match &copy {
            Some(Kept {
                stamp: Stamp::Entry(tag),
                ..
            }) => tag.as_ref(),
            _ => &[],
        };
        let token = match query.fill {
            true => Uuid::new_v4().simple().to_string(),
            false => String::new(),
        };
        let answer = self.ask(&view, key, query, &token, tag).await;
        let (outcome, lookup) = match (answer, copy) {
            (Some(Answer::Same), Some(copy)) => (Outcome::HitCopy, Lookup::Same(copy.rendered)),
            (Some(Answer::Hit { page, tag }), _) => {
                let place = self
                    .pages
                    .has_room()
                    .then(|| Place::new(key, &query.shape, Stamp::Entry(tag)));
                (Outcome::Hit, Lookup::Hit { page, place })
            }
            (Some(Answer::Miss { granted }), _) => {
                let lease = granted.then(|| Lease {
                    key: key.clone(),
                    token,
                    generation: view.generation,
                });
                (Outcome::Miss, Lookup::Miss { lease, place: None })
            }
            (Some(Answer::Pending), _) => (Outcome::Pending, Lookup::Bypass),
            (Some(Answer::Beyond), _) => (Outcome::Beyond, Lookup::Bypass),
            (Some(Answer::Behind), _) => (Outcome::Behind, Lookup::Bypass),
            // The script says "same" to nobody who has no copy.
            (Some(Answer::Same) | None, _) => (Outcome::Unreachable, Lookup::Bypass),
        };
        self.counts.count(outcome);
        lookup
    }

    async fn fill(&self, lease: Lease, found: Found<'_>) {
        let Some(wire) = self.vouching.wire() else { return };
        let mut members = Vec::new();
        let mut bytes = 0;
        for event in found.events {
            let member = entry::member(event);
            bytes += member.len();
            if bytes > self.options.session_bytes_max {
                break;
            }
            members.push((entry::score(event.timestamp), member));
        }
        let complete = found.complete && members.len() == found.events.len();
        let last_seq = found.events.iter().map(|event| event.seq).max().unwrap_or(0);
        let mut args = vec![
            lease.token.into_bytes(),
            lease.generation.into_bytes(),
            ms(self.options.age_max),
        ];
        args.extend(shown(found.session));
        args.extend([flag(complete), number(last_seq)]);
        args.extend(
            members
                .into_iter()
                .flat_map(|(score, member)| [score.into_bytes(), member]),
        );
        let call = Call {
            script: Script::Fill,
            keys: &entry::keys(&self.options.prefix, &lease.key),
            args,
        };
        self.call(wire.as_ref(), call).await;
    }

    fn keep(&self, place: Place, rendered: Rendered) {
        self.pages.keep(place, rendered);
    }

    fn wants(&self) -> Option<Limit> {
        Some(self.options.events_max)
    }

    fn outcomes(&self) -> Vec<(&'static str, u64)> {
        self.counts.all()
    }

    fn health(&self) -> Health {
        match self.vouching.wire() {
            Some(_) => Health::Ok,
            None => Health::Degraded,
        }
    }

    fn unmarked(&self) -> usize {
        self.vouching.unmarked_sessions()
    }

    async fn close(&self) {
        self.duties.abort();
        if let Err(fault) = self.vouching.leave().await {
            tracing::debug!(error = %fault, "left the cache without a word");
        }
    }
}

impl Drop for RedisCache {
    fn drop(&mut self) {
        self.duties.abort();
    }
}

/// Does a replica's duties for as long as it lives.
async fn duties(vouching: Arc<Vouching>, link: Arc<dyn Link>, every: Duration) {
    // The first round was done before anything else.
    let mut rounds = tokio::time::interval_at(Instant::now() + every, every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if let Err(Fault::Lost(_) | Fault::Refused(_)) = vouching.round(link.as_ref()).await {
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }
}

/// What `begin.lua` gives.
fn begun(value: Value) -> Option<(i64, bool)> {
    let Value::Array(items) = value else { return None };
    let [first, cached] = items.try_into().ok()?;
    Some((entry::integer(first)?, entry::integer(cached)? == 1))
}

/// A session as the scripts take it: JSON, version, whether it is initiated.
fn shown(session: &Session) -> [Vec<u8>; 3] {
    [
        entry::session_json(session),
        number(session.version),
        flag(session.status == Status::Initiated),
    ]
}

fn number(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn ms(duration: Duration) -> Vec<u8> {
    number(duration.as_millis())
}

fn flag(flag: bool) -> Vec<u8> {
    number(u8::from(flag))
}
