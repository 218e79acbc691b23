//! Hot events of archived sessions: deleted by name under the epoch of their copy, and looked at until none is left.

use std::time::Duration;

use colloquy::store::catalog::{Archived, Claim};

use super::{
    all_events,
    catalog::{
        CatalogSubject, LEASE, SHORT_LEASE, archive_as, archived, both, claim, ended, hot, ids, segment,
    },
    key, open, the,
};

pub async fn a_deletion_takes_the_named_events_under_its_epoch(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    ended(&store, &key("s")).await;
    ended(&store, &key("other")).await;
    let events = all_events(&store, &key("s")).await;
    let claimed = claim(&catalog, &key("other"), Claim::Hot, &segment(), LEASE).await;
    let early = catalog
        .delete_archived(&key("other"), claimed.epoch, &ids(&events))
        .await;
    assert_eq!(early.unwrap(), 0, "not archived yet");

    let archived = archive_as(&catalog, &key("s"), Claim::Hot).await;
    let delete = async |epoch, ids: &[&str]| {
        let ids: Vec<_> = ids.iter().map(|id| the(id)).collect();
        catalog.delete_archived(&key("s"), epoch, &ids).await.unwrap()
    };
    for another in [archived.epoch - 1, archived.epoch + 1] {
        assert_eq!(delete(another, &["e-0", "e-1", "e-2"]).await, 0);
    }
    assert_eq!(hot(&store, &key("s")).await.0, events);
    assert_eq!(delete(archived.epoch, &["e-0", "never", "e-2"]).await, 2);
    assert_eq!(hot(&store, &key("s")).await.0, events[1..2]);
    assert_eq!(delete(archived.epoch, &["e-0", "never", "e-2"]).await, 0);
    assert_eq!(delete(archived.epoch, &[]).await, 0);
    assert_eq!(delete(archived.epoch, &["e-0", "e-1"]).await, 1);
    assert_eq!(hot(&store, &key("s")).await.0, []);
    assert_eq!(all_events(&store, &key("other")).await.len(), 3);
    let nowhere = catalog.delete_archived(&key("unknown"), 1, &ids(&events)).await;
    assert_eq!(nowhere.unwrap(), 0);
}

pub async fn a_committed_session_is_untidy_at_once(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    for id in ["a", "b", "hot"] {
        ended(&store, &key(id)).await;
    }
    assert_eq!(catalog.untidy(500).await.unwrap(), []);
    let mut committed = Vec::new();
    for id in ["b", "a"] {
        committed.push(archive_as(&catalog, &key(id), Claim::Hot).await);
        next_millisecond().await;
    }
    let untidy = catalog.untidy(500).await.unwrap();
    assert_eq!(untidy, committed, "due longest first");
    assert_eq!(catalog.untidy(1).await.unwrap(), committed[..1]);
    catalog.tidied(&committed, None).await.unwrap();
    assert_eq!(catalog.untidy(500).await.unwrap(), []);
    // Another copy is another reason to look.
    let folded = archive_as(&catalog, &key("a"), Claim::Archived).await;
    assert_eq!(catalog.untidy(500).await.unwrap(), [folded]);
}

/// Two commits in one millisecond of the database's clock have no order.
async fn next_millisecond() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

pub async fn a_session_that_was_tidied_is_looked_at_when_said(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let archived = archive_as(&catalog, &key, Claim::Hot).await;
    let one = std::slice::from_ref(&archived);
    catalog.tidied(one, Some(LEASE)).await.unwrap();
    assert_eq!(catalog.untidy(500).await.unwrap(), []);
    catalog.tidied(one, Some(SHORT_LEASE)).await.unwrap();
    let soon = tokio::time::timeout(Duration::from_secs(30), async {
        while catalog.untidy(500).await.unwrap().is_empty() {
            tokio::time::sleep(SHORT_LEASE / 8).await;
        }
    });
    soon.await.expect("it is looked at again");
    assert_eq!(catalog.untidy(500).await.unwrap(), one);
    catalog.tidied(&[], None).await.unwrap();
    store.erase(&key, super::at(99_000)).await.unwrap();
    assert_eq!(catalog.untidy(500).await.unwrap(), [], "an erased one never");
}

pub async fn tidying_under_another_epoch_is_ignored(subject: &dyn CatalogSubject) {
    let ((catalog, store), key) = (both(subject).await, key("s"));
    ended(&store, &key).await;
    let first = archive_as(&catalog, &key, Claim::Hot).await;
    let second = archive_as(&catalog, &key, Claim::Archived).await;
    let later = Archived {
        epoch: second.epoch + 1,
        ..second.clone()
    };
    catalog.tidied(&[first, later], None).await.unwrap();
    assert_eq!(catalog.untidy(500).await.unwrap(), std::slice::from_ref(&second));
    catalog.tidied(&[second], None).await.unwrap();
    assert_eq!(catalog.untidy(500).await.unwrap(), []);
}

pub async fn archived_sessions_with_hot_events_are_told(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    archived(&catalog, &key("clean")).await;
    for id in ["full", "partly", "hot", "erased"] {
        ended(&store, &key(id)).await;
    }
    open(&store, &key("empty")).await;
    let full = archive_as(&catalog, &key("full"), Claim::Hot).await;
    let partly = archive_as(&catalog, &key("partly"), Claim::Hot).await;
    let some = [the("e-0"), the("e-1")];
    catalog
        .delete_archived(&partly.key, partly.epoch, &some)
        .await
        .unwrap();
    archive_as(&catalog, &key("erased"), Claim::Hot).await;
    store.erase(&key("erased"), super::at(99_000)).await.unwrap();
    let asked = ["partly", "clean", "unknown", "full", "hot", "empty", "erased"].map(key);
    let mut with_events = catalog.with_hot_events(&asked).await.unwrap();
    with_events.sort();
    assert_eq!(with_events, [full.key, partly.key]);
}
