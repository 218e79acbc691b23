//! Whether a large hot store is slower than a small one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Failure,
    args::{Args, Part},
    engines::Engines,
    report,
    requests::{Bodies, EVENTS_OF_SESSION, Sessions},
    results::{Results, Size},
    service::{Place, Target},
    throughput::{APPENDED, Bench, HOT},
    workloads,
};

const SMALL: u64 = 50_000;
const EVENTS_OF_REQUEST: usize = 500;
const BATCHES_SMALL: u64 = 1;
const BATCHES_LARGE: u64 = 2;
/// What the engine has still to do when it was just filled is not what is measured: until, for as long as this, it takes
/// next to none of a processor; at most so long.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: f64 = 0.05;
const SETTLE_MAX: Duration = Duration::from_mins(3);

pub async fn measure(
    target: Target,
    number: u32,
    engines: &mut Engines,
    bodies: &Arc<Bodies>,
    args: &Args,
    results: &mut Results,
) -> Result<(), Failure> {
    let place = Arc::new(Place::prepare(target, engines, number)?);
    let bench = Bench::open(&place, bodies, args.clients()).await?;
    let mut there = HOT.count * EVENTS_OF_SESSION as u64;
    for (prefix, appended, wanted, batches) in [
        ("small", "append-small", SMALL, BATCHES_SMALL),
        ("large", "append-large", args.size_events, BATCHES_LARGE),
    ] {
        let each = batches * EVENTS_OF_REQUEST as u64;
        let sessions = Sessions {
            prefix,
            count: wanted.saturating_sub(there).div_ceil(each),
        };
        let began = Instant::now();
        let filled = bench.filled(sessions, EVENTS_OF_REQUEST, batches).await?;
        let fill = began.elapsed();
        there += filled.events;
        // Of their own, since those that were appended to before are larger than they were then.
        let appended = Sessions {
            prefix: appended,
            ..APPENDED
        };
        bench.opened(appended).await?;
        settle(&bench).await?;
        let appends = bench.closed(workloads::appends(bodies, appended), args).await?;
        bench.warmed(Part::HotReads).await?;
        let hot_reads = bench.closed(bench.workload(Part::HotReads)?, args).await?;
        let size = Size {
            target,
            events: there,
            fill,
            fill_events: filled.events,
            appends,
            hot_reads,
        };
        there += size.appends.events;
        report::size_progress(&size);
        results.sizes.push(size);
    }
    bench.service.stop().await
}

async fn settle(bench: &Bench) -> Result<(), Failure> {
    let watched = bench.service.watched;
    let began = Instant::now();
    while began.elapsed() < SETTLE_MAX {
        let before = watched.cpu();
        tokio::time::sleep(SETTLE).await;
        let took = watched.cpu().since(before);
        if (took.service + took.mongod).as_secs_f64() < IDLE * SETTLE.as_secs_f64() {
            return Ok(());
        }
    }
    Err(format!(
        "the engine is not idle {} s after it was filled",
        SETTLE_MAX.as_secs()
    )
    .into())
}
