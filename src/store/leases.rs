//! Leases: of all processes that share a store, one at a time does what need not be done by each.
//!
//! A lease has a name and an owner. It ends by itself, so that another process goes on when its owner dies.
//!
//! **A lease saves work. It keeps nothing safe.** A process that lost its lease finishes what it has begun, and clocks that are
//! wrong by more than is allowed for give two owners at once. So everything that is done under a lease must be safe with any
//! number of processes doing it: the archive's claims and epochs ([`catalog`](super::catalog)), the marks of the sweep of
//! idle sessions and the conditions of each statement see to that. A command that a person gives takes no lease.
//!
//! The invariants that make two owners at once the exception. `T` is the time that a lease was taken for, `C` a clock of the
//! database. A MongoDB cluster has one such clock a router, and after a failover another one.
//!
//! - **L1. The owner relies on its lease until `T` after the moment *before* it asked**, by its own monotonic clock. Without
//!   this: the statement takes a second on the way back, and the owner relies on the lease for a second longer than it lasts.
//! - **L2. The store writes that the lease lasts until `C + T`.** It does so no earlier than the owner asked, so the lease
//!   that is written never ends before the owner stops to rely on it, by that same clock.
//! - **L3. Nobody else gets the lease before `C' >= until + A`**, where `C'` is the clock of the statement that takes it, and
//!   `A` the most that two of the database's clocks may be apart (`mongo_clocks_apart_ms_max`). Without this: the owner's
//!   router is two seconds behind another one; for the last two seconds of the lease another process gets it through that
//!   one while the owner relies on it.
//! - **L4. A lease that lasts longer than it can is void**: where `until > C' + T + A`, for the `T` it was taken for. Without
//!   this: a router whose clock is a day ahead writes the lease, its owner dies, and nobody does its work for a day.
//! - **L5. Taking and renewing are one conditional statement**, which a majority has before it counts. Of any number of
//!   processes that try at once one gets it, and an owner whose lease went to another can't renew it.
//!
//! From L1 to L3: let `B` get the lease at a moment when `A'`, its owner so far, relies on it. By L1, less than `T` has passed
//! since `A'` asked. By L2, `until` is at least the clock of the router of `A'` at that moment plus `T`, so that clock
//! has not reached `until`. By L3, that of the router of `B` has reached `until + A`. So the two are more than `A` apart.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::Result;

/// What came of [`Leases::take_lease`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The owner has the lease.
    Held,
    /// Another owner has it, for this long yet unless it is renewed or given up.
    ByAnother(Duration),
}

/// The leases in a store. See the [module](self) for what they promise.
///
/// Every call may be repeated. With an error it is not known whether it had an effect.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Takes the lease `name` for `owner`, for `time` from now; or makes it last so long, where the owner has it already.
    ///
    /// # Errors
    /// The store can't be reached.
    async fn take_lease(&self, name: &str, owner: &str, time: Duration) -> Result<Taken>;

    /// Gives the lease up, if `owner` has it: the next to ask gets it.
    ///
    /// # Errors
    /// The store can't be reached.
    async fn give_up_lease(&self, name: &str, owner: &str) -> Result<()>;
}
