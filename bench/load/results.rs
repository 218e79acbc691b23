//! What a run found.

use std::{fmt::Write as _, time::Duration};

use crate::{Failure, args::Part, service::Target, tally::Tally};

/// Whose row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Service(Target),
    /// An engine by itself, or what else the service is held against.
    Limit(Limit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    InsertOne,
    InsertOneIndexed,
    InsertMany,
    InsertManyIndexed,
    RedisGet,
    Poem,
    PoemEcho,
    SqliteCommit,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Self::InsertOne => "raw insert_one",
            Self::InsertOneIndexed => "raw insert_one, indexed",
            Self::InsertMany => "raw insert_many × 500",
            Self::InsertManyIndexed => "raw insert_many × 500, indexed",
            Self::RedisGet => "raw Redis GET",
            Self::Poem => "poem, from memory",
            Self::PoemEcho => "poem, sends it back",
            Self::SqliteCommit => "SQLite, a commit each",
        }
    }
}

/// A measurement of throughput.
pub struct Row {
    pub subject: Subject,
    /// For a limit, the measurement that it is the limit of.
    pub part: Part,
    /// What was done, for the table.
    pub what: String,
    pub tally: Tally,
    /// Of the reads that asked a cache, the part that found there what they wanted.
    pub cache_hits: Option<f64>,
}

/// Percentiles at half of what a closed loop got through.
pub struct Latency {
    pub subject: Subject,
    pub part: Part,
    /// For a raw measurement, at whose rate.
    pub target: Target,
    pub rate: f64,
    pub tally: Tally,
}

/// What a closed loop got through, what became of twice that, then of half of it.
pub struct Overload {
    pub target: Target,
    pub part: Part,
    pub peak: Tally,
    pub overload: Tally,
    pub recovery: Tally,
}

impl Overload {
    /// What was answered in time at twice saturation, as a part of what is there to be had.
    pub fn goodput(&self) -> f64 {
        self.overload.requests_per_s() / self.peak.requests_per_s()
    }

    /// Which part of what was due afterwards was answered.
    pub fn recovered(&self) -> f64 {
        self.recovery.right() as f64 / self.recovery.due.max(1) as f64
    }

    /// By a later round.
    pub fn extend(&mut self, later: &Self) -> Result<(), Failure> {
        self.peak.extend(&later.peak)?;
        self.overload.extend(&later.overload)?;
        self.recovery.extend(&later.recovery)
    }
}

pub struct Size {
    pub target: Target,
    /// How many events were in the store when the measurements began.
    pub events: u64,
    /// How long it took to add those that were not there before.
    pub fill: Duration,
    pub fill_events: u64,
    pub appends: Tally,
    pub hot_reads: Tally,
}

pub struct Resources {
    pub target: Target,
    pub ready: Vec<Duration>,
    pub idle_mib: f64,
    pub connections: usize,
    pub connected_mib: f64,
}

#[derive(Default)]
pub struct Results {
    pub rows: Vec<Row>,
    pub latencies: Vec<Latency>,
    pub overloads: Vec<Overload>,
    pub sizes: Vec<Size>,
    pub resources: Vec<Resources>,
}

impl Results {
    /// Adds a measurement, to that of an earlier round where there was one.
    pub fn add(&mut self, row: Row) -> Result<(), Failure> {
        let is_it = |earlier: &&mut Row| earlier.subject == row.subject && earlier.part == row.part;
        let Some(earlier) = self.rows.iter_mut().find(is_it) else {
            self.rows.push(row);
            return Ok(());
        };
        let (before, now) = (earlier.tally.answered as f64, row.tally.answered as f64);
        let mean = |(one, other): (f64, f64)| (one * before + other * now) / (before + now).max(1.0);
        earlier.cache_hits = earlier.cache_hits.zip(row.cache_hits).map(mean);
        earlier.tally.extend(&row.tally)
    }

    pub fn row(&self, subject: Subject, part: Part) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.subject == subject && row.part == part)
    }

    pub fn limit(&self, limit: Limit) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject == Subject::Limit(limit))
    }

    /// What failed, a line each; empty where every request had the right answer.
    pub fn errors(&self) -> String {
        let mut lines = String::new();
        let mut add = |name: String, tally: &Tally| {
            for (what, count) in &tally.errors {
                let _ = writeln!(lines, "{name}: {what}, {count} times");
            }
            if tally.shed_in_silence > 0 {
                let _ = writeln!(
                    lines,
                    "{name}: 503 without Retry-After, {} times",
                    tally.shed_in_silence
                );
            }
        };
        for row in &self.rows {
            add(format!("{}, {}", row.subject.name(), row.part.name()), &row.tally);
        }
        for row in &self.latencies {
            add(
                format!("{}, {} at half", row.subject.name(), row.part.name()),
                &row.tally,
            );
        }
        for row in &self.overloads {
            let name = format!("{}, {}", row.target.name(), row.part.name());
            add(format!("{name}, closed loop before overload"), &row.peak);
            add(format!("{name} at twice saturation"), &row.overload);
            add(format!("{name} after it"), &row.recovery);
        }
        for row in &self.sizes {
            let name = format!("{}, {} events", row.target.name(), row.events);
            add(format!("{name}, appends"), &row.appends);
            add(format!("{name}, hot reads"), &row.hot_reads);
        }
        lines
    }
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Service(target) => target.name(),
            Self::Limit(limit) => limit.name(),
        }
    }
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Self::Appends => "single-event appends",
            Self::Batches => "batch appends",
            Self::HotReads => "hot reads",
            Self::ColdReads => "cold reads",
            Self::Mixed => "mixed, 1 write : 2 reads",
            Self::Opens => "opens",
            Self::Completes => "completes",
            Self::Limits => "limits",
            Self::Latency => "latency",
            Self::Backpressure => "backpressure",
            Self::Size => "size of the hot store",
            Self::Resources => "resources",
        }
    }
}
