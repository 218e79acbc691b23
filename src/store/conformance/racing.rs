//! Writers that meet: whoever is second learns it, and nothing is lost or doubled.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use colloquy::domain::{End, EventId, Expected, Kind, SessionPatch, Status};

use super::{
    AppendExt, Subject, all_events, append, at, event, key, kind, open, session, store_event, the, together,
};

pub async fn of_identical_appends_one_creates_and_the_rest_replay(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let appended = together(64, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let ms = i64::try_from(n).unwrap();
            let one = event(&key, "e").stamped(ms).proposing(ms);
            append(&store, one).await.unwrap()
        }
    })
    .await;
    assert_eq!(appended.iter().filter(|one| !one.replayed).count(), 1);
    let stored = all_events(&store, &key).await;
    assert_eq!(stored.len(), 1);
    assert!(appended.iter().all(|one| one.event == stored[0]));
}

pub async fn of_clashing_appends_one_wins_and_the_rest_agree_on_it(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let payload = |n: usize| format!(r#"{{"n":{}}}"#, n % 4);
    let outcomes = together(64, |n| {
        let (store, one) = (store.clone(), event(&key, "e").holding(&payload(n)));
        async move { append(&store, one).await }
    })
    .await;
    let stored = all_events(&store, &key).await;
    assert_eq!(stored.len(), 1);
    let mut created = 0;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        if payload(n) == stored[0].payload.as_str() {
            let appended = outcome.unwrap();
            assert_eq!(appended.event, stored[0]);
            created += usize::from(!appended.replayed);
        } else {
            assert_eq!(kind(outcome), Kind::EventIdReused);
        }
    }
    assert_eq!(created, 1);
}

pub async fn concurrent_batches_that_overlap_store_each_event_once(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    // Each batch holds 20 of 40 events, shifted by one against the batch before.
    let outcomes = together(20, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let batch = (n..n + 20).map(|m| event(&key, &format!("e-{m}")));
            store.append(batch.collect()).await.unwrap()
        }
    })
    .await;
    let stored = all_events(&store, &key).await;
    let appended: Vec<_> = outcomes.into_iter().flatten().map(Result::unwrap).collect();
    let created = appended.iter().filter(|one| !one.replayed).count();
    assert_eq!((stored.len(), created), (39, 39));
    assert!(appended.iter().all(|one| stored.contains(&one.event)));
}

pub async fn seq_grows_in_the_order_of_acceptance(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    // Each task appends one after the other, so that what it sees must grow.
    let seqs = together(16, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let mut seqs = Vec::new();
            for m in 0..8 {
                let one = event(&key, &format!("e-{n}-{m}"));
                seqs.push(store_event(&store, one).await.seq);
            }
            seqs
        }
    })
    .await;
    for of_task in &seqs {
        assert!(of_task.windows(2).all(|pair| pair[0] < pair[1]));
    }
    let all: HashSet<_> = seqs.iter().flatten().collect();
    assert_eq!(all.len(), 128, "no seq is given twice");
}

pub async fn an_append_that_races_the_end_is_there_or_refused(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let outcomes = together(33, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            if n == 16 {
                store.end(&key, &End::default(), at(9_000)).await.unwrap();
                let late = append(&store, event(&key, "late")).await;
                assert_eq!(kind(late), Kind::SessionEnded);
                return None;
            }
            let id = format!("e-{n}");
            let outcome = append(&store, event(&key, &id)).await;
            Some((the::<EventId>(&id), outcome))
        }
    })
    .await;
    let stored = all_events(&store, &key).await;
    for (id, outcome) in outcomes.into_iter().flatten() {
        let there = stored.iter().find(|event| event.id == id);
        match outcome {
            Ok(appended) => assert_eq!(there, Some(&appended.event)),
            Err(error) => assert_eq!((error.kind(), there), (Kind::SessionEnded, None)),
        }
    }
    let ended = store.session(&key).await.unwrap();
    assert_eq!(ended.status, Status::Completed);
    assert_eq!(ended.ended_at, Some(at(9_000)));
}

pub async fn an_append_that_races_erasure_leaves_nothing_behind(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    together(33, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            if n == 16 {
                store.erase(&key, at(10_000)).await.unwrap();
                assert_eq!(kind(store.session(&key).await), Kind::SessionErased);
                let page = store.events(&key, &super::everything()).await;
                assert_eq!(kind(page), Kind::SessionErased);
                let late = append(&store, event(&key, "late")).await;
                assert_eq!(kind(late), Kind::SessionErased);
                return;
            }
            let outcome = append(&store, event(&key, &format!("e-{n}"))).await;
            if let Err(error) = outcome {
                assert_eq!(error.kind(), Kind::SessionErased);
            }
        }
    })
    .await;
    let fresh = store.open(&key.tenant, session("s"), at(10_000)).await;
    assert!(fresh.unwrap().created);
    assert_eq!(all_events(&store, &key).await, []);
}

pub async fn a_session_comes_with_all_that_was_acknowledged(subject: &dyn Subject) {
    let store = subject.store().await;
    for round in 0..8 {
        let key = key(&format!("s-{round}"));
        open(&store, &key).await;
        let acknowledged = Arc::new(AtomicBool::new(false));
        together(16, |n| {
            let (store, key, acknowledged) = (store.clone(), key.clone(), Arc::clone(&acknowledged));
            async move {
                if n == 0 {
                    store_event(&store, event(&key, "e")).await;
                    acknowledged.store(true, Ordering::SeqCst);
                    return;
                }
                for _ in 0..8 {
                    let known = acknowledged.load(Ordering::SeqCst);
                    let both = store.session_with_events(&key, &super::everything()).await;
                    let (session, page) = both.unwrap();
                    // Its first event makes a session active.
                    assert!(!known || session.status == Status::Active && page.items.len() == 1);
                }
            }
        })
        .await;
    }
}

pub async fn of_racing_ends_the_first_decides(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let outcomes = together(32, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let end = End {
                status: the(if n % 2 == 0 { "completed" } else { "failed" }),
                reason: Some(format!("reason {n}")),
                ended_at: None,
            };
            let now = at(i64::try_from(n).unwrap());
            store.end(&key, &end, now).await.unwrap()
        }
    })
    .await;
    let stored = store.session(&key).await.unwrap();
    assert!(stored.status.has_ended());
    assert_eq!(stored.version, 2);
    assert!(outcomes.iter().all(|outcome| *outcome == stored));
}

pub async fn of_patches_of_one_version_one_wins(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let outcomes = together(32, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let patch = SessionPatch {
                user_id: Some(Some(the(&format!("user-{n}")))),
                ..SessionPatch::default()
            };
            store.patch(&key, &patch, &Expected::OneOf(vec![1])).await
        }
    })
    .await;
    let stored = store.session(&key).await.unwrap();
    assert_eq!(stored.version, 2);
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(won.into_iter().all(|session| session.unwrap() == stored));
    assert!(lost.into_iter().all(|lost| kind(lost) == Kind::VersionMismatch));
}

pub async fn of_racing_patches_none_is_lost(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    // An event among them: its change of the status must not undo a patch, nor a patch that change.
    together(33, |n| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            if n == 32 {
                store_event(&store, event(&key, "e")).await;
                return;
            }
            let metadata = super::object(&format!(r#"{{"field-{n}":{n}}}"#));
            let patch = SessionPatch {
                metadata: Some(Some(metadata)),
                ..SessionPatch::default()
            };
            let patched = store.patch(&key, &patch, &Expected::Any).await.unwrap();
            assert!(patched.metadata.as_str().contains(&format!("\"field-{n}\"")));
        }
    })
    .await;
    let stored = store.session(&key).await.unwrap();
    assert_eq!(stored.version, 34);
    assert_eq!(stored.status, Status::Active);
    for n in 0..32 {
        let field = format!("\"field-{n}\":{n}");
        assert!(stored.metadata.as_str().contains(&field), "{field}");
    }
}
