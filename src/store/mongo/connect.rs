//! The connection: what the URL says, but for what the store's promises hang on.

use std::{sync::Arc, time::Duration};

use mongodb::{
    Client,
    bson::{Document, doc},
    options::{Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};

use super::{DATABASE_DEFAULT, MongoOptions, primary::Primaries};
use crate::domain::{Error, Kind, Result};

/// How often the driver looks at each server. Its own ten seconds are most of the time that a call has, and a server
/// that was lost for a moment is found again no sooner.
const HEARTBEAT: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    pub(super) client: Client,
    /// The name of the database.
    pub(super) database: String,
    /// The write concern, as a document.
    pub(super) concern: Document,
    pub(super) primaries: Arc<Primaries>,
}

impl Connection {
    /// Reads the URL, and resolves it where it is `mongodb+srv`; connecting happens at first use.
    pub(super) async fn open(url: &str, options: &MongoOptions) -> Result<Self> {
        let mut parsed = ClientOptions::parse(url).await.map_err(|error| {
            // What the driver says may quote the URL, and its user or its parameters may hold a password.
            let detail = match error.kind.as_ref() {
                mongodb::error::ErrorKind::InvalidArgument { message, .. } if !url.contains(['@', '?']) => {
                    format!("the MongoDB URL is wrong: {message}")
                }
                mongodb::error::ErrorKind::DnsResolve { .. } => {
                    "the name in the mongodb+srv URL does not resolve".to_owned()
                }
                _ => {
                    "the MongoDB URL is wrong (what exactly is not shown: it may hold credentials)".to_owned()
                }
            };
            Error::new(Kind::Unavailable, detail)
        })?;
        let concern = promise(&mut parsed, options);
        let primaries = Arc::<Primaries>::default();
        parsed.sdam_event_handler = Some(primaries.listener());
        let database = parsed
            .default_database
            .clone()
            .unwrap_or_else(|| DATABASE_DEFAULT.to_owned());
        let client = Client::with_options(parsed).map_err(|_| {
            Error::new(
                Kind::Unavailable,
                "the MongoDB URL asks for what the driver can't do",
            )
        })?;
        Ok(Self {
            client,
            database,
            concern,
            primaries,
        })
    }
}

/// Sets what durability, visibility and the limits hang on, whatever the URL says; gives the write concern.
fn promise(parsed: &mut ClientOptions, options: &MongoOptions) -> Document {
    let mut concern = WriteConcern::default();
    concern.w = Some(Acknowledgment::Majority);
    concern.journal = Some(true);
    concern.w_timeout = Some(options.call_time_max);
    parsed.write_concern = Some(concern);
    parsed.read_concern = Some(ReadConcern::majority());
    parsed.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    parsed.retry_writes = Some(true);
    parsed.retry_reads = Some(true);
    // One more than there are calls, for the ping.
    parsed.max_pool_size = Some(options.pool_max.saturating_add(1));
    parsed.min_pool_size = Some(options.pool_min.min(options.pool_max));
    parsed.max_connecting = Some(options.pool_connecting_max.max(1));
    parsed.server_selection_timeout = Some(options.server_selection_max);
    parsed.connect_timeout = Some(options.connect_time_max);
    parsed.heartbeat_freq.get_or_insert(HEARTBEAT);
    parsed.app_name.get_or_insert_with(|| "colloquy".to_owned());
    let timeout_ms = i64::try_from(options.call_time_max.as_millis()).unwrap_or(i64::MAX);
    doc! { "w": "majority", "j": true, "wtimeout": timeout_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_store_promises_is_not_for_the_url_to_take_back() {
        let url = "mongodb://localhost/db?w=1&journal=false&readPreference=secondary&readConcernLevel=local&retryWrites=false";
        let mut parsed = ClientOptions::parse(url).await.unwrap();
        promise(&mut parsed, &MongoOptions::default());
        let concern = parsed.write_concern.unwrap();
        assert_eq!(
            (concern.w, concern.journal),
            (Some(Acknowledgment::Majority), Some(true))
        );
        assert_eq!(parsed.read_concern, Some(ReadConcern::majority()));
        assert_eq!(
            parsed.selection_criteria,
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        );
        assert_eq!(parsed.retry_writes, Some(true));
    }

    #[tokio::test]
    async fn a_wrong_url_never_shows_its_password() {
        for url in [
            "mongodb://me:hunter2@host:port/",
            "mongodb://me:hunter2@/x",
            "mongodb://me:hun@ter2:x@@",
        ] {
            let error = Connection::open(url, &MongoOptions::default())
                .await
                .err()
                .unwrap();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("ter2"), "{shown}");
        }
    }
}
