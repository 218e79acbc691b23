//! What Colloquy gets through, beside what the engines below it get through by themselves: `make bench`.
//!
//! The program starts the engines and, for every target (the embedded default; MongoDB with Redis), the service as a
//! process of its own, and measures in one run:
//!
//! 1. what a closed loop gets through: appends, batches, hot and cold reads, a mix, opens, completes (`throughput.rs`);
//! 2. the limits: raw inserts and GETs through the drivers, SQLite, and an HTTP server that only copies (`limits.rs`);
//! 3. latency at half of that in an open loop, and what becomes of twice of it (`open_loop.rs`);
//! 4. whether 5 million events are slower than 50,000 (`store_size.rs`);
//! 5. how soon the service is ready, and its memory (`resources.rs`).
//!
//! All share the machine's cores, so a number by itself says little. What counts are ratios within one run: `goals.rs`
//! has those that were aimed at. On a machine that does other things besides, look at the processor time of a request, which
//! they change less.
//!
//! The load generator itself is `generator.rs` with `client.rs` (HTTP), `arrivals.rs` (when requests of an open loop are due)
//! and `requests.rs` (their bytes). A request with any other answer than the right one fails the run at its end; a
//! goal that was missed does not.

mod args;
mod arrivals;
mod chart;
mod client;
mod engines;
mod generator;
mod goals;
mod limits;
mod machine;
mod open_loop;
mod proc;
#[path = "../processor_time.rs"]
mod processor_time;
mod raw;
mod report;
mod requests;
mod resources;
mod results;
mod service;
mod store_size;
mod tally;
mod throughput;
mod workloads;

use std::{os::unix::process::CommandExt, path::PathBuf, process::Command, sync::Arc};

use crate::{
    args::{Args, Part, ROUNDS},
    engines::Engines,
    requests::Bodies,
    results::Results,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Of files and connections that may be open: both ends of a thousand connections, and what the engines need.
const OPEN_FILES: u64 = 8_192;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if let [_, flag, file, address] = words.as_slice()
        && flag == raw::POEM_FLAG
    {
        return runtime.block_on(raw::serve_from_memory(
            PathBuf::from(file),
            PathBuf::from(address),
        ));
    }
    let args = Args::read();
    allow_open_files()?;
    runtime.block_on(run(&args))
}

async fn run(args: &Args) -> Result<(), Failure> {
    let bodies = Arc::new(Bodies::read(&args.conversations)?);
    let machine = machine::Machine::look(args);
    let has = |of: fn(&service::Target) -> bool| args.on.iter().any(of);
    let mut engines = Engines::start(has(|on| on.has_mongodb()), has(|on| on.has_redis())).await;
    let mut results = Results::default();
    // A database for each service.
    let mut numbers = 1..;
    let mut number = || numbers.next().unwrap_or_default();

    let is_loaded = |part: &Part| !matches!(part, Part::Size | Part::Resources);
    if args.only.is_empty() || args.only.iter().any(is_loaded) {
        let mut benches = Vec::new();
        for target in &args.on {
            let bench =
                throughput::begin(*target, number(), &mut engines, &bodies, args, &mut results).await?;
            benches.push(bench);
        }
        for round in 0..ROUNDS {
            for bench in &mut benches {
                bench.round = round;
                throughput::round(bench, &args.of_round(), &mut results).await?;
            }
            if let Some(bench) = benches.first() {
                limits::measure(&mut engines, &bodies, bench, &args.of_round(), &mut results).await?;
            }
        }
        for bench in benches {
            if args.wants(Part::Latency) {
                open_loop::at_half(&bench, &mut engines, args, &mut results).await?;
            }
            if args.wants(Part::Backpressure) {
                open_loop::at_twice(&bench, args, &mut results).await?;
            }
            bench.service.stop().await?;
        }
    }
    for target in &args.on {
        if args.wants(Part::Resources) {
            resources::measure(*target, number(), &mut engines, &bodies, &mut results).await?;
        }
    }
    for target in &args.on {
        if args.wants(Part::Size) {
            store_size::measure(*target, number(), &mut engines, &bodies, args, &mut results).await?;
        }
    }

    let goals = goals::goals(&results, &args.on);
    print!("{}", report::write(&args.out, &results, &goals, &machine)?);
    eprintln!(
        "\nwritten to {}: latest.md, latest.json, latest.svg",
        args.out.display()
    );
    match results.errors() {
        errors if errors.is_empty() => Ok(()),
        errors => Err(format!("requests failed:\n{errors}").into()),
    }
}

/// Starts this program once more under a higher limit, where the shell's is too low; processes that it starts inherit it.
fn allow_open_files() -> Result<(), Failure> {
    const ASKED: &str = "COLLOQUY_BENCH_OPEN_FILES";
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line
        .and_then(|line| line.split_whitespace().next())
        .unwrap_or("unlimited");
    if soft.parse().is_ok_and(|soft: u64| soft < OPEN_FILES) {
        if std::env::var_os(ASKED).is_some() {
            return Err(
                format!("at most {soft} files may be open, and {OPEN_FILES} are needed: ulimit -n").into(),
            );
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"ulimit -n "$0" && exec "$@""#])
            .arg(OPEN_FILES.to_string())
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(ASKED, "1");
        return Err(command.exec().into());
    }
    Ok(())
}
