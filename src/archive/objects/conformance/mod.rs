//! The contract of [`Objects`] as a test that every implementation passes.
//!
//! It is no part of the library: the integration tests take it in, as they do the store's, and name a subject for each
//! implementation; every rule below becomes a test of its own, with a place of its own.

use std::{cmp::Ordering, fmt::Debug, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use colloquy::archive::objects::{ByteRange, ObjectError, ObjectErrorKind, Objects};
use tokio::{sync::Barrier, task::JoinSet};

pub mod deleting;
pub mod listing;
pub mod putting;
pub mod reading;
pub mod uploading;

/// A place to test on.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The objects of that place; called again, the same ones by another way in, as another process has it.
    async fn objects(&self) -> Arc<dyn Objects>;

    /// Objects of somebody else, which lie in a folder `theirs` among those of that place.
    async fn others(&self) -> Arc<dyn Objects>;

    /// The order of its lists, where a server has one of its own for a name that another one begins with.
    fn order(&self, one: &str, other: &str) -> Ordering {
        one.cmp(other)
    }
}

/// Makes each rule a test; the expression makes the [`Subject`], and may await.
macro_rules! objects_conformance {
    ($subject:expr) => {
        $crate::objects_conformance::rules! { $subject;
            putting:
                an_object_comes_back_as_it_was_put,
                a_second_put_is_told_so_and_changes_nothing,
                of_racing_puts_exactly_one_wins,
                a_path_against_the_rule_is_refused_by_every_call,
                a_check_leaves_nothing_behind;
            reading:
                every_range_gives_its_bytes_and_no_others,
                a_range_past_the_end_is_damage,
                a_range_without_bytes_is_refused,
                what_is_not_there_is_not_found;
            uploading:
                an_upload_is_nowhere_until_it_is_finished,
                an_upload_that_was_dropped_never_was,
                a_large_upload_in_odd_writes_comes_back,
                uploads_of_no_bytes_and_of_few_come_back,
                an_upload_over_an_object_is_told_so_and_changes_nothing,
                of_racing_uploads_and_puts_exactly_one_wins,
                unfinished_uploads_are_discarded_by_their_age,
                an_upload_that_was_discarded_can_not_be_finished,
                uploads_of_others_in_the_same_place_are_left_alone;
            listing:
                a_list_is_in_the_order_of_bytes,
                names_of_one_length_are_listed_in_the_order_of_bytes,
                a_prefix_is_the_beginning_of_a_path_and_no_folder,
                pages_of_a_list_neither_skip_nor_repeat,
                a_list_tells_what_head_tells;
            deleting:
                an_object_is_deleted_once_and_twice,
                a_deleted_path_can_be_put_again;
        }
    };
}
pub(crate) use objects_conformance;

macro_rules! rules {
    ($subject:expr; $($module:ident: $($rule:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $rule() {
                $crate::objects_conformance::$module::$rule(&$subject).await;
            }
        )+)+
    };
}
pub(crate) use rules;

const MIB: usize = 1024 * 1024;

/// No two stretches of it are alike, so none can stand in for another.
pub fn bytes(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn kind<T: Debug>(result: Result<T, ObjectError>) -> ObjectErrorKind {
    result.expect_err("a refusal").kind
}

async fn put(objects: &dyn Objects, path: &str, content: &Bytes) {
    objects.put(path, content.clone()).await.expect("stored");
}

async fn read(objects: &dyn Objects, path: &str) -> Bytes {
    objects.get(path, ByteRange::All).await.expect("read")
}

/// Discards unfinished uploads under `prefix` whose path has no `theirs` in it; gives how many.
async fn discard(objects: &dyn Objects, prefix: &str, age: Duration) -> usize {
    let is_ours = |path: &str| !path.contains("theirs");
    let discarded = objects.discard_unfinished(prefix, &is_ours, age).await;
    discarded.expect("discarded")
}

async fn paths(objects: &dyn Objects, prefix: &str) -> Vec<String> {
    let listed = objects.list(prefix, None, 1_000).await.expect("listed");
    listed.into_iter().map(|meta| meta.path).collect()
}

/// Starts all at once; gives how each ended.
async fn race<F>(racers: impl IntoIterator<Item = F>) -> Vec<Result<usize, ObjectErrorKind>>
where
    F: Future<Output = Result<(), ObjectError>> + Send + 'static,
{
    let racers: Vec<F> = racers.into_iter().collect();
    let start = Arc::new(Barrier::new(racers.len()));
    let mut running = JoinSet::new();
    for (nth, racer) in racers.into_iter().enumerate() {
        let start = Arc::clone(&start);
        running.spawn(async move {
            start.wait().await;
            racer.await.map(|()| nth).map_err(|error| error.kind)
        });
    }
    running.join_all().await
}

/// The one that won; all the others were told that there is an object already.
fn winner(ends: &[Result<usize, ObjectErrorKind>]) -> usize {
    let losers = ends
        .iter()
        .filter(|end| **end == Err(ObjectErrorKind::AlreadyExists));
    assert_eq!(losers.count(), ends.len() - 1, "{ends:?}");
    ends.iter().find_map(|end| end.ok()).expect("a winner")
}
