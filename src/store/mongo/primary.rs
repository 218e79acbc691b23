//! Since when what the primary shows can be believed.
//!
//! A primary that was just elected holds every write that was ever acknowledged, but does not know yet which of them a
//! majority holds: until it has committed something of its own, its majority reads may show less than its
//! predecessor's did, and I3 would not hold. So after each election that this process hears of, the first read waits for
//! a linearizable one, which commits a no-op before it answers; later ones cost nothing.
//!
//! A `mongos` keeps the elections of its shards to itself. There this changes nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mongodb::{
    ServerType,
    bson::{Bson, doc},
    event::{EventHandler, sdam::SdamEvent},
    options::ReadConcern,
};
use tokio::{sync::Mutex, time::timeout_at};

use super::{
    call::Call,
    fault::{Fault, Result},
};

/// The primaries that the driver has met, by how many they were.
#[derive(Debug, Default)]
pub(super) struct Primaries {
    met: AtomicU64,
    /// As many of them had been met when one had committed something.
    settled: AtomicU64,
    settling: Mutex<()>,
}

impl Primaries {
    /// To be told what the driver hears of the servers.
    pub(super) fn listener(self: &Arc<Self>) -> EventHandler<SdamEvent> {
        let primaries = Arc::clone(self);
        EventHandler::callback(move |event| {
            if let SdamEvent::ServerDescriptionChanged(change) = event
                && change.new_description.server_type() == ServerType::RsPrimary
                && change.previous_description.server_type() != ServerType::RsPrimary
            {
                primaries.met.fetch_add(1, Ordering::AcqRel);
            }
        })
    }

    pub(super) fn met(&self) -> u64 {
        self.met.load(Ordering::Acquire)
    }

    /// Waits until the primary can be believed; gives how many had been met by then.
    ///
    /// # Errors
    /// As [`Call::run`].
    pub(super) async fn settle(&self, call: &Call) -> Result<u64> {
        loop {
            let met = self.met();
            if self.is_settled(met) {
                return Ok(met);
            }
            let turn = timeout_at(call.deadline(), self.settling.lock()).await;
            let _turn = turn.map_err(|_| Fault::TimedOut)?;
            if !self.is_settled(met) {
                commit_a_no_op(call).await?;
                self.settled.fetch_max(met, Ordering::AcqRel);
            }
        }
    }

    fn is_settled(&self, met: u64) -> bool {
        self.settled.load(Ordering::Acquire) >= met
    }
}

async fn commit_a_no_op(call: &Call) -> Result<()> {
    let sessions = call.sessions();
    call.run("find sessions", move |attempt| {
        let sessions = sessions.clone();
        async move {
            // No session has this key: it is the waiting that counts.
            sessions
                .find_one(doc! { "_id": "" })
                .read_concern(ReadConcern::linearizable())
                .max_time(attempt.time_max)
                .comment(Bson::from("colloquy: primary"))
                .await?;
            Ok(())
        }
    })
    .await
}
