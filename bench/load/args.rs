//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

use crate::service::Target;

/// Measures Colloquy beside the engines it runs on
#[derive(Parser, Clone, Debug)]
#[command(
    name = "make bench BENCH_ARGS=...",
    no_binary_name = true,
    max_term_width = 100
)]
pub struct Args {
    /// Seconds of a measurement, in three rounds, after warm-ups of a fifth
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Connections of a closed loop
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub clients: u16,
    /// Conversations to take events and sessions from, as JSON Lines
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/conversations.jsonl"))]
    pub conversations: PathBuf,
    /// Measure only this, and what it needs
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    pub only: Vec<Part>,
    /// What the service runs on
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "TARGET,..",
        default_value = "embedded,mongodb-redis"
    )]
    pub on: Vec<Target>,
    /// Where the results go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/results"))]
    pub out: PathBuf,
    /// Events of the large hot store
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(100_000..=1_000_000_000))]
    pub size_events: u64,
    /// A second a measurement, and no large hot store: to see that all of it works
    #[arg(long)]
    pub quick: bool,
}

/// Measurements are made in so many rounds, each with all of them: a machine that is slow for a while is slow for all
/// that is compared.
pub const ROUNDS: usize = 3;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Appends,
    Batches,
    HotReads,
    ColdReads,
    Mixed,
    Opens,
    Completes,
    /// What the engines do by themselves
    Limits,
    /// Percentiles at half of saturation
    Latency,
    /// Twice as much as it can take
    Backpressure,
    /// A small and a large hot store
    Size,
    /// Start, memory
    Resources,
}

impl Args {
    /// Reads the command line; ends the process where it is wrong, or asks for help.
    pub fn read() -> Self {
        // `cargo bench` adds a word of its own.
        let mut args = Self::parse_from(std::env::args().skip(1).filter(|word| word != "--bench"));
        if args.quick {
            args.seconds = args.seconds.min(1.0);
        }
        args
    }

    pub fn wants(&self, part: Part) -> bool {
        match self.only.is_empty() {
            true => part != Part::Size || !self.quick,
            false => self.only.contains(&part),
        }
    }

    pub fn span(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Those of a round.
    pub fn of_round(&self) -> Self {
        let seconds = self.seconds / ROUNDS as f64;
        Self {
            seconds,
            ..self.clone()
        }
    }

    pub fn warm_up(&self) -> Duration {
        self.span() / 5
    }

    pub fn clients(&self) -> usize {
        usize::from(self.clients)
    }

    /// `each` for a second of a measurement.
    pub fn scaled(&self, each: f64) -> u64 {
        (self.seconds * each).ceil() as u64
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number")?;
    match (0.2..=600.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err("must be from 0.2 to 600".into()),
    }
}
