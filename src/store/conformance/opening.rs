//! Opening a session: once, and as given.

use colloquy::domain::{JsonObject, Kind, Session, Status, Tenant};

use super::{Subject, at, key, kind, object, open, session, the, together};

pub async fn of_identical_opens_one_creates_and_all_agree(subject: &dyn Subject) {
    let store = subject.store().await;
    let opened = together(64, |_| {
        let store = store.clone();
        async move {
            let opened = store.open(&Tenant::default(), session("s"), at(1_000)).await;
            opened.unwrap()
        }
    })
    .await;
    assert_eq!(opened.iter().filter(|one| one.created).count(), 1);
    assert!(opened.iter().all(|one| one.session == session("s")));
}

pub async fn of_different_opens_the_first_is_kept_whole(subject: &dyn Subject) {
    let store = subject.store().await;
    let opened = together(64, |n| {
        let store = store.clone();
        async move {
            let mut session = session("s");
            session.user_id = Some(the(&format!("user-{n}")));
            session.metadata = object(&format!(r#"{{"n":{n}}}"#));
            let opened = store.open(&Tenant::default(), session.clone(), at(1_000)).await;
            (session, opened.unwrap())
        }
    })
    .await;
    let mut created = opened.iter().filter(|(_, opened)| opened.created);
    let (winner, _) = created.next().unwrap();
    assert!(created.next().is_none());
    assert!(opened.iter().all(|(_, opened)| opened.session == *winner));
    assert_eq!(store.session(&key("s")).await.unwrap(), *winner);
}

pub async fn a_session_opens_as_given(subject: &dyn Subject) {
    let store = subject.store().await;
    let full = Session {
        id: the("full"),
        user_id: Some(the("user@example.com")),
        status: Status::Failed,
        language: Some(the("zh-Hant-TW")),
        metadata: object(r#"{"a":{"b":[1,2.5,null,true,"é"]}}"#),
        started_at: at(-62_167_219_200_000),
        ended_at: Some(at(253_402_300_799_999)),
        end_reason: Some("hung up\0\u{10FFFF}\n".to_owned()),
        version: i64::MAX,
        archived: true,
    };
    let bare = Session {
        id: the("bare"),
        user_id: None,
        status: Status::Active,
        language: None,
        metadata: JsonObject::default(),
        started_at: at(0),
        ended_at: None,
        end_reason: None,
        version: 1,
        archived: false,
    };
    for session in [full, bare] {
        let key = key(session.id.as_str());
        let opened = store.open(&key.tenant, session.clone(), at(1)).await;
        assert_eq!(opened.unwrap().session, session);
        assert_eq!(store.session(&key).await.unwrap(), session);
        let again = store
            .open(&key.tenant, super::session(key.id.as_str()), at(2))
            .await;
        let again = again.unwrap();
        assert!(!again.created);
        assert_eq!(again.session, session);
    }
}

pub async fn a_session_that_never_was_is_not_found(subject: &dyn Subject) {
    let store = subject.store().await;
    open(&store, &key("another")).await;
    let missing = key("s");
    let not_found = Kind::SessionNotFound;
    assert_eq!(kind(store.session(&missing).await), not_found);
    let events = store.events(&missing, &super::everything()).await;
    assert_eq!(kind(events), not_found);
    assert_eq!(kind(store.event(&missing, &the("e")).await), not_found);
    let patched = store
        .patch(&missing, &Default::default(), &Default::default())
        .await;
    assert_eq!(kind(patched), not_found);
    let ended = store.end(&missing, &Default::default(), at(1)).await;
    assert_eq!(kind(ended), not_found);
    let appended = super::append(&store, super::event(&missing, "e")).await;
    assert_eq!(kind(appended), not_found);
    assert_eq!(kind(store.session(&missing).await), not_found);
}
