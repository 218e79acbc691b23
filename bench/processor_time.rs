//! Processor time of a process, as the kernel counts it.

use std::time::Duration;

/// Of the kernel's clock ticks, in which it counts.
const TICK: Duration = Duration::from_millis(10);

/// What a process has taken so far; `None` when it is not there.
pub fn processor_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything: user time is the 12th field, the system's the 13th.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}
