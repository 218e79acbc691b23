//! The archive when things go wrong: at every step of everything it does, a call fails, an answer is lost, the process
//! dies or stands still, bytes come back other than they were. Whatever happens: everyone reads what was acknowledged at
//! any moment, no event is deleted of which there is no good copy, and whoever comes next finishes the work, with nothing
//! doubled and nothing left over.
//!
//! - `plan`: which step goes wrong, and how; `catalog` and `objects` count the steps and do as planned.
//! - `world`: a store and objects with sessions in them, and a model of what is read; `settle`: what holds in the end.
//! - `upkeep`: what maintenance may delete, what is remembered for it, and what it costs.
//! - `isolation`: what is wrong with one segment, or with the time, and concerns no other.
//! - `flows`: what is interrupted; `cases`: how one is, and what must hold; here: which of them are tried.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use colloquy::archive::{RunRequest, RunStatus, Trigger};
use futures_util::{StreamExt, stream};

mod cases;
mod catalog;
mod flows;
mod isolation;
mod objects;
mod plan;
mod settle;
mod upkeep;
mod world;

use cases::{Case, Trouble, faults, is_a_moment, steps};
use flows::{Archiving, Expiring, Flow, Folding, Rebuilding, Restoring, RestoringAgain, Rewriting, Sweeping};
use plan::{Fault, Plan};
use tempfile::TempDir;
use world::{Model, Template, World};

use crate::random::Random;

/// Of so many cases one is tried, drawn by chance, unless `COLLOQUY_TEST_FAULTS=all` asks for all of them.
const SHARE: usize = 4;

fn every_case_is_wanted() -> bool {
    std::env::var("COLLOQUY_TEST_FAULTS").is_ok_and(|wanted| wanted == "all")
}

/// Cases of a test at the same time; most of them wait for a disk or for a lease.
const CASES_AT_ONCE: usize = 6;

async fn template(flow: &dyn Flow) -> Template {
    let mut world = World::in_folder(TempDir::new().unwrap(), Model::default());
    world.fill().await;
    flow.prepare(&mut world).await;
    Template::of(world).await
}

/// Tries every step of a flow on the embedded store with the troubles that there are for it.
async fn at_every_step(
    flow: &'static dyn Flow,
    troubles: impl Fn(usize, &str, Option<&str>) -> Vec<Trouble>,
) {
    let template = template(flow).await;
    let steps = steps(flow, &template.world()).await;
    let (mut cases, mut before) = (Vec::new(), None);
    for (at, call) in steps.iter().enumerate() {
        let step = at + 1;
        let of_step = troubles(step, call, before);
        cases.extend(of_step.into_iter().map(|trouble| Case {
            flow,
            step,
            call: call.clone(),
            trouble,
        }));
        before = Some(call.as_str());
    }
    assert!(!cases.is_empty());
    if !every_case_is_wanted() {
        // The first of each run of the suite is another.
        let offset = Random::seeded().below(SHARE);
        cases = cases.into_iter().skip(offset).step_by(SHARE).collect();
    }
    let checks = cases.iter().map(|case| case.check(template.world()));
    stream::iter(checks)
        .for_each_concurrent(CASES_AT_ONCE, |check| check)
        .await;
}

fn calls(step: usize, call: &str, _: Option<&str>) -> Vec<Trouble> {
    faults(step, call).into_iter().map(Trouble::Call).collect()
}

/// At every moment that differs from the one before it.
async fn at_every_moment(flows: &[&'static dyn Flow], trouble: Trouble) {
    for flow in flows {
        let of_step = |_, call: &str, before: Option<&str>| match is_a_moment(call, before) {
            true => vec![trouble],
            false => vec![],
        };
        at_every_step(*flow, of_step).await;
    }
}

macro_rules! each_call_of {
    ($($test:ident: $flow:expr;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                at_every_step(&$flow, calls).await;
            }
        )+
    };
}

each_call_of! {
    archiving_survives_each_call_that_fails: Archiving;
    folding_survives_each_call_that_fails: Folding;
    restoring_survives_each_call_that_fails: Restoring;
    restoring_again_survives_each_call_that_fails: RestoringAgain;
    rewriting_survives_each_call_that_fails: Rewriting;
    sweeping_survives_each_call_that_fails: Sweeping;
    expiring_survives_each_call_that_fails: Expiring;
    rebuilding_survives_each_call_that_fails: Rebuilding;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_that_was_overtaken_changes_nothing() {
    at_every_moment(
        &[&Archiving, &Folding, &Restoring, &Rewriting, &Expiring],
        Trouble::Overtaken,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_erased_meanwhile_is_gone() {
    at_every_moment(
        &[&Archiving, &Folding, &Restoring, &Rewriting, &Expiring],
        Trouble::Erased,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_restored_meanwhile_is_hot() {
    at_every_moment(&[&Folding, &Restoring, &Rewriting, &Expiring], Trouble::Restored).await;
}

/// How long cases are drawn for on MongoDB and S3, where each takes a database of its own.
const SAMPLING: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_servers_it_survives_as_well() {
    let mut random = Random::seeded();
    let flows: [&'static dyn Flow; 6] = [
        &Archiving,
        &Folding,
        &Restoring,
        &Rewriting,
        &Expiring,
        &Rebuilding,
    ];
    let began = Instant::now();
    while began.elapsed() < SAMPLING {
        let flow = *random.pick(&flows);
        let steps = steps(flow, &on_servers(flow).await).await;
        for _ in 0..3 {
            let at = random.below(steps.len());
            let (step, call) = (at + 1, steps[at].clone());
            let mut troubles = calls(step, &call, None);
            if flow.name() != "rebuilding" {
                troubles.extend([Trouble::Overtaken, Trouble::Erased]);
            }
            if !matches!(flow.name(), "archiving" | "rebuilding") {
                troubles.push(Trouble::Restored);
            }
            let trouble = *random.pick(&troubles);
            let case = Case {
                flow,
                step,
                call,
                trouble,
            };
            println!("{case}");
            case.check(on_servers(flow).await).await;
        }
    }
}

async fn on_servers(flow: &dyn Flow) -> World {
    let mut world = World::on_servers().await;
    world.fill().await;
    flow.prepare(&mut world).await;
    world
}

/// The place of the objects is away for good: the run says so, and everyone reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_without_objects_fails_and_says_so() {
    let world = template(&Archiving).await.world();
    let plan = Arc::new(Plan::at(1, Fault::GoAway));
    let without_objects = world.without_objects(&plan);
    let request = RunRequest::default();
    let run = without_objects.run(request, Trigger::Command, Arc::default());
    let record = run.await.unwrap();
    assert_eq!(record.status, RunStatus::Failed);
    assert!(record.error.is_some() && record.ended_at.is_some(), "{record:?}");
    assert_eq!(record.counts.sessions, 0);
    assert_eq!(
        world.archive().runs(10).await.unwrap().len(),
        1,
        "the record is kept"
    );
    assert!(world.archived().await.is_empty());
    world.assert_reads("hot").await;
    world.recover("with objects again").await;
    world.assert_settled("with objects again").await;
}
