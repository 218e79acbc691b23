//! The contract of [`Catalog`] as a test that every implementation passes, beside that of a store.
//!
//! An archiver is three lines here: [`claim`], [`commit`], and a deletion. So the rules say when a pointer may move and
//! when an event may go, and nothing about what a segment holds.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use colloquy::{
    domain::{Day, End, Event, EventId, Pointer, SegmentName, Session, SessionKey, Tenant},
    store::{
        Store,
        catalog::{Archived, Catalog, Claim, Claimed, Commit, Due, Standing},
    },
};

use super::{all_events, at, event, everything, open, store_event};

/// A database to test on.
#[async_trait]
pub trait CatalogSubject: Send + Sync {
    /// A store on the database; called again, it is after the one before was closed.
    async fn catalog(&self) -> Arc<dyn Catalog>;
}

/// Makes each rule a test; the expression makes the [`CatalogSubject`], and may await.
macro_rules! catalog_conformance {
    ($subject:expr) => {
        $crate::conformance::rules! { $subject;
            claiming:
                ended_sessions_are_due_oldest_end_first,
                what_cannot_be_archived_is_not_due,
                of_racing_claims_each_session_goes_to_one,
                every_claim_gives_a_greater_epoch,
                a_claim_takes_only_what_it_says,
                a_claim_ends_by_itself,
                a_renewed_claim_lasts,
                only_a_claim_that_stands_is_renewed,
                a_released_claim_is_free_at_once;
            committing:
                a_commit_of_what_changed_meanwhile_does_nothing,
                a_commit_archives_and_leaves_the_rest_as_it_was,
                an_archived_session_shows_its_hot_events_and_its_pointer,
                an_archived_session_takes_no_events,
                an_archived_session_is_not_patched_and_ended_for_good,
                a_commit_after_its_claim_ended_does_nothing,
                a_commit_needs_its_own_claim,
                a_repeated_commit_counts,
                a_later_copy_takes_the_place_of_an_earlier_one,
                a_moved_copy_leaves_the_rest_as_it_was;
            tidying:
                a_deletion_takes_the_named_events_under_its_epoch,
                a_committed_session_is_untidy_at_once,
                a_session_that_was_tidied_is_looked_at_when_said,
                tidying_under_another_epoch_is_ignored,
                archived_sessions_with_hot_events_are_told;
            restoring:
                a_restored_session_is_as_it_was,
                what_is_brought_back_replaces_hot_copies,
                a_late_deletion_spares_what_was_brought_back,
                a_restored_session_is_due_again_only_later,
                a_restored_session_is_archived_under_a_greater_epoch,
                a_restore_under_a_lost_claim_changes_nothing,
                what_a_restore_that_was_given_up_brought_back_is_looked_at;
            burying:
                an_archived_session_is_erased_at_once,
                an_erasure_names_every_segment_that_may_hold_bytes,
                a_claim_that_ended_by_itself_may_have_left_bytes,
                a_tombstone_outlives_its_time_while_segments_are_left,
                a_forgotten_segment_leaves_the_others,
                a_commit_after_an_erasure_does_nothing,
                a_restore_after_an_erasure_brings_nothing_back,
                segments_of_erased_sessions_are_walked_in_the_order_of_their_names;
            expiring:
                an_archived_session_expires_as_if_it_were_erased,
                what_expires_must_be_archived_there_under_that_epoch,
                what_is_claimed_does_not_expire,
                of_racing_restores_and_expiries_one_wins,
                hot_events_of_what_expires_go_too,
                sessions_of_a_segment_are_found_by_their_pointers;
            locating:
                a_segment_is_needed_while_claimed_or_pointed_to,
                segments_are_paged_in_the_order_of_their_names,
                keys_stand_as_they_are_in_their_order,
                archives_of_tenants_never_meet,
                what_was_archived_is_there_after_reopening;
            adopting:
                an_adopted_session_is_as_it_was_archived,
                a_newer_copy_wins_in_any_order,
                nothing_is_adopted_over_a_tombstone,
                an_adopted_session_can_be_restored,
                an_erased_copy_is_a_tombstone_from_the_first,
                an_erased_copy_takes_nothing_but_what_is_older;
            setting_back:
                a_store_knows_the_copies_that_it_made_and_no_others,
                what_is_known_is_never_adopted,
                an_epoch_is_never_given_twice,
                a_hot_session_is_pointed_to_a_copy_and_keeps_its_events,
                a_claim_on_a_session_that_is_pointed_elsewhere_is_void,
                two_copies_are_merged_under_a_claim,
                a_merge_under_a_lost_claim_changes_nothing,
                a_copy_from_after_an_erasure_waits_for_its_end,
                what_was_erased_is_erased_again_if_it_is_older,
                a_walk_meets_every_session_once_and_no_tombstone;
            marking:
                an_erasure_owes_a_marker_until_it_is_written,
                a_session_that_was_never_archived_owes_none,
                a_claim_that_was_given_up_after_writing_is_remembered,
                segments_are_told_by_range_and_by_what_was_left;
            idling:
                what_was_archived_or_restored_is_not_found_idle;
            leasing:
                of_racing_takers_one_gets_the_lease,
                a_lease_is_told_to_last_as_long_as_it_may,
                a_lease_that_its_owner_takes_again_lasts,
                a_lease_ends_by_itself_and_then_goes_to_another,
                a_lease_that_went_to_another_is_not_renewed,
                a_lease_that_was_given_up_is_free_at_once,
                only_its_owner_gives_a_lease_up,
                leases_of_different_names_are_independent;
            recording:
                runs_are_kept_newest_first,
                old_runs_are_dropped;
            interleaving:
                archivers_that_interleave_keep_one_history;
        }
    };
}
pub(crate) use catalog_conformance;

/// Longer than any test.
pub const LEASE: Duration = Duration::from_secs(600);

/// Soon over.
pub const SHORT_LEASE: Duration = Duration::from_millis(40);

/// The same store, as the archive sees it and as everyone else does.
pub async fn both(subject: &dyn CatalogSubject) -> (Arc<dyn Catalog>, Arc<dyn Store>) {
    let catalog = subject.catalog().await;
    let store: Arc<dyn Store> = catalog.clone();
    (catalog, store)
}

/// A name that nobody else has.
pub fn segment() -> SegmentName {
    SegmentName::new(Tenant::default(), Day::of(at(0)))
}

pub fn pointer(segment: &SegmentName) -> Pointer {
    Pointer {
        segment: segment.clone(),
        first_row: 7,
        rows: 3,
    }
}

/// A session with the events `e-0`, `e-1` and `e-2` that ended at `ended_at` milliseconds.
pub async fn ended_at(store: &Arc<dyn Store>, key: &SessionKey, ended_at: i64) -> Session {
    open(store, key).await;
    for n in 0..3 {
        store_event(store, event(key, &format!("e-{n}"))).await;
    }
    store.end(key, &End::default(), at(ended_at)).await.unwrap()
}

pub async fn ended(store: &Arc<dyn Store>, key: &SessionKey) -> Session {
    ended_at(store, key, 9_000).await
}

/// Claims one session, which must be granted.
pub async fn claim(
    catalog: &Arc<dyn Catalog>,
    key: &SessionKey,
    claim: Claim,
    owner: &SegmentName,
    lease: Duration,
) -> Claimed {
    let keys = std::slice::from_ref(key);
    let mut claimed = catalog.claim(keys, claim, owner, lease).await.unwrap();
    assert_eq!(claimed.len(), 1, "{key} was not granted");
    claimed.remove(0)
}

/// Commits a claim of `owner` with the pointer to the segment of its name; says whether it was done.
pub async fn commit(catalog: &Arc<dyn Catalog>, claimed: &Claimed, owner: &SegmentName) -> bool {
    let commit = Commit {
        key: claimed.key.clone(),
        epoch: claimed.epoch,
        version: claimed.version,
        pointer: pointer(owner),
    };
    let mut done = catalog.commit(&[commit], owner).await.unwrap();
    assert_eq!(done.len(), 1, "one answer a commit");
    done.remove(0)
}

/// Claims and commits under a new name; the hot events stay.
pub async fn archive_as(catalog: &Arc<dyn Catalog>, key: &SessionKey, kind: Claim) -> Archived {
    let owner = segment();
    let claimed = claim(catalog, key, kind, &owner, LEASE).await;
    assert!(commit(catalog, &claimed, &owner).await);
    Archived {
        key: key.clone(),
        epoch: claimed.epoch,
        pointer: pointer(&owner),
    }
}

/// An ended session that was archived and whose hot events are gone; with the events that are in the archive now.
pub async fn archived(catalog: &Arc<dyn Catalog>, key: &SessionKey) -> (Archived, Vec<Event>) {
    let store: Arc<dyn Store> = catalog.clone();
    ended(&store, key).await;
    let events = all_events(&store, key).await;
    let archived = archive_as(catalog, key, Claim::Hot).await;
    let gone = catalog.delete_archived(key, archived.epoch, &ids(&events)).await;
    assert_eq!(gone.unwrap(), events.len());
    (archived, events)
}

pub fn ids(events: &[Event]) -> Vec<EventId> {
    events.iter().map(|event| event.id.clone()).collect()
}

/// Claims an archived session and brings all of it back.
pub async fn restore(catalog: &Arc<dyn Catalog>, key: &SessionKey, events: &[Event], now: i64) -> Session {
    let owner = segment();
    let claimed = claim(catalog, key, Claim::Archived, &owner, LEASE).await;
    let epoch = claimed.epoch;
    catalog.bring_back(key, epoch, events).await.unwrap();
    let restored = catalog.restored(key, epoch, &owner, at(now)).await.unwrap();
    restored.expect("the claim stands")
}

/// Waits until the claims of `owner` have ended by themselves; only for claims that were never committed.
pub async fn claims_ended(catalog: &Arc<dyn Catalog>, owner: &SegmentName) {
    let ended = async {
        while catalog.is_needed(owner).await.unwrap() {
            tokio::time::sleep(SHORT_LEASE / 8).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), ended).await;
    waited.expect("a claim ends by itself");
}

/// All that is due, whenever it ended.
pub async fn due(catalog: &Arc<dyn Catalog>) -> Vec<SessionKey> {
    let due = catalog.due(at(1_000_000), 500).await.unwrap();
    due.into_iter().map(|Due { key, .. }| key).collect()
}

pub async fn standing(catalog: &Arc<dyn Catalog>, key: &SessionKey) -> Standing {
    let mut standings = catalog.standings(std::slice::from_ref(key)).await.unwrap();
    assert_eq!(standings.len(), 1, "one answer a key");
    standings.remove(0)
}

/// What is hot of a session, and where the rest is.
pub async fn hot(store: &Arc<dyn Store>, key: &SessionKey) -> (Vec<Event>, Option<Pointer>) {
    let page = store.events(key, &everything()).await.unwrap();
    assert!(!page.has_more);
    let (session, with_it) = store.session_with_events(key, &everything()).await.unwrap();
    assert_eq!(session.archived, with_it.archived.is_some());
    (page.items, page.archived)
}

/// The erasure markers that are owed were written.
pub async fn mark_all(catalog: &Arc<dyn Catalog>) {
    let owed = catalog.unmarked(500).await.unwrap();
    let owed: Vec<SessionKey> = owed.into_iter().map(|unmarked| unmarked.key).collect();
    catalog.marked(&owed).await.unwrap();
}

/// The segments that erased sessions still have bytes in once the markers that are owed were written, in the order of
/// their names; with how many such sessions there are.
pub async fn pending(catalog: &Arc<dyn Catalog>) -> (u64, Vec<SegmentName>) {
    mark_all(catalog).await;
    let affected = catalog.affected(None, 500).await.unwrap();
    let mut segments: Vec<_> = affected.into_iter().map(|affected| affected.segment).collect();
    segments.sort();
    (catalog.pending().await.unwrap().sessions, segments)
}
