//! The contract of [`Store`] as a test that every implementation passes.
//!
//! It is no part of the library: an integration test takes it in at its crate's root and names a subject,
//!
//! ```ignore
//! #[path = "../../src/store/conformance/mod.rs"]
//! mod conformance;
//!
//! mod store_sqlite {
//!     crate::conformance::store_conformance!(Subject::new());
//! }
//! ```
//!
//! and each rule below becomes a test of its own, with a subject, and so a database, of its own. What a store promises
//! to the archive is in [`catalog`].

use std::{fmt::Debug, future::Future, str::FromStr, sync::Arc};

use async_trait::async_trait;
use colloquy::{
    domain::{
        Appended, Error, Event, EventPosition, EventQuery, JsonObject, Kind, Limit, NewEvent, NewSession,
        Order, Result, Session, SessionKey, Tenant, Timestamp,
    },
    store::{Append, Store},
};
use tokio::sync::Barrier;

pub mod adopting;
pub mod appending;
pub mod burying;
pub mod catalog;
pub mod changing;
pub mod claiming;
pub mod committing;
pub mod erasing;
pub mod expiring;
pub mod idling;
pub mod interleaving;
pub mod lasting;
pub mod leasing;
pub mod listing;
pub mod locating;
pub mod marking;
pub mod model;
pub mod opening;
pub mod ordering;
pub mod paging;
pub mod racing;
pub mod recording;
pub mod restoring;
pub mod setting_back;
pub mod tidying;

/// A database to test on.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A store on the database; called again, it is after the one before was closed.
    async fn store(&self) -> Arc<dyn Store>;
}

macro_rules! rules {
    ($subject:expr; $($module:ident: $($rule:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $rule() {
                $crate::conformance::$module::$rule(&$subject).await;
            }
        )+)+
    };
}
pub(crate) use rules;

/// Makes each rule a test; the expression makes the [`Subject`], and may await.
macro_rules! store_conformance {
    ($subject:expr) => {
        $crate::conformance::rules! { $subject;
            opening:
                of_identical_opens_one_creates_and_all_agree,
                of_different_opens_the_first_is_kept_whole,
                a_session_opens_as_given,
                a_session_that_never_was_is_not_found;
            appending:
                an_event_comes_back_as_it_was_given,
                a_replay_is_told_by_type_and_payload_alone,
                an_id_with_another_type_or_payload_is_refused,
                an_append_to_no_session_is_refused,
                an_ended_session_replays_but_takes_nothing_new,
                the_first_event_makes_a_session_active,
                seq_is_the_one_proposed_unless_it_must_be_greater,
                the_last_sequence_number_is_given_once,
                a_batch_has_an_outcome_for_each_event_in_order,
                an_empty_batch_is_no_work,
                a_full_batch_is_stored_in_order;
            ordering:
                an_event_without_a_timestamp_has_that_of_its_seq,
                events_that_the_store_stamps_read_as_they_were_accepted,
                nothing_is_stamped_before_a_start_that_the_server_gave,
                an_end_is_not_before_what_the_store_stamped,
                reserved_numbers_are_given_once_in_whatever_order_they_come,
                a_store_says_what_the_next_number_must_exceed;
            racing:
                of_identical_appends_one_creates_and_the_rest_replay,
                of_clashing_appends_one_wins_and_the_rest_agree_on_it,
                concurrent_batches_that_overlap_store_each_event_once,
                seq_grows_in_the_order_of_acceptance,
                an_append_that_races_the_end_is_there_or_refused,
                an_append_that_races_erasure_leaves_nothing_behind,
                a_session_comes_with_all_that_was_acknowledged,
                of_racing_ends_the_first_decides,
                of_patches_of_one_version_one_wins,
                of_racing_patches_none_is_lost;
            paging:
                events_are_read_by_timestamp_then_seq_then_id,
                a_walk_of_any_page_size_meets_every_event_once,
                a_walk_meets_every_event_that_was_there_when_it_began,
                filters_hold_on_every_page,
                adjacent_windows_share_no_event_and_leave_none_out,
                a_page_ends_before_it_is_too_large,
                a_large_session_is_walked_to_its_end,
                a_position_need_not_be_that_of_an_event,
                an_event_is_read_by_its_id;
            changing:
                a_patch_changes_what_it_names,
                a_patch_that_fails_changes_nothing,
                an_ended_session_can_be_patched,
                the_first_end_decides,
                an_end_keeps_what_it_was_given;
            listing:
                sessions_are_listed_newest_first,
                every_combination_of_filters_holds,
                adjacent_windows_share_no_session_and_leave_none_out,
                a_user_id_of_any_text_is_kept_and_found,
                a_position_need_not_be_that_of_a_session,
                a_walk_of_the_listing_meets_every_session_that_was_there,
                a_change_of_status_moves_a_session_between_listings;
            idling:
                only_sessions_that_go_on_and_were_not_used_are_found_idle,
                idleness_goes_by_the_opening_and_not_by_the_start,
                an_idle_session_is_ended_once,
                what_was_used_ended_or_erased_since_it_was_found_is_not_ended,
                sessions_in_use_keep_none_from_being_found,
                sweeps_side_by_side_end_each_session_once,
                an_append_acknowledged_before_the_end_prevents_it,
                of_an_append_and_the_end_of_an_idle_session_one_wins;
            erasing:
                erasure_hides_everything_at_once,
                an_erased_id_is_refused_until_its_time,
                a_fresh_session_shows_nothing_of_the_erased_one,
                erasing_again_does_not_extend_the_time,
                erasing_what_never_was_leaves_no_trace,
                upkeep_drops_tombstones_whose_time_is_over,
                erasing_a_large_session_leaves_nothing;
            lasting:
                tenants_never_meet,
                what_is_stored_comes_back_byte_for_byte,
                the_largest_payload_and_the_deepest_fit,
                a_closed_store_is_unavailable,
                what_was_acknowledged_is_there_after_reopening,
                a_store_in_service_answers_a_ping;
            model:
                a_random_history_reads_as_the_model_says,
                random_histories_side_by_side_read_as_their_models_say;
        }
    };
}
pub(crate) use store_conformance;

/// An id, a type, a limit: whatever is read from text.
pub fn the<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms).unwrap()
}

pub fn object(text: &str) -> JsonObject {
    JsonObject::read(text, colloquy::domain::event::PAYLOAD_BYTES_MAX).unwrap()
}

pub fn key(id: &str) -> SessionKey {
    SessionKey::new(Tenant::default(), the(id))
}

/// An initiated session.
pub fn session(id: &str) -> Session {
    Session::opened(NewSession::default(), the(id), at(1_000))
}

/// Opens the session that `key` names; it must be new. It starts before it is opened, so any `seq` will do for its events.
pub async fn open(store: &Arc<dyn Store>, key: &SessionKey) -> Session {
    let opened = store.open(&key.tenant, session(key.id.as_str()), at(1_001)).await;
    let opened = opened.unwrap();
    assert!(opened.created, "{key} was there already");
    opened.session
}

/// An event whose payload holds its id, proposed at a `seq` that is always too low.
pub fn event(key: &SessionKey, id: &str) -> Append {
    Append {
        key: key.clone(),
        event: NewEvent {
            id: the(id),
            event_type: the("user_speech"),
            payload: object(&format!(r#"{{"text":"{id}"}}"#)),
            timestamp: None,
        },
        seq: 1,
        reserved: false,
    }
}

/// What tests change of an [`event`].
pub trait AppendExt {
    fn holding(self, payload: &str) -> Self;
    fn of_type(self, event_type: &str) -> Self;
    fn stamped(self, ms: i64) -> Self;
    fn proposing(self, seq: i64) -> Self;
}

impl AppendExt for Append {
    fn holding(mut self, payload: &str) -> Self {
        self.event.payload = object(payload);
        self
    }

    fn of_type(mut self, event_type: &str) -> Self {
        self.event.event_type = the(event_type);
        self
    }

    fn stamped(mut self, ms: i64) -> Self {
        self.event.timestamp = Some(at(ms));
        self
    }

    fn proposing(mut self, seq: i64) -> Self {
        self.seq = seq;
        self
    }
}

/// Appends one event.
pub async fn append(store: &Arc<dyn Store>, event: Append) -> Result<Appended> {
    let mut outcomes = store.append(vec![event]).await?;
    assert_eq!(outcomes.len(), 1, "one outcome an event");
    outcomes.remove(0)
}

/// Appends an event that must be new.
pub async fn store_event(store: &Arc<dyn Store>, event: Append) -> Event {
    let appended = append(store, event).await.unwrap();
    assert!(!appended.replayed, "{:?}", appended.event.id);
    appended.event
}

/// Everything, from the start, on as few pages as there can be.
pub fn everything() -> EventQuery {
    EventQuery {
        filter: Default::default(),
        order: Order::Ascending,
        after: None,
        limit: Limit::MAX,
        payload_bytes_max: usize::MAX,
    }
}

/// Walks the pages of `query` to their end.
pub async fn walk(store: &Arc<dyn Store>, key: &SessionKey, mut query: EventQuery) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let page = store.events(key, &query).await.unwrap();
        assert!(page.items.len() <= query.limit.get());
        let Some(last) = page.items.last() else {
            assert!(!page.has_more, "an empty page is the last");
            return events;
        };
        query.after = Some(EventPosition::from(last));
        events.extend(page.items);
        if !page.has_more {
            return events;
        }
    }
}

pub async fn all_events(store: &Arc<dyn Store>, key: &SessionKey) -> Vec<Event> {
    walk(store, key, everything()).await
}

/// The kind of a failure.
pub fn kind<T: Debug>(outcome: Result<T, Error>) -> Kind {
    outcome.unwrap_err().kind()
}

/// Runs `count` tasks that start at the same moment; their outcomes, in order.
pub async fn together<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let (start, task) = (Arc::clone(&start), task(n));
            tokio::spawn(async move {
                start.wait().await;
                task.await
            })
        })
        .collect();
    let mut outcomes = Vec::with_capacity(count);
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}
