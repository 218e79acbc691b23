//! Reads that go to Redis together.
//!
//! Whoever comes while Redis is asked waits until it has answered, and goes with all who came meanwhile. So a busy
//! replica asks for many sessions with one command, and a quiet one for each at once; and what several want to know it asks
//! for once. A read that waited, or shares an answer, sees no less for it: the script looks when it runs, and that is after
//! each of them began.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use redis::Value;
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use super::{
    entry,
    link::{Call, Fault, Script, Wire},
};
use crate::in_flight::{self, Permit};

/// The reads of a replica: one asks, or several together, and the others wait for that.
pub(super) struct Lookups {
    shared: Arc<Shared>,
    /// With the time that it waits for others.
    time_max: Duration,
}

struct Shared {
    /// Where several are asked for. Not among requests: where those queue for the processor, reads that wait behind them, and
    /// then behind each other, would be given up.
    runtime: Handle,
    state: Mutex<State>,
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
    answer: Answered,
    /// They want to know the same.
    others: Vec<Answered>,
    /// It waits to be asked also when its caller went away.
    _permit: Option<Permit>,
}

type Answered = oneshot::Sender<Result<Value, Fault>>;

impl Lookups {
    /// Each takes at most so long.
    pub(super) fn new(time_max: Duration, runtime: Handle) -> Self {
        let shared = Arc::new(Shared {
            runtime,
            state: Mutex::default(),
        });
        Self { shared, time_max }
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
            others: Vec::new(),
            _permit: in_flight::permit(),
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
        let mut state = self.shared.lock();
        if state.asking {
            state.waiting.push(read);
            return None;
        }
        state.asking = true;
        Some((Turn(Arc::clone(&self.shared)), read))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn to ask. Its end, however it comes about, is the next one's beginning: nobody waits for a read that was given
/// up, or panicked.
struct Turn(Arc<Shared>);

impl Drop for Turn {
    fn drop(&mut self) {
        let reads = {
            let mut state = self.0.lock();
            // Under the same lock: nobody can come in between, and wait for no one.
            state.asking = !state.waiting.is_empty();
            std::mem::take(&mut state.waiting)
        };
        if !reads.is_empty() {
            // On a runtime that is going down the task is dropped, with its turn and with those who wait for it.
            self.0.runtime.spawn(ask_all(Turn(Arc::clone(&self.0)), reads));
        }
    }
}

/// Asks for all who wait.
async fn ask_all(turn: Turn, mut waiting: Vec<Read>) {
    // Requests that have arrived already come along.
    tokio::task::yield_now().await;
    waiting.append(&mut turn.0.lock().waiting);
    waiting.retain(|read| !read.answer.is_closed());
    let mut reads: Vec<Read> = Vec::with_capacity(waiting.len());
    for read in waiting {
        // No more than there are turns for reads: to compare each with each is cheaper than to hash them.
        match reads.iter_mut().find(|one| one.asks_as(&read)) {
            Some(one) => one.others.push(read.answer),
            None => reads.push(read),
        }
    }
    // One wire, but for the moment after it was lost and another made.
    let of_wires = reads.chunk_by_mut(|one, next| Arc::ptr_eq(&one.wire, &next.wire));
    let asked = of_wires.map(|reads| async move {
        let wire = Arc::clone(&reads[0].wire);
        wire.call_all(reads.iter_mut().map(Read::call).collect()).await
    });
    let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    for (read, answer) in reads.into_iter().zip(answers) {
        // Whoever asked may be gone.
        for other in read.others {
            let _ = other.send(answer.as_ref().map(entry::for_another).map_err(Fault::clone));
        }
        let _ = read.answer.send(answer);
    }
}

impl Read {
    /// Whether the answer to the one answers the other; [but for](entry::for_another) the right to fill, where both want it.
    fn asks_as(&self, other: &Self) -> bool {
        let mut args = self.args.iter().zip(&other.args).enumerate();
        self.keys == other.keys
            && self.args.len() == other.args.len()
            && args.all(|(at, (ours, theirs))| match at {
                entry::TOKEN_OF_READ => ours.is_empty() == theirs.is_empty(),
                _ => ours == theirs,
            })
            && Arc::ptr_eq(&self.wire, &other.wire)
    }

    /// It is made once.
    fn call(&mut self) -> Call<'_> {
        Call {
            script: Script::Read,
            keys: &self.keys,
            args: std::mem::take(&mut self.args),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

    use super::*;

    const TIME_MAX: Duration = Duration::from_millis(50);

    /// Answers each call with its first argument, as soon as it may.
    struct Gate {
        may: Semaphore,
        panics: AtomicBool,
        /// How many were asked for together, each time.
        asked: Mutex<Vec<usize>>,
    }

    #[async_trait]
    impl Wire for Gate {
        async fn call(&self, call: Call<'_>) -> Result<Value, Fault> {
            self.call_all(vec![call]).await.remove(0)
        }

        async fn call_all(&self, calls: Vec<Call<'_>>) -> Vec<Result<Value, Fault>> {
            self.asked.lock().unwrap().push(calls.len());
            let may = timeout(TIME_MAX, self.may.acquire()).await;
            assert!(!self.panics.swap(false, Ordering::Relaxed), "on purpose");
            let answer = |call: &Call<'_>| match &may {
                Ok(_) => Ok(Value::BulkString(call.args[0].clone())),
                Err(_) => Err(Fault::TimedOut),
            };
            let answers = calls.iter().map(answer).collect();
            if let Ok(Ok(permit)) = may {
                permit.forget();
            }
            answers
        }
    }

    struct World {
        lookups: Arc<Lookups>,
        gate: Arc<Gate>,
    }

    impl World {
        fn new() -> Self {
            let gate = Gate {
                may: Semaphore::new(0),
                panics: AtomicBool::new(false),
                asked: Mutex::default(),
            };
            Self {
                lookups: Arc::new(Lookups::new(TIME_MAX, Handle::current())),
                gate: Arc::new(gate),
            }
        }

        /// A read that is on its way by the time this returns.
        async fn read(&self, name: &str) -> JoinHandle<Result<Value, Fault>> {
            self.read_with(name, "").await
        }

        async fn read_with(&self, name: &str, token: &str) -> JoinHandle<Result<Value, Fault>> {
            let (lookups, gate) = (Arc::clone(&self.lookups), Arc::clone(&self.gate));
            let (keys, mut args) = (vec![name.to_owned()], vec![Vec::from(name); entry::TOKEN_OF_READ]);
            args.push(token.into());
            let reader = tokio::spawn(async move {
                let wire: Arc<dyn Wire> = gate;
                lookups.ask(&wire, keys, args).await
            });
            tokio::task::yield_now().await;
            reader
        }

        fn asked(&self) -> Vec<usize> {
            self.gate.asked.lock().unwrap().clone()
        }
    }

    fn answer(name: &str) -> Value {
        Value::BulkString(name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_meanwhile_go_together_and_each_gets_its_own_answer() {
        let world = World::new();
        let mut readers = Vec::new();
        for name in ["a", "b", "c", "d"] {
            readers.push((name, world.read(name).await));
        }
        assert_eq!(world.asked(), [1], "the first asks at once");
        world.gate.may.add_permits(2);
        for (name, reader) in readers {
            assert_eq!(reader.await.unwrap().unwrap(), answer(name));
        }
        assert_eq!(world.asked(), [1, 3]);

        world.gate.may.add_permits(1);
        let alone = world.read("e").await;
        assert_eq!(alone.await.unwrap().unwrap(), answer("e"));
        assert_eq!(world.asked(), [1, 3, 1], "nobody waits for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_several_want_to_know_is_asked_for_once() {
        let world = World::new();
        let mut readers = vec![("a", world.read("a").await)];
        for name in ["b", "c", "b", "a", "b"] {
            readers.push((name, world.read(name).await));
        }
        for token in ["t", "u"] {
            readers.push(("c", world.read_with("c", token).await));
        }
        world.gate.may.add_permits(2);
        for (name, reader) in readers {
            assert_eq!(reader.await.unwrap().unwrap(), answer(name));
        }
        // Who is on its way already began before whoever comes later. Who wants to fill is not told what others may.
        assert_eq!(world.asked(), [1, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_shares_a_question_shares_its_failure() {
        let world = World::new();
        let first = world.read("a").await;
        let (second, third) = (world.read("b").await, world.read("b").await);
        for reader in [first, second, third] {
            assert!(matches!(reader.await.unwrap(), Err(Fault::TimedOut)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_read_that_was_given_up() {
        let world = World::new();
        let first = world.read("a").await;
        let gone = world.read("b").await;
        let second = world.read("c").await;
        gone.abort();
        first.abort();
        world.gate.may.add_permits(1);
        assert_eq!(second.await.unwrap().unwrap(), answer("c"));
        assert_eq!(world.asked(), [1, 1], "whoever is gone is not asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_behind_a_panic() {
        for first_panics in [true, false] {
            let world = World::new();
            let first = world.read("a").await;
            let second = world.read("b").await;
            world.gate.panics.store(first_panics, Ordering::Relaxed);
            world.gate.may.add_permits(1);
            let first = first.await;
            assert_eq!(first.is_err(), first_panics);
            world.gate.panics.store(!first_panics, Ordering::Relaxed);
            world.gate.may.add_permits(2);
            let second = second.await.unwrap();
            assert_eq!(second.is_err(), !first_panics, "{second:?}");
            let third = world.read("c").await;
            assert_eq!(third.await.unwrap().unwrap(), answer("c"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_takes_no_longer_for_having_waited() {
        let world = World::new();
        let began = Instant::now();
        let first = world.read("a").await;
        tokio::time::sleep(TIME_MAX / 2).await;
        let came = Instant::now();
        let second = world.read("b").await;
        assert!(matches!(first.await.unwrap(), Err(Fault::TimedOut)));
        assert_eq!(began.elapsed(), TIME_MAX);
        assert!(matches!(second.await.unwrap(), Err(Fault::TimedOut)));
        assert_eq!(came.elapsed(), TIME_MAX);
    }
}
