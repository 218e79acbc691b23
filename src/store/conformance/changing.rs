//! Patching and ending, one call at a time.

use colloquy::domain::{End, EndStatus, Expected, Kind, SessionPatch, Status};

use super::{Subject, at, key, kind, open, the};

fn patch(json: &str) -> SessionPatch {
    SessionPatch::read(json.as_bytes()).unwrap()
}

pub async fn a_patch_changes_what_it_names(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    let mut expected = open(&store, &key).await;
    for json in [
        r#"{"metadata":{"a":{"b":1},"c":[1]}}"#,
        r#"{"userId":"u","language":"en-US"}"#,
        r#"{"metadata":{"a":{"b":null,"d":"é"}},"language":null}"#,
        r#"{"userId":"other"}"#,
        r#"{"metadata":null,"userId":null}"#,
        r#"{"userId":null}"#,
        "{}",
    ] {
        let patch = patch(json);
        expected.patch(&patch, &Expected::Any).unwrap();
        let patched = store.patch(&key, &patch, &Expected::Any).await.unwrap();
        assert_eq!(patched, expected, "{json}");
        assert_eq!(store.session(&key).await.unwrap(), expected, "{json}");
    }
    assert_eq!(expected.version, 6, "a patch that changes nothing is none");
}

pub async fn a_patch_that_fails_changes_nothing(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    let before = open(&store, &key).await;
    let patch = patch(r#"{"userId":"u","metadata":{"a":1}}"#);
    let stale = store.patch(&key, &patch, &Expected::OneOf(vec![2, 3])).await;
    assert_eq!(kind(stale), Kind::VersionMismatch);
    let none = store.patch(&key, &patch, &Expected::OneOf(Vec::new())).await;
    assert_eq!(kind(none), Kind::VersionMismatch);
    assert_eq!(store.session(&key).await.unwrap(), before);
    let right = store.patch(&key, &patch, &Expected::OneOf(vec![7, 1])).await;
    let patched = right.unwrap();
    assert_eq!(patched.version, 2);

    let half = format!(r#"{{"metadata":{{"first":"{}"}}}}"#, "x".repeat(10_000));
    let half = store.patch(&key, &self::patch(&half), &Expected::Any).await;
    let before = half.unwrap();
    let rest = format!(
        r#"{{"userId":"v","metadata":{{"rest":"{}"}}}}"#,
        "y".repeat(10_000)
    );
    let too_large = store.patch(&key, &self::patch(&rest), &Expected::Any).await;
    assert_eq!(kind(too_large), Kind::TooLarge);
    assert_eq!(store.session(&key).await.unwrap(), before);
}

pub async fn an_ended_session_can_be_patched(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let mut expected = store.end(&key, &End::default(), at(9)).await.unwrap();
    let patch = patch(r#"{"metadata":{"rating":5}}"#);
    expected.patch(&patch, &Expected::Any).unwrap();
    let patched = store.patch(&key, &patch, &Expected::Any).await.unwrap();
    assert_eq!(patched, expected);
    assert_eq!(store.session(&key).await.unwrap(), expected);
}

pub async fn the_first_end_decides(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    let mut expected = open(&store, &key).await;
    let failed = End {
        status: EndStatus::Failed,
        reason: Some("hung up".to_owned()),
        ended_at: None,
    };
    assert!(expected.end(&failed, at(9), None));
    assert_eq!(store.end(&key, &failed, at(9)).await.unwrap(), expected);
    for later in [failed, End::default()] {
        let again = store.end(&key, &later, at(99)).await.unwrap();
        assert_eq!(again, expected);
    }
    assert_eq!(store.session(&key).await.unwrap(), expected);
}

pub async fn an_end_keeps_what_it_was_given(subject: &dyn Subject) {
    let store = subject.store().await;
    let reasons = [None, Some(""), Some("a\0b\u{1F600}\u{202E}\"\\")];
    for (n, reason) in reasons.into_iter().enumerate() {
        let key = key(&format!("s-{n}"));
        open(&store, &key).await;
        let end = End {
            status: the("completed"),
            reason: reason.map(str::to_owned),
            ended_at: Some(at(-1)),
        };
        store.end(&key, &end, at(9)).await.unwrap();
        let ended = store.session(&key).await.unwrap();
        assert_eq!(ended.status, Status::Completed);
        assert_eq!(ended.ended_at, Some(at(-1)));
        assert_eq!(ended.end_reason.as_deref(), reason);
    }
}
