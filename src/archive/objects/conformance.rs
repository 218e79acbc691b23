//! The contract of [`Objects`] as a test that every implementation passes.
//!
//! It is no part of the library: the integration tests take it in, as they do the store's, and name a subject for each
//! implementation; every rule below becomes a test of its own, with a place of its own.

use std::{cmp::Ordering, fmt::Debug, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use colloquy::archive::objects::{ByteRange, ObjectError, ObjectErrorKind, Objects};
use tokio::{sync::Barrier, task::JoinSet};

/// A place to test on.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The objects of that place; called again, the same ones by another way in, as another process has it.
    async fn objects(&self) -> Arc<dyn Objects>;

    /// The order of its lists, where a server has one of its own for a name that another one begins with.
    fn order(&self, one: &str, other: &str) -> Ordering {
        one.cmp(other)
    }
}

/// Makes each rule a test; the expression makes the [`Subject`], and may await.
macro_rules! objects_conformance {
    ($subject:expr) => {
        $crate::objects_conformance::rules! { $subject;
            an_object_comes_back_as_it_was_put,
            every_range_gives_its_bytes_and_no_others,
            a_range_past_the_end_is_damage,
            a_range_without_bytes_is_refused,
            a_second_put_is_told_so_and_changes_nothing,
            of_racing_puts_exactly_one_wins,
            an_upload_is_nowhere_until_it_is_finished,
            an_upload_that_was_dropped_never_was,
            a_large_upload_in_odd_writes_comes_back,
            uploads_of_no_bytes_and_of_few_come_back,
            an_upload_over_an_object_is_told_so_and_changes_nothing,
            of_racing_uploads_and_puts_exactly_one_wins,
            a_list_is_in_the_order_of_bytes,
            names_of_one_length_are_listed_in_the_order_of_bytes,
            a_prefix_is_the_beginning_of_a_path_and_no_folder,
            pages_of_a_list_neither_skip_nor_repeat,
            a_list_tells_what_head_tells,
            an_object_is_deleted_once_and_twice,
            a_deleted_path_can_be_put_again,
            what_is_not_there_is_not_found,
            a_path_against_the_rule_is_refused_by_every_call,
            unfinished_uploads_are_discarded_by_their_age,
            an_upload_that_was_discarded_can_not_be_finished,
            a_check_leaves_nothing_behind;
        }
    };
}
pub(crate) use objects_conformance;

macro_rules! rules {
    ($subject:expr; $($rule:ident),+;) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $rule() {
                $crate::objects_conformance::$rule(&$subject).await;
            }
        )+
    };
}
pub(crate) use rules;

const MIB: usize = 1024 * 1024;

/// No two stretches of it are alike, so none can stand in for another.
pub fn bytes(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn kind<T: Debug>(result: Result<T, ObjectError>) -> ObjectErrorKind {
    result.expect_err("a refusal").kind
}

async fn put(objects: &dyn Objects, path: &str, content: &Bytes) {
    objects.put(path, content.clone()).await.expect("stored");
}

async fn read(objects: &dyn Objects, path: &str) -> Bytes {
    objects.get(path, ByteRange::All).await.expect("read")
}

async fn paths(objects: &dyn Objects, prefix: &str) -> Vec<String> {
    let listed = objects.list(prefix, None, 1_000).await.expect("listed");
    listed.into_iter().map(|meta| meta.path).collect()
}

/// Starts all at once; gives how each ended.
async fn race<F>(racers: impl IntoIterator<Item = F>) -> Vec<Result<usize, ObjectErrorKind>>
where
    F: Future<Output = Result<(), ObjectError>> + Send + 'static,
{
    let racers: Vec<F> = racers.into_iter().collect();
    let start = Arc::new(Barrier::new(racers.len()));
    let mut running = JoinSet::new();
    for (nth, racer) in racers.into_iter().enumerate() {
        let start = Arc::clone(&start);
        running.spawn(async move {
            start.wait().await;
            racer.await.map(|()| nth).map_err(|error| error.kind)
        });
    }
    running.join_all().await
}

/// The one that won; all the others were told that there is an object already.
fn winner(ends: &[Result<usize, ObjectErrorKind>]) -> usize {
    let losers = ends
        .iter()
        .filter(|end| **end == Err(ObjectErrorKind::AlreadyExists));
    assert_eq!(losers.count(), ends.len() - 1, "{ends:?}");
    ends.iter().find_map(|end| end.ok()).expect("a winner")
}

pub async fn an_object_comes_back_as_it_was_put(subject: &dyn Subject) {
    let (objects, other) = (subject.objects().await, subject.objects().await);
    for len in [0, 1, 4_097, MIB] {
        let path = format!("sizes/of={len}/object.bin");
        put(&*objects, &path, &bytes(len)).await;
        assert!(read(&*objects, &path).await == bytes(len), "{len} bytes");
        assert!(read(&*other, &path).await == bytes(len), "{len} bytes, elsewhere");
    }
}

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

pub async fn an_upload_is_nowhere_until_it_is_finished(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let mut upload = objects.upload("u/one").await.unwrap();
    for _ in 0..3 {
        assert_eq!(kind(objects.head("u/one").await), ObjectErrorKind::NotFound);
        assert_eq!(
            kind(objects.get("u/one", ByteRange::All).await),
            ObjectErrorKind::NotFound
        );
        assert_eq!(paths(&*objects, "").await, Vec::<String>::new());
        upload.write(bytes(4 * MIB)).await.unwrap();
    }
    upload.finish().await.unwrap();
    assert_eq!(paths(&*objects, "").await, ["u/one"]);
    assert_eq!(objects.head("u/one").await.unwrap().size, 12 * MIB as u64);
}

pub async fn an_upload_that_was_dropped_never_was(subject: &dyn Subject) {
    let objects = subject.objects().await;
    for written in [0, 1, 9 * MIB] {
        let mut upload = objects.upload("u/dropped").await.unwrap();
        upload.write(bytes(written)).await.unwrap();
        drop(upload);
        assert_eq!(kind(objects.head("u/dropped").await), ObjectErrorKind::NotFound);
    }
    put(&*objects, "u/dropped", &bytes(7)).await;
    assert_eq!(read(&*objects, "u/dropped").await, bytes(7));
}

pub async fn a_large_upload_in_odd_writes_comes_back(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let content = bytes(20 * MIB + 1);
    let mut upload = objects.upload("u/large").await.unwrap();
    let mut rest = content.clone();
    for len in [1, 0, 8 * MIB - 1, 3, 6 * MIB + 17, 1_048_573]
        .into_iter()
        .cycle()
    {
        if rest.is_empty() {
            break;
        }
        upload.write(rest.split_to(len.min(rest.len()))).await.unwrap();
    }
    upload.finish().await.unwrap();
    assert!(read(&*objects, "u/large").await == content);
    let across_parts = ByteRange::Of {
        start: 8 * MIB as u64 - 5,
        end: 16 * MIB as u64 + 5,
    };
    let got = objects.get("u/large", across_parts).await.unwrap();
    assert!(got == content[8 * MIB - 5..16 * MIB + 5]);
}

pub async fn uploads_of_no_bytes_and_of_few_come_back(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let upload = objects.upload("u/empty").await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(read(&*objects, "u/empty").await, "");
    let mut upload = objects.upload("u/few").await.unwrap();
    upload.write(Bytes::from_static(b"f")).await.unwrap();
    upload.write(Bytes::from_static(b"ew")).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(read(&*objects, "u/few").await, "few");
}

pub async fn an_upload_over_an_object_is_told_so_and_changes_nothing(subject: &dyn Subject) {
    let objects = subject.objects().await;
    for len in [10, 9 * MIB] {
        let path = format!("u/{len}");
        let mut upload = objects.upload(&path).await.unwrap();
        upload.write(bytes(len)).await.unwrap();
        put(&*objects, &path, &bytes(3)).await;
        assert_eq!(kind(upload.finish().await), ObjectErrorKind::AlreadyExists);
        assert_eq!(read(&*objects, &path).await, bytes(3));
    }
}

pub async fn of_racing_uploads_and_puts_exactly_one_wins(subject: &dyn Subject) {
    let objects = subject.objects().await;
    // The greater ones need more than one part of an upload.
    let content = |nth: usize| bytes(if nth.is_multiple_of(2) { 9 * MIB } else { MIB } + nth);
    let ends = race((0..8).map(|nth| {
        let objects = Arc::clone(&objects);
        async move {
            if nth >= 4 {
                return objects.put("raced", content(nth)).await;
            }
            let mut upload = objects.upload("raced").await?;
            upload.write(content(nth)).await?;
            upload.finish().await
        }
    }));
    let won = winner(&ends.await);
    assert!(read(&*objects, "raced").await == content(won));
}

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

pub async fn an_object_is_deleted_once_and_twice(subject: &dyn Subject) {
    let objects = subject.objects().await;
    for path in ["d/a/b", "d/a/c"] {
        put(&*objects, path, &bytes(1)).await;
    }
    for _ in 0..2 {
        objects.delete("d/a/b").await.unwrap();
        assert_eq!(
            kind(objects.get("d/a/b", ByteRange::All).await),
            ObjectErrorKind::NotFound
        );
        assert_eq!(paths(&*objects, "").await, ["d/a/c"]);
    }
    // A folder is no object.
    objects.delete("d/a").await.unwrap();
    assert_eq!(paths(&*objects, "").await, ["d/a/c"]);
    objects.delete("never/was").await.unwrap();
}

pub async fn a_deleted_path_can_be_put_again(subject: &dyn Subject) {
    let objects = subject.objects().await;
    for len in 1..5 {
        put(&*objects, "again/and/again", &bytes(len)).await;
        assert_eq!(read(&*objects, "again/and/again").await, bytes(len));
        objects.delete("again/and/again").await.unwrap();
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

pub async fn unfinished_uploads_are_discarded_by_their_age(subject: &dyn Subject) {
    let objects = subject.objects().await;
    put(&*objects, "kept", &bytes(1)).await;
    let mut upload = objects.upload("u/young").await.unwrap();
    upload.write(bytes(9 * MIB)).await.unwrap();
    assert_eq!(
        objects.discard_unfinished(Duration::from_hours(1)).await.unwrap(),
        0
    );
    upload.finish().await.unwrap();
    assert_eq!(objects.discard_unfinished(Duration::ZERO).await.unwrap(), 0);
    assert_eq!(paths(&*objects, "").await, ["kept", "u/young"]);

    let mut upload = objects.upload("u/stale").await.unwrap();
    upload.write(bytes(9 * MIB)).await.unwrap();
    // Nobody finishes what a process that was killed began.
    std::mem::forget(upload);
    assert_eq!(
        objects.discard_unfinished(Duration::from_hours(1)).await.unwrap(),
        0
    );
    assert_eq!(objects.discard_unfinished(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(objects.discard_unfinished(Duration::ZERO).await.unwrap(), 0);
    assert_eq!(paths(&*objects, "").await, ["kept", "u/young"]);
}

pub async fn an_upload_that_was_discarded_can_not_be_finished(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let mut upload = objects.upload("u/discarded").await.unwrap();
    upload.write(bytes(9 * MIB)).await.unwrap();
    assert_eq!(objects.discard_unfinished(Duration::ZERO).await.unwrap(), 1);
    let written = upload.write(bytes(MIB)).await;
    let ended = match written {
        Ok(()) => upload.finish().await,
        Err(error) => Err(error),
    };
    assert_eq!(kind(ended), ObjectErrorKind::Unavailable);
    assert_eq!(kind(objects.head("u/discarded").await), ObjectErrorKind::NotFound);
}

pub async fn a_check_leaves_nothing_behind(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let words = objects.check().await.unwrap();
    assert!(!words.is_empty());
    assert_eq!(paths(&*objects, "").await, Vec::<String>::new());
}
