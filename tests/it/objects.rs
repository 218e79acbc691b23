//! Objects in a directory and on S3 keep the contract of objects, and each what it promises beyond it.

mod directory {
    use std::{fs, path::Path, sync::Arc};

    use async_trait::async_trait;
    use colloquy::archive::objects::{ByteRange, ObjectErrorKind, Objects, directory::DirectoryObjects};
    use tempfile::TempDir;

    use crate::objects_conformance::{Subject, bytes, kind, objects_conformance};

    struct Directory(TempDir);

    impl Directory {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn open(&self) -> DirectoryObjects {
            DirectoryObjects::open(self.root()).unwrap()
        }

        fn root(&self) -> std::path::PathBuf {
            self.0.path().join("data/archive")
        }
    }

    #[async_trait]
    impl Subject for Directory {
        async fn objects(&self) -> Arc<dyn Objects> {
            Arc::new(self.open())
        }

        async fn others(&self) -> Arc<dyn Objects> {
            Arc::new(DirectoryObjects::open(self.root().join("theirs")).unwrap())
        }
    }

    objects_conformance!(Directory::new());

    fn files_in(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn an_object_is_a_file_at_its_path_and_nothing_else_is_left() {
        let directory = Directory::new();
        let objects = directory.open();
        objects
            .put("events/dt=2026-01-31/x.parquet", bytes(10))
            .await
            .unwrap();
        objects
            .put("events/dt=2026-01-31/x.parquet", bytes(9))
            .await
            .unwrap_err();
        let root = directory.root();
        assert_eq!(
            fs::read(root.join("events/dt=2026-01-31/x.parquet")).unwrap(),
            bytes(10)
        );
        assert_eq!(files_in(&root.join(".#unfinished")), 0);
        objects.delete("events/dt=2026-01-31/x.parquet").await.unwrap();
        assert!(
            !root.join("events").exists(),
            "empty folders go with the last object in them"
        );
    }

    #[tokio::test]
    async fn a_path_and_a_folder_can_not_be_the_same() {
        let directory = Directory::new();
        let objects = directory.open();
        objects.put("a", bytes(1)).await.unwrap();
        assert_eq!(kind(objects.put("a/b", bytes(1)).await), ObjectErrorKind::Denied);
        assert_eq!(
            kind(objects.put("a/b/c", bytes(1)).await),
            ObjectErrorKind::Denied
        );
        objects.put("b/c", bytes(1)).await.unwrap();
        assert_eq!(kind(objects.put("b", bytes(1)).await), ObjectErrorKind::Denied);
    }

    #[tokio::test]
    async fn files_that_are_no_objects_are_not_listed() {
        let directory = Directory::new();
        let objects = directory.open();
        objects.put("a/b", bytes(1)).await.unwrap();
        fs::write(directory.root().join("a/b c"), "").unwrap();
        fs::write(directory.root().join(".#unfinished/mine"), "").unwrap();
        let listed = objects.list("", None, 10).await.unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(
            objects
                .discard_unfinished("", &|_| true, std::time::Duration::ZERO)
                .await
                .unwrap(),
            0
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn puts_survive_deletions_that_take_their_folder_away() {
        let directory = Directory::new();
        let objects = Arc::new(directory.open());
        let put_and_delete = |nth: usize| {
            let objects = Arc::clone(&objects);
            tokio::spawn(async move {
                for round in 0..100 {
                    let path = format!("f/g/{nth}");
                    objects.put(&path, bytes(round)).await.unwrap();
                    assert_eq!(objects.get(&path, ByteRange::All).await.unwrap(), bytes(round));
                    objects.delete(&path).await.unwrap();
                }
            })
        };
        for task in (0..4).map(put_and_delete).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(objects.list("", None, 10).await.unwrap(), []);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn whatever_is_listed_while_it_is_put_is_whole() {
        let directory = Directory::new();
        let objects = Arc::new(directory.open());
        let content = bytes(3 * 1024 * 1024);
        let putting = tokio::spawn({
            let (objects, content) = (Arc::clone(&objects), content.clone());
            async move {
                for nth in 0..10 {
                    objects.put(&format!("w/{nth}"), content.clone()).await.unwrap();
                }
            }
        });
        let mut seen = 0;
        while seen < 10 {
            let listed = objects.list("", None, 100).await.unwrap();
            assert!(
                listed.iter().all(|meta| meta.size == content.len() as u64),
                "{listed:?}"
            );
            seen = listed.len();
        }
        putting.await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_vanished_is_away_and_not_empty() {
        let directory = Directory::new();
        let objects = directory.open();
        objects.put("a", bytes(1)).await.unwrap();
        fs::rename(directory.root(), directory.0.path().join("elsewhere")).unwrap();

        let away = ObjectErrorKind::Unavailable;
        assert_eq!(kind(objects.get("a", ByteRange::All).await), away);
        assert_eq!(kind(objects.head("a").await), away);
        assert_eq!(kind(objects.list("", None, 10).await), away);
        assert_eq!(kind(objects.put("b", bytes(1)).await), away);
        assert_eq!(kind(objects.delete("a").await), away);
        assert_eq!(kind(objects.check().await), away);
        assert!(!directory.root().exists(), "nor is it made anew");
    }
}

mod s3 {
    use std::{cmp::Ordering, sync::Arc};

    use async_trait::async_trait;
    use colloquy::archive::objects::{
        ObjectErrorKind, Objects,
        s3::{S3Objects, S3Options},
    };

    use crate::{
        engines::{self, Bucket},
        objects_conformance::{Subject, bytes, kind, objects_conformance},
    };

    fn options(bucket: &Bucket) -> S3Options {
        S3Options {
            bucket: bucket.bucket.clone(),
            prefix: bucket.prefix.clone(),
            endpoint: Some(bucket.endpoint.clone()),
            region: Some(bucket.region.clone()),
            credentials: Some((bucket.access_key.clone(), bucket.secret_key.clone())),
            ..S3Options::default()
        }
    }

    #[async_trait]
    impl Subject for Bucket {
        async fn objects(&self) -> Arc<dyn Objects> {
            Arc::new(S3Objects::connect(options(self)).await.unwrap())
        }

        async fn others(&self) -> Arc<dyn Objects> {
            let theirs = S3Options {
                prefix: format!("{}/theirs", self.prefix.trim_end_matches('/')),
                ..options(self)
            };
            Arc::new(S3Objects::connect(theirs).await.unwrap())
        }

        /// SeaweedFS goes from folder to folder, so all of `a/` comes before `a-b`, which S3 has after it.
        fn order(&self, one: &str, other: &str) -> Ordering {
            match std::env::var("COLLOQUY_TEST_S3") {
                Ok(url) if !url.is_empty() => one.cmp(other),
                _ => one.split('/').cmp(other.split('/')),
            }
        }
    }

    objects_conformance!(engines::s3().await);

    #[tokio::test]
    async fn a_check_says_what_was_reached_and_what_is_wrong() {
        let bucket = engines::s3().await;
        let words = bucket.objects().await.check().await.unwrap();
        assert!(
            words.contains(&bucket.bucket) && words.contains(&bucket.prefix),
            "{words}"
        );

        let unknown = S3Options {
            credentials: Some(("nobody".to_owned(), "secret".to_owned())),
            ..options(&bucket)
        };
        let error = S3Objects::connect(unknown)
            .await
            .unwrap()
            .check()
            .await
            .unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Denied, "{error}");
        assert!(error.to_string().contains("InvalidAccessKeyId"), "{error}");
    }

    #[tokio::test]
    async fn no_secret_is_in_what_is_said() {
        let bucket = engines::s3().await;
        let wrong = S3Options {
            credentials: Some((bucket.access_key.clone(), "a-wrong-secret".to_owned())),
            ..options(&bucket)
        };
        assert!(!format!("{wrong:?}").contains("a-wrong-secret"));
        let objects = S3Objects::connect(wrong).await.unwrap();
        assert!(!format!("{objects:?}").contains("a-wrong-secret"));
        let error = objects.put("a", bytes(1)).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Denied);
        let said = format!("{error} {error:?}");
        assert!(
            !said.contains("a-wrong-secret") && !said.contains("X-Amz-Signature"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn objects_under_two_prefixes_never_meet() {
        let (one, two) = (engines::s3().await, engines::s3().await);
        one.objects().await.put("a", bytes(1)).await.unwrap();
        let two = two.objects().await;
        assert_eq!(kind(two.head("a").await), ObjectErrorKind::NotFound);
        assert_eq!(two.list("", None, 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn options_that_can_not_be_are_refused() {
        let bucket = engines::s3().await;
        let small = S3Options {
            part_bytes: 5 * 1024 * 1024 - 1,
            ..options(&bucket)
        };
        let nameless = S3Options {
            bucket: String::new(),
            ..options(&bucket)
        };
        for refused in [small, nameless] {
            assert_eq!(kind(S3Objects::connect(refused).await), ObjectErrorKind::Denied);
        }
    }
}
