//! A list is in order, and a walk over its pages is complete.

use super::{Subject, bytes, paths, put};

pub async fn a_list_is_in_the_order_of_bytes(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let long = "z".repeat(250);
    let mut tricky = [
        "a-b",
        "a.b/c",
        "a/b",
        "a/b-c",
        "a/b.c/d",
        "a/bb/c",
        "a0",
        "a=b",
        "a~",
        "A",
        "a/@/:",
        "aa/b/c/d",
        "dt=1/x",
        "dt=10/x",
        ".a",
        "..a",
        long.as_str(),
    ]
    .map(str::to_owned)
    .to_vec();
    for path in &tricky {
        put(&*objects, path, &bytes(1)).await;
    }
    tricky.sort_unstable_by(|one, other| subject.order(one, other));
    assert_eq!(paths(&*objects, "").await, tricky);
}

/// The names of segments are such, and every server has them in this order.
pub async fn names_of_one_length_are_listed_in_the_order_of_bytes(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let mut all = Vec::new();
    for day in ["dt=2026-01-31", "dt=2025-12-31", "dt=2026-02-01"] {
        all.extend(["b0", "-a", "aZ", "=_"].map(|name| format!("events/{day}/{name}.parquet")));
    }
    for path in &all {
        put(&*objects, path, &bytes(1)).await;
    }
    all.sort_unstable();
    assert_eq!(paths(&*objects, "events/").await, all);
}

pub async fn a_prefix_is_the_beginning_of_a_path_and_no_folder(subject: &dyn Subject) {
    let objects = subject.objects().await;
    for path in ["a-b", "a/b", "a/bc/d", "a/c", "aa/b", "b"] {
        put(&*objects, path, &bytes(1)).await;
    }
    let cases: [(&str, &[&str]); 9] = [
        ("a", &["a-b", "a/b", "a/bc/d", "a/c", "aa/b"]),
        ("a/", &["a/b", "a/bc/d", "a/c"]),
        ("a/b", &["a/b", "a/bc/d"]),
        ("a/bc", &["a/bc/d"]),
        ("a/bc/", &["a/bc/d"]),
        ("a/bc/d", &["a/bc/d"]),
        ("a/bc/d/", &[]),
        ("nothing/there", &[]),
        ("aaa", &[]),
    ];
    for (prefix, found) in cases {
        let mut found = found.to_vec();
        found.sort_unstable_by(|one, other| subject.order(one, other));
        assert_eq!(paths(&*objects, prefix).await, found, "{prefix}");
    }
}

pub async fn pages_of_a_list_neither_skip_nor_repeat(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let mut all: Vec<String> = Vec::new();
    for folder in ["p/a", "p/a-", "p/a/a", "p/b", "q"] {
        all.extend((0..3).map(|nth| format!("{folder}/{nth}")));
    }
    for path in &all {
        put(&*objects, path, &bytes(1)).await;
    }
    all.retain(|path| path.starts_with("p/"));
    all.sort_unstable_by(|one, other| subject.order(one, other));
    for limit in [1, 2, 5, 12, 1_000] {
        let (mut walked, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = objects.list("p/", after.as_deref(), limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.path.clone());
            walked.extend(page.into_iter().map(|meta| meta.path));
        }
        assert_eq!(walked, all, "pages of {limit}");
    }
    // What is walked after need not be there, nor within the prefix.
    for after in ["p/a/1", "p/a/1x", "p/a0", "o", "q"] {
        let listed = objects.list("p/", Some(after), 1_000).await.unwrap();
        let listed: Vec<&str> = listed.iter().map(|meta| meta.path.as_str()).collect();
        let expected: Vec<&String> = all
            .iter()
            .filter(|path| subject.order(path, after).is_gt())
            .collect();
        assert_eq!(listed, expected, "after {after}");
    }
}

pub async fn a_list_tells_what_head_tells(subject: &dyn Subject) {
    let objects = subject.objects().await;
    put(&*objects, "h/one", &bytes(1_234)).await;
    let head = objects.head("h/one").await.unwrap();
    assert_eq!((head.path.as_str(), head.size), ("h/one", 1_234));
    let now_ms = time::OffsetDateTime::now_utc().unix_timestamp() * 1_000;
    assert!((now_ms - head.written_at.unix_ms()).abs() < 60_000, "{head:?}");

    let listed = objects.list("h/", None, 10).await.unwrap();
    assert_eq!((listed[0].path.as_str(), listed[0].size), ("h/one", 1_234));
    // One of the two may drop what is finer than a second.
    let apart_ms = listed[0].written_at.unix_ms() - head.written_at.unix_ms();
    assert!(apart_ms.abs() < 1_000, "{listed:?} {head:?}");
}
