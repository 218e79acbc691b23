//! The statements of an append that are about events: the insert, and the question for the last numbers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use mongodb::{
    bson::{Bson, Document, RawDocumentBuf, doc},
    error::ErrorKind,
    options::Hint,
};

use super::{
    call::{Attempt, Call},
    documents::{self, date},
    fault::{Fault, Result},
    setup::schema::IN_ORDER,
};
use crate::domain::Timestamp;

/// What came of an insert: everything that is not refused is stored and confirmed.
#[derive(Debug, Default)]
pub(super) struct Inserted {
    /// By the place of the document.
    pub(super) refused: HashMap<usize, Refused>,
    /// The places of documents that an earlier try may have stored.
    pub(super) again: HashSet<usize>,
}

/// Why a document was not stored, or is not known to be.
#[derive(Debug)]
pub(super) enum Refused {
    /// Its `_id` is there.
    Duplicate,
    For(Fault),
}

/// Inserts the documents, each on its own. Those that are refused because of a state that passes are tried again,
/// without the others.
///
/// # Errors
/// Nothing is known of any of them.
pub(super) async fn insert_many(call: &Call, documents: Vec<RawDocumentBuf>) -> Result<Inserted> {
    let (count, documents) = (documents.len(), Arc::new(documents));
    settle(count, &Inserting { call, documents }).await
}

/// The codes of the documents that were refused, by their place among those that were tried; and whether an earlier try may
/// have stored some.
type Tried = (Vec<(usize, i32)>, bool);

/// What inserts documents.
trait Insert: Sync {
    /// Inserts the documents at these places.
    fn insert(&self, places: &[usize]) -> impl Future<Output = Result<Tried>> + Send;

    /// Whether there is to be another try, after so many.
    fn may_try_again(&self, tries: u32) -> impl Future<Output = bool> + Send;
}

struct Inserting<'a> {
    call: &'a Call,
    documents: Arc<Vec<RawDocumentBuf>>,
}

/// As [`insert_many`].
async fn settle(count: usize, inserting: &impl Insert) -> Result<Inserted> {
    let mut done = Inserted::default();
    let mut left: Vec<usize> = (0..count).collect();
    for tries in 1.. {
        let (codes, again) = match inserting.insert(&left).await {
            Ok(tried) => tried,
            Err(fault) if tries == 1 => return Err(fault),
            Err(_) => {
                // The others are settled. Of these, nothing is known but that they were refused before.
                let lost = |place| (place, Refused::For(Fault::TimedOut));
                done.refused.extend(left.into_iter().map(lost));
                break;
            }
        };
        if again {
            done.again.extend(&left);
        }
        let mut passing = Vec::new();
        for (at, code) in codes {
            let Some(&place) = left.get(at) else { continue };
            let fault = Fault::of_code(code);
            if fault.is_passing() {
                passing.push((place, fault));
            } else if fault.is_duplicate() {
                done.refused.insert(place, Refused::Duplicate);
            } else {
                done.refused.insert(place, Refused::For(fault));
            }
        }
        if passing.is_empty() || !inserting.may_try_again(tries).await {
            let refused = passing.into_iter();
            done.refused
                .extend(refused.map(|(place, fault)| (place, Refused::For(fault))));
            break;
        }
        left = passing.into_iter().map(|(place, _)| place).collect();
        left.sort_unstable();
        done.again.extend(&left);
    }
    Ok(done)
}

impl Insert for Inserting<'_> {
    async fn insert(&self, places: &[usize]) -> Result<Tried> {
        let (events, documents, places) = (
            self.call.events(),
            Arc::clone(&self.documents),
            Arc::new(places.to_vec()),
        );
        let insert = move |attempt: Attempt| {
            let (events, documents, places) = (events.clone(), Arc::clone(&documents), Arc::clone(&places));
            async move {
                let inserted = events
                    .insert_many(places.iter().filter_map(|&place| documents.get(place)))
                    .ordered(false)
                    .comment(Bson::from("colloquy: append"))
                    .await;
                let error = match inserted {
                    Ok(_) => return Ok((Vec::new(), attempt.again)),
                    Err(error) => error,
                };
                match error.kind.as_ref() {
                    ErrorKind::InsertMany(many) if many.write_concern_error.is_none() => {
                        let refused = many.write_errors.iter().flatten();
                        let codes = refused.map(|refused| (refused.index, refused.code)).collect();
                        Ok((codes, attempt.again))
                    }
                    _ => Err(error.into()),
                }
            }
        };
        self.call.run("insert events", insert).await
    }

    async fn may_try_again(&self, tries: u32) -> bool {
        tries < self.call.attempts_max() && self.call.pause(tries).await.is_ok()
    }
}

/// How far the clocks of two processes may be apart for an append to see what the other stamped. It bounds how many events
/// are looked at that a caller's clock has put into the future.
pub(super) const CLOCKS_APART_MAX: Duration = Duration::from_hours(24);

/// The greatest number of each of these sessions that has events: the index tells, without a look at an event.
pub(super) async fn last_sequences(call: &Call, sessions: Vec<String>) -> Result<HashMap<String, i64>> {
    let count = sessions.len();
    last_sequences_where(call, count, doc! { "session": { "$in": sessions } }).await
}

/// As [`last_sequences`], of the events alone whose timestamp is `now` or later, by so much at most. Every event is among
/// them that another process stamped by a clock ahead of `now`; most of the time there is none, at the cost of one look at
/// the index.
pub(super) async fn last_sequences_ahead(
    call: &Call,
    sessions: Vec<String>,
    now: Timestamp,
    apart_max: Duration,
) -> Result<HashMap<String, i64>> {
    let apart_ms = i64::try_from(apart_max.as_millis()).unwrap_or(i64::MAX);
    let until = now.saturating_add_ms(apart_ms);
    let (count, ahead) = (sessions.len(), doc! { "$gte": date(now), "$lte": date(until) });
    let which = doc! { "session": { "$in": sessions }, "timestamp": ahead };
    last_sequences_where(call, count, which).await
}

async fn last_sequences_where(call: &Call, sessions: usize, which: Document) -> Result<HashMap<String, i64>> {
    let events = call.events();
    call.read("aggregate events", move |attempt| {
        let events = events.clone();
        // All of them in the first answer.
        let batch_size = u32::try_from(sessions).unwrap_or(u32::MAX).saturating_add(1);
        let pipeline = [
            doc! { "$match": &which },
            doc! { "$group": { "_id": "$session", "last": { "$max": "$seq" } } },
        ];
        async move {
            let mut found = events
                .aggregate(pipeline)
                .batch_size(batch_size)
                .hint(Hint::Name(IN_ORDER.to_owned()))
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: last seq"))
                .await?;
            let mut lasts = HashMap::new();
            while found.advance().await? {
                let fields = documents::Fields(found.current());
                let last = fields.optional_integer("last")?.ok_or(Fault::Stored("seq"))?;
                lasts.insert(fields.text("_id")?.to_owned(), last);
            }
            Ok(lasts)
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const STEPPED_DOWN: i32 = 189;
    const UNKNOWN: i32 = 99_999;
    const DUPLICATE: i32 = 11_000;

    /// Tries that end as they are to, the last one first.
    struct Scripted {
        script: Mutex<Vec<Result<Tried>>>,
        tried: Mutex<Vec<Vec<usize>>>,
        tries_max: u32,
    }

    impl Insert for Scripted {
        async fn insert(&self, places: &[usize]) -> Result<Tried> {
            self.tried.lock().unwrap().push(places.to_vec());
            self.script.lock().unwrap().pop().expect("no further try")
        }

        async fn may_try_again(&self, tries: u32) -> bool {
            tries < self.tries_max
        }
    }

    /// Runs inserts of five documents, and gives what came of them, and which were tried when.
    async fn run(mut script: Vec<Result<Tried>>, tries_max: u32) -> (Result<Inserted>, Vec<Vec<usize>>) {
        script.reverse();
        let scripted = Scripted {
            script: script.into(),
            tried: Mutex::default(),
            tries_max,
        };
        let done = settle(5, &scripted).await;
        (done, scripted.tried.into_inner().unwrap())
    }

    fn refused(done: &Inserted) -> Vec<(usize, String)> {
        let name = |refused: &Refused| match refused {
            Refused::Duplicate => String::from("duplicate"),
            Refused::For(fault) => fault.name().to_owned(),
        };
        let mut all: Vec<_> = done
            .refused
            .iter()
            .map(|(place, refused)| (*place, name(refused)))
            .collect();
        all.sort_unstable();
        all
    }

    #[tokio::test]
    async fn only_what_passes_is_inserted_again_and_the_rest_is_settled() {
        let script = vec![
            Ok((
                vec![(1, STEPPED_DOWN), (2, DUPLICATE), (3, UNKNOWN), (4, STEPPED_DOWN)],
                false,
            )),
            Ok((vec![(0, STEPPED_DOWN)], false)),
            Ok((vec![(0, DUPLICATE)], false)),
        ];
        let (done, tried) = run(script, 9).await;
        assert_eq!(tried, [vec![0, 1, 2, 3, 4], vec![1, 4], vec![1]]);
        let done = done.unwrap();
        let expected = [(1, "duplicate"), (2, "duplicate"), (3, "unreachable")];
        assert_eq!(
            refused(&done),
            expected.map(|(place, name)| (place, name.to_owned()))
        );
        // What an earlier try may have stored is told from what was there before.
        assert_eq!(done.again, HashSet::from([1, 4]));
    }

    #[tokio::test]
    async fn what_goes_on_being_refused_fails_alone_after_as_many_tries_as_there_may_be() {
        let stays = || Ok((vec![(0, STEPPED_DOWN)], false));
        let (done, tried) = run(vec![stays(), stays(), stays()], 3).await;
        assert_eq!(tried.len(), 3);
        assert_eq!(refused(&done.unwrap()), [(0, "passing".to_owned())]);
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_in_a_later_try_leaves_the_others_settled() {
        let script = vec![Ok((vec![(3, STEPPED_DOWN)], false)), Err(Fault::TimedOut)];
        let (done, tried) = run(script, 9).await;
        assert_eq!(tried, [vec![0, 1, 2, 3, 4], vec![3]]);
        assert_eq!(refused(&done.unwrap()), [(3, "timeout".to_owned())]);
        let (nothing, _) = run(vec![Err(Fault::TimedOut)], 9).await;
        assert!(nothing.is_err(), "nothing is known of any");
    }
}
