//! Configuration: four sources in, one checked [`Config`] or one error with everything that is wrong out.
//!
//! [`DEFAULTS`] < the file of `--config` < `COLLOQUY_*` < flags. The same flat keys everywhere; what each means,
//! its unit and its limits are said once, in `config.default.toml`. A value is checked even when a stronger source
//! replaces it: a mistake in a file should not wait for the day its override is removed.
//!
//! Nothing here prints a secret: an error shows no more of a URL than its scheme, and whatever shows a URL otherwise
//! goes through [`Redacted`].

use std::{ffi::OsString, fmt, path::PathBuf};

use given::{Given, number, text};

use crate::{
    domain::{Span, SpanOrOff},
    telemetry::{LogFilter, LogFormat},
};

mod address;
mod archive;
mod given;

pub use address::{CacheUrl, KeyPrefix, Listen, Redacted, StoreUrl};
pub use archive::{ArchiveUrl, Checksums, Endpoint, PathStyle, Region};

/// The defaults with their comments: the file `config.default.toml`.
pub const DEFAULTS: &str = include_str!("../../config.default.toml");

/// What the environment's names begin with; the rest is the key in upper case.
pub const ENVIRONMENT_PREFIX: &str = "COLLOQUY_";

/// Where the values come from, the defaults aside.
///
/// Deliberately without `Debug`: the environment of a process is full of other people's secrets.
#[derive(Default)]
pub struct Sources {
    /// The file of `--config`.
    pub file: Option<PathBuf>,
    /// As of [`std::env::vars_os`]; what lacks [`ENVIRONMENT_PREFIX`] is passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// Keys (`log_format` for `--log-format`) with their values. The last of a key counts.
    pub flags: Vec<(String, String)>,
}

/// Makes [`Config`], [`Config::KEYS`] and the reading of each key out of one table, so that they can't differ.
macro_rules! config {
    ($($key:ident: $type:ty = $read:expr;)*) => {
        /// The checked configuration: one field a key.
        ///
        /// ```toml
        #[doc = include_str!("../../config.default.toml")]
        /// ```
        #[derive(Debug, Clone)]
        pub struct Config {
            $(pub $key: $type,)*
        }

        impl Config {
            /// Every key there is.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            /// `None` if a key has no acceptable value from any source.
            fn read(given: &mut Given) -> Option<Self> {
                $(let $key = given.read(stringify!($key), $read);)*
                Some(Self { $($key: $key?,)* })
            }
        }
    };
}

config! {
    listen: Listen = text;
    shutdown_drain_ms: u64 = number(0..=600_000);
    shutdown_grace_ms: u64 = number(0..=600_000);
    idle_connection_ms: u64 = number(1_000..=3_600_000);
    stalled_connection_ms: u64 = number(1_000..=3_600_000);
    head_wait_ms_max: u64 = number(100..=600_000);
    connections_max: usize = number(1..=1_000_000);
    body_bytes_max: usize = number(512 * KIB..=64 * MIB);
    body_wait_ms_max: u64 = number(100..=600_000);
    bodies_bytes_max: usize = number(MIB..=64 * 1024 * MIB);
    page_payload_bytes_max: usize = number(256 * KIB..=64 * MIB);
    answers_bytes_max: usize = number(MIB..=64 * 1024 * MIB);
    reads_in_flight_max: usize = number(1..=1_000_000);
    writes_in_flight_max: usize = number(1..=1_000_000);
    request_wait_ms_max: u64 = number(0..=60_000);
    ready_wait_ms_max: u64 = number(100..=60_000);
    log_format: LogFormat = text;
    log_filter: LogFilter = text;
    slow_request_ms: u64 = number(0..=3_600_000);
    store: StoreUrl = text;
    tombstone_days: u32 = number(1..=3_650);
    upkeep_every_ms: u64 = number(100..=86_400_000);
    chore_lease_ms: u64 = number(1_000..=3_600_000);
    health_every_ms: u64 = number(100..=600_000);
    sqlite_readers: usize = number(1..=64);
    sqlite_queue_jobs_max: usize = number(1..=1_000_000);
    sqlite_group_jobs_max: usize = number(1..=100_000);
    mongo_pool_max: u32 = number(1..=1_000);
    mongo_pool_min: u32 = number(0..=1_000);
    mongo_connecting_max: u32 = number(1..=64);
    mongo_call_ms_max: u64 = number(1_000..=60_000);
    mongo_attempts_max: u32 = number(1..=100);
    mongo_server_selection_ms_max: u64 = number(100..=60_000);
    mongo_connect_ms_max: u64 = number(100..=60_000);
    mongo_sequences_max: usize = number(1_024..=10_000_000);
    mongo_append_settle_ms: u64 = number(1..=60_000);
    mongo_clocks_apart_ms_max: u64 = number(0..=60_000);
    mongo_chunks: u32 = number(1..=65_536);
    cache: CacheUrl = text;
    cache_prefix: KeyPrefix = text;
    cache_call_ms_max: u64 = number(5..=1_000);
    cache_events_max: u16 = number(1..=500);
    cache_session_bytes_max: usize = number(64 * KIB..=16 * MIB);
    cache_age_ms_max: u64 = number(1_000..=86_400_000);
    cache_write_ms_max: u64 = number(1_000..=600_000);
    cache_fill_ms_max: u64 = number(100..=60_000);
    cache_fills_max: usize = number(1..=1_000);
    cache_lease_ms: u64 = number(20..=10_000);
    cache_absence_ms_max: u64 = number(1_000..=600_000);
    cache_gathering_ms: u64 = number(0..=60_000);
    cache_unmarked_max: usize = number(100..=1_000_000);
    cache_pages_bytes_max: usize = number(0..=64 * 1024 * MIB);
    archive: ArchiveUrl = text;
    archive_every: SpanOrOff = text;
    archive_after: Span = text;
    archive_retention: SpanOrOff = text;
    session_idle_timeout: SpanOrOff = text;
    archive_segment_sessions_max: usize = number(1..=1_000_000);
    archive_segment_bytes_target: u64 = number(64 * KIB..=16 * 1024 * MIB);
    archive_lease_ms: u64 = number(100..=86_400_000);
    archive_sessions_in_flight: usize = number(1..=256);
    archive_sessions_per_s_max: u32 = number(0..=1_000_000);
    archive_deletes_per_s_max: u32 = number(0..=10_000_000);
    archive_rewrite_percent_min: u32 = number(0..=100);
    archive_rewrite_after: Span = text;
    archive_tidy_again_after: Span = text;
    archive_sweep_grace: Span = text;
    archive_runs_max: usize = number(1..=64);
    archive_footers_bytes_max: usize = number(MIB..=4 * 1024 * MIB);
    archive_read_ms_max: u64 = number(100..=60_000);
    archive_attempt_ms_max: u64 = number(100..=600_000);
    archive_call_ms_max: u64 = number(100..=3_600_000);
    archive_attempts_max: u32 = number(1..=100);
    archive_part_bytes: usize = number(5 * MIB..=1024 * MIB);
    archive_s3_endpoint: Endpoint = text;
    archive_s3_region: Region = text;
    archive_s3_path_style: PathStyle = text;
    archive_s3_checksums: Checksums = text;
    append_queue_events_max: usize = number(500..=10_000_000);
    append_queue_bytes_max: usize = number(MIB..=16 * 1024 * MIB);
    append_group_events_max: usize = number(1..=100_000);
    append_group_bytes_max: usize = number(256 * KIB..=32 * MIB);
    append_flush_slots: usize = number(1..=64);
    append_stalled_ms: u64 = number(10..=60_000);
    append_stalled_events_max: usize = number(1..=1_000_000);
    import_conversations_in_flight: usize = number(1..=1_024);
    import_line_bytes_max: usize = number(KIB..=1024 * MIB);
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

impl Config {
    /// Merges the sources and checks every value of each, then what the values must be to one another.
    ///
    /// # Errors
    /// One error that lists everything that is wrong: a file that can't be read or isn't TOML, unknown keys, values
    /// of the wrong type, form or size.
    pub fn load(sources: Sources) -> Result<Self, ConfigErrors> {
        let mut given = Given::default();
        given.take_defaults();
        if let Some(path) = sources.file {
            given.take_file(&path);
        }
        given.take_environment(sources.environment);
        given.take_flags(sources.flags);

        let config = Self::read(&mut given);
        if let Some(config) = &config {
            config.compare(&mut given);
        }
        let lines = given.into_lines();
        match config {
            Some(config) if lines.is_empty() => Ok(config),
            _ => Err(ConfigErrors(lines)),
        }
    }

    /// What must fit into what: otherwise something within its own limit would wait for ever.
    fn compare(&self, given: &mut Given) {
        macro_rules! at_most {
            ($small:ident, $large:ident) => {
                if self.$small > self.$large {
                    let small = (stringify!($small), self.$small);
                    let large = (stringify!($large), self.$large);
                    given.refuse_pair(small, large);
                }
            };
        }
        at_most!(sqlite_group_jobs_max, sqlite_queue_jobs_max);
        at_most!(mongo_pool_min, mongo_pool_max);
        at_most!(mongo_server_selection_ms_max, mongo_call_ms_max);
        at_most!(mongo_call_ms_max, cache_write_ms_max);
        at_most!(cache_lease_ms, cache_absence_ms_max);
        at_most!(archive_attempt_ms_max, archive_call_ms_max);
        at_most!(append_group_events_max, append_queue_events_max);
        at_most!(append_group_bytes_max, append_queue_bytes_max);
        at_most!(body_bytes_max, bodies_bytes_max);
        at_most!(body_bytes_max, append_queue_bytes_max);
        if matches!((&self.cache, &self.store), (CacheUrl::Memory, StoreUrl::Mongo(_))) {
            let why = "is memory, which only the embedded store can have: others write to MongoDB, too";
            given.refuse_value("cache", why);
        }
    }

    /// The cache that is meant where none is named.
    pub fn cache(&self) -> CacheUrl {
        match (&self.cache, &self.store) {
            (CacheUrl::Auto, StoreUrl::Sqlite(_)) => CacheUrl::Memory,
            (CacheUrl::Auto, StoreUrl::Mongo(_)) => CacheUrl::None,
            (named, _) => named.clone(),
        }
    }
}

/// Everything that is wrong with the configuration, weakest source first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    /// One line a mistake. It names the key as its source writes it, and the source.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is wrong:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for ConfigErrors {}
