//! An object is stored once and whole, and only where it may be.

use std::sync::Arc;

use bytes::Bytes;
use colloquy::archive::objects::{ByteRange, ObjectErrorKind};

use super::{MIB, Subject, bytes, kind, paths, put, race, read, winner};

pub async fn an_object_comes_back_as_it_was_put(subject: &dyn Subject) {
    let (objects, other) = (subject.objects().await, subject.objects().await);
    for len in [0, 1, 4_097, MIB] {
        let path = format!("sizes/of={len}/object.bin");
        put(&*objects, &path, &bytes(len)).await;
        assert!(read(&*objects, &path).await == bytes(len), "{len} bytes");
        assert!(read(&*other, &path).await == bytes(len), "{len} bytes, elsewhere");
    }
}

pub async fn a_second_put_is_told_so_and_changes_nothing(subject: &dyn Subject) {
    let objects = subject.objects().await;
    put(&*objects, "a/b", &bytes(100)).await;
    for second in [bytes(99), Bytes::new()] {
        let refused = objects.put("a/b", second).await;
        assert_eq!(kind(refused), ObjectErrorKind::AlreadyExists);
    }
    assert_eq!(read(&*objects, "a/b").await, bytes(100));
}

pub async fn of_racing_puts_exactly_one_wins(subject: &dyn Subject) {
    let (objects, other) = (subject.objects().await, subject.objects().await);
    let content = |nth: usize| bytes(10_000 + nth);
    let ends = race((0..32).map(|nth| {
        let objects = Arc::clone(if nth % 2 == 0 { &objects } else { &other });
        async move { objects.put("folder/raced", content(nth)).await }
    }));
    let won = winner(&ends.await);
    assert!(read(&*objects, "folder/raced").await == content(won));
    assert!(read(&*other, "folder/raced").await == content(won));
}

pub async fn a_path_against_the_rule_is_refused_by_every_call(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let long = "x".repeat(251);
    let deep = "x/".repeat(450) + "x";
    for path in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../../b",
        "a/..",
        ".",
        "a b",
        "ä",
        "a\0b",
        "a\\b",
        "a%2e",
        "a#b",
        long.as_str(),
        deep.as_str(),
    ] {
        let denied = ObjectErrorKind::Denied;
        assert_eq!(kind(objects.put(path, bytes(1)).await), denied, "{path}");
        assert_eq!(
            objects.upload(path).await.err().map(|error| error.kind),
            Some(denied),
            "{path}"
        );
        assert_eq!(kind(objects.get(path, ByteRange::All).await), denied, "{path}");
        assert_eq!(kind(objects.head(path).await), denied, "{path}");
        assert_eq!(kind(objects.delete(path).await), denied, "{path}");
    }
    for prefix in ["/", "../", "a/../", "a//", "ä"] {
        assert_eq!(
            kind(objects.list(prefix, None, 10).await),
            ObjectErrorKind::Denied,
            "{prefix}"
        );
    }
}

pub async fn a_check_leaves_nothing_behind(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let words = objects.check().await.unwrap();
    assert!(!words.is_empty());
    assert_eq!(paths(&*objects, "").await, Vec::<String>::new());
}
