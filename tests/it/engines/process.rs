//! An engine's process: started in a folder of its own, killed and reaped when dropped, and never left behind by a test
//! run, not even by one that was killed (keeper.sh sees to that).

use std::{
    io::{PipeWriter, Write, pipe},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::ports::free_port;

/// How long an engine may take to start, to stop or to change its state. Not a measure: a bound that keeps a broken
/// test from hanging, wide enough for a machine with better things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to answer one question before it is asked again. Who asks only once waits with [`PATIENCE`]:
/// a machine that is busy enough leaves an engine without an answer for seconds.
pub const ANSWER: Duration = Duration::from_secs(2);

/// How many times an engine is started on other ports, when those that looked free were taken.
const STARTS_MAX: u32 = 5;

const LOG_LINES_SHOWN: usize = 20;

/// The engine ended before it answered; most likely, one of its ports had been taken. Has its last words.
#[derive(Debug)]
pub struct NotStarted(String);

pub struct Process {
    name: &'static str,
    child: Child,
    binary: PathBuf,
    args: Vec<String>,
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Process {
    /// Starts `.engines/{name}` with the arguments that `args` makes of its new folder.
    pub fn start(name: &'static str, args: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let binary = binary(Path::new(env!("CARGO_MANIFEST_DIR")), name);
        Self::start_program(name, binary, args)
    }

    /// As [`start`](Self::start), a program that is elsewhere.
    pub fn start_program(
        name: &'static str,
        binary: PathBuf,
        args: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(&KEEPER.folder)
            .expect("a folder for the engine");
        let args = args(folder.path());
        let child = spawn(&binary, &args, folder.path());
        Self {
            name,
            child,
            binary,
            args,
            folder,
            files: Vec::new(),
        }
    }

    /// Starts it again, once it has ended, on the same folder and ports.
    pub fn start_again(&mut self) {
        assert!(!self.is_running(), "{} still runs", self.name);
        self.child = spawn(&self.binary, &self.args, self.folder.path());
    }

    /// Waits until `ask` gets an answer from this very process.
    pub async fn until_ready(
        &mut self,
        ask: impl AsyncFn(u32) -> Result<(), String>,
    ) -> Result<(), NotStarted> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return Err(NotStarted(format!("{status}\n{}", self.log_end())));
            }
            let answer = tokio::time::timeout(ANSWER, ask(self.pid())).await;
            let Err(error) = answer.unwrap_or_else(|_| Err("no answer".to_owned())) else {
                return Ok(());
            };
            assert!(
                started.elapsed() < PATIENCE,
                "{} is not ready: {error}\n{}",
                self.name,
                self.log_end()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells the keeper of a file that the engine makes outside its folder.
    pub fn makes_file(&mut self, path: PathBuf) {
        KEEPER.note(&format!("+file {}", path.display()));
        self.files.push(path);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn is_running(&mut self) -> bool {
        self.exited().is_none()
    }

    /// kill -9; the process is gone when this returns.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("the engine can be waited for");
        KEEPER.note(&format!("-pid {}", self.pid()));
    }

    /// SIGTERM; SIGKILL when that has not ended it in time. Gives how it ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let started = Instant::now();
        while self.is_running() && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.kill9();
        self.exited().expect("the engine has ended")
    }

    fn signal(&mut self, signal: &str) {
        assert!(self.is_running(), "{} has ended: {}", self.name, self.log_end());
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Whether each of its threads has: state T in /proc/PID/task/TID/stat, behind the name in parentheses.
    fn has_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        threads.expect("it has threads").all(|thread| {
            let stat = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
            // One that is gone says nothing, either.
            stat.map_or(true, |stat| {
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
            })
        })
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the engine can be waited for")
    }

    fn log_end(&self) -> String {
        let log = std::fs::read(log_file(self.folder.path())).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

/// What every engine of one process can suffer.
pub trait Engine {
    fn process(&mut self) -> &mut Process;

    /// Waits until it does its work.
    async fn until_ready(&mut self) -> Result<(), NotStarted>;

    /// kill -9; the process is gone when this returns.
    fn kill9(&mut self) {
        self.process().kill9();
    }

    /// SIGSTOP: it keeps its connections and says nothing, from when this returns: a thread of it that was running may
    /// go on for a moment after the signal was sent.
    fn stop_signal(&mut self) {
        let process = self.process();
        process.signal("STOP");
        let started = Instant::now();
        while !process.has_stopped() {
            assert!(started.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGCONT.
    fn continue_signal(&mut self) {
        self.process().signal("CONT");
    }

    /// Starts it again, once it has ended, on the same folder and ports.
    async fn restart(&mut self) {
        self.process().start_again();
        self.until_ready().await.expect("the engine starts again");
    }
}

impl Drop for Process {
    /// The folder goes with the process, so there is nothing that a gentler end could save.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        KEEPER.note(&format!("-pid {}", self.pid()));
        for path in &self.files {
            let _ = std::fs::remove_file(path);
            KEEPER.note(&format!("-file {}", path.display()));
        }
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log\n{}", self.name, self.log_end());
        }
    }
}

/// Starts an engine with `attempt`, on the port `first` and then on others, until it got those it wanted.
pub async fn start_on_free_ports<E>(first: u16, attempt: impl AsyncFn(u16) -> Result<E, NotStarted>) -> E {
    let (mut port, mut starts) = (first, 1);
    loop {
        match attempt(port).await {
            Ok(engine) => return engine,
            Err(NotStarted(words)) => assert!(starts < STARTS_MAX, "the engine does not start: {words}"),
        }
        (port, starts) = (free_port(), starts + 1);
    }
}

/// The binary of this name in the checkout at `root`.
pub fn binary(root: &Path, name: &str) -> PathBuf {
    let binary = root.join(".engines").join(name);
    assert!(binary.exists(), "{name} is not in .engines: run `make engines`");
    binary
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// The shell reports its process id to the keeper, then becomes the engine. So an engine never runs unreported, not
/// even when the test process dies in this very moment.
fn spawn(binary: &Path, args: &[String], folder: &Path) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log_file(folder))
        .expect("a log file");
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo "+pid $$" && exec "$0" "$@" >&2"#])
        .arg(binary)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(KEEPER.input.try_clone().expect("the keeper's input"))
        .stderr(log)
        .process_group(0);
    // What the person who runs the tests has in the environment or at home must not reach an engine.
    let kept = ["PATH", "LD_LIBRARY_PATH", "TMPDIR"];
    command.env_clear().env("HOME", folder);
    for (name, value) in std::env::vars_os().filter(|(name, _)| kept.iter().any(|kept| name == kept)) {
        command.env(name, value);
    }
    command.spawn().expect("the engine starts")
}

/// See keeper.sh. It outlives this process by the moment that it takes to clean up after it.
struct Keeper {
    folder: PathBuf,
    input: PipeWriter,
    _shell: Child,
}

static KEEPER: LazyLock<Keeper> = LazyLock::new(|| {
    let folder = tempfile::Builder::new()
        .prefix("colloquy-engines-")
        .tempdir()
        .expect("a temporary folder")
        .keep();
    let (output, input) = pipe().expect("a pipe");
    let shell = Command::new("bash")
        .args(["-c", include_str!("keeper.sh"), "keeper.sh"])
        .arg(&folder)
        .current_dir("/")
        .stdin(output)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("the keeper starts");
    Keeper {
        folder,
        input,
        _shell: shell,
    }
});

impl Keeper {
    /// One write, shorter than what a pipe takes whole, so that lines of several writers never mix.
    fn note(&self, line: &str) {
        let line = format!("{line}\n");
        assert!(line.len() < 512, "{line} is too long for the keeper");
        // Without a keeper no engine starts; one that ends needs none.
        let _ = (&self.input).write_all(line.as_bytes());
    }
}
