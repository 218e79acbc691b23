//! The backends that the configuration names, from opening them to saying how they are.

use std::{path::Path, sync::Arc, time::Duration};

use super::{AppError, shared};
use crate::{
    archive::{
        Archive, ArchiveOptions,
        objects::{
            Objects,
            directory::DirectoryObjects,
            observed::Observed,
            s3::{S3Objects, S3Options},
        },
    },
    cache::{Cache, MemoryCache, NoCache, RedisCache, RedisOptions},
    commands::check::{Checked, Overview, Standing},
    config::{ArchiveUrl, CacheUrl, Checksums, Config, StoreUrl},
    domain::{Limit, Result},
    service::{GroupLimits, Limits, Service},
    store::{
        Store,
        catalog::Catalog,
        leases::Leases,
        mongo::{self, Init, MongoOptions, MongoStore, Report},
        settings::Leave,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

/// The use cases over the store that the configuration names.
///
/// # Errors
/// The store can't be opened, is another process's, was not initialised, or is none of ours.
pub async fn open(config: &Config) -> Result<Service, AppError> {
    open_parts(config).await.map(|(service, _)| service)
}

/// As [`open`], with the leases of the same store.
pub(super) async fn open_parts(config: &Config) -> Result<(Service, Arc<dyn Leases>), AppError> {
    let store: Arc<dyn Catalog> = match &config.store {
        // Blocks, which nothing else has begun to mind at this point.
        StoreUrl::Sqlite(path) => Arc::new(SqliteStore::open(path, sqlite_options(config))?),
        StoreUrl::Mongo(url) => {
            let store = MongoStore::connect(url, mongo_options(config)).await?;
            if let Err(error) = shared::compare(&store, config).await {
                store.close().await;
                return Err(error);
            }
            Arc::new(store)
        }
    };
    let limits = Limits {
        page_payload_bytes_max: config.page_payload_bytes_max,
        cache_fills_max: config.cache_fills_max,
        ready_wait_max: Duration::from_millis(config.ready_wait_ms_max),
        tombstone: tombstone(config),
        groups: GroupLimits {
            queue_events_max: config.append_queue_events_max,
            queue_bytes_max: config.append_queue_bytes_max,
            group_events_max: config.append_group_events_max,
            group_bytes_max: config.append_group_bytes_max,
            flush_slots: config.append_flush_slots,
            stalled_after: Duration::from_millis(config.append_stalled_ms),
            stalled_events_max: config.append_stalled_events_max,
        },
    };
    let cache: Arc<dyn Cache> = match config.cache() {
        CacheUrl::Memory if config.cache_pages_bytes_max > 0 => {
            Arc::new(MemoryCache::new(config.cache_pages_bytes_max))
        }
        CacheUrl::Auto | CacheUrl::Memory | CacheUrl::None => Arc::new(NoCache),
        CacheUrl::Redis(url) => Arc::new(RedisCache::connect(url, redis_options(config)).await),
    };
    let service = Service::new(Arc::clone(&store) as _, Arc::clone(&cache), limits);
    let leases: Arc<dyn Leases> = Arc::clone(&store) as _;
    let service = match open_objects(config).await? {
        Some(objects) => {
            let objects = Arc::new(Observed::new(objects));
            service.with_archive(Archive::new(store, cache, objects, archive_options(config)))
        }
        None => service,
    };
    Ok((service, leases))
}

fn tombstone(config: &Config) -> Duration {
    Duration::from_hours(24 * u64::from(config.tombstone_days))
}

/// The archive's objects, unless there is none.
async fn open_objects(config: &Config) -> Result<Option<Arc<dyn Objects>>> {
    Ok(match archive_url(config) {
        ArchiveUrl::Auto | ArchiveUrl::None => None,
        ArchiveUrl::Directory(path) => Some(Arc::new(DirectoryObjects::open(path)?)),
        ArchiveUrl::S3 { bucket, prefix } => Some(Arc::new(
            S3Objects::connect(s3_options(config, bucket, prefix)).await?,
        )),
    })
}

/// Where the archive is: beside the embedded store where nothing else is said, since the two belong together.
pub(super) fn archive_url(config: &Config) -> ArchiveUrl {
    match (&config.archive, &config.store) {
        (ArchiveUrl::Auto, StoreUrl::Sqlite(path)) => ArchiveUrl::Directory(path.with_file_name("archive")),
        (ArchiveUrl::Auto, StoreUrl::Mongo(_)) => ArchiveUrl::None,
        (named, _) => named.clone(),
    }
}

fn s3_options(config: &Config, bucket: String, prefix: String) -> S3Options {
    S3Options {
        bucket,
        prefix,
        endpoint: config.archive_s3_endpoint.get(),
        region: config.archive_s3_region.get(),
        path_style: config.archive_s3_path_style.get(),
        attempt_time_max: Duration::from_millis(config.archive_attempt_ms_max),
        call_time_max: Duration::from_millis(config.archive_call_ms_max),
        attempts_max: config.archive_attempts_max,
        part_bytes: config.archive_part_bytes,
        checksums_when_required: config.archive_s3_checksums == Checksums::WhenRequired,
        ..S3Options::default()
    }
}

fn archive_options(config: &Config) -> ArchiveOptions {
    ArchiveOptions {
        after: config.archive_after.get(),
        segment_sessions_max: config.archive_segment_sessions_max,
        segment_bytes_target: config.archive_segment_bytes_target,
        lease: Duration::from_millis(config.archive_lease_ms),
        sessions_in_flight: config.archive_sessions_in_flight,
        sessions_per_s_max: config.archive_sessions_per_s_max,
        deletes_per_s_max: config.archive_deletes_per_s_max,
        tombstone: tombstone(config),
        read_time_max: Duration::from_millis(config.archive_read_ms_max),
        page_payload_bytes_max: config.page_payload_bytes_max,
        footers_bytes_max: config.archive_footers_bytes_max,
        rewrite_percent_min: config.archive_rewrite_percent_min,
        rewrite_after: config.archive_rewrite_after.get(),
        tidy_again_after: config.archive_tidy_again_after.get(),
        sweep_grace: config.archive_sweep_grace.get(),
        runs_max: config.archive_runs_max,
        ..ArchiveOptions::default()
    }
}

fn sqlite_options(config: &Config) -> SqliteOptions {
    let wait_max = Duration::from_millis(config.request_wait_ms_max);
    SqliteOptions {
        readers: config.sqlite_readers,
        queue_jobs_max: config.sqlite_queue_jobs_max,
        group_jobs_max: config.sqlite_group_jobs_max,
        read_wait_max: wait_max,
        queue_wait_max: wait_max,
        ..SqliteOptions::default()
    }
}

fn mongo_options(config: &Config) -> MongoOptions {
    MongoOptions {
        pool_max: config.mongo_pool_max,
        pool_min: config.mongo_pool_min,
        pool_connecting_max: config.mongo_connecting_max,
        call_wait_max: Duration::from_millis(config.request_wait_ms_max),
        call_time_max: Duration::from_millis(config.mongo_call_ms_max),
        attempts_max: config.mongo_attempts_max,
        server_selection_max: Duration::from_millis(config.mongo_server_selection_ms_max),
        connect_time_max: Duration::from_millis(config.mongo_connect_ms_max),
        sequences_max: config.mongo_sequences_max,
        append_settle: Duration::from_millis(config.mongo_append_settle_ms),
        clocks_apart_max: Duration::from_millis(config.mongo_clocks_apart_ms_max),
        ..MongoOptions::default()
    }
}

fn redis_options(config: &Config) -> RedisOptions {
    RedisOptions {
        prefix: config.cache_prefix.to_string(),
        call_time_max: Duration::from_millis(config.cache_call_ms_max),
        events_max: Limit::at_most(config.cache_events_max),
        // The cache answers whole pages.
        session_bytes_max: config.cache_session_bytes_max.min(config.page_payload_bytes_max),
        age_max: Duration::from_millis(config.cache_age_ms_max),
        write_time_max: Duration::from_millis(config.cache_write_ms_max),
        fill_time_max: Duration::from_millis(config.cache_fill_ms_max),
        lease: Duration::from_millis(config.cache_lease_ms),
        absence_max: Duration::from_millis(config.cache_absence_ms_max),
        gathering: Duration::from_millis(config.cache_gathering_ms),
        unmarked_max: config.cache_unmarked_max,
        pages_bytes_max: config.cache_pages_bytes_max,
    }
}

/// What `colloquy init` may do besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InitFlags {
    /// Drop what only earlier versions use, and refuse their processes from now on.
    pub drop_superseded: bool,
    /// Record this configuration's shared settings in place of others.
    pub change_settings: bool,
}

/// `colloquy init`: makes what the store needs, where it is missing, records the settings that all processes share, and says
/// what it did. Can be repeated.
///
/// # Errors
/// The store can't be reached, or it refuses.
pub async fn init(config: &Config, flags: InitFlags) -> Result<Standing, AppError> {
    match &config.store {
        StoreUrl::Sqlite(path) => Ok(look_into(path, config).await?),
        StoreUrl::Mongo(url) => {
            let init = Init {
                chunks: config.mongo_chunks,
                drop_superseded: flags.drop_superseded,
                ours: shared::ours(config),
                leave: Leave {
                    change: flags.change_settings,
                    narrow: flags.drop_superseded,
                },
            };
            let report = mongo::initialise(url, &mongo_options(config), &init).await?;
            Ok(standing(&report))
        }
    }
}

/// `colloquy check`: whether each backend can be reached and is set up right. Changes nothing.
pub async fn check(config: &Config) -> Overview {
    Overview(vec![
        Checked {
            backend: "store",
            place: config.store.to_string(),
            found: check_store(config).await,
        },
        Checked {
            backend: "cache",
            place: config.cache().to_string(),
            found: check_cache(config).await,
        },
        Checked {
            backend: "archive",
            place: archive_url(config).to_string(),
            found: check_archive(config).await,
        },
    ])
}

async fn check_store(config: &Config) -> Result<Standing> {
    match &config.store {
        StoreUrl::Sqlite(path) if !path.exists() => Ok(Standing::good(
            "nothing is there yet: the embedded store makes its file when it is first used",
        )),
        StoreUrl::Sqlite(path) => look_into(path, config).await,
        StoreUrl::Mongo(url) => {
            let (options, ours) = (mongo_options(config), shared::ours(config));
            Ok(standing(&mongo::check(url, &options, &ours).await?))
        }
    }
}

async fn check_cache(config: &Config) -> Result<Standing> {
    match config.cache() {
        CacheUrl::Memory if config.cache_pages_bytes_max > 0 => {
            Ok(Standing::good("in the memory of the process that serves"))
        }
        CacheUrl::Auto | CacheUrl::Memory | CacheUrl::None => {
            Ok(Standing::good("off: every read asks the store"))
        }
        CacheUrl::Redis(url) => RedisCache::check(url, &redis_options(config))
            .await
            .map(Standing::good),
    }
}

async fn check_archive(config: &Config) -> Result<Standing> {
    match archive_url(config) {
        ArchiveUrl::Directory(path) if !path.exists() => Ok(Standing::good(
            "nothing is there yet: the directory is made when it is first used",
        )),
        _ => match open_objects(config).await? {
            None => Ok(Standing::good("none: nothing is archived")),
            Some(objects) => Ok(Standing::good(objects.check().await?)),
        },
    }
}

/// Opens the embedded store, which initialises itself, and closes it again.
async fn look_into(path: &Path, config: &Config) -> Result<Standing> {
    SqliteStore::open(path, sqlite_options(config))?.close().await;
    Ok(Standing::good("the embedded store, which initialises itself"))
}

fn standing(report: &Report) -> Standing {
    Standing {
        ready: report.is_ready(),
        words: report.to_string(),
    }
}

/// Refuses to make a store only to find it empty, as a command run in the wrong folder would.
pub(super) fn must_exist(config: &Config) -> Result<(), AppError> {
    match &config.store {
        StoreUrl::Sqlite(path) if !path.exists() => Err(AppError::NoStore(path.display().to_string())),
        // A database that was not initialised is refused when it is opened.
        StoreUrl::Sqlite(_) | StoreUrl::Mongo(_) => Ok(()),
    }
}

/// `colloquy compact`: writes the embedded store's file anew; gives its size before and after, in bytes.
///
/// # Errors
/// The store is not the embedded one; as [`SqliteStore::compact`].
pub async fn compact(config: &Config) -> Result<(u64, u64), AppError> {
    let StoreUrl::Sqlite(path) = &config.store else {
        return Err(AppError::NotEmbedded);
    };
    must_exist(config)?;
    let bytes = || std::fs::metadata(path).map_or(0, |file| file.len());
    let before = bytes();
    let store = SqliteStore::open(path, SqliteOptions::default())?;
    let compacted = store.compact().await;
    store.close().await;
    compacted?;
    Ok((before, bytes()))
}
