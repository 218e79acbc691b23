//! An instant, kept to the millisecond.

use std::{fmt, str::FromStr};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Milliseconds since 1970-01-01T00:00:00Z, within the years 0000 to 9999 that RFC 3339 can write.
///
/// Reads RFC 3339 with any offset, dropping what is finer than a millisecond; writes UTC with exactly
/// three decimals. Of what the RFC leaves open: `t` and `z` are read like `T` and `Z`, nothing else separates date and
/// time, and second 60 is read in the last minute (UTC) of a month, where leap seconds are, as the end of second 59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 0000-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z.
const RANGE_MS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

impl Timestamp {
    /// 1970-01-01T00:00:00.000Z.
    pub const EPOCH: Self = Self(0);

    /// `None` outside the years 0000 to 9999.
    pub fn from_unix_ms(ms: i64) -> Option<Self> {
        RANGE_MS.contains(&ms).then_some(Self(ms))
    }

    /// The millisecond in which this microsecond since 1970 lies, held within the range.
    pub fn of_unix_us(us: i64) -> Self {
        Self::EPOCH.saturating_add_ms(us.div_euclid(1_000))
    }

    pub fn unix_ms(self) -> i64 {
        self.0
    }

    /// This instant moved by `ms`, held within the range.
    #[must_use]
    pub fn saturating_add_ms(self, ms: i64) -> Self {
        Self(
            self.0
                .saturating_add(ms)
                .clamp(*RANGE_MS.start(), *RANGE_MS.end()),
        )
    }
}

impl FromStr for Timestamp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str =
            "must be an RFC 3339 date and time with an offset, such as 2026-01-31T09:30:00.000Z";
        // `time` lets any byte separate the date from the time.
        if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
            return Err(RULE);
        }
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| RULE)?;
        let ms = parsed.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(ms)
            .ok()
            .and_then(Self::from_unix_ms)
            .ok_or("must lie within the years 0000 to 9999 in UTC")
    }
}

impl Timestamp {
    /// As it is written, in ASCII; without the machinery of `fmt`, which costs ten times as much.
    pub fn to_text(self) -> [u8; 24] {
        // The range of the type lies within that of `OffsetDateTime`, so the fallback is never taken.
        let at = OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, (hour, minute, second)) = (at.date(), at.time().as_hms());
        let year = u16::try_from(date.year()).unwrap_or_default();
        // Less than a thousand.
        let millis = u16::try_from(self.0.rem_euclid(1000)).unwrap_or_default();
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put(&mut text[0..4], year);
        put(&mut text[5..7], u8::from(date.month()).into());
        put(&mut text[8..10], date.day().into());
        put(&mut text[11..13], hour.into());
        put(&mut text[14..16], minute.into());
        put(&mut text[17..19], second.into());
        put(&mut text[20..23], millis);
        text
    }
}

/// Writes the last digits of `number`, as many as there is room for.
fn put(digits: &mut [u8], mut number: u16) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is ASCII is UTF-8.
        f.write_str(std::str::from_utf8(&self.to_text()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        text.parse::<Timestamp>().unwrap().to_string()
    }

    #[test]
    fn reads_any_offset_and_writes_utc_milliseconds() {
        assert_eq!(round_trip("2026-09-01T08:00:03.808Z"), "2026-09-01T08:00:03.808Z");
        assert_eq!(
            round_trip("2026-09-01T10:00:03.8089+02:00"),
            "2026-09-01T08:00:03.808Z"
        );
        assert_eq!(
            round_trip("1969-12-31T23:59:59.9999Z"),
            "1969-12-31T23:59:59.999Z"
        );
        assert_eq!(round_trip("0000-01-01T00:00:00Z"), "0000-01-01T00:00:00.000Z");
        assert_eq!(
            round_trip("9999-12-31T23:59:59.9999Z"),
            "9999-12-31T23:59:59.999Z"
        );
    }

    #[test]
    fn a_microsecond_lies_in_the_millisecond_that_it_began() {
        for (us, ms) in [(0, 0), (999, 0), (1_000, 1), (-1, -1), (-1_000, -1), (-1_001, -2)] {
            assert_eq!(Timestamp::of_unix_us(us).unix_ms(), ms, "{us}");
        }
        assert_eq!(
            Timestamp::of_unix_us(i64::MIN).to_string(),
            "0000-01-01T00:00:00.000Z"
        );
        assert_eq!(
            Timestamp::of_unix_us(i64::MAX).to_string(),
            "9999-12-31T23:59:59.999Z"
        );
    }

    #[test]
    fn refuses_what_it_could_not_write_back() {
        for bad in ["0000-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    /// RFC 3339, section 5.6, by hand and independent of what the parser is made of. Gives the milliseconds.
    fn rfc_3339(text: &str) -> Option<i64> {
        let digits = |text: &str, low: i64, high: i64| {
            let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = all_digits.then(|| text.parse::<i64>().ok()).flatten()?;
            (low..=high).contains(&number).then_some(number)
        };
        if !text.is_ascii() {
            return None;
        }
        let (date, time) = (text.get(..10)?, text.get(11..19)?);
        let separators = [
            &date[4..5],
            &date[7..8],
            &text[10..11].to_uppercase(),
            &time[2..3],
            &time[5..6],
        ];
        if separators != ["-", "-", "T", ":", ":"] {
            return None;
        }
        let (year, month) = (digits(&date[..4], 0, 9999)?, digits(&date[5..7], 1, 12)?);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let days_of = |month: i64| match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let day = digits(&date[8..], 1, days_of(month))?;
        let (hour, minute) = (digits(&time[..2], 0, 23)?, digits(&time[3..5], 0, 59)?);
        let second = digits(&time[6..], 0, 60)?;
        let rest = &text[19..];
        let fraction = rest.strip_prefix('.').map_or("", |rest| {
            &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()]
        });
        let zone = &rest[if fraction.is_empty() {
            0
        } else {
            fraction.len() + 1
        }..];
        let offset_minutes = match zone {
            "Z" | "z" => 0,
            _ if zone.len() == 6 && &zone[3..4] == ":" => {
                let minutes = digits(&zone[1..3], 0, 23)? * 60 + digits(&zone[4..], 0, 59)?;
                match &zone[..1] {
                    "+" => minutes,
                    "-" => -minutes,
                    _ => return None,
                }
            }
            _ => return None,
        };
        let leap_days = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let days = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
            + (1..month).map(days_of).sum::<i64>()
            + day
            - 1;
        let minutes = (days * 24 + hour) * 60 + minute - offset_minutes;
        let millis: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
        if second == 60 {
            // The day after the last of 9999 is the first of a month, too.
            let next_day =
                OffsetDateTime::from_unix_timestamp((minutes + 1) * 60).map_or(1, OffsetDateTime::day);
            let month_ends = (minutes + 1) % (24 * 60) == 0 && next_day == 1;
            return month_ends.then_some(minutes * 60_000 + 59_999);
        }
        Timestamp::from_unix_ms(minutes * 60_000 + second * 1_000 + millis).map(Timestamp::unix_ms)
    }

    #[track_caller]
    fn agrees(text: &str) {
        let parsed = text.parse::<Timestamp>().ok().map(Timestamp::unix_ms);
        assert_eq!(parsed, rfc_3339(text), "{text:?}");
    }

    #[test]
    fn the_grammar_of_the_test_knows_good_from_bad() {
        for good in [
            "2026-11-01T12:00:00Z",
            "2026-11-01t12:00:00z",
            "2024-02-29T23:59:59.000000000000000000001+23:59",
            "2026-06-30T23:59:60Z",
            "2026-07-01T01:59:60.5+02:00",
            "1970-01-01T00:00:00-00:00",
        ] {
            assert!(rfc_3339(good).is_some(), "{good}");
            agrees(good);
        }
        for bad in [
            "",
            "yesterday",
            "2026-11-01512:00:00Z",
            "2026-11-01\u{0}12:00:00Z",
            "2026-11-01 12:00:00Z",
            "2026-11-01_12:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-06-29T23:59:60Z",
            "2026-06-30T23:59:61Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+00:60",
            "2026-01-01T00:00:00+0000",
            "2026-01-01T00:00:00+00",
            "2026-01-01T00:00:00\u{2212}01:00",
            "2026-01-01T00:00:00Z ",
            " 2026-01-01T00:00:00Z",
            "+2026-01-01T00:00:00Z",
            "12026-01-01T00:00:00Z",
            "2026-01-01T00:00Z",
        ] {
            assert!(rfc_3339(bad).is_none(), "{bad:?}");
            agrees(bad);
        }
    }

    /// Every text that is one character away from a good one, and every date and time of day by its digits.
    #[test]
    fn nothing_but_rfc_3339_is_read() {
        let others: Vec<char> = (0..=0xff_u8)
            .map(char::from)
            .chain("\u{2212}٢２\u{212a}".chars())
            .collect();
        for good in [
            "2026-11-01T12:00:00Z",
            "2024-02-29T23:59:59.123456789+23:59",
            "2026-12-31t23:59:60.9z",
            "0000-01-01T00:00:00.1-00:00",
            "9999-12-31T19:00:00.99-04:59",
        ] {
            agrees(good);
            for at in 0..=good.len() {
                for &other in &others {
                    agrees(&format!("{}{other}{}", &good[..at], &good[at..]));
                    if at < good.len() {
                        agrees(&format!("{}{other}{}", &good[..at], &good[at + 1..]));
                    }
                }
                agrees(&good[..at]);
                agrees(&format!(
                    "{}{}",
                    &good[..at],
                    good.get(at + 1..).unwrap_or_default()
                ));
            }
        }
        for two in 0..100 {
            for year in ["1900", "2000", "2023", "2024"] {
                for month in 0..20 {
                    agrees(&format!("{year}-{month:02}-{two:02}T00:00:00Z"));
                }
            }
            agrees(&format!("2026-01-01T{two:02}:00:00Z"));
            agrees(&format!("2026-01-01T00:{two:02}:00Z"));
            agrees(&format!("2026-12-31T23:59:{two:02}Z"));
            for sign in ["+", "-"] {
                agrees(&format!("2026-01-01T00:00:00{sign}{two:02}:00"));
                agrees(&format!("2026-01-01T00:00:00{sign}00:{two:02}"));
            }
        }
    }
}
