//! The command line. What the commands do is in [`colloquy::app`].

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use colloquy::{
    api, app,
    app::AppError,
    archive::{RunRequest, Trigger},
    commands::{archive::Task, import::Source, output::tell, progress::counted},
    config::{Config, Sources},
    domain::{SessionId, Span},
    telemetry,
};

/// The system of record for AI conversations.
///
/// Without a command, serves on the embedded store: no set-up, data in ./colloquy-data.
#[derive(Parser)]
#[command(name = "colloquy", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Configuration flags; every key of the configuration can be set with --set.
#[derive(Args)]
#[command(next_help_heading = "Configuration")]
struct Settings {
    /// A configuration file (TOML), stronger than the defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// The hot store [default: sqlite:colloquy-data/colloquy.db]
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    /// The archive: file:PATH, s3://BUCKET/PREFIX or none [default: beside the embedded store]
    #[arg(long, global = true, value_name = "URL")]
    archive: Option<String>,
    /// human or json [default: human]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What to log, such as info or info,colloquy::store=debug [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    log_filter: Option<String>,
    /// Any key of the configuration; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API (what colloquy does without a command)
    Serve {
        /// Write the server's URL to this file once it accepts connections
        #[arg(long, value_name = "FILE")]
        address_file: Option<PathBuf>,
    },
    /// Prepare the database that the configuration names, and say what was done; safe to repeat
    Init {
        /// Drop the indexes that only earlier versions use; none of their processes may still run
        #[arg(long)]
        drop_superseded: bool,
        /// Record this configuration's shared settings in place of others; no server may run
        #[arg(long)]
        change_settings: bool,
    },
    /// Say whether every backend can be reached and is set up right
    Check,
    /// Import conversations from JSON Lines, one a line; safe to repeat
    Import {
        /// The file to read, or - for standard input
        #[arg(value_name = "FILE|-")]
        input: PathBuf,
    },
    /// Export conversations as JSON Lines, newest first
    Export {
        /// Only this session
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// The file to write, or - for standard output [default: -]
        #[arg(long, value_name = "FILE|-")]
        output: Option<PathBuf>,
    },
    /// Archive ended sessions, and look after the archive
    Archive {
        #[command(subcommand)]
        command: ArchiveCommand,
    },
    /// Ask the server that runs at `listen` how it is; exits with 1 unless all is well
    Health {
        /// Whether it can serve, too, and not only whether it runs
        #[arg(long)]
        ready: bool,
    },
    /// Rewrite the embedded store's file: frees space, and takes out the last traces of what was erased
    Compact,
    /// Print the OpenAPI document
    Openapi,
}

#[derive(Subcommand)]
enum ArchiveCommand {
    /// Archive what is due: claim, read, write, verify, commit, delete
    Run {
        /// Sessions that ended longer ago than this, such as 30d, 12h or 0s [default: archive_after]
        #[arg(long, value_name = "SPAN")]
        older_than: Option<Span>,
        /// At most so many sessions
        #[arg(long, value_name = "SESSIONS", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// Only say how many sessions are due
        #[arg(long)]
        dry_run: bool,
    },
    /// List the newest runs, and what is left to do
    List {
        /// At most so many runs
        #[arg(long, value_name = "RUNS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Read every object and follow every pointer; exits with 1 if anything is wrong
    Verify,
    /// Bring a session back into the hot store; it is archived again later
    Restore {
        /// The session's id
        #[arg(value_name = "SESSION")]
        session: String,
    },
    /// Take the bytes of all erased sessions out of the archive, now
    Rewrite,
    /// Delete objects that nothing leads to
    Sweep {
        /// Only those older than this [default: archive_sweep_grace]
        #[arg(long, value_name = "SPAN")]
        grace: Option<Span>,
    },
    /// Delete days that are older than the retention, whole
    Expire {
        /// For how long days are kept [default: archive_retention]
        #[arg(long, value_name = "SPAN")]
        retention: Option<Span>,
    },
    /// Do once all that a server does on schedule: end idle sessions, archive, rewrite, expire, sweep
    Upkeep,
    /// Make a store that was lost know every archived session again, from the archive alone
    Rebuild,
}

impl ArchiveCommand {
    /// What to do, or what is wrong with the command line.
    fn task(self, config: &Config) -> Result<Task, String> {
        Ok(match self {
            Self::Run {
                older_than,
                limit,
                dry_run,
            } => Task::Run(RunRequest {
                older_than,
                limit,
                dry_run,
            }),
            Self::List { limit } => Task::List {
                limit: usize::from(limit),
            },
            Self::Verify => Task::Verify,
            Self::Restore { session } => Task::Restore(session_id(&session)?),
            Self::Rewrite => Task::Rewrite,
            Self::Sweep { grace } => Task::Sweep {
                grace: grace.unwrap_or(config.archive_sweep_grace).get(),
            },
            Self::Expire { retention } => Task::Expire {
                retention: retention
                    .or(config.archive_retention.span())
                    .ok_or("archive_retention is off: say how long to keep days with --retention")?,
            },
            Self::Upkeep => Task::Upkeep(app::round(config, Trigger::Command)),
            Self::Rebuild => Task::Rebuild,
        })
    }
}

fn session_id(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|rule| format!("the session id {rule}"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

impl Settings {
    fn sources(self) -> Sources {
        let own = [
            ("listen", self.listen),
            ("store", self.store),
            ("archive", self.archive),
            ("log_format", self.log_format),
            ("log_filter", self.log_filter),
        ];
        let own = own
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Sources {
            file: self.config,
            environment: std::env::vars_os().collect(),
            flags: own.chain(self.set).collect(),
        }
    }
}

/// The configuration or the command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve { address_file: None });
    if let Command::Openapi = command {
        return print(&api::spec::document(), true);
    }
    let config = match Config::load(cli.settings.sources()) {
        Ok(config) => config,
        Err(errors) => {
            tell(format!("colloquy: {errors}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // Asked every few seconds for ever: not worth a log, or spans.
    if let Command::Health { ready } = command {
        return health(&config, ready);
    }
    let telemetry = match telemetry::init(config.log_format, &config.log_filter) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            tell(format!("colloquy: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let code = run_to_end(command, &config);
    telemetry.end();
    code
}

fn run_to_end(command: Command, config: &Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(format!("colloquy: can't start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command, config)) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, config: &Config) -> Result<ExitCode, AppError> {
    match command {
        Command::Serve { address_file } => app::serve(config, address_file.as_deref()).await?,
        Command::Import { input } => {
            let source = if input.as_os_str() == "-" {
                Source::Stdin
            } else {
                Source::File(input)
            };
            let summary = app::import(config, source).await?;
            return Ok(print(&format!("{summary}\n"), !summary.refused_any()));
        }
        Command::Export { session, output } => {
            let only = match session.as_deref().map(session_id).transpose() {
                Ok(only) => only,
                Err(wrong) => return Ok(usage(&wrong)),
            };
            let exported = app::export(config, only, output.as_deref()).await?;
            tell(format!("exported {exported}"));
            if exported.failed > 0 {
                let failed = counted(exported.failed, "session");
                tell(format!("colloquy: the export lacks {failed}, each named above"));
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Init {
            drop_superseded,
            change_settings,
        } => {
            let flags = app::InitFlags {
                drop_superseded,
                change_settings,
            };
            let standing = app::init(config, flags).await?;
            return Ok(print(&format!("{standing}\n"), standing.ready));
        }
        Command::Check => {
            let overview = app::check(config).await;
            return Ok(print(&overview.to_string(), overview.is_ready()));
        }
        Command::Archive { command } => {
            let task = match command.task(config) {
                Ok(task) => task,
                Err(wrong) => return Ok(usage(&wrong)),
            };
            let report = app::archive(config, task).await?;
            return Ok(print(&format!("{}\n", report.words), report.good));
        }
        Command::Compact => {
            let (before, after) = app::compact(config).await?;
            return Ok(print(
                &format!("compacted from {before} to {after} bytes\n"),
                true,
            ));
        }
        Command::Health { .. } | Command::Openapi => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn health(config: &Config, ready: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime
        .map_err(AppError::Server)
        .and_then(|runtime| runtime.block_on(app::health(config, ready)));
    match asked {
        Ok(said) => print(&format!("{}\n", said.body), said.good),
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn usage(wrong: &str) -> ExitCode {
    tell(format!("colloquy: {wrong}"));
    ExitCode::from(EXIT_USAGE)
}

/// Prints the outcome of a command on standard output. The command succeeded when it went well and all of that was written:
/// a reader that went away, as `head` does, has not got it.
fn print(text: &str, good: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) if good => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            tell(format!("colloquy: standard output can't be written: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn report(error: &AppError) {
    let mut told = format!("colloquy: {error}");
    // The sources that the message does not tell already.
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !told.contains(&words) {
            told.push_str(": ");
            told.push_str(&words);
        }
        source = cause.source();
    }
    tell(told);
}
