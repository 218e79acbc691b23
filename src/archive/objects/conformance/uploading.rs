//! An upload is nothing until it is finished, and an object like any other then.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use colloquy::archive::objects::{ByteRange, ObjectErrorKind};

use super::{MIB, Subject, bytes, discard, kind, paths, put, race, read, winner};

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

pub async fn unfinished_uploads_are_discarded_by_their_age(subject: &dyn Subject) {
    let objects = subject.objects().await;
    put(&*objects, "kept", &bytes(1)).await;
    let mut upload = objects.upload("u/young").await.unwrap();
    upload.write(bytes(9 * MIB)).await.unwrap();
    assert_eq!(discard(&*objects, "u/", Duration::from_hours(1)).await, 0);
    upload.finish().await.unwrap();
    assert_eq!(discard(&*objects, "u/", Duration::ZERO).await, 0);
    assert_eq!(paths(&*objects, "").await, ["kept", "u/young"]);

    let mut upload = objects.upload("u/stale").await.unwrap();
    upload.write(bytes(9 * MIB)).await.unwrap();
    // Nobody finishes what a process that was killed began.
    std::mem::forget(upload);
    assert_eq!(discard(&*objects, "u/", Duration::from_hours(1)).await, 0);
    assert_eq!(discard(&*objects, "u/", Duration::ZERO).await, 1);
    assert_eq!(discard(&*objects, "u/", Duration::ZERO).await, 0);
    assert_eq!(paths(&*objects, "").await, ["kept", "u/young"]);
}

pub async fn an_upload_that_was_discarded_can_not_be_finished(subject: &dyn Subject) {
    let objects = subject.objects().await;
    let mut upload = objects.upload("u/discarded").await.unwrap();
    upload.write(bytes(9 * MIB)).await.unwrap();
    assert_eq!(discard(&*objects, "u/", Duration::ZERO).await, 1);
    let written = upload.write(bytes(MIB)).await;
    let ended = match written {
        Ok(()) => upload.finish().await,
        Err(error) => Err(error),
    };
    assert_eq!(kind(ended), ObjectErrorKind::Unavailable);
    assert_eq!(kind(objects.head("u/discarded").await), ObjectErrorKind::NotFound);
}

pub async fn uploads_of_others_in_the_same_place_are_left_alone(subject: &dyn Subject) {
    let (objects, others) = (subject.objects().await, subject.others().await);
    let mut theirs = others.upload("u/theirs").await.unwrap();
    theirs.write(bytes(9 * MIB)).await.unwrap();
    let mut ours = objects.upload("u/ours").await.unwrap();
    ours.write(bytes(9 * MIB)).await.unwrap();
    std::mem::forget(ours);
    put(&*others, "u/object", &bytes(1)).await;
    assert_eq!(discard(&*objects, "u/", Duration::ZERO).await, 1, "ours alone");
    // Nor do those go that lie under the prefix, and are not ours by their names.
    assert_eq!(discard(&*objects, "", Duration::ZERO).await, 0);
    theirs.write(bytes(MIB)).await.unwrap();
    theirs.finish().await.unwrap();
    assert!(read(&*others, "u/theirs").await == bytes_of(9 * MIB, MIB));
    assert_eq!(paths(&*others, "").await, ["u/object", "u/theirs"]);
}

fn bytes_of(one: usize, other: usize) -> Bytes {
    [bytes(one), bytes(other)].concat().into()
}
