//! How far a long command is: a bar on a terminal, a plain line now and then elsewhere.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::tell;

/// How often a plain line is written where there is no terminal.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(5);

/// `1 session`, `2 sessions`.
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Progress on standard error.
pub struct Progress {
    bar: ProgressBar,
    plain: Option<Mutex<Instant>>,
}

impl Progress {
    /// Of bytes; `total` is what there is to do, where that is known.
    pub fn new(total: Option<u64>) -> Self {
        match total {
            Some(total) => Self::with(
                ProgressBar::new(total),
                "{bar:30} {percent:>3}%  {bytes}/{total_bytes}  {msg}  {elapsed} (eta {eta})",
            ),
            None => Self::with(ProgressBar::new_spinner(), "{spinner} {bytes}  {msg}  {elapsed}"),
        }
    }

    /// Of things that are counted in words; `total` is how many there are, where that is known.
    pub fn of_things(total: Option<u64>) -> Self {
        match total {
            Some(total) => Self::with(
                ProgressBar::new(total),
                "{bar:30} {percent:>3}%  {msg}  {elapsed} (eta {eta})",
            ),
            None => Self::with(ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
        }
    }

    fn with(bar: ProgressBar, template: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        bar.set_draw_target(if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        // A template that is wrong would be seen on the first run; the plain default is no worse than a panic.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            plain: (!terminal).then(|| Mutex::new(Instant::now())),
        }
    }

    /// Says that so many more are done, and what the count is now.
    pub fn advance(&self, more: u64, message: impl FnOnce() -> String) {
        self.bar.inc(more);
        match &self.plain {
            None => self.bar.set_message(message()),
            Some(last) => {
                let Ok(mut last) = last.lock() else { return };
                if last.elapsed() >= PLAIN_LINE_EVERY {
                    *last = Instant::now();
                    tell(format!("{}{}", self.percent(), message()));
                }
            }
        }
    }

    fn percent(&self) -> String {
        match self.bar.length() {
            Some(total) if total > 0 => format!("{}%: ", self.bar.position() * 100 / total),
            _ => String::new(),
        }
    }

    /// Writes a line on standard error without tearing the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| tell(line));
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
