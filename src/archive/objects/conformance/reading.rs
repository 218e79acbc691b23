//! A range is read whole or not at all.

use bytes::Bytes;
use colloquy::archive::objects::{ByteRange, ObjectErrorKind};

use super::{Subject, bytes, kind, put};

pub async fn every_range_gives_its_bytes_and_no_others(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let content = bytes(1_000);
    put(&*objects, "a", &content).await;
    for (start, end) in [(0, 1), (0, 1_000), (1, 999), (999, 1_000), (500, 501)] {
        let range = ByteRange::Of {
            start: start as u64,
            end: end as u64,
        };
        assert_eq!(
            objects.get("a", range).await.unwrap(),
            content[start..end],
            "{range:?}"
        );
    }
    for last in [1, 8, 999, 1_000, 1_001, usize::MAX] {
        let got = objects.get("a", ByteRange::Last(last as u64)).await.unwrap();
        assert_eq!(got, content[1_000 - last.min(1_000)..], "the last {last}");
    }
    put(&*objects, "empty", &Bytes::new()).await;
    assert_eq!(objects.get("empty", ByteRange::Last(8)).await.unwrap(), "");
}

pub async fn a_range_past_the_end_is_damage(subject: &dyn Subject) {
    let objects = subject.objects().await;
    put(&*objects, "a", &bytes(10)).await;
    put(&*objects, "empty", &Bytes::new()).await;
    for (path, start, end) in [
        ("a", 0, 11),
        ("a", 9, 11),
        ("a", 10, 11),
        ("a", 500, 600),
        ("a", 0, u64::MAX),
        ("empty", 0, 1),
    ] {
        let got = objects.get(path, ByteRange::Of { start, end }).await;
        assert_eq!(
            kind(got),
            ObjectErrorKind::Damaged,
            "{path} from {start} to {end}"
        );
    }
}

pub async fn a_range_without_bytes_is_refused(subject: &dyn Subject) {
    let objects = subject.objects().await;
    put(&*objects, "a", &bytes(10)).await;
    for range in [
        ByteRange::Of { start: 5, end: 5 },
        ByteRange::Of { start: 5, end: 4 },
        ByteRange::Last(0),
    ] {
        assert_eq!(
            kind(objects.get("a", range).await),
            ObjectErrorKind::Denied,
            "{range:?}"
        );
    }
}

pub async fn what_is_not_there_is_not_found(subject: &dyn Subject) {
    let objects = subject.objects().await;
    put(&*objects, "a/b", &bytes(1)).await;
    for path in ["a", "a/b/c", "a/c", "b", "b/c/d"] {
        assert_eq!(
            kind(objects.head(path).await),
            ObjectErrorKind::NotFound,
            "{path}"
        );
        for range in [
            ByteRange::All,
            ByteRange::Last(1),
            ByteRange::Of { start: 0, end: 1 },
        ] {
            let got = objects.get(path, range).await;
            assert_eq!(kind(got), ObjectErrorKind::NotFound, "{path} {range:?}");
        }
    }
}
