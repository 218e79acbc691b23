//! What the kernel counts of a process.

use std::time::Duration;

use crate::{Failure, processor_time::processor_time};

/// The processes whose time goes into a measurement.
#[derive(Clone, Copy, Default)]
pub struct Watched {
    pub service: Option<u32>,
    pub mongod: Option<u32>,
    pub redis: Option<u32>,
}

/// Processor time, by who took it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cpu {
    pub service: Duration,
    pub mongod: Duration,
    pub redis: Duration,
    /// This process: the load generator, or a driver.
    pub generator: Duration,
}

impl Watched {
    /// What each took so far; nothing for one that is not there.
    pub fn cpu(self) -> Cpu {
        let of = |pid: Option<u32>| pid.and_then(processor_time).unwrap_or_default();
        Cpu {
            service: of(self.service),
            mongod: of(self.mongod),
            redis: of(self.redis),
            generator: of(Some(std::process::id())),
        }
    }
}

impl Cpu {
    pub fn and(self, other: Self) -> Self {
        Self {
            service: self.service + other.service,
            mongod: self.mongod + other.mongod,
            redis: self.redis + other.redis,
            generator: self.generator + other.generator,
        }
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            service: self.service.saturating_sub(before.service),
            mongod: self.mongod.saturating_sub(before.mongod),
            redis: self.redis.saturating_sub(before.redis),
            generator: self.generator.saturating_sub(before.generator),
        }
    }
}

/// The resident memory of a process in MiB.
pub fn resident_mib(pid: u32) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.ok_or("no VmRSS")?.trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
