//! Logs: to stderr, for a person or for a collector, so that stdout stays free for what a command prints.

use std::{
    env, fmt,
    io::{self, IsTerminal},
    str::FromStr,
};

use tracing::{Level, Subscriber};
use tracing_subscriber::{EnvFilter, Layer, fmt::MakeWriter, registry::LookupSpan};

/// Who reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A person: one compact line an event, in colour on a terminal.
    Human,
    /// A collector: one JSON object a line, the event's fields beside `timestamp` (RFC 3339, UTC), `level`, `target`
    /// and `message`; the span it happened in, if any, under `span`.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("must be human or json"),
        }
    }
}

/// Which events are logged: directives as of [`EnvFilter`], separated by commas.
///
/// A directive that is one word must be a level. `EnvFilter` would take any other word for a target, so that a
/// mistaken `verbose` would silence everything else; whoever means a target writes `target=trace`.
#[derive(Debug, Clone)]
pub struct LogFilter(EnvFilter);

impl FromStr for LogFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a level or directives, such as info or info,colloquy::store=debug";
        let is_good = |directive: &str| {
            directive.contains(['=', '[']) || directive == "off" || directive.parse::<Level>().is_ok()
        };
        if !text.split(',').all(is_good) {
            return Err(RULE);
        }
        EnvFilter::try_new(text).map(Self).map_err(|_| RULE)
    }
}

impl LogFilter {
    /// For a layer of its own.
    pub(super) fn env_filter(&self) -> EnvFilter {
        self.0.clone()
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The layer that writes the lines: to stderr, in colour on a terminal unless `NO_COLOR` (set, not empty) says no.
pub(super) fn layer<S>(format: LogFormat, filter: &LogFilter) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !plain && io::stderr().is_terminal();
    lines(format, filter, colours, io::stderr)
}

fn lines<S, W>(format: LogFormat, filter: &LogFilter, colours: bool, writer: W) -> impl Layer<S> + use<S, W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A log that can't be written is lost. Reporting it would go to the same stderr, with a macro that panics.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(colours).compact().boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    lines.with_filter(filter.0.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::domain::Timestamp;

    /// What is logged by `log` under `filter`.
    fn logged(format: LogFormat, filter: &str, colours: bool, log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let writer = {
            let kept = kept.clone();
            move || kept.clone()
        };
        let lines = lines(format, &filter.parse().unwrap(), colours, writer);
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_json_log_is_one_flat_object_a_line() {
        let text = logged(LogFormat::Json, "info", true, || {
            tracing::info!(session = "s-1", events = 3, "two\nlines");
            tracing::warn!("slow");
        });
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["message"], "two\nlines");
        assert_eq!(lines[0]["session"], "s-1");
        assert_eq!(lines[0]["events"], 3);
        assert_eq!(lines[0]["target"], module_path!());
        let timestamp = lines[0]["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z'), "{timestamp}");
        assert!(timestamp.parse::<Timestamp>().is_ok(), "{timestamp}");
    }

    #[test]
    fn a_human_log_is_one_line_an_event_with_colours_only_when_wanted() {
        let log = || tracing::info!(events = 3, "flushed");
        let plain = logged(LogFormat::Human, "info", false, log);
        assert!(plain.contains("INFO") && plain.trim_end().ends_with("flushed events=3"));
        assert_eq!(plain.lines().count(), 1);
        assert!(!plain.contains('\u{1b}'));
        assert!(logged(LogFormat::Human, "info", true, log).contains('\u{1b}'));
    }

    #[test]
    fn the_filter_chooses_by_level_and_by_target() {
        let log = || {
            tracing::debug!(target: "colloquy::store", "kept");
            tracing::debug!(target: "colloquy::api", "dropped");
        };
        let text = logged(LogFormat::Human, "info,colloquy::store=debug", false, log);
        assert!(text.contains("kept") && !text.contains("dropped"), "{text}");
    }

    #[test]
    fn a_filter_that_says_nothing_or_nonsense_is_refused() {
        for bad in [
            "",
            "  ",
            ",",
            "info,",
            "verbose",
            "info,colloquy",
            "colloquy=loud",
            "a=b=c",
        ] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad}");
        }
        for good in ["off", "WARN", "info,a::b=debug", "info,a[b{c}]"] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
        }
    }
}
