//! Reads that go to Redis together.
//!
//! Whoever comes while Redis is asked waits until it has answered, and goes with all who came meanwhile. So a busy
//! replica asks for many sessions with one command, and a quiet one for each at once. A read that waited sees no less
//! for it: the script looks when it runs, and that is after the read began.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use redis::Value;
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use super::link::{Call, Fault, Script, Wire};

/// The reads of a replica: one asks, or several together, and the others wait for that.
pub(super) struct Lookups {
    state: Arc<Mutex<State>>,
    /// With the time that it waits for others.
    time_max: Duration,
}

#[derive(Default)]
struct State {
    /// There is a [`Turn`].
    asking: bool,
    /// With nobody asking, none.
    waiting: Vec<Read>,
}

struct Read {
    wire: Arc<dyn Wire>,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
    answer: oneshot::Sender<Result<Value, Fault>>,
}

impl Lookups {
    /// Each takes at most so long.
    pub(super) fn new(time_max: Duration) -> Self {
        let state = Arc::default();
        Self { state, time_max }
    }

    /// Runs `read.lua`.
    ///
    /// # Errors
    /// As [`Wire::call`].
    pub(super) async fn ask(
        &self,
        wire: &Arc<dyn Wire>,
        keys: Vec<String>,
        args: Vec<Vec<u8>>,
    ) -> Result<Value, Fault> {
        let (answer, answered) = oneshot::channel();
        let read = Read {
            wire: Arc::clone(wire),
            keys,
            args,
            answer,
        };
        match self.come(read) {
            Some((_turn, mut read)) => wire.call(read.call()).await,
            None => match timeout(self.time_max, answered).await {
                Ok(Ok(outcome)) => outcome,
                // Dropped unanswered only when the runtime is going down, or a wire panicked.
                Ok(Err(_)) | Err(_) => Err(Fault::TimedOut),
            },
        }
    }

    /// Gives the read back where nobody is asking, and then it has the turn.
    fn come(&self, read: Read) -> Option<(Turn, Read)> {
        let mut state = lock(&self.state);
        if state.asking {
            state.waiting.push(read);
            return None;
        }
        state.asking = true;
        Some((Turn(Arc::clone(&self.state)), read))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics while it holds the lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The turn to ask. Its end, however it comes about, is the next one's beginning: nobody waits for a read that was given
/// up, or panicked.
struct Turn(Arc<Mutex<State>>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        match Handle::try_current() {
            Ok(runtime) if !state.waiting.is_empty() => {
                runtime.spawn(ask_all(Turn(Arc::clone(&self.0))));
            }
            // Under the same lock: nobody can come in between, and wait for no one.
            _ => *state = State::default(),
        }
    }
}

/// Asks for all who wait.
async fn ask_all(turn: Turn) {
    // Requests that have arrived already come along.
    tokio::task::yield_now().await;
    let mut reads = std::mem::take(&mut lock(&turn.0).waiting);
    reads.retain(|read| !read.answer.is_closed());
    // One wire, but for the moment after it was lost and another made.
    let of_wires = reads.chunk_by_mut(|one, next| Arc::ptr_eq(&one.wire, &next.wire));
    let asked = of_wires.map(|reads| async move {
        let wire = Arc::clone(&reads[0].wire);
        wire.call_all(reads.iter_mut().map(Read::call).collect()).await
    });
    let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    for (read, answer) in reads.into_iter().zip(answers) {
        // Whoever asked may be gone.
        let _ = read.answer.send(answer);
    }
}

impl Read {
    /// It is made once.
    fn call(&mut self) -> Call<'_> {
        Call {
            script: Script::Read,
            keys: &self.keys,
            args: std::mem::take(&mut self.args),
        }
    }
}
