//! Starts the real server on a free port in a folder of its own, and stops it by its process id.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::backends::{self, Store, backend_flags};

/// How long a server may take to start or stop. Not a measure: a bound that keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the log tell of every request, however well it went.
pub const EVERY_REQUEST: &str = "--set=slow_request_ms=0";

/// The binary under test, with an environment that is the test's alone.
pub fn colloquy() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colloquy"));
    let ours = |name: &str| {
        ["COLLOQUY_", "AWS_", "OTEL_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    let ours = std::env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy()));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.env("AWS_SHARED_CREDENTIALS_FILE", backends::credentials_file());
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.stdin(Stdio::null());
    command
}

/// A client of the tests. Its library asks who is to do the cryptography, even where there is none.
pub fn http() -> ClientBuilder {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
}

/// A folder for a server's files, and with it the database that belongs to it.
pub struct Folder(TempDir);

impl Folder {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    /// The last to use it has ended, so everything that was asked of the database has been.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            backends::check_statements(self.path());
        }
    }
}

/// A folder that lives as long as anything that uses it.
pub fn folder() -> Arc<Folder> {
    Arc::new(Folder(tempfile::tempdir().expect("a temporary folder")))
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    url: String,
    folder: Arc<Folder>,
    pub client: Client,
}

impl Server {
    /// A server on a new store.
    pub async fn start() -> Self {
        Self::start_in(folder(), &[]).await
    }

    /// A server on the store of `folder`, which may be another server's, with further flags.
    pub async fn start_in(folder: Arc<Folder>, flags: &[&str]) -> Self {
        let backends = backend_flags(folder.path());
        Self::start_on(folder, &backends, flags).await
    }

    /// As [`Server::start`], for what is about the embedded store.
    pub async fn start_embedded() -> Self {
        Self::start_embedded_in(folder(), &[]).await
    }

    /// As [`Server::start_in`], for what is about the embedded store.
    pub async fn start_embedded_in(folder: Arc<Folder>, flags: &[&str]) -> Self {
        let backends = Store::Embedded.flags(folder.path());
        Self::start_on(folder, &backends, flags).await
    }

    /// A server in `folder`, on the backends that these flags name.
    pub async fn start_on(folder: Arc<Folder>, backends: &[String], flags: &[&str]) -> Self {
        Self::start_as(colloquy(), folder, backends, flags).await
    }

    /// As [`Server::start_in`], with these variables in its environment.
    pub async fn start_with(folder: Arc<Folder>, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let backends = backend_flags(folder.path());
        let mut command = colloquy();
        command.envs(variables.iter().copied());
        Self::start_as(command, folder, &backends, flags).await
    }

    /// As [`Server::start_on`], with this command.
    pub async fn start_as(
        mut command: Command,
        folder: Arc<Folder>,
        backends: &[String],
        flags: &[&str],
    ) -> Self {
        let address_file = folder.path().join("address");
        let _ = std::fs::remove_file(&address_file);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.path().join("log"))
            .expect("a log file");
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--address-file"])
            .arg(&address_file)
            .args(backends)
            .args(flags)
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let url = wait_for_address(&address_file, &mut child, folder.path()).await;
        let client = http().timeout(PATIENCE).build().expect("a client");
        Self {
            child,
            url,
            folder,
            client,
        }
    }

    pub fn folder(&self) -> Arc<Folder> {
        Arc::clone(&self.folder)
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// `host:port`, for tests that speak HTTP byte by byte.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything the server has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    pub fn patch(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.patch(self.url(path)).json(body)
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(self.url(path))
    }

    /// kill -9.
    pub fn kill(mut self) -> Arc<Folder> {
        self.child.kill().expect("the server is killed");
        self.child.wait().expect("the server is gone");
        self.folder()
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        self.signal("TERM");
    }

    /// Sends the signal of this name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits until the server has logged this.
    pub async fn logged(&self, text: &str) {
        let started = Instant::now();
        while !self.log().contains(text) {
            assert!(started.elapsed() < PATIENCE, "never logged: {text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGTERM; gives how the server exited.
    pub async fn stop(mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait().await
    }

    pub async fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the server can be waited for") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the server does not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
    }
}

/// The most memory that the process has used so far, in KiB; `None` once it is gone.
pub fn peak_memory_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim_end_matches("kB").trim().parse().ok()
}

async fn wait_for_address(file: &PathBuf, child: &mut Child, folder: &Path) -> String {
    let started = Instant::now();
    loop {
        if let Ok(url) = std::fs::read_to_string(file) {
            return url;
        }
        let exited = child.try_wait().expect("the server can be waited for");
        if exited.is_some() || started.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("the server did not start ({exited:?}):\n{log}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends the request; the answer must have this status, and be JSON.
pub async fn expect(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.expect("an answer");
    json(response, status).await
}

/// The body of an answer that must have this status.
pub async fn json(response: Response, status: u16) -> Value {
    let got = response.status();
    let text = response.text().await.expect("a body");
    assert_eq!(got, StatusCode::from_u16(status).expect("a status"), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Sends the request; the answer must be a problem with this status and code, and whole. Gives the problem.
pub async fn expect_problem(request: RequestBuilder, status: u16, code: &str) -> Value {
    let response = request.send().await.expect("an answer");
    problem(response, status, code).await
}

/// Checks that an answer is a problem with this status and code, and whole. Gives the problem.
pub async fn problem(response: Response, status: u16, code: &str) -> Value {
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    let (content_type, request_id) = (header("content-type"), header("x-request-id"));
    let problem = json(response, status).await;
    assert_problem(&problem, &content_type, &request_id, status, code);
    problem
}

/// Checks that a body is a problem with this status and code, whole, and the one its headers speak of.
pub fn assert_problem(problem: &Value, content_type: &str, request_id: &str, status: u16, code: &str) {
    assert_eq!(content_type, "application/problem+json", "{problem}");
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    let type_uri = format!("urn:colloquy:problem:{code}");
    assert_eq!(problem["type"], type_uri, "{problem}");
    assert_eq!(problem["requestId"], request_id, "{problem}");
    for text in ["title", "detail"] {
        assert!(
            problem[text].as_str().is_some_and(|text| !text.is_empty()),
            "{problem}"
        );
    }
}
