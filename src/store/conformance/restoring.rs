//! Restoring: an archived session comes back as it was, and no archiver that is late takes it away again.

use std::time::Duration;

use colloquy::{
    domain::Kind,
    store::catalog::{Claim, Standing, Written},
};

use super::{
    all_events, append, at,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, claims_ended, due, ended, hot,
        ids, pending, restore, segment, standing,
    },
    event, key, kind, object,
};

pub async fn a_restored_session_is_as_it_was(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let (copy, events) = archived(&catalog, &key).await;
    let mut expected = store.session(&key).await.unwrap();
    expected.archived = false;
    let restored = restore(&catalog, &key, &events, 20_000).await;
    assert_eq!(restored, expected);
    assert_eq!(store.session(&key).await.unwrap(), expected);
    assert_eq!(hot(&store, &key).await, (events.clone(), None));
    assert_eq!(standing(&catalog, &key).await, Standing::Hot);
    assert!(!catalog.is_needed(&copy.pointer.segment).await.unwrap());
    assert_eq!(catalog.untidy(500).await.unwrap(), []);
    // An ended session, as before: it replays what it has, and takes nothing new.
    let replay = append(&store, event(&key, "e-1")).await.unwrap();
    assert_eq!((replay.replayed, &replay.event), (true, &events[1]));
    assert_eq!(kind(append(&store, event(&key, "new")).await), Kind::SessionEnded);
    store
        .patch(&key, &Default::default(), &Default::default())
        .await
        .unwrap();
    // Its bytes are in the archive still.
    store.erase(&key, at(99_000)).await.unwrap();
    assert_eq!(pending(&catalog).await, (1, vec![copy.pointer.segment]));
}

pub async fn what_is_brought_back_replaces_hot_copies(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let mut events = all_events(&store, &key).await;
    archive_as(&catalog, &key, Claim::Hot).await;
    let owner = segment();
    let epoch = claim(&catalog, &key, Claim::Archived, &owner, LEASE).await.epoch;
    // In the archive they have another number and another place.
    for (n, event) in events.iter_mut().enumerate() {
        event.seq += 100;
        event.timestamp = at(50 - n as i64);
        event.payload = object(r#"{"text":"as archived"}"#);
    }
    for half in [&events[..2], &events[1..], &[]] {
        catalog.bring_back(&key, epoch, half).await.unwrap();
    }
    let restored = catalog.restored(&key, epoch, &owner, at(20_000)).await;
    assert!(restored.unwrap().is_some());
    events.reverse();
    assert_eq!(all_events(&store, &key).await, events);
}

pub async fn a_late_deletion_spares_what_was_brought_back(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let (copy, events) = archived(&catalog, &key).await;
    let late = async || {
        let deleted = catalog.delete_archived(&key, copy.epoch, &ids(&events)).await;
        assert_eq!(deleted.unwrap(), 0);
    };
    let owner = segment();
    let epoch = claim(&catalog, &key, Claim::Archived, &owner, LEASE).await.epoch;
    catalog.bring_back(&key, epoch, &events).await.unwrap();
    late().await;
    // Whoever asks how it stands meanwhile learns nothing that lets it delete them.
    let Standing::Archived(meanwhile) = standing(&catalog, &key).await else {
        panic!("it is archived until it is restored");
    };
    let deleted = catalog
        .delete_archived(&key, meanwhile.epoch, &ids(&events))
        .await;
    assert_eq!(deleted.unwrap(), 0);
    let restored = catalog.restored(&key, epoch, &owner, at(20_000)).await;
    assert!(restored.unwrap().is_some());
    late().await;
    assert_eq!(all_events(&store, &key).await, events);

    archive_as(&catalog, &key, Claim::Hot).await;
    late().await;
    assert_eq!(hot(&store, &key).await.0, events);
}

pub async fn a_restored_session_is_due_again_only_later(subject: &dyn CatalogSubject) {
    let ((catalog, _), key) = (both(subject).await, key("s"));
    let (_, events) = archived(&catalog, &key).await;
    restore(&catalog, &key, &events, 20_000).await;
    for before in [10_000, 20_000] {
        assert_eq!(catalog.due(at(before), 500).await.unwrap(), []);
    }
    assert_eq!(catalog.due(at(20_001), 500).await.unwrap().len(), 1);
}

pub async fn a_restored_session_is_archived_under_a_greater_epoch(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let (first, events) = archived(&catalog, &key).await;
    restore(&catalog, &key, &events, 20_000).await;
    let second = archive_as(&catalog, &key, Claim::Hot).await;
    assert!(second.epoch > first.epoch + 1, "the restore had one of its own");
    let gone = catalog.delete_archived(&key, second.epoch, &ids(&events)).await;
    assert_eq!(gone.unwrap(), events.len());
    assert_eq!(hot(&store, &key).await, (vec![], Some(second.pointer)));
}

pub async fn a_restore_under_a_lost_claim_changes_nothing(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let (copy, events) = archived(&catalog, &key).await;
    let before = store.session(&key).await.unwrap();
    let (late, other) = (segment(), segment());
    let epoch = claim(&catalog, &key, Claim::Archived, &late, SHORT_LEASE)
        .await
        .epoch;
    catalog.bring_back(&key, epoch, &events).await.unwrap();
    claims_ended(&catalog, &late).await;
    let restored = async |epoch, owner| catalog.restored(&key, epoch, owner, at(20_000)).await.unwrap();
    assert_eq!(restored(epoch, &late).await, None, "its claim ended");
    let next = claim(&catalog, &key, Claim::Archived, &other, LEASE).await.epoch;
    assert_eq!(restored(epoch, &late).await, None, "another has claimed it");
    assert_eq!(restored(next, &late).await, None, "another's claim");
    assert_eq!(restored(epoch, &other).await, None, "not by this claim");
    assert_eq!(store.session(&key).await.unwrap(), before);
    assert_eq!(hot(&store, &key).await.1, Some(copy.pointer));
    assert_eq!(due(&catalog).await, []);
    assert!(restored(next, &other).await.is_some());
}

/// Copies of what the archive has would stay for ever if nobody looked.
pub async fn what_a_restore_that_was_given_up_brought_back_is_looked_at(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    let (copy, events) = archived(&catalog, &key).await;
    catalog.tidied(&[copy], None).await.unwrap();
    let owner = segment();
    let claimed = claim(&catalog, &key, Claim::Archived, &owner, LEASE).await;
    catalog
        .bring_back(&key, claimed.epoch, &events[..2])
        .await
        .unwrap();
    catalog
        .release(&[claimed], &owner, Written::Nothing)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(30), async {
        while catalog.untidy(500).await.unwrap().is_empty() {
            tokio::time::sleep(SHORT_LEASE / 8).await;
        }
    })
    .await
    .expect("it is looked at");
    assert_eq!(catalog.untidy(500).await.unwrap()[0].key, key);
    // The next copy takes them with it.
    let next = archive_as(&catalog, &key, Claim::Archived).await;
    let gone = catalog.delete_archived(&key, next.epoch, &ids(&events)).await;
    assert_eq!(gone.unwrap(), 2);
    assert_eq!(hot(&store, &key).await, (vec![], Some(next.pointer)));
}
