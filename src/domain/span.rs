//! Spans of time as people write them: `30d`, `12h`, `90s`, and `off` where there may be none.

use std::{fmt, str::FromStr, time::Duration};

/// A whole number of one unit, `ms`, `s`, `m`, `h` or `d`, at most `9999d` and with no more digits than that needs; or `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

/// The rule for [`Span`], for the API's schema.
pub const SPAN_PATTERN: &str = "^(0|[0-9]{1,12}ms|[0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,6}h|[0-9]{1,4}d)$";

/// Each unit, in milliseconds, and how many digits its numbers may have.
const UNITS: [(&str, u64, usize); 5] = [
    ("ms", 1, 12),
    ("s", 1_000, 9),
    ("m", 60_000, 7),
    ("h", 3_600_000, 6),
    ("d", 86_400_000, 4),
];

impl Span {
    pub fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a span of time such as 30d, 12h, 15m, 90s, 500ms or 0, at most 9999d";
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, unit_ms, digits_max) = UNITS.iter().find(|(name, ..)| *name == unit).ok_or(RULE)?;
        let number: u64 = number.parse().map_err(|_| RULE)?;
        match digits <= *digits_max {
            true => Ok(Self(Duration::from_millis(number * unit_ms))),
            false => Err(RULE),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fitting = UNITS.iter().rev().find(|(_, unit_ms, digits_max)| {
            ms.is_multiple_of(*unit_ms) && (ms / unit_ms).to_string().len() <= *digits_max
        });
        match fitting {
            Some((unit, unit_ms, _)) if ms > 0 => write!(f, "{}{unit}", ms / unit_ms),
            _ => f.write_str("0s"),
        }
    }
}

/// A span of time, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanOrOff(Option<Span>);

impl SpanOrOff {
    pub fn get(self) -> Option<Duration> {
        self.0.map(Span::get)
    }

    pub fn span(self) -> Option<Span> {
        self.0
    }
}

impl FromStr for SpanOrOff {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self(None)),
            _ => match text.parse::<Span>() {
                Ok(span) if !span.get().is_zero() => Ok(Self(Some(span))),
                _ => Err("must be off, or a span of time such as 30d, 12h, 15m, 90s or 500ms"),
            },
        }
    }
}

impl fmt::Display for SpanOrOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => span.fmt(f),
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_with_a_unit() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("90s", 90_000),
            ("2m", 120_000),
            ("30d", 2_592_000_000),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.get(), Duration::from_millis(ms), "{text}");
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for bad in [
            "",
            "30",
            "d",
            "-1d",
            "1.5h",
            "1 d",
            "1w",
            "99999999999999999999d",
            "10000d",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert_eq!("86400s".parse::<Span>().unwrap().to_string(), "1d");
    }

    #[test]
    fn off_is_no_span() {
        assert_eq!("off".parse::<SpanOrOff>().unwrap().get(), None);
        assert_eq!("1h".parse::<SpanOrOff>().unwrap().to_string(), "1h");
        assert!("0s".parse::<SpanOrOff>().is_err());
    }
}
