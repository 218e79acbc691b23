//! An instant, kept to the millisecond.

use std::{fmt, str::FromStr};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Milliseconds since 1970-01-01T00:00:00Z, within the years 0000 to 9999 that RFC 3339 can write.
///
/// Reads RFC 3339 with any offset, dropping what is finer than a millisecond; writes UTC with exactly
/// three decimals.
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
    fn refuses_what_it_could_not_write_back() {
        for bad in [
            "2026-02-30T00:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "",
            "yesterday",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }
}
