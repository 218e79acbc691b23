//! The way to Redis: connections, and the scripts that run there.
//!
//! A [`Wire`] stays with one process of Redis for as long as it works, and never connects anew by itself: what is known
//! of that process (its clock, its generation) goes with it. Behind a cluster's wire there are several processes,
//! which come and go; what that costs is said in `vouching`.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
};
use tokio::time::timeout;

/// The cache, as a URL names it: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://` for TLS, and for a
/// cluster `redis-cluster://` or `rediss-cluster://` with one node or several, separated by commas.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// One, or the nodes of a cluster that are asked for the others.
    nodes: Vec<String>,
    cluster: bool,
    /// As it was written.
    text: String,
}

impl FromStr for RedisUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str =
            "must be redis://HOST:PORT, rediss://HOST:PORT or redis-cluster://HOST:PORT,HOST:PORT";
        let (scheme, rest) = text.split_once("://").ok_or(RULE)?;
        let (scheme, cluster) = match scheme {
            "redis" | "rediss" => (scheme, false),
            "redis-cluster" => ("redis", true),
            "rediss-cluster" => ("rediss", true),
            _ => return Err(RULE),
        };
        let nodes = if cluster {
            nodes(scheme, rest)
        } else {
            vec![format!("{scheme}://{rest}")]
        };
        for node in &nodes {
            node.as_str().into_connection_info().map_err(|_| RULE)?;
        }
        Ok(Self {
            nodes,
            cluster,
            text: text.to_owned(),
        })
    }
}

/// A URL for each host of `[USER:PASSWORD@]HOST:PORT,HOST:PORT[?PARAMETERS]`.
fn nodes(scheme: &str, rest: &str) -> Vec<String> {
    let (user, hosts) = match rest.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), rest),
    };
    let (hosts, parameters) = match hosts.split_once('?') {
        Some((hosts, parameters)) => (hosts, format!("?{parameters}")),
        None => (hosts, String::new()),
    };
    let url = |host: &str| format!("{scheme}://{user}{}{parameters}", host.trim_end_matches('/'));
    hosts.split(',').map(url).collect()
}

impl fmt::Display for RedisUrl {
    /// With its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl").finish_non_exhaustive()
    }
}

/// A script, and what it is given.
#[derive(Debug)]
pub struct Call<'a> {
    pub script: Script,
    pub keys: &'a [String],
    pub args: Vec<Vec<u8>>,
}

/// The scripts of `src/cache/scripts`; each says what it wants and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Script {
    Begin,
    Reserve,
    Finish,
    Read,
    Fill,
    Forget,
    Vouch,
    About,
}

impl Script {
    pub const ALL: [Self; 8] = [
        Self::Begin,
        Self::Reserve,
        Self::Finish,
        Self::Read,
        Self::Fill,
        Self::Forget,
        Self::Vouch,
        Self::About,
    ];

    /// What telemetry calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Reserve => "reserve",
            Self::Finish => "finish",
            Self::Read => "read",
            Self::Fill => "fill",
            Self::Forget => "forget",
            Self::Vouch => "vouch",
            Self::About => "about",
        }
    }

    /// Whether it is about a session. Such a script runs for several at once: see `scripts/together.lua`.
    pub fn is_of_session(self) -> bool {
        !matches!(self, Self::Vouch | Self::About)
    }

    /// The whole of its text, with what stands around it. `clock` defines `now_us`.
    pub fn code(self, clock: &str) -> String {
        const ENTRY: &str = include_str!("../scripts/entry.lua");
        const TOGETHER: &str = include_str!("../scripts/together.lua");
        let body = match self {
            Self::Begin => include_str!("../scripts/begin.lua"),
            Self::Reserve => include_str!("../scripts/reserve.lua"),
            Self::Finish => include_str!("../scripts/finish.lua"),
            Self::Read => include_str!("../scripts/read.lua"),
            Self::Fill => include_str!("../scripts/fill.lua"),
            Self::Forget => include_str!("../scripts/forget.lua"),
            Self::Vouch => include_str!("../scripts/vouch.lua"),
            Self::About => include_str!("../scripts/about.lua"),
        };
        match self.is_of_session() {
            true => format!("{clock}\n{ENTRY}\n{body}\n{TOGETHER}"),
            false => format!("{clock}\n{body}"),
        }
    }

    /// Takes apart what a script of a session gave for so many of them.
    pub fn answers(value: Value, sessions: usize) -> Vec<Result<Value, Fault>> {
        match value {
            Value::Array(answers) if answers.len() == sessions => answers.into_iter().map(answer).collect(),
            _ => (0..sessions).map(|_| Err(Fault::Senseless)).collect(),
        }
    }
}

/// Redis's own clock, for [`Script::code`].
pub const CLOCK: &str = include_str!("../scripts/clock.lua");

/// Why a call came to nothing; what it was to do may have been done all the same.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    #[error("Redis did not answer in time")]
    TimedOut,
    #[error("Redis can't be reached")]
    Lost(#[source] RedisError),
    #[error("Redis refused")]
    Refused(#[source] RedisError),
    #[error("Redis gave an answer that makes no sense")]
    Senseless,
}

impl Fault {
    fn of(error: RedisError) -> Self {
        if error.is_timeout() {
            Self::TimedOut
        } else if error.is_io_error() {
            Self::Lost(error)
        } else {
            Self::Refused(error)
        }
    }

    /// What telemetry calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Lost(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Senseless => "senseless",
        }
    }
}

/// Where wires come from. The tests' own brings the faults that a real Redis shows too rarely.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    async fn connect(&self) -> Result<Arc<dyn Wire>, Fault>;
}

/// A connection. Calls may be under way side by side.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Runs a script. Bounded in time.
    async fn call(&self, call: Call<'_>) -> Result<Value, Fault>;

    /// Runs scripts side by side; gives what came of each, in their order. All together are bounded in time as one is.
    async fn call_all(&self, calls: Vec<Call<'_>>) -> Vec<Result<Value, Fault>> {
        join_all(calls.into_iter().map(|call| self.call(call))).await
    }
}

/// Sessions of one command: while it runs, Redis does nothing else.
const SESSIONS_AT_ONCE: usize = 32;

/// Real connections.
pub(super) struct RedisLink {
    url: RedisUrl,
    call_time_max: Duration,
    scripts: Arc<Scripts>,
}

/// Each script with its hash, by which Redis knows it once it has seen it.
struct Scripts(Vec<(Script, redis::Script)>);

impl Scripts {
    fn get(&self, script: Script) -> &redis::Script {
        let found = self.0.iter().find(|(each, _)| *each == script);
        // `ALL` names every script there is; a test holds it to that.
        found.map_or(&self.0[0].1, |(_, script)| script)
    }
}

impl RedisLink {
    pub(super) fn new(url: RedisUrl, call_time_max: Duration) -> Self {
        let script = |script: Script| (script, redis::Script::new(&script.code(CLOCK)));
        Self {
            url,
            call_time_max,
            scripts: Arc::new(Scripts(Script::ALL.map(script).into())),
        }
    }

    async fn open(&self) -> Result<Connection, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        if self.url.cluster {
            let client = ClusterClient::builder(self.url.nodes.iter().map(String::as_str))
                .connection_timeout(self.connect_time_max())
                .response_timeout(self.call_time_max)
                .tcp_settings(tcp)
                .retries(1)
                .build()?;
            return Ok(Connection::Cluster(client.get_async_connection().await?));
        }
        let info = self.url.nodes[0]
            .as_str()
            .into_connection_info()?
            .set_tcp_settings(tcp);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_time_max()))
            .set_response_timeout(Some(self.call_time_max));
        let client = Client::open(info)?;
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Connection::Single(connection))
    }

    /// A connection takes several calls to make, with TLS more.
    fn connect_time_max(&self) -> Duration {
        10 * self.call_time_max
    }
}

#[async_trait]
impl Link for RedisLink {
    async fn connect(&self) -> Result<Arc<dyn Wire>, Fault> {
        let opened = timeout(self.connect_time_max(), self.open()).await;
        Ok(Arc::new(RedisWire {
            connection: opened.map_err(|_| Fault::TimedOut)?.map_err(Fault::Lost)?,
            call_time_max: self.call_time_max,
            scripts: Arc::clone(&self.scripts),
        }))
    }
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

struct RedisWire {
    connection: Connection,
    call_time_max: Duration,
    scripts: Arc<Scripts>,
}

impl RedisWire {
    /// Sends calls of one script as one command: of a session's any number, of others one.
    async fn send(&self, calls: &[Call<'_>]) -> Vec<Result<Value, Fault>> {
        let Some(Call { script, .. }) = calls.first() else {
            return Vec::new();
        };
        let code = self.scripts.get(*script);
        let mut command = redis::cmd("EVALSHA");
        let keys = calls.iter().map(|call| call.keys.len()).sum::<usize>();
        command.arg(code.get_hash()).arg(keys);
        calls.iter().for_each(|call| _ = command.arg(call.keys));
        for call in calls {
            if script.is_of_session() {
                command.arg(call.args.len());
            }
            command.arg(&call.args);
        }
        // A connection is a handle: calls of all clones share it.
        let sent = async {
            match self.connection.clone() {
                Connection::Single(mut connection) => run(&mut connection, &command, code).await,
                Connection::Cluster(mut connection) => run(&mut connection, &command, code).await,
            }
        };
        let failed = match timeout(self.call_time_max, sent).await {
            Ok(Ok(value)) if script.is_of_session() => return Script::answers(value, calls.len()),
            Ok(Ok(value)) => return vec![Ok(value)],
            Ok(Err(error)) => Fault::of(error),
            Err(_) => Fault::TimedOut,
        };
        calls.iter().map(|_| Err(failed.clone())).collect()
    }
}

/// Runs a command that names a script by its hash, and tells Redis the script where it has not seen it yet.
async fn run(
    connection: &mut impl ConnectionLike,
    command: &redis::Cmd,
    code: &redis::Script,
) -> Result<Value, RedisError> {
    match command.query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            code.load_async(connection).await?;
            command.query_async(connection).await
        }
        outcome => outcome,
    }
}

/// One of the answers of `together.lua`.
fn answer(value: Value) -> Result<Value, Fault> {
    match value {
        Value::SimpleString(said) => {
            let error = (
                ErrorKind::Server(ServerErrorKind::ResponseError),
                "a script failed",
                said,
            );
            Err(Fault::Refused(error.into()))
        }
        value => Ok(value),
    }
}

#[async_trait]
impl Wire for RedisWire {
    async fn call(&self, call: Call<'_>) -> Result<Value, Fault> {
        let answered = self.send(&[call]).await.pop();
        answered.unwrap_or(Err(Fault::Senseless))
    }

    /// As few commands as may be. The sessions of a command must be of one node.
    async fn call_all(&self, calls: Vec<Call<'_>>) -> Vec<Result<Value, Fault>> {
        let at_once = match self.connection {
            Connection::Single(_) => SESSIONS_AT_ONCE,
            Connection::Cluster(_) => 1,
        };
        let alike = calls.chunk_by(|one, next| one.script == next.script && one.script.is_of_session());
        let sent = alike
            .flat_map(|alike| alike.chunks(at_once))
            .map(|some| self.send(some));
        join_all(sent).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_loaded_under_its_name() {
        let link = RedisLink::new("redis://localhost".parse().unwrap(), Duration::from_millis(50));
        for script in [
            Script::Begin,
            Script::Finish,
            Script::Read,
            Script::Fill,
            Script::Forget,
            Script::Vouch,
            Script::About,
        ] {
            let expected = redis::Script::new(&script.code(CLOCK));
            assert_eq!(
                link.scripts.get(script).get_hash(),
                expected.get_hash(),
                "{script:?}"
            );
        }
    }

    #[test]
    fn urls_name_a_node_or_a_cluster() {
        let url = |text: &str| text.parse::<RedisUrl>().map(|url| (url.nodes, url.cluster));
        assert_eq!(
            url("redis://:secret@cache:6380/3"),
            Ok((vec!["redis://:secret@cache:6380/3".to_owned()], false))
        );
        assert_eq!(
            url("rediss-cluster://user:p@a:1,b:2/?protocol=resp3"),
            Ok((
                vec![
                    "rediss://user:p@a:1?protocol=resp3".to_owned(),
                    "rediss://user:p@b:2?protocol=resp3".to_owned()
                ],
                true
            ))
        );
        for bad in [
            "",
            "redis",
            "redis:cache",
            "http://cache",
            "redis-cluster://",
            "redis://",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_is_not_shown_for_debugging() {
        let url: RedisUrl = "redis://:secret@cache".parse().unwrap();
        assert!(!format!("{url:?}").contains("secret"));
    }
}
