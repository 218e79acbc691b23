//! One schedule: what happens, in which order, and what goes wrong, all of it determined by a seed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use colloquy::{
    cache::RedisCache,
    domain::{SessionKey, Tenant},
    service::{Clock, Service},
};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    clients::{CallKind, Calls, Client, Reading},
    gated::{GatedStore, WatchedCache},
    memory::Memory,
    oracle::Oracle,
    redis::EPOCH_US,
    terms::{ABSENCE_MAX, AGES_MAX, GATHERING, LEASE, WRITE_TIME_MAX, limits, options},
    troubles::Trouble,
    world::{ModelLink, ReplicaState, Verdict, World},
};
use crate::random::Random;

pub const REPLICAS_MAX: usize = 3;
const CALLS_MAX: usize = 6;

/// How a schedule went.
#[derive(Debug, Default)]
pub struct Told {
    pub violation: Option<String>,
    pub trace: Vec<String>,
    pub reads: usize,
    pub hits: usize,
}

pub struct Schedule {
    pub world: Arc<World>,
    oracle: Arc<Oracle>,
    calls: Arc<Calls>,
    pub random: Random,
    pub troubles: Vec<Trouble>,
    pub replicas: Vec<Replica>,
    /// When one is over, the next comes in its place: how many have been there, and the one that is.
    sessions: Vec<(usize, SessionKey)>,
    writes: &'static [CallKind],
    age_max: Duration,
    unmarked_max: usize,
    trouble_percent: usize,
    /// How fast time goes by, beside all else.
    pace: u64,
    /// How often all that can go on does before time passes.
    drain_percent: usize,
}

pub struct Replica {
    pub id: usize,
    pub starting: Option<JoinHandle<Service>>,
    pub service: Option<Service>,
}

impl Schedule {
    pub fn new(world: Arc<World>, mut random: Random) -> Self {
        let known_percent = *random.pick(&[10, 20, 40]);
        let troubles = Trouble::ALL
            .into_iter()
            .filter(|_| random.chance(known_percent))
            .collect();
        let sessions = (0..1 + random.below(4) / 3)
            .map(|slot| (0, session_key(slot, 0)))
            .collect();
        Self {
            oracle: Arc::new(Oracle::new(&world.truth)),
            calls: Arc::default(),
            world,
            troubles,
            replicas: Vec::new(),
            sessions,
            writes: CallKind::some_writes(&mut random),
            age_max: *random.pick(&AGES_MAX),
            unmarked_max: *random.pick(&[1, 1_000]),
            trouble_percent: *random.pick(&[1, 3, 8]),
            pace: *random.pick(&[1, 2, 3]),
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
        let mut state = self.world.lock();
        Told {
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
            ..55 => drop(self.go_on()),
            55..75 => self.call(),
            _ => {
                let ms = if self.random.chance(self.drain_percent) {
                    self.drain().await;
                    self.pace * *self.random.pick(&[1, 5, 10, 20])
                } else {
                    self.pace * *self.random.pick(&[1, 1, 2, 4])
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
    pub async fn pass(&mut self, time: Duration) {
        const SLICE_MS: u64 = 5;
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_over() {
            self.drain().await;
            self.world.idle.pass(SLICE_MS).await;
        }
        self.drain().await;
        self.take_in_replicas().await;
    }

    pub fn start(&mut self) {
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
        let started = self.world.lock().started;
        let clock = Clock::of(move || EPOCH_US + i64::try_from(started.elapsed().as_micros()).unwrap());
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
            Service::with_clock(Arc::new(store), Arc::new(watched), limits(), clock)
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
        let random = self.random.fork();
        let kind = match record {
            None if self.random.chance(80) => CallKind::Open,
            Some(record) if self.random.chance(10) && is_over(&record) => {
                return self.open_another(nth);
            }
            _ if self.random.chance(50) => CallKind::Read,
            _ => *self.random.pick(self.writes),
        };
        tokio::spawn(client.call(kind, key, random));
    }

    /// A session comes in the place of one that is over.
    fn open_another(&mut self, nth: usize) {
        let slot = &mut self.sessions[nth];
        slot.0 += 1;
        slot.1 = session_key(nth, slot.0);
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
        if !self.random.chance(20) || self.is_over() {
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
            self.world
                .violated("the cache does not answer any more".to_owned());
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
            let clients: Vec<_> = self
                .replicas
                .iter()
                .filter_map(|replica| self.client(replica))
                .collect();
            // Twice from the cache: the first may find nothing, and fill.
            for reading in [Reading::newest(), Reading::newest(), Reading::all()] {
                for client in &clients {
                    let (client, key, reading) = (client.clone(), key.clone(), reading.clone());
                    tokio::spawn(async move { client.read(&key, reading).await });
                    self.world.idle.wait().await;
                    self.drain().await;
                }
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
