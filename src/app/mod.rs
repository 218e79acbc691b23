//! The composition root: puts the parts together as the configuration says. `backends` is the only place that names
//! concrete ones.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
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
        answers::Answers,
        body::BodyLimits,
        draining::Draining,
        server::{BoundServer, ServerLimits},
        shedding::InFlight,
        stall::StallLimits,
        unread::{UNREAD_BYTES_MAX, UnreadLimits},
    },
    commands::{
        archive::{self, Report, Task},
        export::{self, ExportError, Exported},
        health::{self, Said, reachable},
        import::{self, ImportError, ImportLimits, Input, Source, Summary},
        output::{Output, Replacement, tell},
    },
    config::Config,
    domain::{Error, SessionId, Tenant},
    service::Service,
    store::leases::Leases,
};

mod backends;
mod chores;
mod gauges;
mod shared;

pub use backends::{InitFlags, check, compact, init, open};
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
    #[error("stopped before the end; {0} is as it was")]
    Stopped(String),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// `colloquy serve`: serves until SIGTERM or Ctrl-C, then drains, finishes what is in flight and closes the store.
///
/// `address_file`, where given, gets the server's URL once it accepts connections.
///
/// # Errors
/// The store can't be opened, the address is taken, or the file can't be written.
pub async fn serve(config: &Config, address_file: Option<&Path>) -> Result<(), AppError> {
    let stop = stop_signal().map_err(AppError::Server)?;
    let (service, leases) = backends::open_parts(config).await?;
    let served = serve_on(config, &service, &leases, address_file, stop).await;
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
    leases: &Arc<dyn Leases>,
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
    };
    let limits = ServerLimits {
        connections_max: config.connections_max,
        stall: StallLimits {
            idle: Duration::from_millis(config.idle_connection_ms),
            head: Duration::from_millis(config.head_wait_ms_max),
            stalled: Duration::from_millis(config.stalled_connection_ms),
        },
        unread: UnreadLimits {
            bytes_max: UNREAD_BYTES_MAX,
            wait_max: body.wait_max,
        },
        shutdown_drain: Duration::from_millis(config.shutdown_drain_ms),
        shutdown_grace: Duration::from_millis(config.shutdown_grace_ms),
    };
    let url = format!("http://{}", reachable(server.address()));
    let draining = Draining::default();
    let answers = Answers::new(config.answers_bytes_max);
    let endpoint = api::endpoint(
        service,
        body,
        Duration::from_millis(config.slow_request_ms),
        in_flight,
        answers.clone(),
        draining.clone(),
    );
    gauges::begin(service, &answers);
    if let Some(path) = address_file {
        write_whole(path, &url).map_err(|error| AppError::Write(path.display().to_string(), error))?;
    }
    let archive = backends::archive_url(config);
    tracing::info!(store = %config.store, cache = %config.cache(), %archive, "Colloquy {} serves {url}", env!("CARGO_PKG_VERSION"));
    tracing::info!("try it in a browser: {url}/docs");
    let chores = chores::begin(service, leases, config);
    let cut_off = server.serve(endpoint, limits, draining, answers, stop).await;
    chores.end().await;
    Ok(cut_off)
}

/// Writes the file so that whoever waits for it never sees half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut file = Replacement::begin(path)?;
    file.write_all(text.as_bytes())?;
    file.finish()
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
/// A file takes its name when it is whole, so that a failed export leaves an earlier one as it was. One that lacks sessions
/// never replaces another.
///
/// # Errors
/// As [`export::export`]; or the output can't be opened, or kept.
pub async fn export(
    config: &Config,
    only: Option<SessionId>,
    output: Option<&Path>,
) -> Result<Exported, AppError> {
    backends::must_exist(config)?;
    let name = output.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    let failed = |error| AppError::Write(name.clone(), error);
    // Before the store, which would be opened for nothing.
    let mut output = Output::open(output).map_err(failed)?;
    let service = open(config).await?;
    let exported = export_to(&service, only, &mut output, &name).await;
    service.close().await;
    let exported = exported?;
    match output {
        Output::File(file) if exported.failed == 0 => file.finish().map_err(failed)?,
        Output::File(file) => {
            let kept = file.finish_incomplete().map_err(failed)?;
            tell(format!("what could be exported is in {}", kept.display()));
        }
        Output::Stdout(_) | Output::Stream(_) => {}
    }
    Ok(exported)
}

async fn export_to(
    service: &Service,
    only: Option<SessionId>,
    output: &mut Output,
    name: &str,
) -> Result<Exported, AppError> {
    // A bar and the conversations would tear each other up on one terminal.
    let show = !matches!(output, Output::Stdout(out) if out.is_terminal());
    let is_file = matches!(output, Output::File(_));
    let tenant = Tenant::default();
    let exporting = export::export(service, &tenant, only, output, show);
    if !is_file {
        // A signal ends the process at once, also while a reader lets it wait.
        return Ok(exporting.await?);
    }
    tokio::select! {
        exported = exporting => Ok(exported?),
        // What was written of it is removed.
        () = stop_signal().map_err(AppError::Server)? => Err(AppError::Stopped(name.to_owned())),
    }
}
