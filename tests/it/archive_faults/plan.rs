//! What goes wrong, and when: every call of the catalog and of the objects is a step, and a plan names one of them.

use std::{
    future::Future,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is not made, and fails.
    Refuse,
    /// The call is made, and fails all the same.
    LoseAnswer,
    /// The process dies before the call.
    DieBefore,
    /// The process dies after the call.
    DieAfter,
    /// The call waits until it is [let go on](Plan::let_go_on).
    HoldUp,
    /// What is read ends too early.
    CutShort,
    /// One bit of what is read is another.
    FlipBit,
    /// Somebody else has an object under the path.
    Taken,
    /// This call and all later ones fail.
    GoAway,
}

/// Looks before each step, and says what is wrong.
type Witness = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

pub struct Plan {
    /// Counted from one.
    fault: Option<(usize, Fault)>,
    steps: Mutex<Vec<String>>,
    /// What must never happen, and did: a panic in a run would go unheard.
    blames: Mutex<Vec<String>>,
    is_dead: AtomicBool,
    is_away: AtomicBool,
    /// The step came, and nothing happens any more.
    stands_still: watch::Sender<bool>,
    /// Held up no longer, or buried.
    gone_on: watch::Sender<bool>,
    witness: Option<Witness>,
}

impl Plan {
    pub fn at(step: usize, fault: Fault) -> Self {
        Self::new(Some((step, fault)), None)
    }

    /// Nothing goes wrong, and somebody looks before each step.
    pub fn watched(
        witness: impl Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(None, Some(Box::new(witness)))
    }

    fn new(fault: Option<(usize, Fault)>, witness: Option<Witness>) -> Self {
        Self {
            fault,
            steps: Mutex::default(),
            blames: Mutex::default(),
            is_dead: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            stands_still: watch::Sender::new(false),
            gone_on: watch::Sender::new(false),
            witness,
        }
    }

    /// The names of the steps so far.
    pub fn steps(&self) -> Vec<String> {
        self.steps.lock().unwrap().clone()
    }

    /// Waits until the process is dead or held up; for ever, where the plan is another.
    pub async fn stands_still(&self) {
        let mut still = self.stands_still.subscribe();
        still.wait_for(|still| *still).await.unwrap();
    }

    /// Lets a step that is held up go on; what is left of a dead process ends.
    pub fn let_go_on(&self) {
        self.gone_on.send_replace(true);
    }

    pub fn blame(&self, what: String) {
        self.blames.lock().unwrap().push(what);
    }

    pub fn assert_blameless(&self, what: &str) {
        let blames = self.blames.lock().unwrap();
        assert!(blames.is_empty(), "{what}: {blames:#?}");
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    /// Makes a call, or what the plan has in place of it.
    pub async fn step<T, E>(
        &self,
        name: String,
        call: impl Future<Output = Result<T, E>> + Send,
        failed: impl Fn(Fault) -> E,
    ) -> Result<T, E> {
        match self.enter(name).await {
            None | Some(Fault::CutShort | Fault::FlipBit | Fault::HoldUp) => call.await,
            Some(Fault::LoseAnswer) => {
                call.await?;
                Err(failed(Fault::LoseAnswer))
            }
            Some(Fault::DieAfter) => {
                // Whatever came of it, nobody is there to be told.
                let _ = call.await;
                self.die().await;
                Err(failed(Fault::DieAfter))
            }
            Some(fault) => Err(failed(fault)),
        }
    }

    /// Begins a step; says what is to go wrong with it.
    pub async fn enter(&self, name: String) -> Option<Fault> {
        if self.is_dead() {
            self.die().await;
            return Some(Fault::Refuse);
        }
        if let Some(witness) = &self.witness
            && let Err(wrong) = witness().await
        {
            self.blame(format!("before {name}: {wrong}"));
        }
        let nth = {
            let mut steps = self.steps.lock().unwrap();
            steps.push(name);
            steps.len()
        };
        if self.is_away.load(Ordering::SeqCst) {
            return Some(Fault::Refuse);
        }
        let (_, fault) = self.fault.filter(|(step, _)| *step == nth)?;
        match fault {
            Fault::DieBefore => self.die().await,
            Fault::HoldUp => self.until_gone_on().await,
            Fault::GoAway => self.is_away.store(true, Ordering::SeqCst),
            _ => {}
        }
        Some(fault)
    }

    /// Nothing happens any more, until the process is buried; then all that is left of it fails.
    async fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        self.until_gone_on().await;
    }

    async fn until_gone_on(&self) {
        self.stands_still.send_replace(true);
        self.gone_on
            .subscribe()
            .wait_for(|gone_on| *gone_on)
            .await
            .unwrap();
    }
}
