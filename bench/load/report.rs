//! The results for people and for programs: a table on standard output and in `latest.md`, `latest.json`, and the
//! charts of `latest.svg`. The names are always the same, so that git shows what a change did to the numbers; which
//! commit and which machine they are of is in each of them.

use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};

use crate::{
    Failure,
    args::Part,
    chart,
    goals::Goal,
    machine::Machine,
    results::{Latency, Overload, Resources, Results, Row, Size, Subject},
    tally::Tally,
};

/// The order of the tables.
const PARTS: [Part; 7] = [
    Part::Appends,
    Part::Batches,
    Part::HotReads,
    Part::ColdReads,
    Part::Mixed,
    Part::Opens,
    Part::Completes,
];

pub fn progress(row: &Row) {
    let p99 = milliseconds(row.tally.quantile_ms(0.99));
    let rate = rate(row.part, &row.tally);
    told(
        row.subject.name(),
        row.part,
        rate,
        &format!("  p99 {p99} ms"),
        &row.tally,
    );
}

pub fn latency_progress(row: &Latency) {
    let p99 = milliseconds(row.tally.quantile_ms(0.99));
    let more = format!("  p99 {p99} ms, open loop");
    told(row.subject.name(), row.part, row.rate, &more, &row.tally);
}

pub fn overload_progress(row: &Overload) {
    let rate = row.overload.requests_per_s();
    let more = format!(" at twice saturation, {:.2} of the peak", row.goodput());
    told(row.target.name(), row.part, rate, &more, &row.overload);
}

/// One line, as soon as it is known.
fn told(who: &str, part: Part, rate: f64, more: &str, tally: &Tally) {
    let failed = match tally.errors() {
        0 => String::new(),
        errors => format!("  {errors} FAILED"),
    };
    eprintln!(
        "{who:<28} {:<26} {:>9}/s{more}{failed}",
        part.name(),
        grouped(rate)
    );
}

pub fn size_progress(row: &Size) {
    eprintln!(
        "{:<28} {} events: {} appends/s, {} hot reads/s",
        row.target.name(),
        grouped(row.events as f64),
        grouped(row.appends.requests_per_s()),
        grouped(row.hot_reads.requests_per_s())
    );
}

pub fn resources_progress(row: &Resources) {
    eprintln!(
        "{:<28} idle {:.1} MiB, with {} connections {:.1} MiB",
        row.target.name(),
        row.idle_mib,
        row.connections,
        row.connected_mib
    );
}

/// Events for what writes events, else requests.
pub fn rate(part: Part, tally: &Tally) -> f64 {
    match part {
        Part::Appends | Part::Batches => tally.events_per_s(),
        _ => tally.requests_per_s(),
    }
}

/// Writes the three files; gives what is in `latest.md`.
pub fn write(folder: &Path, results: &Results, goals: &[Goal], machine: &Machine) -> Result<String, Failure> {
    std::fs::create_dir_all(folder)?;
    let text = markdown(results, goals, machine);
    std::fs::write(folder.join("latest.md"), &text)?;
    let mut json = serde_json::to_string_pretty(&document(results, goals, machine))?;
    json.push('\n');
    std::fs::write(folder.join("latest.json"), json)?;
    std::fs::write(folder.join("latest.svg"), chart::draw(results, machine))?;
    Ok(text)
}

fn markdown(results: &Results, goals: &[Goal], machine: &Machine) -> String {
    let mut out = String::from("# What `make bench` measured\n\n");
    let mut say = |name: &str, value: &str| {
        let _ = writeln!(out, "- {name}: {value}");
    };
    say("commit", &machine.commit);
    say("date", &machine.date);
    let size = format!(
        "{}, {} cores, {:.0} GiB, Linux {}",
        machine.processor, machine.cores, machine.memory_gib, machine.kernel
    );
    say("machine, shared by load generator, service and engines", &size);
    for (name, version) in [("mongod", &machine.mongod), ("redis", &machine.redis)] {
        if let Some(version) = version {
            say(name, version);
        }
    }
    say("settings", &machine.settings);
    if !results.rows.is_empty() {
        throughput(&mut out, results);
    }
    if !results.latencies.is_empty() {
        latencies(&mut out, &results.latencies);
    }
    if !results.overloads.is_empty() {
        overloads(&mut out, &results.overloads);
    }
    if !results.sizes.is_empty() {
        sizes(&mut out, &results.sizes);
    }
    if !results.resources.is_empty() {
        resources(&mut out, &results.resources);
    }
    if !goals.is_empty() {
        out.push_str("\n## Goals\n\n| goal | wanted | measured | |\n|---|---:|---:|---|\n");
        for goal in goals {
            let met = if goal.is_met() { "met" } else { "**not met**" };
            let measured = format!("{:.2}{}", goal.measured, goal.unit);
            let _ = writeln!(out, "| {} | {} | {measured} | {met} |", goal.what, goal.wanted());
        }
    }
    let errors = results.errors();
    if !errors.is_empty() {
        let _ = write!(out, "\n## Failed requests\n\n{errors}");
    }
    out
}

fn throughput(out: &mut String, results: &Results) {
    out.push_str(
        "\n## Throughput, and its limits\n\nClosed loop: each connection sends its next request when the last one is \
         answered. Latency in ms; CPU in µs of processor time a request, *client* being the load generator or, in raw rows, \
         the driver. HTTP servers are under *service*. Hits: the part of reads that the cache could answer.\n\n\
         | what | on | requests/s | events/s | p50 | p99 | p99.9 | service | mongod | redis | client | hits | how |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for part in PARTS {
        for row in results.rows.iter().filter(|row| row.part == part) {
            let tally = &row.tally;
            let events = match tally.events {
                0 => String::new(),
                _ => grouped(tally.events_per_s()),
            };
            let hits = row
                .cache_hits
                .map(|hits| format!("{hits:.3}"))
                .unwrap_or_default();
            let _ = writeln!(
                out,
                "| {} | {} | {} | {events} | {} | {} | {} | {} | {hits} | {} |",
                part.name(),
                row.subject.name(),
                grouped(tally.requests_per_s()),
                milliseconds(tally.quantile_ms(0.5)),
                milliseconds(tally.quantile_ms(0.99)),
                milliseconds(tally.quantile_ms(0.999)),
                processor_time(tally),
                row.what
            );
        }
    }
}

fn processor_time(tally: &Tally) -> String {
    let each = [
        tally.micros_each(|cpu| cpu.service),
        tally.micros_each(|cpu| cpu.mongod),
        tally.micros_each(|cpu| cpu.redis),
        tally.micros_each(|cpu| cpu.generator),
    ];
    let cell = |micros: f64| match micros {
        0.0 => String::new(),
        _ => format!("{micros:.0}"),
    };
    each.map(cell).join(" | ")
}

fn latencies(out: &mut String, rows: &[Latency]) {
    out.push_str(
        "\n## Latency at half of saturation\n\nOpen loop: requests are due at random times (a Poisson process), and their \
         latency, in ms, counts from then on. Half of saturation is half of the closed loop's requests/s above.\n\n\
         | what | on | rate/s | p50 | p90 | p99 | p99.9 | max | waited for a connection |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let tally = &row.tally;
        let on = match row.subject {
            Subject::Service(target) => target.name().to_owned(),
            Subject::Limit(limit) => format!("{}, at the rate of {}", limit.name(), row.target.name()),
        };
        let _ = write!(out, "| {} | {on} | {} |", row.part.name(), grouped(row.rate));
        for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let _ = write!(out, " {} |", milliseconds(tally.quantile_ms(quantile)));
        }
        let _ = writeln!(out, " {} of {} |", tally.waited, tally.due);
    }
}

fn overloads(out: &mut String, rows: &[Overload]) {
    out.push_str(
        "\n## Twice as much as it can take\n\nOpen loop at twice the peak, then a second at half of it, which is counted from 250 ms after; six times in turn. \
         *Peak* is what a closed loop got through just before: of the same 1,000 connections or, of batches, as many as above. \
         *Shed* is 503 with `Retry-After`; *unsent* is what found none of 1,000 connections free within 50 ms. Latency, in ms, \
         is of accepted requests: from when they were sent, and from when they were due.\n\n\
         | what | on | peak/s | due/s | goodput/s | of the peak | shed/s | unsent/s | failed | p50 sent | p99 sent | p99 due | \
         answered of what was due in the second that begins 250 ms after | p99 then |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let (during, after) = (&row.overload, &row.recovery);
        let each_second = |count: u64| grouped(count as f64 / during.span.as_secs_f64());
        let sent = |quantile| during.from_sent.value_at_quantile(quantile) as f64 / 1e3;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {:.2} | {} | {} | {} | {} | {} | {} | {} of {} | {} |",
            row.part.name(),
            row.target.name(),
            grouped(row.peak.requests_per_s()),
            each_second(during.due),
            grouped(during.requests_per_s()),
            row.goodput(),
            each_second(during.shed),
            each_second(during.unsent),
            during.errors() + after.errors(),
            milliseconds(sent(0.5)),
            milliseconds(sent(0.99)),
            milliseconds(during.quantile_ms(0.99)),
            grouped(after.right() as f64),
            grouped(after.due as f64),
            milliseconds(after.quantile_ms(0.99)),
        );
    }
}

fn sizes(out: &mut String, rows: &[Size]) {
    out.push_str(
        "\n## Size of the hot store\n\nClosed loop, single-event appends and hot reads as above, on a store of its own; appended to are 1,000 sessions that were just opened.\n\n\
         | on | events there | filled in | events/s of that | appends/s | p99 | hot reads/s | p99 |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let _ = writeln!(
            out,
            "| {} | {} | {:.1} s | {} | {} | {} | {} | {} |",
            row.target.name(),
            grouped(row.events as f64),
            row.fill.as_secs_f64(),
            grouped(row.fill_events as f64 / row.fill.as_secs_f64()),
            grouped(row.appends.requests_per_s()),
            milliseconds(row.appends.quantile_ms(0.99)),
            grouped(row.hot_reads.requests_per_s()),
            milliseconds(row.hot_reads.quantile_ms(0.99)),
        );
    }
}

fn resources(out: &mut String, rows: &[Resources]) {
    out.push_str(
        "\n## Start and memory\n\nReady: from the start of the process until `/readyz` says 200. Idle: resident memory 3 s \
         after that. With connections: each has opened a session, appended and read, and all are kept.\n\n\
         | on | ready, median | worst of all | idle | with connections |\n|---|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let ready = |at: usize| row.ready[at].as_secs_f64() * 1e3;
        let _ = writeln!(
            out,
            "| {} | {:.0} ms | {:.0} ms of {} | {:.1} MiB | {:.1} MiB, {} |",
            row.target.name(),
            ready(row.ready.len() / 2),
            ready(row.ready.len() - 1),
            row.ready.len(),
            row.idle_mib,
            row.connected_mib,
            row.connections
        );
    }
}

fn document(results: &Results, goals: &[Goal], machine: &Machine) -> Value {
    let rows = results.rows.iter().map(|row| {
        json!({
            "measurement": row.part.name(), "on": row.subject.name(), "how": row.what,
            "cacheHits": row.cache_hits, "result": row.tally.json(),
        })
    });
    let latencies = results.latencies.iter().map(|row| {
        json!({
            "measurement": row.part.name(), "on": row.subject.name(), "atTheRateOf": row.target.name(),
            "ratePerSecond": row.rate, "result": row.tally.json(),
        })
    });
    let overloads = results.overloads.iter().map(|row| {
        json!({
            "measurement": row.part.name(), "on": row.target.name(), "peak": row.peak.json(),
            "atTwiceSaturation": row.overload.json(), "inTheSecondAfter": row.recovery.json(),
        })
    });
    let sizes = results.sizes.iter().map(|row| {
        json!({
            "on": row.target.name(), "events": row.events, "fillSeconds": row.fill.as_secs_f64(),
            "fillEvents": row.fill_events, "appends": row.appends.json(), "hotReads": row.hot_reads.json(),
        })
    });
    let resources = results.resources.iter().map(|row| {
        let ready = row.ready.iter().map(|ready| ready.as_secs_f64() * 1e3);
        json!({
            "on": row.target.name(), "readyMs": ready.collect::<Vec<_>>(), "idleMiB": row.idle_mib,
            "connections": row.connections, "connectedMiB": row.connected_mib,
        })
    });
    json!({
        "machine": machine.json(),
        "throughput": rows.collect::<Vec<_>>(),
        "latencyAtHalfOfSaturation": latencies.collect::<Vec<_>>(),
        "backpressure": overloads.collect::<Vec<_>>(),
        "sizeOfTheHotStore": sizes.collect::<Vec<_>>(),
        "resources": resources.collect::<Vec<_>>(),
        "goals": goals.iter().map(Goal::json).collect::<Vec<_>>(),
    })
}

/// A whole number with its thousands apart.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three digits that count.
pub fn milliseconds(milliseconds: f64) -> String {
    match milliseconds {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}
