//! What is deleted is gone, and its path is free.

use colloquy::archive::objects::{ByteRange, ObjectErrorKind};

use super::{Subject, bytes, kind, paths, put, read};

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
