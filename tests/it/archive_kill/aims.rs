//! When to kill: at any moment, and in the moments that are too short to be hit by chance.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use colloquy::archive::{
    objects::Objects,
    segment::{EVENTS_PREFIX, MANIFESTS_PREFIX},
};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    Fleet,
    remains::{listed, objects},
};
use crate::{
    clients::{Stage, go_on},
    harness::{Server, expect},
    random::Random,
    talk::counted,
};

/// How many sessions a server has archived.
const SESSIONS_ARCHIVED: &str = "colloquy_archive_sessions_total";

/// Answers after which a server is killed, aim or no aim: rather than some time, so that a slow machine sees as much as a fast
/// one.
const ANSWERS_MAX: usize = 1_200;

#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// After so many answers.
    Whenever(usize),
    /// A run has begun: sessions are claimed, read and written.
    Running,
    /// An events file is there: it is read back.
    Written,
    /// A manifest is there: its sessions are about to be committed.
    Sealed,
    /// Sessions were committed: their hot events go.
    Committed,
}

impl Aim {
    pub fn take(random: &mut Random) -> Self {
        match random.below(8) {
            0..2 => Self::Whenever(1 + random.below(400)),
            2 => Self::Running,
            3 => Self::Written,
            4..6 => Self::Sealed,
            _ => Self::Committed,
        }
    }

    /// Waits for the moment, from now on, and then for a part of its length.
    pub async fn wait(self, fleet: &Fleet, stage: &Stage, actors: &mut JoinSet<()>, random: &mut Random) {
        let begun = stage.answers.load(Ordering::Relaxed);
        let answers_max = match self {
            Self::Whenever(answers) => answers,
            _ => ANSWERS_MAX,
        };
        let objects = objects(&fleet.folder).await;
        // Segments sort as they were begun.
        let newest = match self {
            Self::Written => listed(&objects, EVENTS_PREFIX, None).await.pop(),
            Self::Sealed => listed(&objects, MANIFESTS_PREFIX, None).await.pop(),
            _ => None,
        };
        let now = self.look(fleet, &objects, newest.clone()).await;
        loop {
            go_on(actors).await;
            if stage.answers.load(Ordering::Relaxed) >= begun + answers_max {
                return;
            }
            if self.look(fleet, &objects, newest.clone()).await != now {
                break;
            }
        }
        let lasts_us_max = match self {
            Self::Running | Self::Committed => 200_000,
            Self::Whenever(_) | Self::Written | Self::Sealed => 5_000,
        };
        tokio::time::sleep(Duration::from_micros(random.next() % lasts_us_max)).await;
    }

    /// What is different once the moment has come; of files, those after the `newest` of before.
    async fn look(self, fleet: &Fleet, objects: &Arc<dyn Objects>, newest: Option<String>) -> Vec<String> {
        match self {
            Self::Whenever(_) => Vec::new(),
            Self::Running => running(fleet.living().next().expect("a server")).await,
            Self::Written => listed(objects, EVENTS_PREFIX, newest).await,
            Self::Sealed => listed(objects, MANIFESTS_PREFIX, newest).await,
            Self::Committed => {
                let mut archived = Vec::new();
                for server in fleet.living() {
                    archived.push(counted(server, SESSIONS_ARCHIVED).await.to_string());
                }
                archived
            }
        }
    }
}

/// The newest run of all.
async fn running(server: &Server) -> Vec<String> {
    let listed = expect(server.get("/v1/admin/archive/runs"), 200).await;
    let newest = listed["runs"].get(0).map(|run| run["runId"].clone());
    vec![newest.unwrap_or(Value::Null).to_string()]
}
