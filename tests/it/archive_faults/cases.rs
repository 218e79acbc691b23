//! One thing that goes wrong with one flow at one step, and what must hold then.

use std::{fmt, sync::Arc, time::Duration};

use colloquy::domain::Kind;

use super::{
    flows::{Flow, RESTORED},
    plan::{Fault, Plan},
    world::{LEASE, World, key},
};

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// With the call itself.
    Call(Fault),
    /// The process stands still there until its claims have ended and another has done everything.
    Overtaken,
    /// A session is erased there.
    Erased,
    /// A session is restored there.
    Restored,
}

#[derive(Clone)]
pub struct Case {
    pub flow: &'static dyn Flow,
    pub step: usize,
    /// The name of the step, when nothing goes wrong.
    pub call: String,
    pub trouble: Trouble,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step, call, trouble, ..
        } = self;
        write!(f, "{}, {trouble:?} at step {step}: {call}", self.flow.name())
    }
}

/// The session that is erased in the middle of it: the one of several pages.
const ERASED: &str = "long";

/// The steps of a flow when nothing goes wrong, with everyone reading before each of them.
pub async fn steps(flow: &'static dyn Flow, world: &World) -> Vec<String> {
    let looking = world.clone();
    let plan = Arc::new(Plan::watched(move || {
        let world = looking.clone();
        Box::pin(async move { flow.reads(&world).await })
    }));
    let worked = flow.work(&world.faulty(&plan, Duration::from_secs(600))).await;
    worked.unwrap_or_else(|error| panic!("{}: {error:?}", flow.name()));
    plan.assert_blameless(flow.name());
    flow.finish(world, flow.name()).await;
    plan.steps()
}

/// Whether the call changes nothing, so that to lose its answer is to fail, and to die after it is to die before it.
fn only_reads(call: &str) -> bool {
    let reads = [
        "due",
        "event",
        "session",
        "untidy",
        "with_hot_events",
        "standings",
        "unmarked",
        "owed_marker",
        "known",
        "is_needed",
        "segments",
        "pointed_to",
        "residual",
        "walk",
        "archived_in",
        "pending",
        "affected",
        "list",
        "head",
    ];
    reads.iter().any(|read| call.starts_with(read))
}

/// What can go wrong with the call.
pub fn faults(step: usize, call: &str) -> Vec<Fault> {
    let mut faults = match call {
        call if call.starts_with("get ") && step.is_multiple_of(2) => vec![Fault::Refuse, Fault::FlipBit],
        call if call.starts_with("get ") => vec![Fault::CutShort, Fault::FlipBit],
        call if only_reads(call) => vec![Fault::Refuse],
        call if call.starts_with("put ") || call.starts_with("finish ") => {
            vec![
                Fault::Refuse,
                Fault::LoseAnswer,
                Fault::DieAfter,
                Fault::Taken,
                Fault::GoAway,
            ]
        }
        _ => vec![Fault::Refuse, Fault::LoseAnswer, Fault::DieAfter],
    };
    if step == 1 {
        faults.push(Fault::DieBefore);
    }
    faults
}

/// Whether it is worth while to stand still before this call, after that one. A part of an upload is nobody's to see,
/// and between two reads of objects nothing changes, on either side.
pub fn is_a_moment(call: &str, before: Option<&str>) -> bool {
    let of_objects = |call: &str| call.starts_with("get ") || call.starts_with("write ");
    !of_objects(call) || !before.is_some_and(of_objects)
}

impl Case {
    pub async fn check(&self, world: World) {
        match self.trouble {
            Trouble::Call(fault) => self.call_fails(world, fault).await,
            Trouble::Overtaken => self.is_overtaken(world).await,
            Trouble::Erased => self.session_is_erased(world).await,
            Trouble::Restored => self.session_is_restored(world).await,
        }
    }

    async fn call_fails(&self, world: World, fault: Fault) {
        let what = self.to_string();
        let plan = Arc::new(Plan::at(self.step, fault));
        let archive = world.faulty(&plan, LEASE);
        tokio::select! {
            _ = self.flow.work(&archive) => {}
            () = plan.stands_still() => {}
        }
        if let Err(wrong) = self.flow.reads(&world).await {
            panic!("{what}: {wrong}");
        }
        world.assert_verifies(&what).await;
        self.flow.finish(&world, &what).await;
        if self.flow.leaves_all() && self.step.is_multiple_of(5) {
            world.assert_rebuilds(&what).await;
        }
        plan.let_go_on();
        plan.assert_blameless(&what);
    }

    /// Begins the work, and goes on when it stands still, or is over before that.
    async fn held_up(
        &self,
        world: &World,
        lease: Duration,
    ) -> (Arc<Plan>, tokio::task::JoinHandle<colloquy::domain::Result<()>>) {
        let plan = Arc::new(Plan::at(self.step, Fault::HoldUp));
        let (flow, archive) = (self.flow, world.faulty(&plan, lease));
        let mut working = tokio::spawn(async move { flow.work(&archive).await });
        tokio::select! {
            // Polled again by whoever waits for its end.
            outcome = &mut working => working = tokio::spawn(async move { outcome.expect("no panic") }),
            () = plan.stands_still() => {}
        }
        (plan, working)
    }

    async fn is_overtaken(&self, world: World) {
        let what = self.to_string();
        let (plan, working) = self.held_up(&world, LEASE).await;
        self.flow.finish(&world, &what).await;
        let before = world.standings().await;
        plan.let_go_on();
        // Whether it failed is its own affair.
        let _ = working.await.expect("no panic");
        if self.flow.name() == "archiving" {
            assert_eq!(
                world.standings().await,
                before,
                "{what}: a stale archiver changed something"
            );
        }
        self.assert_reads(&world, &what).await;
        self.flow.finish(&world, &what).await;
        plan.assert_blameless(&what);
    }

    async fn session_is_erased(&self, mut world: World) {
        let what = self.to_string();
        let (plan, working) = self.held_up(&world, Duration::from_secs(600)).await;
        world.erase(ERASED).await;
        self.assert_reads(&world, &what).await;
        plan.let_go_on();
        match working.await.expect("no panic") {
            Err(error) if error.is_of_session() && self.flow.name().starts_with("restoring") => {}
            outcome => outcome.unwrap_or_else(|error| panic!("{what}: {error:?}")),
        }
        self.assert_reads(&world, &what).await;
        world.rewrite(&what).await;
        world.assert_no_words_of(ERASED, &what).await;
        self.flow.finish(&world, &what).await;
        plan.assert_blameless(&what);
    }

    async fn session_is_restored(&self, world: World) {
        let what = self.to_string();
        let (plan, working) = self.held_up(&world, LEASE).await;
        let restored = world.archive().restore(&key(RESTORED)).await;
        let is_there = match restored {
            Ok(restored) => {
                assert!(!restored.archived, "{what}");
                true
            }
            // It came too late, and was told so.
            Err(error) if error.kind() == Kind::SessionErased && !self.flow.leaves_all() => false,
            Err(error) => panic!("{what}: {error:?}"),
        };
        self.assert_reads(&world, &what).await;
        plan.let_go_on();
        let _ = working.await.expect("no panic");
        self.assert_reads(&world, &what).await;
        let read = world.service().session(&key(RESTORED)).await;
        assert_eq!(
            read.is_ok(),
            is_there,
            "{what}: what was restored stays: {read:?}"
        );
        self.flow.finish(&world, &what).await;
        plan.assert_blameless(&what);
    }

    async fn assert_reads(&self, world: &World, what: &str) {
        if let Err(wrong) = self.flow.reads(world).await {
            panic!("{what}: {wrong}");
        }
    }
}
