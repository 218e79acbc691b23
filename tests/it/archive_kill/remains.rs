//! What a killed archiver left, as only the store and the objects themselves show it: where its death fell.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
};

use colloquy::{
    archive::{
        objects::{
            Objects,
            directory::DirectoryObjects,
            s3::{S3Objects, S3Options},
        },
        segment::{EVENTS_PREFIX, MANIFESTS_PREFIX, SESSIONS_PREFIX, segment_of},
    },
    domain::{SegmentName, SessionKey, Tenant, Timestamp},
    store::{
        catalog::{CATALOG_BATCH_MAX, Catalog, Standing},
        mongo::{MongoOptions, MongoStore},
        sqlite::{SqliteOptions, SqliteStore},
    },
};

use crate::{backends::Store, engines, harness::Folder, ledger::Ledger};

/// More than a listing of objects gives at once.
const LISTED_MAX: usize = 1_000;

/// The store and the objects of a folder. On the embedded store no server may have it meanwhile.
pub struct Place {
    pub catalog: Arc<dyn Catalog>,
    pub objects: Arc<dyn Objects>,
}

impl Place {
    pub async fn open(folder: &Folder) -> Self {
        let objects = objects(folder).await;
        let catalog: Arc<dyn Catalog> = match Store::chosen() {
            Store::Embedded => {
                let path = folder.path().join("data/colloquy.db");
                Arc::new(SqliteStore::open(&path, SqliteOptions::default()).expect("the store"))
            }
            Store::MongoDb => {
                let options = MongoOptions {
                    pool_min: 0,
                    ..MongoOptions::default()
                };
                let url = kept(folder.path(), "database-url");
                Arc::new(MongoStore::connect(&url, options).await.expect("the store"))
            }
        };
        Self { catalog, objects }
    }

    /// The segments that have a file under this prefix.
    pub async fn segments(&self, prefix: &str) -> BTreeSet<SegmentName> {
        let paths = listed(&self.objects, prefix, None).await;
        let segment = |path: &String| segment_of(path).unwrap_or_else(|| panic!("{path} is none of ours"));
        paths.iter().map(segment).collect()
    }

    /// The segments that pointers lead to, with how many.
    pub async fn pointers(&self) -> BTreeMap<SegmentName, u64> {
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let some = self.catalog.segments(after.as_ref(), CATALOG_BATCH_MAX).await;
            let some = some.expect("segments");
            after = some.last().map(|(segment, _)| segment.clone());
            if some.is_empty() {
                return found;
            }
            found.extend(some);
        }
    }

    pub async fn close(&self) {
        self.catalog.close().await;
    }
}

/// The archive's objects of a folder, which anyone may look at at any time.
pub async fn objects(folder: &Folder) -> Arc<dyn Objects> {
    if Store::chosen() == Store::Embedded {
        let root = folder.path().join("data/archive");
        return Arc::new(DirectoryObjects::open(root).expect("the archive"));
    }
    let url = kept(folder.path(), "archive-url");
    let (_, prefix) = url.rsplit_once('/').expect("a prefix");
    let bucket = engines::s3().await;
    let options = S3Options {
        bucket: bucket.bucket,
        prefix: format!("{prefix}/"),
        endpoint: Some(bucket.endpoint),
        region: Some(bucket.region),
        credentials: Some((bucket.access_key, bucket.secret_key)),
        ..S3Options::default()
    };
    Arc::new(S3Objects::connect(options).await.expect("the bucket"))
}

fn kept(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("what a server before left")
}

/// The paths with this prefix that come after `after`, all of them.
pub async fn listed(objects: &Arc<dyn Objects>, prefix: &str, after: Option<String>) -> Vec<String> {
    let (mut paths, mut after): (Vec<String>, _) = (Vec::new(), after);
    loop {
        let some = objects.list(prefix, after.as_deref(), LISTED_MAX).await;
        let some = some.expect("a listing");
        paths.extend(some.iter().map(|object| object.path.clone()));
        match some.last().filter(|_| some.len() == LISTED_MAX) {
            Some(last) => after = Some(last.path.clone()),
            None => return paths,
        }
    }
}

/// Where deaths fell.
#[derive(Default)]
pub struct Tally {
    between_runs: usize,
    before_the_files: usize,
    before_the_manifest: usize,
    before_the_commit: usize,
    before_the_deletions: usize,
}

impl Tally {
    /// Looks at what is left of servers that all died just now.
    pub async fn look(&mut self, place: &Place, ledger: &Ledger) {
        let sealed = place.segments(MANIFESTS_PREFIX).await;
        let mut files = place.segments(SESSIONS_PREFIX).await;
        files.extend(place.segments(EVENTS_PREFIX).await);
        let pointers = place.pointers().await;
        let mut committing = false;
        for segment in sealed.iter().filter(|segment| !pointers.contains_key(segment)) {
            // One whose sessions all moved away is not claimed either.
            committing |= place.catalog.is_needed(segment).await.expect("the store");
        }
        let of = if !hot_copies(place, ledger).await.is_empty() {
            &mut self.before_the_deletions
        } else if committing {
            &mut self.before_the_commit
        } else if files.iter().any(|segment| !sealed.contains(segment)) {
            &mut self.before_the_manifest
        } else if has_claimed(place, ledger).await {
            &mut self.before_the_files
        } else {
            &mut self.between_runs
        };
        *of += 1;
        place.close().await;
    }

    /// Whether some fell into each of the phases.
    pub fn everywhere(&self) -> bool {
        let phases = [
            self.before_the_files,
            self.before_the_manifest,
            self.before_the_commit,
            self.before_the_deletions,
        ];
        phases.iter().all(|&deaths| deaths > 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "that were looked at: {} between runs, {} while reading and writing, {} before the manifest, {} before the commit, \
             {} before the last deletion",
            self.between_runs,
            self.before_the_files,
            self.before_the_manifest,
            self.before_the_commit,
            self.before_the_deletions
        )
    }
}

/// The sessions whose end was acknowledged, and no erasure.
fn ended(ledger: &Ledger) -> Vec<SessionKey> {
    let sessions = ledger.sessions().into_iter();
    let ended = sessions.filter(|(_, facts)| facts.has_ended() && !facts.erased);
    ended
        .map(|(id, _)| SessionKey::new(Tenant::default(), id.parse().expect("an id")))
        .collect()
}

/// The archived sessions that have hot events.
pub async fn hot_copies(place: &Place, ledger: &Ledger) -> Vec<SessionKey> {
    let mut found = Vec::new();
    for some in ended(ledger).chunks(CATALOG_BATCH_MAX) {
        let standings = place.catalog.standings(some).await.expect("the store");
        let archived = some.iter().zip(standings);
        let archived = archived.filter(|(_, standing)| matches!(standing, Standing::Archived(_)));
        let archived: Vec<SessionKey> = archived.map(|(key, _)| key.clone()).collect();
        let hot = place.catalog.with_hot_events(&archived).await;
        found.extend(hot.expect("the store"));
    }
    found
}

/// Whether there is a session that ended, is hot, and can't be claimed: because somebody has.
async fn has_claimed(place: &Place, ledger: &Ledger) -> bool {
    let far: Timestamp = "9999-12-31T00:00:00Z".parse().expect("a time");
    let due = place.catalog.due(far, usize::from(u16::MAX)).await;
    let due: BTreeSet<String> = due
        .expect("the store")
        .into_iter()
        .map(|due| due.key.to_string())
        .collect();
    for some in ended(ledger).chunks(CATALOG_BATCH_MAX) {
        let standings = place.catalog.standings(some).await.expect("the store");
        let mut hot = some.iter().zip(standings);
        if hot.any(|(key, standing)| standing == Standing::Hot && !due.contains(&key.to_string())) {
            return true;
        }
    }
    false
}
