//! What may go wrong.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    schedule::{REPLICAS_MAX, Replica, Schedule},
    terms::{ABSENCE_MAX, GATHERING, LEASE, WRITE_TIME_MAX},
    world::{Next, Verdict},
};

/// A schedule knows some of it, so that each has schedules without the noise of the others.
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
    pub const ALL: [Self; 15] = [
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

impl Schedule {
    pub async fn trouble(&mut self) {
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
            Trouble::Flush | Trouble::Evict => self.lose_data(trouble),
            Trouble::Save => self.world.lock().redis.save(),
            Trouble::Restart => self.restart(false),
            Trouble::RestartFromCopy => self.restart(true),
            Trouble::Stop => {
                let until = self.some_end();
                self.world.lock().stopped_until = until;
            }
            Trouble::Cut => self.cut(),
            Trouble::StallAsks | Trouble::StallAnswers | Trouble::BreakWire => self.disturb_a_wire(trouble),
            Trouble::StoreFails | Trouble::StoreWaits => self.disturb_the_store(trouble),
            Trouble::Crash => self.crash(),
            Trouble::Leave => self.leave(),
        }
    }

    fn lose_data(&mut self, trouble: Trouble) {
        let mut state = self.world.lock();
        state.numbers_lost = true;
        if trouble == Trouble::Flush {
            state.redis.flush();
            state.emptied();
        } else if let Some(key) = state.redis.evict(&mut self.random) {
            state.note(format!("evicted {key}"));
            if key.ends_with(":replicas") {
                state.emptied();
            }
        }
    }

    fn restart(&mut self, from_copy: bool) {
        let until = self.some_end();
        let mut state = self.world.lock();
        state.numbers_lost = true;
        state.redis.restart(from_copy, &mut self.random);
        state.break_all_wires();
        state.emptied();
        if self.random.chance(50) {
            state.stopped_until = until;
        }
    }

    fn cut(&mut self) {
        let until = self.some_end();
        if !self.replicas.is_empty() {
            let replica = self.random.pick(&self.replicas).id;
            let mut state = self.world.lock();
            state.note(format!("r{replica} is cut off"));
            state.replicas[replica].cut_until = until;
        }
    }

    fn disturb_a_wire(&mut self, trouble: Trouble) {
        let until = self.some_end();
        let mut state = self.world.lock();
        let whole = state.wires.iter().filter(|(_, wire)| !wire.broken);
        let whole: Vec<_> = whole.map(|(id, _)| *id).collect();
        if whole.is_empty() {
            return;
        }
        let id = *self.random.pick(&whole);
        let wire = state.wires.get_mut(&id).unwrap();
        let replica = wire.replica;
        match trouble {
            Trouble::StallAsks => wire.asks_stall_until = until,
            Trouble::StallAnswers => wire.answers_stall_until = until,
            _ => state.break_wire(id, self.random.chance(50)),
        }
        state.note(format!("on a wire of r{replica}"));
    }

    fn disturb_the_store(&mut self, trouble: Trouble) {
        let until = self.some_end();
        let mut state = self.world.lock();
        let gates = state.gates.iter().filter(|(_, gate)| !gate.of_redis);
        let gates: Vec<_> = gates.map(|(id, _)| *id).collect();
        if gates.is_empty() {
            return;
        }
        let id = *self.random.pick(&gates);
        if trouble == Trouble::StoreWaits {
            let gate = state.gates.get_mut(&id).unwrap();
            gate.held_until = until;
            let held = format!("r{} {}", gate.replica, gate.what);
            state.note(held);
        } else {
            let verdict = *self.random.pick(&[Verdict::Fail, Verdict::Late]);
            state.go_on(Next::Gate(id), verdict);
        }
    }

    /// When something that went wrong is over.
    fn some_end(&mut self) -> Instant {
        let ms = *self.random.pick(&[10, 30, 50, 100, 150, 200, 300, 400]);
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
}
