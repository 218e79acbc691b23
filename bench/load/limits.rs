//! The limits, measured in the same run on the same engines.

use std::time::Duration;

use crate::{
    Failure,
    args::{Args, Part},
    engines::Engines,
    generator::{Load, Pace},
    proc::Watched,
    raw::{self, Closed, DOCUMENTS_OF_INSERT_MANY, Events, Poem},
    report,
    requests::Bodies,
    results::{Limit, Results, Row, Subject},
    service::Target,
    tally::Tally,
    throughput::Bench,
};

/// The database of the raw inserts.
pub const DATABASE: &str = "colloquy-bench-raw";

/// `bench` is any that has answered a hot read.
pub async fn measure(
    engines: &mut Engines,
    bodies: &Bodies,
    bench: &Bench,
    args: &Args,
    results: &mut Results,
) -> Result<(), Failure> {
    let wants = |part| args.wants(part) || args.wants(Part::Limits);
    let mut add = |limit: Limit, part: Part, what: String, tally: Tally| {
        let row = Row {
            subject: Subject::Limit(limit),
            part,
            what,
            tally,
            cache_hits: None,
        };
        report::progress(&row);
        results.add(row)
    };
    let closed = Closed {
        clients: args.clients(),
        warm_up: args.warm_up(),
        span: args.span(),
    };
    let mongod = Watched {
        mongod: engines.mongod_pid(),
        ..Watched::default()
    };
    if let Some(url) = engines.mongodb(DATABASE) {
        let inserts = [
            (Limit::InsertOne, "no index but _id"),
            (Limit::InsertOneIndexed, "with the service's index"),
        ];
        for (limit, index) in inserts.into_iter().filter(|_| wants(Part::Appends)) {
            let is_indexed = limit == Limit::InsertOneIndexed;
            let name = format!("one-{is_indexed}-{}", bench.round);
            let events = Events::create(&url, &name, is_indexed, bodies).await?;
            let tally = closed
                .run(mongod, move || {
                    let events = events.clone();
                    async move { events.insert_one().await }
                })
                .await?;
            let what = format!(
                "insert_one, w: majority, j: true, {} at once, {index}",
                closed.clients
            );
            add(limit, Part::Appends, what, tally)?;
        }
        let inserts = [
            (Limit::InsertMany, "no index but _id"),
            (Limit::InsertManyIndexed, "with the service's index"),
        ];
        for (limit, index) in inserts
            .into_iter()
            .filter(|_| wants(Part::Batches) || wants(Part::Appends))
        {
            let is_indexed = limit == Limit::InsertManyIndexed;
            let tally = best_insert_many(&url, bench.round, is_indexed, bodies, closed, mongod).await?;
            let what = format!(
                "insert_many, unordered, {DOCUMENTS_OF_INSERT_MANY} a call, w: majority, j: true, {index}; best of 1, 2 and 4 at once"
            );
            add(limit, Part::Batches, what, tally)?;
        }
    }
    let bytes = bench.hot_body.len();
    if let Some(url) = engines.redis(0).filter(|_| wants(Part::HotReads)) {
        let watched = Watched {
            redis: engines.redis_pid(),
            ..Watched::default()
        };
        let mut best = None;
        for connections in [1, 2, 4, 8] {
            let tally = raw::redis_get(&url, bytes, connections, closed, watched).await?;
            keep_better(&mut best, tally);
        }
        let tally = best.ok_or("nothing was measured")?;
        let what = format!(
            "GET of {bytes} bytes, {} at once over multiplexed connections; best of 1, 2, 4 and 8",
            closed.clients
        );
        add(Limit::RedisGet, Part::HotReads, what, tally)?;
    }
    if wants(Part::Appends) {
        let tally = poem(bench, Part::Appends, closed).await?;
        let what = "POST one event to a process that does nothing else than send it back".to_owned();
        add(Limit::PoemEcho, Part::Appends, what, tally)?;
    }
    if wants(Part::HotReads) {
        let tally = poem(bench, Part::HotReads, closed).await?;
        let what =
            format!("the hot read's {bytes} bytes from the memory of a process that does nothing else");
        add(Limit::Poem, Part::HotReads, what, tally)?;
    }
    if wants(Part::Appends) && args.on.contains(&Target::Embedded) {
        let tally = tokio::task::block_in_place(|| raw::sqlite_commits(bodies, closed.warm_up, closed.span))?;
        let what =
            "one event a transaction, WAL, synchronous=FULL, one thread, the service's tables".to_owned();
        add(Limit::SqliteCommit, Part::Appends, what, tally)?;
    }
    Ok(())
}

async fn best_insert_many(
    url: &str,
    round: usize,
    is_indexed: bool,
    bodies: &Bodies,
    closed: Closed,
    watched: Watched,
) -> Result<Tally, Failure> {
    let mut best = None;
    for clients in [1, 2, 4] {
        let name = format!("many-{is_indexed}-{clients}-{round}");
        let events = Events::create(url, &name, is_indexed, bodies).await?;
        let few = Closed { clients, ..closed };
        let tally = few
            .run(watched, move || {
                let events = events.clone();
                async move { events.insert_many().await }
            })
            .await?;
        keep_better(&mut best, tally);
    }
    best.ok_or_else(|| "nothing was measured".into())
}

fn keep_better(best: &mut Option<Tally>, tally: Tally) {
    let is_better = |best: &Tally| best.requests_per_s() < tally.requests_per_s();
    if best.as_ref().is_none_or(is_better) {
        *best = Some(tally);
    }
}

/// The same requests as the service gets, from the same generator.
async fn poem(bench: &Bench, part: Part, closed: Closed) -> Result<Tally, Failure> {
    let poem = Poem::start(&bench.hot_body).await?;
    let load = Load {
        address: poem.address,
        connections: closed.clients,
        workload: bench.workload(part)?,
        pace: Pace::Closed {
            warm_up: closed.warm_up,
            span: closed.span,
        },
        watched: Watched {
            service: Some(poem.pid()),
            ..Watched::default()
        },
        sheds: false,
    };
    load.run_one().await
}

/// How long raw inserts take, one at a time whenever one is due.
pub async fn insert_one_at(
    engines: &mut Engines,
    bodies: &Bodies,
    target: Target,
    phases: [crate::arrivals::Phase; 2],
    connections: usize,
) -> Result<Tally, Failure> {
    let url = engines.mongodb(DATABASE).ok_or("no MongoDB")?;
    let events = Events::create(&url, &format!("half-{target:?}"), false, bodies).await?;
    let watched = Watched {
        mongod: engines.mongod_pid(),
        ..Watched::default()
    };
    let act = move || {
        let events = events.clone();
        async move { events.insert_one().await }
    };
    // The connections of the driver are opened before it counts.
    let warm = Closed {
        clients: 64,
        warm_up: Duration::ZERO,
        span: Duration::from_millis(500),
    };
    warm.run(watched, act.clone()).await?;
    raw::open(phases, connections, watched, act).await
}
