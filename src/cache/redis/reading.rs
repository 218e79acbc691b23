//! Looking for an answer: one call of Redis, which says what it has, or that the copy in this process is still good.

use super::{
    RedisCache,
    entry::{self, Answer},
    flag,
    link::{Call, Fault, Script},
    ms, number,
    outcome::Outcome,
    vouching::{Doubt, View},
};
use crate::{
    cache::{
        Lease, Lookup, Place, Query,
        pages::{Kept, Stamp},
    },
    domain::{EventFilter, Order, SessionKey},
};

impl RedisCache {
    /// What [`Cache::read`](crate::cache::Cache::read) says.
    pub(super) async fn look_up(&self, key: &SessionKey, query: &Query) -> Lookup {
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
}
