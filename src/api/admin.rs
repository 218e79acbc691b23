//! The operations of operators.

use std::sync::Arc;

use poem::http::StatusCode;
use poem_openapi::{OpenApi, Tags};

use super::{
    answer::Answer,
    body::Body,
    operations::{ListArchiveRuns, StartArchiveRun},
    problem::Problem,
    wire,
};
use crate::{
    archive::{Progress, RunRequest, Trigger},
    service::Service,
};

/// Runs that are listed.
const RUNS_LISTED_MAX: usize = 100;

#[derive(Tags)]
enum Tag {
    /// For operators: what moves ended sessions to the archive.
    Archive,
}

/// What operators do. Nothing here asks who is calling: keep `/v1/admin` away from callers.
pub struct AdminApi {
    pub service: Service,
}

#[OpenApi(prefix_path = "/v1/admin")]
impl AdminApi {
    /// Start a run of the archiver
    ///
    /// It goes on after the answer; the list of runs says how it went. Any number of runs may go on at once, in any number
    /// of processes. The body may be left out.
    #[oai(
        path = "/archive/runs",
        method = "post",
        operation_id = "startArchiveRun",
        tag = "Tag::Archive"
    )]
    async fn start_archive_run(&self, body: Body<RunRequest>) -> Result<Answer<StartArchiveRun>, Problem> {
        let progress = Arc::new(Progress::default());
        let archive = self.service.archive()?;
        let (run, _finishing) = archive.start(body.value, Trigger::Api, progress).await?;
        Ok(Answer::new(StatusCode::ACCEPTED, |out| run.write_json(out)))
    }

    /// List runs of the archiver
    ///
    /// The newest hundred, of all processes, and what is left to do.
    #[oai(
        path = "/archive/runs",
        method = "get",
        operation_id = "listArchiveRuns",
        tag = "Tag::Archive"
    )]
    async fn list_archive_runs(&self) -> Result<Answer<ListArchiveRuns>, Problem> {
        let archive = self.service.archive()?;
        let runs = archive.runs(RUNS_LISTED_MAX).await?;
        let oldest_due = archive.oldest_due().await?;
        let pending = archive.pending_erasures().await?;
        Ok(Answer::new(StatusCode::OK, |out| {
            wire::write_runs(out, &runs, oldest_due, pending.sessions)
        }))
    }
}
