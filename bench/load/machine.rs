//! Where and of what the numbers are.

use std::process::Command;

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    args::Args,
    engines::{self, MONGOD_SETTINGS},
};

pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub date: String,
    pub commit: String,
    pub mongod: Option<String>,
    pub redis: Option<String>,
    pub settings: String,
}

impl Machine {
    pub fn look(args: &Args) -> Self {
        let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
        let kib: Option<f64> = field("/proc/meminfo", "MemTotal")
            .and_then(|line| line.trim_end_matches("kB").trim().parse().ok());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = OffsetDateTime::now_utc();
        let has = |wanted: fn(&crate::service::Target) -> bool| args.on.iter().any(wanted);
        Self {
            processor,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib.unwrap_or_default() / 1024.0 / 1024.0,
            kernel: kernel.trim().to_owned(),
            date: format!(
                "{}-{:02}-{:02} {:02}:{:02} UTC",
                now.year(),
                u8::from(now.month()),
                now.day(),
                now.hour(),
                now.minute()
            ),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            mongod: has(|target| target.has_mongodb()).then(|| engines::version("mongod")),
            redis: has(|target| target.has_redis()).then(|| engines::version("redis-server")),
            settings: format!(
                "{} connections, {} s a measurement after {} s of warm-up, mongod {}, the service as it comes",
                args.clients,
                args.seconds,
                args.warm_up().as_secs_f64(),
                MONGOD_SETTINGS[..4].join(" ")
            ),
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores,
            "memoryGiB": self.memory_gib,
            "kernel": self.kernel,
            "date": self.date,
            "commit": self.commit,
            "mongod": self.mongod,
            "redis": self.redis,
            "settings": self.settings,
        })
    }

    /// For below a chart.
    pub fn line(&self) -> String {
        format!(
            "commit {}, {}, {} cores of {} shared by load generator, service and engines",
            self.commit, self.date, self.cores, self.processor
        )
    }
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The short name of the commit, and whether files differ from it.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    // The results of the run before are no part of what is measured.
    let changed = git(&["status", "--porcelain", "--", ".", ":!bench/results"])?;
    Some(match changed.is_empty() {
        true => commit,
        false => format!("{commit}-dirty"),
    })
}
