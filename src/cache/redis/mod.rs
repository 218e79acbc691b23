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
//! It also reserves sequence numbers, so that no two replicas give the same: see [`numbers`].
//!
//! Redis is asked once before and once after a write, and once for a read. The scripts and what lies in the keys are in
//! `src/cache/scripts`.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use redis::Value;
use uuid::Uuid;

use super::{
    Begun, Cache, Change, Found, Health, Lease, Lookup, Numbers, Place, Query, Rendered, Reserve, Wanted,
    pages::{Kept, Pages, Stamp},
};
use crate::{
    domain::{Appended, Error, EventFilter, Kind, Limit, Order, Result, SessionKey},
    telemetry::calls::{self, System},
};

mod duties;
mod entry;
pub mod link;
mod lookups;
mod numbers;
mod options;
mod outcomes;
mod tokens;
mod vouching;

use duties::Duties;
use entry::{Answer, decimal, flag, ms};
pub use link::RedisUrl;
use link::{Call, Fault, Link, RedisLink, Script, Wire};
use lookups::Lookups;
pub use options::RedisOptions;
use outcomes::{Counts, Outcome};
use tokens::Tokens;
use vouching::{Doubt, Terms, View, Vouching};

/// A cache in Redis.
pub struct RedisCache {
    vouching: Arc<Vouching>,
    options: RedisOptions,
    tokens: Tokens,
    lookups: Lookups,
    pages: Pages,
    counts: Counts,
    duties: Duties,
}

impl RedisCache {
    /// Joins the replicas that use the Redis at `url`. Where it can't be reached, the cache is degraded until it can.
    pub async fn connect(url: RedisUrl, options: RedisOptions) -> Self {
        let link = Arc::new(RedisLink::new(url, options.call_time_max));
        let vouching = Self::vouching(&options);
        let duties = Duties::begin_apart(Arc::clone(&vouching), link, options.lease).await;
        Self::with(vouching, duties, options)
    }

    /// As [`connect`](Self::connect), with connections from `link`, and no thread of its own.
    pub async fn over(link: Arc<dyn Link>, options: RedisOptions) -> Self {
        let vouching = Self::vouching(&options);
        let duties = Duties::begin(Arc::clone(&vouching), link, options.lease).await;
        Self::with(vouching, duties, options)
    }

    fn vouching(options: &RedisOptions) -> Arc<Vouching> {
        let terms = Terms {
            lease: options.lease,
            absence_max: options.absence_max,
            gathering: options.gathering,
            unmarked_max: options.unmarked_max,
            call_time_max: options.call_time_max,
        };
        let replica = Uuid::new_v4().simple().to_string();
        Arc::new(Vouching::new(replica, &options.prefix, terms))
    }

    fn with(vouching: Arc<Vouching>, duties: Duties, options: RedisOptions) -> Self {
        Self {
            tokens: Tokens::of(vouching.replica()),
            vouching,
            lookups: Lookups::new(options.call_time_max, duties.runtime().clone()),
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

    /// What came of each call, in their order.
    async fn call_all(&self, wire: &dyn Wire, script: Script, calls: Vec<Call<'_>>) -> Vec<Option<Value>> {
        // Those that are made together are counted together: one that failed stands for all.
        fn first_fault(results: &[Result<Value, Fault>]) -> Option<&Fault> {
            results.iter().find_map(|result| result.as_ref().err())
        }
        let made = async {
            let results = wire.call_all(calls).await;
            match first_fault(&results) {
                None => Ok(results),
                Some(_) => Err(results),
            }
        };
        let error = |results: &Vec<_>| first_fault(results).map_or("", Fault::name);
        let (Ok(results) | Err(results)) = calls::database(System::Redis, script.name(), error, made).await;
        match first_fault(&results) {
            None => self.vouching.went_through(),
            Some(fault) => self.vouching.failed(fault),
        }
        results.into_iter().map(Result::ok).collect()
    }

    /// What came of a call that is made with this.
    async fn called(
        &self,
        script: Script,
        call: impl Future<Output = Result<Value, Fault>>,
    ) -> Option<Value> {
        match calls::database(System::Redis, script.name(), Fault::name, call).await {
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
            decimal(shape.limit.get()),
            score.into_bytes(),
            beginning.into_bytes(),
            query.min_seq.map_or_else(Vec::new, entry::seq_digits),
            token.into(),
            ms(self.options.fill_time_max),
            flag(shape.session),
            tag.to_vec(),
        ];
        debug_assert_eq!(args[entry::TOKEN_OF_READ], token.as_bytes());
        let keys = entry::keys(&self.options.prefix, key);
        let asked = self.lookups.ask(&view.wire, keys, args);
        let answer = Answer::read(self.called(Script::Read, asked).await?);
        if answer.is_none() {
            self.vouching.failed(&Fault::Senseless);
        }
        answer
    }

    /// What Redis is told of how a marked write ended.
    fn ending(&self, begun: &Begun, change: Change<'_>) -> Vec<Vec<u8>> {
        let mut args = vec![begun.token.clone().into_bytes()];
        match change {
            Change::Replaced => args.push("drop".into()),
            Change::Opened { seq_min } => {
                let process = self.vouching.process();
                args.extend(numbers::opened(seq_min, self.keys_live_ms(), &process));
            }
            Change::Unknown { .. } => args.push("doubt".into()),
            // Nothing was there when this write began, and nothing can have been filled in since.
            _ if !begun.cached => args.push("nothing".into()),
            Change::Nothing => args.push("nothing".into()),
            Change::Session(session) => {
                args.push("session".into());
                args.extend(entry::shown(session));
            }
            Change::Events(events) => self.push_events(&mut args, events),
        }
        args
    }

    /// Tells Redis how marked writes ended; whether it heard of each.
    async fn tell<'a>(&self, told: &'a [(Begun, Vec<String>, Change<'_>)]) -> Vec<bool> {
        let wire = match self.vouching.wire() {
            Some(wire) if !told.is_empty() => wire,
            _ => return vec![false; told.len()],
        };
        let call = |write: &'a (Begun, Vec<String>, Change<'_>)| Call {
            script: Script::Finish,
            keys: &write.1,
            args: self.ending(&write.0, write.2),
        };
        let calls = told.iter().map(call).collect();
        let values = self.call_all(wire.as_ref(), Script::Finish, calls).await;
        values.iter().map(Option::is_some).collect()
    }

    fn push_events(&self, args: &mut Vec<Vec<u8>>, events: &[&Appended]) {
        let bytes: usize = events.iter().map(|one| one.event.payload.as_str().len()).sum();
        let kept = self.options.events_max.get();
        if bytes > self.options.session_bytes_max || events.len() > kept {
            return args.push("drop".into());
        }
        args.push("events".into());
        args.push(decimal(kept));
        args.push(decimal(self.options.session_bytes_max));
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
    async fn begin(&self, key: &SessionKey, wanted: Wanted) -> Begun {
        let begun = self.begin_all(&[(key.clone(), wanted)]).await.pop();
        begun.unwrap_or_else(|| Begun::unmarked(key.clone(), self.tokens.next()))
    }

    async fn finish(&self, begun: Begun, change: Change<'_>) {
        self.finish_all(vec![(begun, change)]).await;
    }

    async fn begin_all(&self, writes: &[(SessionKey, Wanted)]) -> Vec<Begun> {
        let mut begun: Vec<Begun> = writes
            .iter()
            .map(|(key, _)| Begun::unmarked(key.clone(), self.tokens.next()))
            .collect();
        let Some(wire) = self.vouching.wire() else {
            return begun;
        };
        let process = self.vouching.process();
        let keys: Vec<_> = writes
            .iter()
            .map(|(key, _)| entry::keys(&self.options.prefix, key))
            .collect();
        let calls = begun
            .iter()
            .zip(writes)
            .zip(&keys)
            .map(|((begun, (_, wanted)), keys)| {
                let mut args = vec![
                    begun.token.clone().into_bytes(),
                    decimal(self.options.write_time_max.as_micros()),
                    self.keys_live_ms(),
                ];
                args.extend(numbers::wanted(*wanted, &process));
                Call {
                    script: Script::Begin,
                    keys,
                    args,
                }
            });
        let answers = self.call_all(wire.as_ref(), Script::Begin, calls.collect()).await;
        for ((begun, (_, wanted)), answer) in begun.iter_mut().zip(writes).zip(answers) {
            match answer.and_then(entry::begun) {
                Some((first, cached)) => {
                    begun.marked = true;
                    begun.cached = cached;
                    begun.numbers = numbers::begun(first, *wanted);
                }
                // The next call may be answered: numbers can be reserved for a write that is not marked.
                None if wanted.count > 0 => begun.numbers = Numbers::AboveStore,
                None => {}
            }
        }
        begun
    }

    async fn reserve_all(&self, writes: &[Reserve]) -> Vec<Option<i64>> {
        let mut first = vec![None; writes.len()];
        let Some(wire) = self.vouching.wire() else {
            return first;
        };
        let process = self.vouching.process();
        let asked = |(at, write): (usize, &Reserve)| {
            let args = numbers::above(write, self.keys_live_ms(), &process)?;
            Some((at, entry::keys(&self.options.prefix, &write.key), args))
        };
        let asked: Vec<_> = writes.iter().enumerate().filter_map(asked).collect();
        let calls = asked.iter().map(|(_, keys, args)| Call {
            script: Script::Reserve,
            keys,
            args: args.clone(),
        });
        let answers = self
            .call_all(wire.as_ref(), Script::Reserve, calls.collect())
            .await;
        for ((at, ..), answer) in asked.iter().zip(answers) {
            first[*at] = answer.and_then(entry::integer);
        }
        first
    }

    async fn finish_all(&self, ended: Vec<(Begun, Change<'_>)>) {
        let (mut told, mut unmarked) = (Vec::new(), Vec::new());
        for (begun, change) in ended {
            let keys = entry::keys(&self.options.prefix, &begun.key);
            match change {
                // The token stays until the writer counts as dead, and takes the entry with it: until then it may yet
                // come to something.
                Change::Unknown { acknowledged: false } if begun.marked => {}
                Change::Nothing if !begun.marked => {}
                _ if begun.marked => told.push((begun, keys, change)),
                _ => unmarked.push((begun, keys, change)),
            }
        }
        let heard = self.tell(&told).await;
        let unheard = told.into_iter().zip(heard).filter(|(_, heard)| !heard);
        unmarked.extend(
            unheard
                .map(|(write, _)| write)
                .filter(|(_, _, change)| !matches!(change, Change::Nothing)),
        );
        // All of them are remembered before any is waited for.
        let mut awaited = Vec::new();
        for (begun, keys, change) in unmarked {
            let write = self.vouching.unmarked(keys, begun.token);
            if !matches!(change, Change::Unknown { acknowledged: false }) {
                awaited.push(write);
            }
        }
        for write in awaited {
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
            true => self.tokens.next(),
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
        // Dropped, the lease would keep others from filling for as long as it lasts.
        let Some(wire) = self.vouching.last_wire() else {
            return;
        };
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
        let mut args = vec![
            lease.token.into_bytes(),
            lease.generation.into_bytes(),
            ms(self.options.age_max),
        ];
        args.extend(entry::shown(found.session));
        args.push(flag(complete));
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
        self.called(Script::Fill, wire.call(call)).await;
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
        self.duties.end();
        if let Err(fault) = self.vouching.leave().await {
            tracing::debug!(error = %fault, "left the cache without a word");
        }
    }
}
