//! The results as a picture: throughput beside its limits, and latency at half of saturation. Written as SVG by hand, which
//! is text; a library for plots would bring more than it saves.

use std::fmt::Write as _;

use crate::{
    args::Part,
    machine::Machine,
    report::{grouped, milliseconds, rate},
    results::{Latency, Limit, Results, Row, Subject},
    service::Target,
};

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 32.0;
const COLUMN: f64 = (WIDTH - 3.0 * MARGIN) / 2.0;
const NAME: f64 = 172.0;
const VALUE: f64 = 62.0;
const BAR: f64 = 15.0;
const LINE: f64 = 21.0;
const HEADING: f64 = 30.0;
const GAP: f64 = 16.0;
const PLOT_HEIGHT: f64 = 270.0;
const PLOT_LEFT: f64 = 60.0;
const PLOT_RIGHT: f64 = 330.0;

const INK: &str = "#1f2733";
const FAINT: &str = "#6b7686";
const RULE: &str = "#dfe4ea";
const LIMIT: &str = "#b7bfca";

/// With limits on the left, without on the right.
const COLUMNS: [&[Part]; 2] = [
    &[Part::Appends, Part::Batches, Part::HotReads],
    &[Part::ColdReads, Part::Mixed, Part::Opens, Part::Completes],
];

pub fn draw(results: &Results, machine: &Machine) -> String {
    let mut body = String::new();
    text(
        &mut body,
        MARGIN,
        40.0,
        "Colloquy, and the engines below it",
        "title",
    );
    text(&mut body, MARGIN, 60.0, &machine.line(), "faint");
    legend(&mut body, results, 84.0);
    let top = 112.0;
    let mut bottom: f64 = top;
    for (column, parts) in (0_i32..).zip(COLUMNS) {
        let x = MARGIN + f64::from(column) * (COLUMN + MARGIN);
        let mut y = top;
        for part in parts {
            let rows: Vec<&Row> = results.rows.iter().filter(|row| row.part == *part).collect();
            if !rows.is_empty() {
                y = bars(&mut body, x, y, *part, &rows) + GAP;
            }
        }
        bottom = bottom.max(y);
    }
    if !results.latencies.is_empty() {
        bottom = percentiles(&mut body, bottom + GAP, &results.latencies);
    }
    let height = bottom + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         role=\"img\" aria-label=\"Throughput and latency of Colloquy beside its engines\">\n<style>\n\
         text {{ font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: {INK}; }}\n\
         .title {{ font-size: 20px; font-weight: 600; }}\n.heading {{ font-size: 13px; font-weight: 600; }}\n\
         .faint {{ fill: {FAINT}; font-size: 11px; }}\n.end {{ text-anchor: end; }}\n.middle {{ text-anchor: middle; }}\n\
         .value {{ font-variant-numeric: tabular-nums; }}\n</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

/// The bars of one measurement share a scale of their own, which begins at 0; gives where they end.
fn bars(out: &mut String, x: f64, y: f64, part: Part, rows: &[&Row]) -> f64 {
    let unit = match part {
        Part::Appends | Part::Batches => "events/s",
        Part::HotReads | Part::ColdReads => "reads/s",
        _ => "requests/s",
    };
    text(out, x, y + 14.0, part.name(), "heading");
    text(out, x + COLUMN, y + 14.0, unit, "faint end");
    let rates: Vec<f64> = rows.iter().map(|row| rate(part, &row.tally)).collect();
    let most = rates.iter().copied().fold(1.0, f64::max);
    let mut y = y + HEADING;
    for (row, rate) in rows.iter().zip(rates) {
        let width = (COLUMN - NAME - VALUE) * rate / most;
        text(out, x, y + 8.0, short(row.subject), "");
        rect(
            out,
            x + NAME,
            y - BAR / 2.0 + 4.0,
            width.max(1.0),
            color(row.subject),
        );
        text(out, x + NAME + width + 6.0, y + 8.0, &grouped(rate), "value");
        y += LINE;
    }
    y
}

/// The axis of quantiles is stretched towards the tail: each step is a tenth of the requests before.
fn percentiles(out: &mut String, top: f64, rows: &[Latency]) -> f64 {
    const QUANTILES: [(f64, &str); 5] = [
        (0.0, "fastest"),
        (0.5, "p50"),
        (0.9, "p90"),
        (0.99, "p99"),
        (0.999, "p99.9"),
    ];
    text(
        out,
        MARGIN,
        top + 14.0,
        "latency at half of saturation",
        "heading",
    );
    text(
        out,
        MARGIN,
        top + 32.0,
        "ms from when a request was due, in an open loop",
        "faint",
    );
    let (left, right) = (MARGIN + PLOT_LEFT, WIDTH - MARGIN - PLOT_RIGHT);
    let (top, bottom) = (top + 50.0, top + 50.0 + PLOT_HEIGHT);
    let most = rows
        .iter()
        .map(|row| row.tally.quantile_ms(0.999))
        .fold(1.0, f64::max);
    let least = rows
        .iter()
        .map(|row| row.tally.quantile_ms(0.0))
        .fold(1.0, f64::min);
    let (low, high) = (least.max(0.01).log10().floor(), most.log10().ceil());
    let y = |ms: f64| bottom - (ms.max(0.01).log10() - low) / (high - low) * (bottom - top);
    let x = |quantile: f64| left + (right - left) * -(1.0 - quantile).log10() / 3.0;
    let mut decade = low;
    while decade <= high {
        let ms = 10_f64.powf(decade);
        line(out, (left, y(ms)), (right, y(ms)), RULE);
        let label = if ms < 1.0 { format!("{ms}") } else { grouped(ms) };
        text(out, left - 8.0, y(ms) + 4.0, &label, "faint end");
        decade += 1.0;
    }
    for (quantile, name) in QUANTILES {
        line(out, (x(quantile), bottom), (x(quantile), bottom + 5.0), FAINT);
        text(out, x(quantile), bottom + 20.0, name, "faint middle");
    }
    let mut ends = Vec::new();
    for row in rows {
        let mut points = String::new();
        for step in 0..=60 {
            let quantile = 1.0 - 10_f64.powf(-f64::from(step) / 20.0);
            let ms = row.tally.quantile_ms(quantile);
            let _ = write!(points, "{:.1},{:.1} ", x(quantile), y(ms));
        }
        let dashes = match row.part {
            Part::Mixed => " stroke-dasharray=\"6 4\"",
            _ => "",
        };
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dashes}/>",
            points.trim_end(),
            line_color(row)
        );
        ends.push((y(row.tally.quantile_ms(0.999)), row));
    }
    end_labels(out, right, bottom, ends);
    bottom + 24.0
}

/// Beside the ends of the lines, moved apart where they would lie on each other.
fn end_labels(out: &mut String, x: f64, bottom: f64, mut ends: Vec<(f64, &Latency)>) {
    const APART: f64 = 17.0;
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut lowest = bottom - APART * ends.len() as f64;
    // From below: no label is under the axis.
    let mut places: Vec<f64> = Vec::new();
    let mut next = f64::NEG_INFINITY;
    for (y, _) in &ends {
        next = y.max(next + APART).min(lowest + APART);
        lowest += APART;
        places.push(next);
    }
    for ((y, row), place) in ends.iter().zip(places) {
        line(out, (x + 2.0, *y), (x + 14.0, place), line_color(row));
        let what = match row.part {
            Part::Mixed => "mixed",
            _ => "appends",
        };
        let name = match row.subject {
            Subject::Service(target) => format!("{}, {what}", target.name()),
            Subject::Limit(_) => "raw insert_one".to_owned(),
        };
        let label = format!(
            "{name}, {}/s: p99 {}",
            grouped(row.rate),
            milliseconds(row.tally.quantile_ms(0.99))
        );
        text(out, x + 18.0, place + 4.0, &label, "");
    }
}

fn legend(out: &mut String, results: &Results, y: f64) {
    let mut x = MARGIN;
    let mut entry = |name: &str, color: &str| {
        // About as wide as letters of this size are.
        const LETTER: f64 = 7.0;
        rect(out, x, y - 10.0, BAR, color);
        text(out, x + BAR + 6.0, y + 2.0, name, "");
        x += BAR + 28.0 + LETTER * name.len() as f64;
    };
    for target in [Target::Embedded, Target::Mongodb, Target::MongodbRedis] {
        let subject = Subject::Service(target);
        if results.rows.iter().any(|row| row.subject == subject) {
            entry(&format!("Colloquy, {}", target.name()), color(subject));
        }
    }
    if results
        .rows
        .iter()
        .any(|row| matches!(row.subject, Subject::Limit(_)))
    {
        entry("an engine alone, or HTTP from memory", LIMIT);
    }
}

fn short(subject: Subject) -> &'static str {
    match subject {
        Subject::Limit(Limit::InsertManyIndexed) => "raw insert_many, indexed",
        Subject::Limit(Limit::InsertMany) => "raw insert_many",
        subject => subject.name(),
    }
}

fn color(subject: Subject) -> &'static str {
    match subject {
        Subject::Service(Target::Embedded) => "#2f6fde",
        Subject::Service(Target::MongodbRedis) => "#dd6b20",
        Subject::Service(Target::Mongodb) => "#2f9e6e",
        Subject::Limit(_) => LIMIT,
    }
}

fn line_color(row: &Latency) -> &'static str {
    match row.subject {
        // Thin lines need a darker grey than bars.
        Subject::Limit(_) => "#8b95a3",
        subject => color(subject),
    }
}

fn text(out: &mut String, x: f64, y: f64, text: &str, class: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>"
    );
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, color: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{color}\"/>"
    );
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), color: &str) {
    let _ = writeln!(
        out,
        "<path d=\"M{:.1} {:.1} L{:.1} {:.1}\" stroke=\"{color}\"/>",
        from.0, from.1, to.0, to.1
    );
}
