//! What holds once everything that went wrong is over.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use colloquy::{
    archive::{
        Archive, RunRequest, RunStatus, Trigger,
        segment::{SegmentReader, events_path, manifest_path, segment_of, sessions_path},
    },
    domain::{Error, Kind, Result, SessionKey},
    store::catalog::{Archived, Standing},
};

use futures_util::future::BoxFuture;

use super::world::{World, append, key};

/// A bound that keeps a broken test from hanging.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Archives all that is due; a run that did not complete is an error.
pub async fn run(archive: &Archive) -> Result<()> {
    let record = archive
        .run(RunRequest::default(), Trigger::Command, Arc::default())
        .await?;
    match record.status {
        RunStatus::Completed => Ok(()),
        status => Err(Error::new(
            Kind::Unavailable,
            format!("{status:?}: {:?}", record.error),
        )),
    }
}

impl World {
    fn keys(&self) -> Vec<SessionKey> {
        self.model.0.keys().map(|id| key(id)).collect()
    }

    pub async fn standings(&self) -> Vec<Standing> {
        self.catalog.standings(&self.keys()).await.unwrap()
    }

    /// The archived sessions.
    pub async fn archived(&self) -> Vec<Archived> {
        let archived = self
            .standings()
            .await
            .into_iter()
            .filter_map(|standing| match standing {
                Standing::Archived(archived) => Some(archived),
                _ => None,
            });
        archived.collect()
    }

    /// Lets archivers run until nothing is left to do, however long somebody else's claims stand.
    pub fn recover<'a>(&'a self, what: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let began = Instant::now();
            loop {
                run(&self.archive())
                    .await
                    .unwrap_or_else(|error| panic!("{what}: {error:?}"));
                let hot = self.catalog.with_hot_events(&self.keys()).await.unwrap();
                if hot.is_empty() && self.archived().await.len() == self.model.due().count() {
                    return;
                }
                assert!(
                    began.elapsed() < PATIENCE,
                    "{what}: {:?}, hot: {hot:?}",
                    self.standings().await
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    /// Rewrites until the bytes of all erased sessions are gone.
    pub async fn rewrite(&self, what: &str) {
        let began = Instant::now();
        loop {
            let rewritten = self.archive().rewrite().await;
            let rewritten = rewritten.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            if rewritten.pending == 0 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {rewritten}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn assert_reads(&self, what: &str) {
        if let Err(wrong) = self.reads().await {
            panic!("{what}: {wrong}");
        }
    }

    pub async fn assert_verifies(&self, what: &str) {
        let verified = self.archive().verify(&|_| ()).await.unwrap();
        assert!(verified.is_good(), "{what}: {verified}");
    }

    /// After a sweep: what is there is what pointers lead to, once, and no more; and all of it reads as ever.
    pub async fn assert_settled(&self, what: &str) {
        let archive = self.archive();
        archive.sweep(Duration::ZERO).await.unwrap();
        let verified = archive.verify(&|_| ()).await.unwrap();
        assert!(verified.is_good(), "{what}: {verified}");
        let rows: u64 = self
            .archived()
            .await
            .iter()
            .map(|archived| archived.pointer.rows)
            .sum();
        let events: usize = self.model.due().map(|told| told.events.len()).sum();
        assert_eq!(
            (verified.sessions, rows),
            (self.model.due().count() as u64, events as u64),
            "{what}: nothing is lost, nothing is there twice"
        );
        assert_eq!(
            self.objects().await,
            self.needed_objects().await,
            "{what}: no orphans"
        );
        self.assert_replays(what).await;
        self.assert_reads(what).await;
    }

    /// An event that was archived is still the one of its id.
    async fn assert_replays(&self, what: &str) {
        let service = self.service();
        for told in self.model.due().filter(|told| told.events.len() == 2) {
            let id = told.session.id.as_str();
            let again = service.append(&key(id), append(id, 1).event).await;
            let again = again.unwrap_or_else(|error| panic!("{what}: {id}: {error:?}"));
            assert!(
                again.replayed && told.events.contains(&again.event),
                "{what}: {again:?}"
            );
        }
    }

    /// The segments' objects.
    async fn objects(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        for prefix in ["events/", "manifests/", "sessions/"] {
            let listed = self.objects.list(prefix, None, 1_000).await.unwrap();
            paths.extend(listed.into_iter().map(|object| object.path));
        }
        paths
    }

    async fn needed_objects(&self) -> BTreeSet<String> {
        let segments = self.catalog.segments(None, 500).await.unwrap();
        let paths = |name| [events_path(name), manifest_path(name), sessions_path(name)];
        segments.iter().flat_map(|(name, _)| paths(name)).collect()
    }

    /// Not even in an object that nothing leads to.
    pub async fn assert_no_words_of(&self, id: &str, what: &str) {
        let reader = SegmentReader::new(Arc::clone(&self.objects), 1 << 20);
        let words = format!("words of {id}");
        for path in self.objects().await {
            let Some(name) = segment_of(&path) else { continue };
            if path == events_path(&name) {
                let mut rows = reader.events(&name).await.unwrap();
                while let Some((_, event)) = rows.next().await.unwrap() {
                    assert!(!event.payload.as_str().contains(&words), "{what}: {path}");
                }
            } else if path == sessions_path(&name) {
                let mut rows = reader.sessions(&name).await.unwrap();
                while let Some(row) = rows.next().await.unwrap() {
                    assert!(!row.session.metadata.as_str().contains(&words), "{what}: {path}");
                }
            }
        }
    }

    /// A store that is rebuilt from the objects alone gives what was archived.
    pub async fn assert_rebuilds(&self, what: &str) {
        let mut rebuilt = self.without_store().await;
        rebuilt.model.0.retain(|_, told| told.is_due());
        let outcome = rebuilt.archive().rebuild(&|_| ()).await.unwrap();
        assert!(outcome.is_good(), "{what}: {outcome}");
        assert_eq!(
            outcome.sessions,
            rebuilt.model.0.len() as u64,
            "{what}: {outcome}"
        );
        rebuilt.assert_reads(what).await;
        rebuilt.catalog.close().await;
    }
}
