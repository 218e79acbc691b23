//! The composition root: puts the parts together as the configuration says. `backends` is the only place that names
//! concrete ones.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use crate::{
    api::{
        self,
        body::BodyLimits,
        connection::StallLimits,
        draining::Draining,
        server::{BoundServer, ServerLimits},
        shedding::InFlight,
    },
    commands::{
        archive::{self, Report, Task},
        export::{self, ExportError, Exported},
        health::{self, Said, reachable},
        import::{self, ImportError, ImportLimits, Input, Source, Summary},
    },
    config::Config,
    domain::{Error, SessionId, Tenant},
    service::Service,
};

mod backends;
mod chores;
mod gauges;

pub use backends::{check, compact, init, open};
pub use chores::round;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Store(#[from] Error),
    #[error("there is no store at {0}: nothing was ever kept there; name the store with --store")]
    NoStore(String),
    #[error(
        "only the embedded store (sqlite:PATH) is a file to compact; MongoDB uses freed space again by itself"
    )]
    NotEmbedded,
    #[error("can't listen on {0}: {1}")]
    Listen(String, #[source] io::Error),
    #[error("no server answers at {0}: {1}")]
    Health(String, #[source] io::Error),
    #[error("can't write {0}: {1}")]
    Write(String, #[source] io::Error),
    #[error("the server failed: {0}")]
    Server(#[source] io::Error),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl AppError {
    /// Whether the reader of standard output went away.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Export(ExportError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// `colloquy serve`: serves until SIGTERM or Ctrl-C, then drains, finishes what is in flight and closes the store.
///
/// `address_file`, where given, gets the server's URL once it accepts connections.
///
/// # Errors
/// The store can't be opened, the address is taken, or the file can't be written.
pub async fn serve(config: &Config, address_file: Option<&Path>) -> Result<(), AppError> {
    let stop = stop_signal().map_err(AppError::Server)?;
    let service = open(config).await?;
    let served = serve_on(config, &service, address_file, stop).await;
    service.close().await;
    match served? {
        0 => tracing::info!("stopped; nothing was left unfinished"),
        requests => tracing::warn!(
            requests,
            "stopped; requests were cut off at the end of the grace time"
        ),
    }
    Ok(())
}

async fn serve_on(
    config: &Config,
    service: &Service,
    address_file: Option<&Path>,
    stop: impl Future<Output = ()>,
) -> Result<usize, AppError> {
    let listen = config.listen.as_str();
    let server = BoundServer::bind(listen)
        .await
        .map_err(|error| AppError::Listen(listen.to_owned(), error))?;
    let body = BodyLimits {
        bytes_max: config.body_bytes_max,
        wait_max: Duration::from_millis(config.body_wait_ms_max),
        room: Arc::new(Semaphore::new(config.bodies_bytes_max / 1024)),
    };
    let in_flight = InFlight {
        reads_max: config.reads_in_flight_max,
        writes_max: config.writes_in_flight_max,
        body_wait_max: body.wait_max,
    };
    let limits = ServerLimits {
        connections_max: config.connections_max,
        stall: StallLimits {
            idle: Duration::from_millis(config.idle_connection_ms),
            stalled: Duration::from_millis(config.stalled_connection_ms),
        },
        shutdown_drain: Duration::from_millis(config.shutdown_drain_ms),
        shutdown_grace: Duration::from_millis(config.shutdown_grace_ms),
    };
    let url = format!("http://{}", reachable(server.address()));
    let draining = Draining::default();
    let endpoint = api::endpoint(
        service,
        body,
        Duration::from_millis(config.slow_request_ms),
        in_flight,
        draining.clone(),
    );
    gauges::begin(service);
    if let Some(path) = address_file {
        write_whole(path, &url).map_err(|error| AppError::Write(path.display().to_string(), error))?;
    }
    let archive = backends::archive_url(config);
    tracing::info!(store = %config.store, cache = %config.cache(), %archive, "Colloquy {} serves {url}", env!("CARGO_PKG_VERSION"));
    tracing::info!("try it in a browser: {url}/docs");
    let chores = chores::begin(service, config);
    let cut_off = server.serve(endpoint, limits, draining, stop).await;
    chores.end();
    Ok(cut_off)
}

/// Writes the file so that whoever waits for it never sees half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let partial = partial(path);
    std::fs::write(&partial, text)?;
    std::fs::rename(partial, path)
}

/// Where a file is written before it is whole.
fn partial(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    partial.into()
}

/// Resolves at the first SIGTERM or Ctrl-C; a second one ends the process at once, for a person in a hurry.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: finishing the requests in flight");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("asked to stop twice: stopping at once");
            std::process::exit(130);
        });
    })
}

/// `colloquy health`: what the server says of itself that listens where the configuration says.
///
/// # Errors
/// None answers.
pub async fn health(config: &Config, ready: bool) -> Result<Said, AppError> {
    let listen = config.listen.as_str();
    let asked = health::ask(listen, ready).await;
    asked.map_err(|error| AppError::Health(listen.to_owned(), error))
}

/// `colloquy import`.
///
/// # Errors
/// As [`import::import`].
pub async fn import(config: &Config, source: Source) -> Result<Summary, AppError> {
    // Before the store, which would be made for nothing.
    let input = Input::open(source)?;
    let service = open(config).await?;
    let limits = ImportLimits {
        conversations_in_flight: config.import_conversations_in_flight,
        line_bytes_max: config.import_line_bytes_max,
    };
    let summary = import::import(service.clone(), Tenant::default(), input, limits).await;
    service.close().await;
    Ok(summary?)
}

/// `colloquy archive …`.
///
/// # Errors
/// The store can't be opened, or as [`archive::perform`].
pub async fn archive(config: &Config, task: Task) -> Result<Report, AppError> {
    // To a store that was lost, archived sessions are brought back by a rebuild.
    if !matches!(task, Task::Rebuild) {
        backends::must_exist(config)?;
    }
    let service = open(config).await?;
    let performing = archive::perform(&service, task);
    tokio::pin!(performing);
    let performed = tokio::select! {
        performed = &mut performing => performed,
        () = stop_signal().map_err(AppError::Server)? => {
            if let Ok(archive) = service.archive() {
                archive.stop();
            }
            performing.await
        }
    };
    service.close().await;
    Ok(performed?)
}

/// `colloquy export`, to a file or to standard output.
///
/// # Errors
/// As [`export::export`].
pub async fn export(
    config: &Config,
    only: Option<SessionId>,
    output: Option<PathBuf>,
) -> Result<Exported, AppError> {
    backends::must_exist(config)?;
    let service = open(config).await?;
    let exported = match output {
        Some(path) => export_to_file(&service, only, &path).await,
        None => {
            // A bar and the conversations would tear each other up on one terminal.
            let show = !io::stdout().is_terminal();
            let exported = export::export(&service, &Tenant::default(), only, &mut io::stdout(), show).await;
            exported.map_err(AppError::from)
        }
    };
    service.close().await;
    exported
}

/// Exports to a file that takes its name when it is whole: a failed export leaves an earlier one as it was.
async fn export_to_file(
    service: &Service,
    only: Option<SessionId>,
    path: &Path,
) -> Result<Exported, AppError> {
    let failed = |error| AppError::Write(path.display().to_string(), error);
    // A pipe or a device can only be written to, not replaced.
    let replace = path.is_file() || !path.exists();
    let target = if replace { partial(path) } else { path.to_owned() };
    let mut file = std::fs::File::create(&target).map_err(failed)?;
    let exported = export::export(service, &Tenant::default(), only, &mut file, true).await;
    if !replace {
        return Ok(exported?);
    }
    match exported {
        Ok(exported) => {
            let kept = file.sync_all().and_then(|()| std::fs::rename(&target, path));
            kept.map(|()| exported).map_err(failed)
        }
        Err(error) => {
            // Why the export failed is more to the point than what became of its remains.
            let _ = std::fs::remove_file(&target);
            Err(error.into())
        }
    }
}
