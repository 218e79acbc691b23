//! Listing a tenant's sessions.

use std::{collections::HashSet, sync::Arc};

use colloquy::{
    domain::{
        End, Expected, Limit, Session, SessionFilter, SessionPatch, SessionPosition, SessionQuery, Status,
        Tenant, UserId,
    },
    store::Store,
};

use super::{Subject, at, event, key, session, store_event, the};

/// Walks the pages of a listing to their end.
pub async fn walk(
    store: &Arc<dyn Store>,
    tenant: &Tenant,
    filter: &SessionFilter,
    limit: Limit,
) -> Vec<Session> {
    let mut query = SessionQuery {
        filter: filter.clone(),
        after: None,
        limit,
    };
    let mut sessions = Vec::new();
    loop {
        let page = store.sessions(tenant, &query).await.unwrap();
        assert!(page.items.len() <= limit.get());
        let Some(last) = page.items.last() else {
            assert!(!page.has_more, "an empty page is the last");
            return sessions;
        };
        query.after = Some(SessionPosition::from(last));
        sessions.extend(page.items);
        if !page.has_more {
            return sessions;
        }
    }
}

/// What a listing shows of `sessions`, in its order.
pub fn listed(sessions: &[Session], filter: &SessionFilter) -> Vec<Session> {
    let SessionFilter {
        status,
        user_id,
        started_after,
        started_before,
    } = filter;
    let passes = |session: &&Session| {
        status.is_none_or(|status| session.status == status)
            && (user_id.is_none() || session.user_id == *user_id)
            && started_after.is_none_or(|after| session.started_at >= after)
            && started_before.is_none_or(|before| session.started_at < before)
    };
    let mut listed: Vec<_> = sessions.iter().filter(passes).cloned().collect();
    listed.sort_by(|a, b| (b.started_at, &b.id).cmp(&(a.started_at, &a.id)));
    listed
}

/// Sessions whose start ties, goes back and jumps, of some users and all statuses.
async fn open_mixed(store: &Arc<dyn Store>, count: usize) -> Vec<Session> {
    let mut sessions = Vec::new();
    for n in 0..count {
        let mut session = session(&format!("s-{n}"));
        session.started_at = at([100, 100, 50, 900, 100, -7][n % 6]);
        session.user_id = [Some(the("anna")), None, Some(the("bob"))][n % 3].clone();
        session.status = Status::ALL[n / 2 % 4];
        let opened = store.open(&Tenant::default(), session, at(1_000)).await;
        sessions.push(opened.unwrap().session);
    }
    sessions
}

pub async fn sessions_are_listed_newest_first(subject: &dyn Subject) {
    let store = subject.store().await;
    let sessions = open_mixed(&store, 26).await;
    let filter = SessionFilter::default();
    let expected = listed(&sessions, &filter);
    for limit in (1..=28).chain([500]) {
        let limit = the(&limit.to_string());
        let read = walk(&store, &Tenant::default(), &filter, limit).await;
        assert_eq!(read, expected);
    }
}

pub async fn every_combination_of_filters_holds(subject: &dyn Subject) {
    let store = subject.store().await;
    let sessions = open_mixed(&store, 36).await;
    let statuses = [None, Some(Status::Initiated), Some(Status::Failed)];
    let users = [None, Some(the("anna")), Some(the("nobody"))];
    let times = [None, Some(-7), Some(50), Some(100), Some(101)];
    let times = times.map(|ms| ms.map(at));
    for status in statuses {
        for user_id in &users {
            for (after, before) in times.iter().flat_map(|a| times.iter().map(move |b| (a, b))) {
                let filter = SessionFilter {
                    status,
                    user_id: user_id.clone(),
                    started_after: *after,
                    started_before: *before,
                };
                let expected = listed(&sessions, &filter);
                for limit in ["1", "4", "500"] {
                    let read = walk(&store, &Tenant::default(), &filter, the(limit)).await;
                    assert_eq!(read, expected, "{filter:?} {limit}");
                }
            }
        }
    }
}

pub async fn adjacent_windows_share_no_session_and_leave_none_out(subject: &dyn Subject) {
    let store = subject.store().await;
    let sessions = open_mixed(&store, 36).await;
    // On every start, a millisecond before it and one behind it, and without an end on either side.
    let starts = [-7, 50, 100, 900].map(|ms| [ms - 1, ms, ms + 1]);
    let edges: Vec<_> = starts.concat().into_iter().map(|ms| Some(at(ms))).collect();
    let edges = [&[None], edges.as_slice(), &[None]].concat();
    for status in [None, Some(Status::Active)] {
        for user_id in [None, Some(the("anna"))] {
            let whole = SessionFilter {
                status,
                user_id,
                ..SessionFilter::default()
            };
            for limit in ["1", "500"] {
                let mut found = Vec::new();
                for window in edges.windows(2).rev() {
                    let filter = SessionFilter {
                        started_after: window[0],
                        started_before: window[1],
                        ..whole.clone()
                    };
                    found.extend(walk(&store, &Tenant::default(), &filter, the(limit)).await);
                }
                assert_eq!(found, listed(&sessions, &whole), "{whole:?} {limit}");
            }
        }
    }
}

/// User ids that a database, a query or a file could take for something else.
fn awkward_users() -> Vec<UserId> {
    let long = ["é".repeat(128), "x".repeat(256), "\u{10ffff}".repeat(64)];
    let short = [
        "auth0|x",
        "patients/1",
        "Zo\u{eb}",
        "Zoe\u{308}",
        "ZO\u{cb}",
        "日本",
        " ",
        "a b",
        "a",
        "$status",
        "$$NOW",
        "{\"$gt\":\"\"}",
        "a.b",
        "\"\\",
        "'; DROP TABLE sessions; --",
        "%",
        "_",
        "null",
        "7",
        "\u{2028}\u{fffd}\u{a0}",
    ];
    let all = short.iter().map(|text| (*text).to_owned()).chain(long);
    all.map(|text| the(&text)).collect()
}

pub async fn a_user_id_of_any_text_is_kept_and_found(subject: &dyn Subject) {
    let store = subject.store().await;
    let users = awkward_users();
    // Half of them are given at the opening, half by a patch.
    for (n, user) in users.iter().enumerate() {
        let mut one = session(&format!("s-{n:02}"));
        one.user_id = (n % 2 == 0).then(|| user.clone());
        store.open(&Tenant::default(), one, at(1_000)).await.unwrap();
        if n % 2 == 1 {
            let patch = SessionPatch {
                user_id: Some(Some(user.clone())),
                ..SessionPatch::default()
            };
            let of = key(&format!("s-{n:02}"));
            let patched = store.patch(&of, &patch, &Expected::Any).await.unwrap();
            assert_eq!(patched.user_id.as_ref(), Some(user));
        }
    }
    for (n, user) in users.iter().enumerate() {
        let stored = store.session(&key(&format!("s-{n:02}"))).await.unwrap();
        assert_eq!(stored.user_id.as_ref(), Some(user));
        for status in [None, Some(Status::Initiated)] {
            let filter = SessionFilter {
                status,
                user_id: Some(user.clone()),
                ..SessionFilter::default()
            };
            let found = walk(&store, &Tenant::default(), &filter, the("2")).await;
            assert_eq!(found, std::slice::from_ref(&stored), "{user:?}");
        }
    }
}

pub async fn a_position_need_not_be_that_of_a_session(subject: &dyn Subject) {
    let store = subject.store().await;
    let sessions = open_mixed(&store, 24).await;
    for (ms, id) in [
        (-8, "~"),
        (100, "s-13"),
        (100, "~"),
        (100, "+"),
        (70, "s"),
        (901, "~"),
    ] {
        let position = SessionPosition {
            started_at: at(ms),
            id: the(id),
        };
        for before in [None, Some(at(51)), Some(at(100)), Some(at(10_000))] {
            let filter = SessionFilter {
                started_before: before,
                ..SessionFilter::default()
            };
            let beyond = |one: &Session| (one.started_at, &one.id) < (position.started_at, &position.id);
            let mut expected = listed(&sessions, &filter);
            expected.retain(beyond);
            let query = SessionQuery {
                filter,
                after: Some(position.clone()),
                limit: Limit::MAX,
            };
            let page = store.sessions(&Tenant::default(), &query).await.unwrap();
            assert_eq!(page.items, expected, "{position:?} {before:?}");
            assert!(!page.has_more);
        }
    }
}

pub async fn a_walk_of_the_listing_meets_every_session_that_was_there(subject: &dyn Subject) {
    let store = subject.store().await;
    let before = open_mixed(&store, 60).await;
    let erased = key("s-30");
    store.erase(&erased, at(1_000_000)).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..60_i64 {
                let mut session = session(&format!("new-{n}"));
                session.started_at = at(n * 3);
                let opened = store.open(&Tenant::default(), session, at(1_000)).await;
                assert!(opened.unwrap().created);
            }
        })
    };
    let filter = SessionFilter::default();
    let read = walk(&store, &Tenant::default(), &filter, the("7")).await;
    writer.await.unwrap();
    let mut expected = listed(&before, &filter);
    expected.retain(|session| session.id != erased.id);
    let met: Vec<_> = read.iter().filter(|one| before.contains(one)).collect();
    assert_eq!(met, expected.iter().collect::<Vec<_>>());
    let ids: HashSet<_> = read.iter().map(|session| &session.id).collect();
    assert_eq!(ids.len(), read.len(), "no session twice");
    assert!(!ids.contains(&erased.id));
}

pub async fn a_change_of_status_moves_a_session_between_listings(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    super::open(&store, &key).await;
    let listed_as = async |status: Status| {
        let filter = SessionFilter {
            status: Some(status),
            ..SessionFilter::default()
        };
        let listed = walk(&store, &Tenant::default(), &filter, Limit::MAX).await;
        listed.len()
    };
    assert_eq!(listed_as(Status::Initiated).await, 1);
    store_event(&store, event(&key, "e")).await;
    assert_eq!(listed_as(Status::Initiated).await, 0);
    assert_eq!(listed_as(Status::Active).await, 1);
    store.end(&key, &End::default(), at(9)).await.unwrap();
    assert_eq!(listed_as(Status::Active).await, 0);
    assert_eq!(listed_as(Status::Completed).await, 1);
}
