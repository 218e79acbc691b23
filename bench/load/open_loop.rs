//! Latency at half of saturation, and what the service does at twice of it.

use std::time::Duration;

use crate::{
    Failure,
    args::{Args, Part},
    arrivals::Phase,
    engines::Engines,
    generator::{Load, Pace},
    limits, report,
    results::{Latency, Limit, Overload, Results, Subject},
    throughput::Bench,
};

/// Enough that a request at half of saturation finds one free.
const CONNECTIONS_AT_HALF: usize = 256;
/// As many callers as a busy service has; what finds none of them free is counted as unsent.
const CONNECTIONS_AT_TWICE: usize = 1_000;
/// Peak and overload in turn, so many times: within seconds the machine may be another one.
const ROUNDS_AT_TWICE: usize = 6;
/// Until an overload counts: the answers that come at first are to requests from before it.
const RAMP: Duration = Duration::from_millis(500);
/// What was sent before the end of the overload is answered after it, and until then no connection is free.
const BUSY_STILL: Duration = Duration::from_millis(250);
const RECOVERY: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_secs(1);

/// Percentiles at half of what the closed loop got through, and those of raw inserts at the rate of the appends.
pub async fn at_half(
    bench: &Bench,
    engines: &mut Engines,
    args: &Args,
    results: &mut Results,
) -> Result<(), Failure> {
    let target = bench.target;
    for part in [Part::Appends, Part::Mixed] {
        bench.warmed(part).await?;
        let row = results.row(Subject::Service(target), part);
        let rate = row.ok_or("no saturation")?.tally.requests_per_s() / 2.0;
        let phases = [phase(rate, WARM_UP), phase(rate, args.span())];
        let load = load(bench, part, &phases, CONNECTIONS_AT_HALF, true)?;
        let mut found = vec![(Subject::Service(target), load.run_one().await?)];
        if part == Part::Appends && target.has_mongodb() {
            let bodies = &bench.bodies;
            let tally = limits::insert_one_at(engines, bodies, target, phases, CONNECTIONS_AT_HALF).await?;
            found.push((Subject::Limit(Limit::InsertOne), tally));
        }
        for (subject, tally) in found {
            let latency = Latency {
                subject,
                part,
                target,
                rate,
                tally,
            };
            report::latency_progress(&latency);
            results.latencies.push(latency);
        }
    }
    Ok(())
}

/// Twice what a closed loop of the same callers gets through just before, and then half of it.
pub async fn at_twice(bench: &Bench, args: &Args, results: &mut Results) -> Result<(), Failure> {
    for part in [Part::Appends, Part::Batches, Part::HotReads] {
        bench.warmed(part).await?;
        let mut overload = overloaded(bench, part, &args.of_round()).await?;
        for _ in 1..ROUNDS_AT_TWICE {
            overload.extend(&overloaded(bench, part, &args.of_round()).await?)?;
        }
        report::overload_progress(&overload);
        results.overloads.push(overload);
    }
    Ok(())
}

async fn overloaded(bench: &Bench, part: Part, args: &Args) -> Result<Overload, Failure> {
    let callers = match part {
        // All of them at once would be more than its queue holds.
        Part::Batches => args.clients(),
        _ => CONNECTIONS_AT_TWICE,
    };
    let peak = bench.closed_by(callers, bench.workload(part)?, args).await?;
    let rate = peak.requests_per_s();
    let phases = [
        phase(rate / 2.0, WARM_UP),
        phase(rate * 2.0, RAMP),
        phase(rate * 2.0, args.span()),
        phase(rate / 2.0, BUSY_STILL),
        phase(rate / 2.0, RECOVERY),
    ];
    let load = load(bench, part, &phases, CONNECTIONS_AT_TWICE, false)?;
    let Ok::<[_; 4], _>([_, overload, _, recovery]) = load.run().await?.try_into() else {
        return Err("not four phases".into());
    };
    Ok(Overload {
        target: bench.target,
        part,
        peak,
        overload,
        recovery,
    })
}

fn phase(rate: f64, span: Duration) -> Phase {
    Phase { rate, span }
}

fn load(
    bench: &Bench,
    part: Part,
    phases: &[Phase],
    connections: usize,
    waits: bool,
) -> Result<Load, Failure> {
    Ok(Load {
        address: bench.service.address,
        connections,
        workload: bench.workload(part)?,
        pace: Pace::Open {
            phases: phases.to_vec(),
            waits,
        },
        watched: bench.service.watched,
        sheds: !waits,
    })
}
