//! The settings that all processes on one database must share ([`settings`](crate::store::settings)). The embedded store has one
//! process, and records none.

use super::AppError;
use crate::{
    config::Config,
    domain::{Error, Kind},
    store::{
        mongo::MongoStore,
        settings::{Found, Ours, PROTOCOLS},
    },
};

/// A setting by its key, with how its value is read from the configuration. Values are shown in errors and kept in the
/// database: nothing secret may be in one.
type Key = (&'static str, fn(&Config) -> String);

/// All of them: to share one more is to add a line. A key that goes is simply not compared any more.
const SHARED: &[Key] = &[
    ("cache", |config| config.cache().identity()),
    ("cache_prefix", |config| config.cache_prefix.to_string()),
    ("cache_lease_ms", |config| config.cache_lease_ms.to_string()),
    ("cache_absence_ms_max", |config| {
        config.cache_absence_ms_max.to_string()
    }),
    ("cache_gathering_ms", |config| {
        config.cache_gathering_ms.to_string()
    }),
    ("cache_write_ms_max", |config| {
        config.cache_write_ms_max.to_string()
    }),
    ("mongo_append_settle_ms", |config| {
        config.mongo_append_settle_ms.to_string()
    }),
    ("mongo_clocks_apart_ms_max", |config| {
        config.mongo_clocks_apart_ms_max.to_string()
    }),
];

/// Those of this process.
pub(super) fn ours(config: &Config) -> Ours {
    Ours {
        values: SHARED.iter().map(|(key, read)| (*key, read(config))).collect(),
        speaks: PROTOCOLS,
    }
}

/// Compares them with what is recorded (S1).
///
/// # Errors
/// One differs, or nothing is recorded. The error names every key that differs, with both values.
pub(super) async fn compare(store: &MongoStore, config: &Config) -> Result<(), AppError> {
    let refuse = |detail| Err(Error::new(Kind::Unavailable, detail).into());
    let Some(shared) = store.shared().await? else {
        return refuse(
            "the database has no record of the settings that all processes share: run `colloquy init` with the same configuration"
                .to_owned(),
        );
    };
    let settings = shared.compare(&ours(config)).into_iter();
    let differing = settings.filter(|setting| matches!(setting.found, Found::Differs(_)));
    let differing: Vec<String> = differing.map(|setting| setting.to_string()).collect();
    match differing.is_empty() {
        true => Ok(()),
        false => refuse(format!(
            "{}. All processes on a database must share these settings. Correct the configuration; to change a setting for all, \
             stop every server and run `colloquy init --change-settings`; after an upgrade, run `colloquy init` of the new version \
             first",
            differing.join("; ")
        )),
    }
}
