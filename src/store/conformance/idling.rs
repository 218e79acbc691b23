//! Sessions that nobody completes, ended by the server's own clock.

use std::{collections::BTreeSet, sync::Arc};

use colloquy::{
    domain::{Kind, NewSession, Session, SessionKey, Status},
    store::{Append, Idle, Store, catalog::CATALOG_BATCH_MAX},
};

use super::{
    AppendExt, Subject, all_events, append, at,
    catalog::{CatalogSubject, archived, both, ended, restore},
    event, key, open, store_event, the, together,
};

/// An event that was accepted at `ms` by the server's clock, whatever time its caller gave it.
fn accepted_at(key: &SessionKey, id: &str, ms: i64) -> Append {
    event(key, id).stamped(1).proposing(ms * 1_000)
}

/// Opens a session at `opened_at` by the server's clock that began at `started_at` by its caller's.
async fn open_at(store: &Arc<dyn Store>, id: &str, started_at: i64, opened_at: i64) {
    let session = Session::opened(NewSession::default(), the(id), at(started_at));
    let opened = store.open(&key(id).tenant, session, at(opened_at)).await;
    assert!(opened.unwrap().created);
}

/// What is idle since `ms`; the server's time is a minute later.
async fn idle_since(store: &Arc<dyn Store>, ms: i64) -> Vec<Idle> {
    let found = store.find_idle(at(ms), at(ms + 60_000), 500).await.unwrap();
    assert!(!found.has_more);
    found.sessions
}

fn names(idle: &[Idle]) -> Vec<&str> {
    idle.iter().map(|idle| idle.key.id.as_str()).collect()
}

pub async fn only_sessions_that_go_on_and_were_not_used_are_found_idle(subject: &dyn Subject) {
    let store = subject.store().await;
    for (id, opened_at) in [
        ("fresh", 60_000),
        ("just-then", 50_000),
        ("used", 10_000),
        ("idle", 49_999),
    ] {
        open_at(&store, id, 1_000, opened_at).await;
    }
    open_at(&store, "spoken-in", 1_000, 2_000).await;
    store_event(&store, accepted_at(&key("used"), "e-0", 50_000)).await;
    store_event(&store, accepted_at(&key("spoken-in"), "e-0", 49_000)).await;
    ended(&store, &key("ended")).await;
    ended(&store, &key("erased")).await;
    store.erase(&key("erased"), at(99_000)).await.unwrap();
    let idle = idle_since(&store, 50_000).await;
    let found: BTreeSet<_> = names(&idle).into_iter().collect();
    assert_eq!(found, ["idle", "spoken-in"].into());
}

/// A caller's word on when a conversation began says nothing about when it was used: imported sessions began long ago, and
/// other callers' clocks are wrong.
pub async fn idleness_goes_by_the_opening_and_not_by_the_start(subject: &dyn Subject) {
    let store = subject.store().await;
    open_at(&store, "began-long-ago", -9_000_000, 60_000).await;
    open_at(&store, "begins-in-years", 4_000_000_000_000, 1_000).await;
    assert_eq!(names(&idle_since(&store, 50_000).await), ["begins-in-years"]);
}

pub async fn an_idle_session_is_ended_once(subject: &dyn Subject) {
    let store = subject.store().await;
    for id in ["initiated", "active"] {
        open(&store, &key(id)).await;
    }
    store_event(&store, accepted_at(&key("active"), "e-0", 49_999)).await;
    let found = idle_since(&store, 50_000).await;
    assert_eq!(found.len(), 2);
    for idle in found {
        let mut expected = store.session(&idle.key).await.unwrap();
        expected.status = Status::Completed;
        expected.ended_at = Some(at(70_000));
        expected.end_reason = Some("nobody spoke".to_owned());
        expected.version += 1;
        let mut answers = Vec::new();
        for now in [70_000, 80_000] {
            let ended = store.end_idle(&idle, "nobody spoke", at(now)).await;
            answers.push(ended.unwrap());
        }
        assert_eq!(answers, [Some(expected.clone()), None]);
        assert_eq!(store.session(&idle.key).await.unwrap(), expected);
    }
    assert_eq!(idle_since(&store, 90_000).await, []);
}

pub async fn what_was_used_ended_or_erased_since_it_was_found_is_not_ended(subject: &dyn Subject) {
    let store = subject.store().await;
    for id in ["used", "ended", "erased"] {
        open(&store, &key(id)).await;
    }
    let found = idle_since(&store, 50_000).await;
    assert_eq!(found.len(), 3);
    store_event(&store, accepted_at(&key("used"), "e-0", 60_000)).await;
    store
        .end(&key("ended"), &Default::default(), at(61_000))
        .await
        .unwrap();
    store.erase(&key("erased"), at(99_000)).await.unwrap();
    for idle in &found {
        let before = store.session(&idle.key).await.map_err(|error| error.kind());
        match store.end_idle(idle, "idle", at(70_000)).await {
            Ok(ended) => assert_eq!(ended, None, "{}", idle.key),
            Err(error) => assert_eq!(error.kind(), Kind::SessionErased, "{}", idle.key),
        }
        let after = store.session(&idle.key).await.map_err(|error| error.kind());
        assert_eq!(after, before, "{}", idle.key);
    }
    // It is idle again when it has not been used for that long.
    assert_eq!(names(&idle_since(&store, 200_000).await), ["used"]);
}

/// Those in use lie between the others, in an order that has nothing to do with their use.
pub async fn sessions_in_use_keep_none_from_being_found(subject: &dyn Subject) {
    let store = subject.store().await;
    for n in 0..24 {
        let id = format!("s-{n:02}");
        open_at(&store, &id, 1_000, 1_000 + n).await;
        if n % 3 != 2 {
            store_event(&store, accepted_at(&key(&id), "e", 60_000)).await;
        }
    }
    let (mut found, mut has_more) = (Vec::new(), true);
    while has_more {
        let some = store.find_idle(at(50_000), at(110_000), 5).await.unwrap();
        for idle in &some.sessions {
            assert!(store.end_idle(idle, "idle", at(110_000)).await.unwrap().is_some());
        }
        has_more = some.has_more;
        found.extend(some.sessions);
        assert!(found.len() <= 8, "{:?}", names(&found));
    }
    let expected: Vec<String> = (0..24)
        .filter(|n| n % 3 == 2)
        .map(|n| format!("s-{n:02}"))
        .collect();
    assert_eq!(names(&found), expected);
}

/// Whatever two sweeps do at once, one of them ends the session.
pub async fn sweeps_side_by_side_end_each_session_once(subject: &dyn Subject) {
    let store = subject.store().await;
    for n in 0..20 {
        open(&store, &key(&format!("s-{n}"))).await;
    }
    let ended = together(2, |_| {
        let store = Arc::clone(&store);
        async move {
            let mut ended = 0;
            for idle in store
                .find_idle(at(50_000), at(110_000), 500)
                .await
                .unwrap()
                .sessions
            {
                ended += usize::from(
                    store
                        .end_idle(&idle, "idle", at(110_000))
                        .await
                        .unwrap()
                        .is_some(),
                );
            }
            ended
        }
    })
    .await;
    assert_eq!(ended.iter().sum::<usize>(), 20, "{ended:?}");
}

/// Appends while the store looks for idle sessions: whichever was acknowledged, its session is not ended afterwards.
pub async fn an_append_acknowledged_before_the_end_prevents_it(subject: &dyn Subject) {
    const SESSIONS: usize = 240;
    let store = subject.store().await;
    let name = |n: usize| key(&format!("s-{n}"));
    for n in 0..SESSIONS {
        open(&store, &name(n)).await;
    }
    let looking = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.find_idle(at(50_000), at(110_000), 500).await.unwrap() })
    };
    together(6, |worker| {
        let store = Arc::clone(&store);
        async move {
            // One in four is left alone.
            for n in (worker..SESSIONS).step_by(6).filter(|n| n % 4 != 0) {
                store_event(&store, accepted_at(&name(n), "e", 60_000)).await;
            }
        }
    })
    .await;
    for idle in looking.await.unwrap().sessions {
        store.end_idle(&idle, "idle", at(110_000)).await.unwrap();
    }
    for n in 0..SESSIONS {
        let status = store.session(&name(n)).await.unwrap().status;
        let expected = match n % 4 {
            0 => Status::Completed,
            _ => Status::Active,
        };
        assert_eq!(status, expected, "{}", name(n));
    }
}

/// An append and an end of what was found idle, at the same moment: one of them wins, and the other is told.
pub async fn of_an_append_and_the_end_of_an_idle_session_one_wins(subject: &dyn Subject) {
    let store = subject.store().await;
    for n in 0..120 {
        open(&store, &key(&format!("s-{n}"))).await;
    }
    for idle in idle_since(&store, 50_000).await {
        let outcomes = together(2, |n| {
            let (store, idle) = (Arc::clone(&store), idle.clone());
            async move {
                if n == 0 {
                    let appended = append(&store, accepted_at(&idle.key, "e", 60_000)).await;
                    return appended.map(|_| ()).map_err(|error| error.kind());
                }
                let ended = store.end_idle(&idle, "idle", at(110_000)).await;
                ended.unwrap().map(|_| ()).ok_or(Kind::Internal)
            }
        })
        .await;
        let stored = all_events(&store, &idle.key).await.len();
        let status = store.session(&idle.key).await.unwrap().status;
        match (outcomes[0], outcomes[1]) {
            (Ok(()), Err(_)) => assert_eq!((stored, status), (1, Status::Active)),
            (Err(Kind::SessionEnded), Ok(())) => assert_eq!((stored, status), (0, Status::Completed)),
            both => panic!("{}: {both:?}", idle.key),
        }
    }
}

pub async fn what_was_archived_or_restored_is_not_found_idle(subject: &dyn CatalogSubject) {
    let (catalog, store) = both(subject).await;
    archived(&catalog, &key("archived")).await;
    let (_, events) = archived(&catalog, &key("restored")).await;
    restore(&catalog, &key("restored"), &events, 20_000).await;
    open(&store, &key("idle")).await;
    let found = idle_since(&store, 50_000).await;
    assert_eq!(names(&found), ["idle"]);
    let ended_at = at(60_000);
    assert!(
        store
            .end_idle(&found[0], "idle", ended_at)
            .await
            .unwrap()
            .is_some()
    );
    let due = catalog.due(at(60_001), CATALOG_BATCH_MAX).await.unwrap();
    assert!(
        due.iter()
            .any(|due| due.key == key("idle") && due.ended_at == ended_at),
        "{due:?}"
    );
}
