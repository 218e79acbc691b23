//! What was aimed at, and what was reached. A goal that was missed fails nothing: the machine may be busy.

use serde_json::{Value, json};

use crate::{
    args::Part,
    results::{Limit, Results, Subject},
    service::Target,
    tally::Tally,
};

pub struct Goal {
    pub what: String,
    pub measured: f64,
    pub wanted: f64,
    pub is_at_least: bool,
    pub unit: &'static str,
}

impl Goal {
    pub fn is_met(&self) -> bool {
        match self.is_at_least {
            true => self.measured >= self.wanted,
            false => self.measured <= self.wanted,
        }
    }

    pub fn wanted(&self) -> String {
        let sign = if self.is_at_least { "≥" } else { "≤" };
        format!("{sign} {}{}", self.wanted, self.unit)
    }

    pub fn json(&self) -> Value {
        json!({
            "goal": self.what, "wanted": self.wanted(), "measured": self.measured, "met": self.is_met(),
        })
    }
}

/// Every goal for which there are measurements.
pub fn goals(results: &Results, targets: &[Target]) -> Vec<Goal> {
    let mut goals = Goals(Vec::new());
    for target in targets {
        goals.of_throughput(results, *target);
    }
    for target in targets {
        goals.of_latency(results, *target);
        goals.of_size(results, *target);
        goals.of_overload(results, *target);
        goals.of_resources(results, *target);
    }
    goals.0
}

struct Goals(Vec<Goal>);

impl Goals {
    fn at_least(&mut self, wanted: f64, unit: &'static str, what: String, measured: Option<f64>) {
        self.add(wanted, unit, what, measured, true);
    }

    fn at_most(&mut self, wanted: f64, unit: &'static str, what: String, measured: Option<f64>) {
        self.add(wanted, unit, what, measured, false);
    }

    fn add(
        &mut self,
        wanted: f64,
        unit: &'static str,
        what: String,
        measured: Option<f64>,
        is_at_least: bool,
    ) {
        self.0.extend(measured.map(|measured| Goal {
            what,
            measured,
            wanted,
            is_at_least,
            unit,
        }));
    }

    fn of_throughput(&mut self, results: &Results, target: Target) {
        let name = target.name();
        let of = |part| results.row(Subject::Service(target), part).map(|row| &row.tally);
        let limit = |limit| results.limit(limit).map(|row| &row.tally);
        let events =
            |one: Option<&Tally>, other: Option<&Tally>| Some(one?.events_per_s() / other?.events_per_s());
        let requests = |one: Option<&Tally>, other: Option<&Tally>| {
            Some(one?.requests_per_s() / other?.requests_per_s())
        };
        let (appends, batches) = (of(Part::Appends), of(Part::Batches));
        if target.has_mongodb() {
            let what = format!("{name}: single-event appends : raw insert_one");
            self.at_least(2.0, " ×", what, events(appends, limit(Limit::InsertOne)));
            let what = format!("{name}: single-event appends : raw insert_many");
            self.at_least(0.4, " ×", what, events(appends, limit(Limit::InsertMany)));
            let what = format!("{name}: events of batch appends : raw insert_many");
            self.at_least(0.7, " ×", what, events(batches, limit(Limit::InsertMany)));
        } else {
            let what = format!("{name}: single-event appends : SQLite with a commit each");
            self.at_least(20.0, " ×", what, events(appends, limit(Limit::SqliteCommit)));
        }
        let what = format!("{name}: hot reads : poem, from memory");
        self.at_least(0.6, " ×", what, requests(of(Part::HotReads), limit(Limit::Poem)));
    }

    fn of_latency(&mut self, results: &Results, target: Target) {
        let p99 = |subject| {
            let is_it = |row: &&crate::results::Latency| {
                row.target == target && row.part == Part::Appends && row.subject == subject
            };
            results
                .latencies
                .iter()
                .find(is_it)
                .map(|row| row.tally.quantile_ms(0.99))
        };
        let raw = p99(Subject::Limit(Limit::InsertOne));
        let ratio = p99(Subject::Service(target))
            .zip(raw)
            .map(|(ours, raw)| ours / raw);
        let what = format!(
            "{}: p99 of appends at half of saturation : raw insert_one at that rate",
            target.name()
        );
        self.at_most(3.0, " ×", what, ratio);
    }

    fn of_size(&mut self, results: &Results, target: Target) {
        let mut sizes = results.sizes.iter().filter(|size| size.target == target);
        let (Some(small), Some(large)) = (sizes.next(), sizes.next()) else {
            return;
        };
        let rate = Tally::requests_per_s;
        for (part, ratio) in [
            ("appends", rate(&large.appends) / rate(&small.appends)),
            ("hot reads", rate(&large.hot_reads) / rate(&small.hot_reads)),
        ] {
            let what = format!(
                "{}: {part} with {} events : with {}",
                target.name(),
                large.events,
                small.events
            );
            self.at_least(0.9, " ×", what, Some(ratio));
        }
    }

    fn of_overload(&mut self, results: &Results, target: Target) {
        for row in results.overloads.iter().filter(|row| row.target == target) {
            let name = format!("{}: {}", target.name(), row.part.name());
            let what = format!("{name}: goodput at twice saturation : peak");
            self.at_least(0.9, " ×", what, Some(row.goodput()));
            let what = format!("{name}: answered of what was due 250 ms later");
            self.at_least(0.95, "", what, Some(row.recovered()));
        }
    }

    fn of_resources(&mut self, results: &Results, target: Target) {
        for row in results.resources.iter().filter(|row| row.target == target) {
            let name = target.name();
            let what = format!("{name}: resident memory with {} connections", row.connections);
            self.at_most(200.0, " MiB", what, Some(row.connected_mib));
            self.at_most(
                40.0,
                " MiB",
                format!("{name}: resident memory, idle"),
                Some(row.idle_mib),
            );
            let median = row.ready[row.ready.len() / 2].as_secs_f64() * 1e3;
            self.at_most(
                150.0,
                " ms",
                format!("{name}: ready, median of {}", row.ready.len()),
                Some(median),
            );
        }
    }
}
