//! `/metrics`: what the process counts, in Prometheus's text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write as _;

use crate::service::{Health, Service};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric as it stands.
pub fn text(service: &Service) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str("# HELP colloquy_cache_up Whether the cache answers; 0 without one.\n");
    out.push_str("# TYPE colloquy_cache_up gauge\n");
    let up = u8::from(service.cache_health() == Health::Ok);
    // Writing to a string can't fail.
    let _ = writeln!(out, "colloquy_cache_up {up}");
    out.push_str(
        "# HELP colloquy_cache_reads_total Reads by what the cache had to say: hit, miss, or bypass and why.\n\
         # TYPE colloquy_cache_reads_total counter\n",
    );
    for (outcome, count) in service.cache_outcomes() {
        let (outcome, cause) = outcome.split_once('_').unwrap_or((outcome, ""));
        let _ = writeln!(
            out,
            "colloquy_cache_reads_total{{outcome=\"{outcome}\",cause=\"{cause}\"}} {count}"
        );
    }
    if let Ok(archive) = service.archive() {
        for (name, help, count) in archive.counters() {
            let _ = writeln!(out, "# HELP colloquy_archive_{name} {help}");
            let _ = writeln!(
                out,
                "# TYPE colloquy_archive_{name} counter\ncolloquy_archive_{name} {count}"
            );
        }
    }
    out
}
