//! One schedule: what happens, in which order, and what goes wrong, all of it determined by a seed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use colloquy::{
    cache::RedisCache,
    domain::{SessionKey, Tenant},
    service::Service,
};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    clients::{Calls, Client, Reading},
    gated::{GatedStore, WatchedCache},
    memory::Memory,
    oracle::Oracle,
    terms::{ABSENCE_MAX, AGES_MAX, GATHERING, LEASE, WRITE_TIME_MAX, limits, options},
    world::{ModelLink, Next, ReplicaState, Verdict, World},
};
use crate::random::Random;

const REPLICAS_MAX: usize = 3;
const CALLS_MAX: usize = 6;

/// What may go wrong. A schedule knows some of it, so that each has schedules without the noise of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Flush,
    Evict,
    Save,
    Restart,
    RestartFromCopy,
    Stop,
    Cut,
    StallAsks,
    StallAnswers,
    BreakWire,
    StoreFails,
    StoreWaits,
    Crash,
    Leave,
    LongTime,
}

impl Trouble {
    const ALL: [Self; 15] = [
        Self::Flush,
        Self::Evict,
        Self::Save,
        Self::Restart,
        Self::RestartFromCopy,
        Self::Stop,
        Self::Cut,
        Self::StallAsks,
        Self::StallAnswers,
        Self::BreakWire,
        Self::StoreFails,
        Self::StoreWaits,
        Self::Crash,
        Self::Leave,
        Self::LongTime,
    ];
}

/// How a schedule went.
#[derive(Debug, Default)]
pub struct Told {
    pub violation: Option<String>,
    pub trace: Vec<String>,
    pub reads: usize,
    pub hits: usize,
    pub outcomes: std::collections::BTreeMap<&'static str, u64>,
}

pub struct Schedule {
    world: Arc<World>,
    oracle: Arc<Oracle>,
    calls: Arc<Calls>,
    random: Random,
    troubles: Vec<Trouble>,
    replicas: Vec<Replica>,
    /// Each is erased at some time, and another comes in its place.
    sessions: Vec<(usize, SessionKey)>,
    age_max: Duration,
    unmarked_max: usize,
    trouble_percent: usize,
    /// How often all that can go on does before time passes.
    drain_percent: usize,
}

struct Replica {
    id: usize,
    starting: Option<JoinHandle<Service>>,
    service: Option<Service>,
}

impl Schedule {
    pub fn new(world: Arc<World>, mut random: Random) -> Self {
        let known_percent = *random.pick(&[10, 20, 40]);
        let troubles = Trouble::ALL.into_iter().filter(|_| random.chance(known_percent)).collect();
        let sessions = (0..1 + random.below(2))
            .map(|slot| (slot, session_key(slot, 0)))
            .collect();
        Self {
            oracle: Arc::new(Oracle::new(&world.truth)),
            calls: Arc::default(),
            world,
            troubles,
            replicas: Vec::new(),
            sessions,
            age_max: *random.pick(&AGES_MAX),
            unmarked_max: *random.pick(&[1, 1_000]),
            trouble_percent: *random.pick(&[1, 3, 8]),
            drain_percent: *random.pick(&[20, 50, 80]),
            random,
        }
    }

    pub async fn run(mut self, steps: usize) -> Told {
        {
            let mut state = self.world.lock();
            let now_us = state.redis.now_us(0);
            state.presence.emptied(now_us);
            state.note(format!("troubles: {:?}", self.troubles));
        }
        for _ in 0..2 + self.random.below(REPLICAS_MAX - 1) {
            self.start();
        }
        self.pass(GATHERING).await;
        for _ in 0..2 * self.sessions.len() {
            self.call();
            self.drain().await;
        }
        for _ in 0..steps {
            if self.is_over() {
                break;
            }
            self.step().await;
        }
        self.settle().await;
        let mut outcomes = std::collections::BTreeMap::new();
        for r in &self.replicas { if let Some(s) = &r.service { for (n, c) in s.cache_outcomes() { *outcomes.entry(n).or_default() += c; } } }
        let mut state = self.world.lock();
        Told { outcomes,
            violation: state.violation.take(),
            trace: std::mem::take(&mut state.trace),
            reads: self.calls.reads.load(Ordering::Relaxed),
            hits: self.calls.hits.load(Ordering::Relaxed),
        }
    }

    fn is_over(&self) -> bool {
        self.world.lock().violation.is_some()
    }

    async fn step(&mut self) {
        self.world.idle.wait().await;
        self.take_in_replicas().await;
        match self.random.below(100) {
            dice if dice < self.trouble_percent => self.trouble().await,
            ..65 => drop(self.go_on()),
            65..85 => self.call(),
            _ => {
                let ms = if self.random.chance(self.drain_percent) {
                    self.drain().await;
                    *self.random.pick(&[1, 5, 15, 50])
                } else {
                    *self.random.pick(&[1, 1, 2, 5])
                };
                self.world.idle.pass(ms).await;
            }
        }
    }

    /// Lets something go on that could; whether there was anything.
    fn go_on(&mut self) -> bool {
        let mut state = self.world.lock();
        let ready = state.ready();
        if ready.is_empty() {
            return false;
        }
        // The oldest half of the time, so that little takes too long unless something is wrong.
        let (_, next) = match self.random.chance(50) {
            true => *ready.iter().min_by_key(|(age, _)| *age).expect("not empty"),
            false => *self.random.pick(&ready),
        };
        state.go_on(next, Verdict::Go);
        true
    }

    /// Lets everything go on, in some order, until nothing can.
    async fn drain(&mut self) {
        while self.go_on() && !self.is_over() {
            self.world.idle.wait().await;
        }
    }

    /// Lets time pass in which nothing is held up.
    async fn pass(&mut self, time: Duration) {
        const SLICE_MS: u64 = 5;
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_over() {
            self.drain().await;
            self.world.idle.pass(SLICE_MS).await;
        }
        self.drain().await;
        self.take_in_replicas().await;
    }

    fn start(&mut self) {
        let id = {
            let mut state = self.world.lock();
            let cut_until = Instant::now();
            state.replicas.push(ReplicaState {
                alive: true,
                calls: 0,
                cut_until,
            });
            let id = state.replicas.len() - 1;
            state.note(format!("r{id} starts"));
            id
        };
        let world = Arc::clone(&self.world);
        let options = options(self.age_max, self.unmarked_max);
        let starting = tokio::spawn(async move {
            let link = ModelLink {
                world: Arc::clone(&world),
                replica: id,
            };
            let cache = Arc::new(RedisCache::over(Arc::new(link), options).await);
            let store = GatedStore {
                memory: Arc::new(Memory::of(&world.truth)),
                world: Arc::clone(&world),
                replica: id,
            };
            let watched = WatchedCache {
                world,
                replica: id,
                cache,
            };
            Service::new(Arc::new(store), Arc::new(watched), limits())
        });
        self.replicas.push(Replica {
            id,
            starting: Some(starting),
            service: None,
        });
    }

    /// Takes replicas into service that have started.
    async fn take_in_replicas(&mut self) {
        for replica in &mut self.replicas {
            if replica.starting.as_ref().is_some_and(JoinHandle::is_finished) {
                let started = replica.starting.take().unwrap();
                replica.service = Some(started.await.unwrap());
            }
        }
    }

    fn client(&self, replica: &Replica) -> Option<Client> {
        replica.service.clone().map(|service| Client {
            world: Arc::clone(&self.world),
            oracle: Arc::clone(&self.oracle),
            calls: Arc::clone(&self.calls),
            replica: replica.id,
            service,
        })
    }

    /// Somebody calls one of the replicas.
    fn call(&mut self) {
        let under_way: usize = {
            let state = self.world.lock();
            let living = state.replicas.iter().filter(|replica| replica.alive);
            living.map(|replica| replica.calls).sum()
        };
        let clients: Vec<_> = self
            .replicas
            .iter()
            .filter_map(|replica| self.client(replica))
            .collect();
        if clients.is_empty() || under_way >= CALLS_MAX {
            return;
        }
        let client = self.random.pick(&clients).clone();
        let nth = self.random.below(self.sessions.len());
        let key = self.sessions[nth].1.clone();
        let record = self.world.truth.lock().unwrap().get(&key).cloned();
        let mut random = self.random.fork();
        match record {
            None if self.random.chance(80) => {
                tokio::spawn(async move { client.open(&key, &mut random).await });
            }
            Some(record) if self.random.chance(10) && is_over(&record) => {
                self.sessions[nth].0 += 10;
                let slot = self.sessions[nth].0;
                self.sessions[nth].1 = session_key(slot % 10, slot / 10);
            }
            _ => {
                tokio::spawn(client.call(key, random));
            }
        }
    }

    async fn trouble(&mut self) {
        let starts = self.replicas.len() < 2 || self.random.chance(30);
        if self.replicas.len() < REPLICAS_MAX && starts {
            return self.start();
        }
        if self.troubles.is_empty() {
            return;
        }
        let trouble = *self.random.pick(&self.troubles);
        self.world.note(|| format!("{trouble:?}"));
        match trouble {
            Trouble::LongTime => {
                let time = *self.random.pick(&[LEASE, WRITE_TIME_MAX, GATHERING, ABSENCE_MAX]);
                self.pass(time).await;
            }
            Trouble::Crash => self.crash(),
            Trouble::Leave => self.leave(),
            _ => self.disturb(trouble),
        }
    }

    fn disturb(&mut self, trouble: Trouble) {
        let until = self.some_end();
        let living: Vec<_> = self.replicas.iter().map(|replica| replica.id).collect();
        let random = &mut self.random;
        let mut state = self.world.lock();
        let wires: Vec<_> = state
            .wires
            .iter()
            .filter(|(_, wire)| !wire.broken)
            .map(|(id, _)| *id)
            .collect();
        match trouble {
            Trouble::Flush => {
                state.redis.flush();
                state.emptied();
            }
            Trouble::Evict => {
                if let Some(key) = state.redis.evict(random) {
                    state.note(format!("evicted {key}"));
                    if key.ends_with(":replicas") {
                        state.emptied();
                    }
                }
            }
            Trouble::Save => state.redis.save(),
            Trouble::Restart | Trouble::RestartFromCopy => {
                state.redis.restart(trouble == Trouble::RestartFromCopy, random);
                state.break_all_wires();
                state.emptied();
                if random.chance(50) {
                    state.stopped_until = until;
                }
            }
            Trouble::Stop => state.stopped_until = until,
            Trouble::Cut if !living.is_empty() => {
                let replica = *random.pick(&living);
                state.note(format!("r{replica} is cut off"));
                state.replicas[replica].cut_until = until;
            }
            Trouble::StallAsks | Trouble::StallAnswers | Trouble::BreakWire if !wires.is_empty() => {
                let id = *random.pick(&wires);
                let wire = state.wires.get_mut(&id).unwrap();
                let replica = wire.replica;
                match trouble {
                    Trouble::StallAsks => wire.asks_stall_until = until,
                    Trouble::StallAnswers => wire.answers_stall_until = until,
                    _ => state.break_wire(id, random.chance(50)),
                }
                state.note(format!("on a wire of r{replica}"));
            }
            Trouble::StoreFails | Trouble::StoreWaits => {
                let gates = state.gates.iter().filter(|(_, gate)| !gate.of_redis);
                let gates: Vec<_> = gates.map(|(id, _)| *id).collect();
                if gates.is_empty() {
                    return;
                }
                let id = *random.pick(&gates);
                if trouble == Trouble::StoreWaits {
                    let gate = state.gates.get_mut(&id).unwrap();
                    gate.held_until = until;
                    let held = format!("r{} {}", gate.replica, gate.what);
                    state.note(held);
                } else {
                    let verdict = *random.pick(&[Verdict::Fail, Verdict::Late]);
                    state.go_on(Next::Gate(id), verdict);
                }
            }
            _ => {}
        }
    }

    /// When something that went wrong is over.
    fn some_end(&mut self) -> Instant {
        let ms = *self.random.pick(&[5, 10, 20, 30, 50, 100, 150, 300, 600]);
        Instant::now() + Duration::from_millis(ms)
    }

    fn some_replica(&mut self) -> Option<Replica> {
        let count = self.replicas.len();
        (count > 0)
            .then(|| self.random.below(count))
            .map(|nth| self.replicas.swap_remove(nth))
    }

    fn crash(&mut self) {
        if let Some(replica) = self.some_replica() {
            let mut state = self.world.lock();
            state.note(format!("r{} crashes", replica.id));
            state.replicas[replica.id].alive = false;
            let wires = state.wires.iter().filter(|(_, wire)| wire.replica == replica.id);
            for id in wires.map(|(id, _)| *id).collect::<Vec<_>>() {
                let or_late = self.random.chance(50);
                state.break_wire(id, or_late);
            }
        }
    }

    /// It finishes what it has begun, and goes.
    fn leave(&mut self) {
        if let Some(replica) = self.some_replica() {
            self.world.note(|| format!("r{} leaves", replica.id));
            let world = Arc::clone(&self.world);
            tokio::spawn(async move {
                let service = match (replica.service, replica.starting) {
                    (Some(service), _) => service,
                    (None, Some(starting)) => starting.await.unwrap(),
                    (None, None) => return,
                };
                while world.lock().replicas[replica.id].calls > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                service.close().await;
                world.lock().replicas[replica.id].alive = false;
            });
        }
    }

    /// Nothing goes wrong any more: in the end the cache shows what the store has, and answers again.
    async fn settle(&mut self) {
        {
            let mut state = self.world.lock();
            state.note("settles".to_owned());
            let now = Instant::now();
            state.stopped_until = now;
            state
                .replicas
                .iter_mut()
                .for_each(|replica| replica.cut_until = now);
            state.gates.values_mut().for_each(|gate| gate.held_until = now);
            for wire in state.wires.values_mut() {
                (wire.asks_stall_until, wire.answers_stall_until) = (now, now);
            }
        }
        if self.replicas.is_empty() {
            self.start();
        }
        self.drain().await;
        if !self.random.chance(30) || self.is_over() {
            return;
        }
        // By now every writer has ended or counts as dead, and what was not marked has been made up for.
        self.pass(WRITE_TIME_MAX + LEASE).await;
        if !self.world.lock().overdue {
            self.check_settled().await;
        }
        self.pass(AGES_MAX[1].max(ABSENCE_MAX + GATHERING)).await;
        let hits = self.calls.hits.load(Ordering::Relaxed);
        let shown = self.check_settled().await;
        if shown > 0 && self.calls.hits.load(Ordering::Relaxed) == hits && !self.is_over() {
            self.world.violated("the cache does not answer any more".to_owned());
        }
    }

    /// Every replica shows what is in the store; how many sessions there are.
    async fn check_settled(&mut self) -> usize {
        let mut shown = 0;
        for (_, key) in self.sessions.clone() {
            let record = self.world.truth.lock().unwrap().get(&key).cloned();
            let Some(record) = record else { continue };
            if record.erased.is_some() {
                self.oracle.erasure_acknowledged(&key);
            } else {
                shown += 1;
            }
            self.oracle.session_acknowledged(&key, record.session().version);
            for event in &record.events {
                self.oracle.event_acknowledged(&key, event);
            }
            let clients: Vec<_> = self.replicas.iter().filter_map(|replica| self.client(replica)).collect();
            // Twice: the first may find nothing, and fill.
            for client in clients.iter().chain(&clients) {
                let (client, key) = (client.clone(), key.clone());
                tokio::spawn(async move { client.read(&key, Reading::newest()).await });
                self.world.idle.wait().await;
                self.drain().await;
            }
        }
        shown
    }
}

fn session_key(slot: usize, nth: usize) -> SessionKey {
    SessionKey::new(Tenant::default(), format!("s{slot}-{nth}").parse().unwrap())
}

/// Whether there is little left to do with a session.
fn is_over(record: &super::memory::Record) -> bool {
    record.erased.is_some() || record.session().status.has_ended()
}
