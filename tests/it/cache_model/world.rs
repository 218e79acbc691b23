//! Where the model takes place: replicas, what is under way between them and Redis and the store, and the time.
//!
//! Nothing goes on by itself. A call waits, before it takes effect and again before its outcome is known, until the
//! schedule lets it; a call of a replica that died waits for ever, though its effect may still come.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use colloquy::cache::link::{Call, Fault, Link, Script, Wire};
use redis::Value;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    memory::Truth,
    presence::Presence,
    redis::VirtualRedis,
    terms::{CALL_TIME_MAX, CONNECT_TIME_MAX, WRITE_TIME_MAX},
};

pub struct World {
    pub idle: Idle,
    pub truth: Truth,
    state: Mutex<State>,
}

/// What is under way, and what is out of order.
pub struct State {
    pub redis: VirtualRedis,
    pub started: Instant,
    pub replicas: Vec<ReplicaState>,
    pub wires: BTreeMap<usize, WireState>,
    pub gates: BTreeMap<usize, Gate>,
    /// Redis does nothing until then.
    pub stopped_until: Instant,
    pub presence: Presence,
    /// Redis lost numbers that it had reserved, or its clock went back.
    pub numbers_lost: bool,
    /// A call of the store came to something when its writer may already have counted as dead.
    pub overdue: bool,
    pub trace: Vec<String>,
    pub violation: Option<String>,
    made: usize,
}

pub struct ReplicaState {
    pub alive: bool,
    /// Of its callers, under way.
    pub calls: usize,
    /// Nothing gets from it to Redis, or back, until then.
    pub cut_until: Instant,
}

/// A connection: calls are run, and answered, in the order in which they were made.
pub struct WireState {
    pub replica: usize,
    pub broken: bool,
    /// Nothing gets to Redis until then.
    pub asks_stall_until: Instant,
    /// Nothing comes back until then.
    pub answers_stall_until: Instant,
    pub asked: VecDeque<Asked>,
    pub answered: VecDeque<Answered>,
}

/// A call that Redis has not got to.
pub struct Asked {
    id: usize,
    pub script: Script,
    pub keys: Vec<String>,
    pub args: Vec<Vec<u8>>,
    pub answer: oneshot::Sender<Value>,
}

/// A call that Redis has answered.
pub struct Answered {
    id: usize,
    script: Script,
    value: Value,
    answer: oneshot::Sender<Value>,
}

/// Something other than a call of Redis that waits to go on.
pub struct Gate {
    pub replica: usize,
    pub what: &'static str,
    pub of_redis: bool,
    since: Instant,
    /// It does not open until then.
    pub held_until: Instant,
    go: oneshot::Sender<Verdict>,
}

/// How something that waits goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// It fails here.
    Fail,
    /// It fails for who asked, and takes effect later.
    Late,
}

/// What can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The first call on this wire is run.
    Run(usize),
    /// The first answer on this wire arrives.
    Answer(usize),
    Gate(usize),
}

impl World {
    pub fn new(redis: VirtualRedis) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            idle: Idle::default(),
            truth: Truth::default(),
            state: Mutex::new(State {
                redis,
                started: now,
                replicas: Vec::new(),
                wires: BTreeMap::new(),
                gates: BTreeMap::new(),
                stopped_until: now,
                presence: Presence::default(),
                numbers_lost: false,
                overdue: false,
                trace: Vec::new(),
                violation: None,
                made: 0,
            }),
        })
    }

    /// Gives Redis back, for another world.
    pub fn take_redis(self: Arc<Self>) -> VirtualRedis {
        let world = Arc::try_unwrap(self).unwrap_or_else(|_| panic!("the world is over"));
        world.state.into_inner().unwrap().redis
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        self.lock().note(what());
    }

    pub fn violated(&self, what: String) {
        self.lock().violated(what);
    }

    pub fn is_alive(&self, replica: usize) -> bool {
        self.lock().replicas[replica].alive
    }

    /// Ends here for a replica that died.
    pub async fn living(&self, replica: usize) {
        if !self.is_alive(replica) {
            std::future::pending().await
        }
    }

    /// Waits for the schedule.
    pub async fn gate(&self, replica: usize, what: &'static str, of_redis: bool) -> Verdict {
        let (go, verdict) = oneshot::channel();
        {
            let mut state = self.lock();
            let id = state.new_id();
            let gate = Gate {
                replica,
                what,
                of_redis,
                since: Instant::now(),
                held_until: Instant::now(),
                go,
            };
            state.gates.insert(id, gate);
        }
        match verdict.await {
            Ok(verdict) => verdict,
            Err(_) => std::future::pending().await,
        }
    }
}

impl State {
    fn new_id(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    pub fn note(&mut self, what: String) {
        let at = self.started.elapsed().as_millis();
        self.trace.push(format!("{at:>5} {what}"));
    }

    pub fn violated(&mut self, what: String) {
        self.note(format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    pub fn elapsed_us(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap()
    }

    fn reaches_redis(&self, replica: usize, now: Instant) -> bool {
        now >= self.stopped_until && now >= self.replicas[replica].cut_until
    }

    /// All that could go on now, and of what age it is: smaller is older.
    pub fn ready(&self) -> Vec<(usize, Next)> {
        let now = Instant::now();
        let mut ready = Vec::new();
        for (&id, wire) in &self.wires {
            if !self.reaches_redis(wire.replica, now) {
                continue;
            }
            let asked = wire.asked.front().filter(|_| now >= wire.asks_stall_until);
            ready.extend(asked.map(|asked| (asked.id, Next::Run(id))));
            let answered = wire.answered.front().filter(|_| now >= wire.answers_stall_until);
            ready.extend(answered.map(|answered| (answered.id, Next::Answer(id))));
        }
        for (&id, gate) in &self.gates {
            if now >= gate.held_until && (!gate.of_redis || self.reaches_redis(gate.replica, now)) {
                ready.push((id, Next::Gate(id)));
            }
        }
        ready
    }

    pub fn go_on(&mut self, next: Next, verdict: Verdict) {
        match next {
            Next::Run(id) => self.run(id),
            Next::Answer(id) => {
                let wire = self.wires.get_mut(&id).unwrap();
                let answered = wire.answered.pop_front().unwrap();
                let (replica, script) = (wire.replica, answered.script);
                let heard = answered.answer.send(answered.value).is_ok();
                if script == Script::Vouch {
                    let now_us = self.redis.now_us(self.elapsed_us());
                    if heard {
                        self.presence.answered(replica, now_us);
                    }
                } else {
                    let late = if heard { "" } else { ", too late" };
                    self.note(format!("r{replica} {script:?} answered{late}"));
                }
            }
            Next::Gate(id) => {
                let gate = self.gates.remove(&id).unwrap();
                self.note(format!("r{} {} {verdict:?}", gate.replica, gate.what));
                self.overdue |= gate.since.elapsed() >= WRITE_TIME_MAX / 4;
                // Who waited may be gone, with its caller.
                let _ = gate.go.send(verdict);
            }
        }
    }

    fn run(&mut self, id: usize) {
        let elapsed_us = self.elapsed_us();
        let wire = self.wires.get_mut(&id).unwrap();
        let replica = wire.replica;
        let asked = wire.asked.pop_front().unwrap();
        let call = Call {
            script: asked.script,
            keys: &asked.keys,
            args: asked.args,
        };
        let value = match self.redis.run(&call, elapsed_us) {
            Ok(value) => value,
            Err(error) => {
                self.violated(format!("{:?} failed: {error}", call.script));
                return;
            }
        };
        if asked.script == Script::Vouch {
            let now_us = self.redis.now_us(elapsed_us);
            self.presence.heard(replica, &call.args, now_us);
        }
        let told = match asked.script {
            Script::Vouch => format!("{} -> {}", text(&call.args[1]), shown(&value)),
            script => format!("{script:?} {} -> {}", session_of(&call.keys[0]), shown(&value)),
        };
        self.note(format!("r{replica} {told}"));
        let wire = self.wires.get_mut(&id).unwrap();
        if !wire.broken {
            wire.answered.push_back(Answered {
                id: asked.id,
                script: asked.script,
                value,
                answer: asked.answer,
            });
        }
    }

    /// The connection is no more: what was asked may reach Redis yet, `or_late`; no answer comes back.
    pub fn break_wire(&mut self, id: usize, or_late: bool) {
        let wire = self.wires.get_mut(&id).unwrap();
        wire.broken = true;
        wire.answered.clear();
        let asked = std::mem::take(&mut wire.asked);
        if or_late {
            // Nobody waits for them any more.
            let late = asked.into_iter().map(|asked| Asked {
                answer: oneshot::channel().0,
                ..asked
            });
            self.wires.get_mut(&id).unwrap().asked = late.collect();
        }
    }

    /// The process of Redis is no more, and with it all that it had not got to.
    pub fn break_all_wires(&mut self) {
        for id in self.wires.keys().copied().collect::<Vec<_>>() {
            self.break_wire(id, false);
        }
    }

    /// Redis knows nothing any more.
    pub fn emptied(&mut self) {
        let now_us = self.redis.now_us(self.elapsed_us());
        self.presence.emptied(now_us);
    }

    /// Whether I3 does not cover what this replica writes now; see [`Presence`].
    pub fn is_excepted(&self, replica: usize) -> bool {
        self.presence
            .is_excepted(replica, self.redis.now_us(self.elapsed_us()))
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("?")
}

fn session_of(key: &str) -> &str {
    key.split(['/', '}']).nth(1).unwrap_or(key)
}

/// An answer, for the trace.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(shown).collect();
            format!("[{}]", items.join(" "))
        }
        Value::BulkString(bytes) if bytes.len() > 40 => format!("{}…", text(&bytes[..40])),
        Value::BulkString(bytes) => text(bytes).to_owned(),
        Value::Int(number) => number.to_string(),
        Value::SimpleString(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

/// The way of one replica to Redis.
pub struct ModelLink {
    pub world: Arc<World>,
    pub replica: usize,
}

struct ModelWire {
    world: Arc<World>,
    replica: usize,
    id: usize,
}

fn lost() -> Fault {
    Fault::Lost(io::Error::from(io::ErrorKind::BrokenPipe).into())
}

#[async_trait]
impl Link for ModelLink {
    async fn connect(&self) -> Result<Arc<dyn Wire>, Fault> {
        self.world.living(self.replica).await;
        let gate = self.world.gate(self.replica, "connect", true);
        match timeout(CONNECT_TIME_MAX, gate).await {
            Err(_) => return Err(Fault::TimedOut),
            Ok(Verdict::Go) => {}
            Ok(_) => return Err(lost()),
        }
        let mut state = self.world.lock();
        let (id, now) = (state.new_id(), Instant::now());
        let wire = WireState {
            replica: self.replica,
            broken: false,
            asks_stall_until: now,
            answers_stall_until: now,
            asked: VecDeque::new(),
            answered: VecDeque::new(),
        };
        state.wires.insert(id, wire);
        Ok(Arc::new(ModelWire {
            world: Arc::clone(&self.world),
            replica: self.replica,
            id,
        }))
    }
}

#[async_trait]
impl Wire for ModelWire {
    async fn call(&self, call: Call<'_>) -> Result<Value, Fault> {
        self.world.living(self.replica).await;
        let (answer, value) = oneshot::channel();
        {
            let mut state = self.world.lock();
            let id = state.new_id();
            let wire = state.wires.get_mut(&self.id).unwrap();
            if wire.broken {
                return Err(lost());
            }
            wire.asked.push_back(Asked {
                id,
                script: call.script,
                keys: call.keys.to_vec(),
                args: call.args,
                answer,
            });
        }
        let outcome = match timeout(CALL_TIME_MAX, value).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(Fault::TimedOut),
        };
        if let Err(fault) = &outcome {
            self.world
                .note(|| format!("r{} {:?}: {fault}", self.replica, call.script));
        }
        self.world.living(self.replica).await;
        outcome
    }
}

/// Tells when nothing is left to do but to wait for the schedule or for the time. While the schedule waits for that,
/// the time stands still.
#[derive(Default)]
pub struct Idle(Mutex<Waiting>);

#[derive(Default)]
enum Waiting {
    #[default]
    Nobody,
    For(Waker),
    Over,
}

impl Idle {
    /// To be called when the runtime has nothing to do.
    pub fn nothing_to_do(&self) {
        let mut waiting = self.0.lock().unwrap();
        if let Waiting::For(waker) = &*waiting {
            waker.wake_by_ref();
            *waiting = Waiting::Over;
        }
    }

    pub async fn wait(&self) {
        poll_fn(|context| {
            let mut waiting = self.0.lock().unwrap();
            match *waiting {
                Waiting::Over => {
                    *waiting = Waiting::Nobody;
                    Poll::Ready(())
                }
                _ => {
                    *waiting = Waiting::For(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
    }

    /// Lets time pass: it leaps from one moment at which something is due to the next.
    pub async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        self.wait().await;
    }
}
