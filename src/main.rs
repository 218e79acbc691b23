//! The command line. What the commands do is in [`colloquy::app`].

use std::{error::Error, io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use colloquy::{
    api, app,
    app::AppError,
    commands::import::Source,
    config::{Config, Sources},
    domain::SessionId,
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
    Init,
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
        /// The file to write [default: standard output]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Rewrite the embedded store's file: frees space, and takes out the last traces of what was erased
    Compact,
    /// Print the OpenAPI document
    Openapi,
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
        return print(&api::spec::document());
    }
    let config = match Config::load(cli.settings.sources()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("colloquy: {errors}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if let Err(error) = telemetry::init(config.log_format, &config.log_filter) {
        eprintln!("colloquy: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("colloquy: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command, &config)) {
        Ok(code) => code,
        // Whoever read the output had enough of it, as `head` does.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
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
            print(&format!("{summary}\n"));
            return Ok(exit_code(!summary.refused_any()));
        }
        Command::Export { session, output } => {
            let only = match session.map(|id| id.parse::<SessionId>()).transpose() {
                Ok(only) => only,
                Err(rule) => {
                    eprintln!("colloquy: the session id {rule}");
                    return Ok(ExitCode::from(EXIT_USAGE));
                }
            };
            let exported = app::export(config, only, output).await?;
            eprintln!("exported {exported}");
        }
        Command::Init => {
            let standing = app::init(config).await?;
            print(&format!("{standing}\n"));
            return Ok(exit_code(standing.ready));
        }
        Command::Check => {
            let overview = app::check(config).await;
            print(&overview.to_string());
            return Ok(exit_code(overview.is_ready()));
        }
        Command::Compact => {
            let (before, after) = app::compact(config).await?;
            print(&format!("compacted from {before} to {after} bytes\n"));
        }
        Command::Openapi => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints to standard output; a reader that went away, as `head` does, is no error.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn report(error: &AppError) {
    eprint!("colloquy: {error}");
    // The sources that the message does not tell already.
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !told.contains(&words) {
            eprint!(": {words}");
            told.push_str(&words);
        }
        source = cause.source();
    }
    eprintln!();
}
