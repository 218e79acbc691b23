//! Where a session's events are once they left the hot store: in a segment, a set of files that holds many ended
//! sessions of one tenant and one day.

use std::{fmt, str::FromStr};

use time::{Date, Duration};
use uuid::Uuid;

use super::{id::Tenant, timestamp::Timestamp};

/// A day in UTC, as days since 1970-01-01, within the years 0000 to 9999. Shown as `YYYY-MM-DD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

const DAY_MS: i64 = 86_400_000;
const UNIX_EPOCH: Date = time::OffsetDateTime::UNIX_EPOCH.date();

impl Day {
    /// The day that an instant falls on.
    pub fn of(at: Timestamp) -> Self {
        // The years 0000 to 9999 have fewer than four million days.
        Self(i32::try_from(at.unix_ms().div_euclid(DAY_MS)).unwrap_or_default())
    }

    /// The instant it begins.
    pub fn start(self) -> Timestamp {
        Timestamp::from_unix_ms(i64::from(self.0) * DAY_MS).unwrap_or(Timestamp::EPOCH)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Within the range of the type, so the fallback is never taken.
        let day = UNIX_EPOCH
            .checked_add(Duration::days(i64::from(self.0)))
            .unwrap_or(UNIX_EPOCH);
        write!(
            f,
            "{:04}-{:02}-{:02}",
            day.year(),
            u8::from(day.month()),
            day.day()
        )
    }
}

impl FromStr for Day {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Digit by digit: names of segments are parsed by the million.
        let number = |from: usize, digits: usize| {
            let digits = text.as_bytes().get(from..from + digits)?;
            digits.iter().try_fold(0_u16, |number, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| number * 10 + u16::from(digit - b'0'))
            })
        };
        let date = || {
            let is_dated = text.len() == 10 && [4, 7].iter().all(|&dash| text.as_bytes()[dash] == b'-');
            let month = u8::try_from(number(5, 2)?).ok()?.try_into().ok()?;
            let day = u8::try_from(number(8, 2)?).ok()?;
            let date = Date::from_calendar_date(i32::from(number(0, 4)?), month, day).ok()?;
            is_dated.then(|| (date - UNIX_EPOCH).whole_days())
        };
        let days = date().and_then(|days| i32::try_from(days).ok());
        days.map(Self).ok_or("must be a day such as 2026-01-31")
    }
}

/// Names a segment, for ever: `{tenant}.{YYYY-MM-DD}.{uuid}`, the day being the one on which its sessions ended. It
/// is also the token of whoever claims sessions in order to write it, so it is never used twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    tenant: Tenant,
    day: Day,
    id: Uuid,
}

impl SegmentName {
    /// A name that nobody else has; later ones of a day sort after earlier ones.
    pub fn new(tenant: Tenant, day: Day) -> Self {
        Self {
            tenant,
            day,
            id: Uuid::now_v7(),
        }
    }

    /// Stands in lists of segments for something that is owed to an erased session: the erasure marker that is still to be
    /// written to the archive. No segment has this name, since its id is no UUID of version 7.
    pub fn owed_marker() -> Self {
        Self {
            tenant: Tenant::default(),
            day: Day(0),
            id: Uuid::nil(),
        }
    }

    /// Whether this is [`owed_marker`](Self::owed_marker).
    pub fn is_owed_marker(&self) -> bool {
        self.id.is_nil()
    }

    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The part of the name that no other segment of any tenant or day has.
    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn day(&self) -> Day {
        self.day
    }

    /// When the name was made, by the clock of whoever made it.
    pub fn begun_at(&self) -> Timestamp {
        let seconds_and_ns = self.id.get_timestamp().map(|at| at.to_unix());
        let ms = seconds_and_ns.map(|(s, ns)| i64::try_from(s * 1_000 + u64::from(ns) / 1_000_000));
        ms.and_then(Result::ok)
            .and_then(Timestamp::from_unix_ms)
            .unwrap_or(Timestamp::EPOCH)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.tenant, self.day, self.id.simple())
    }
}

impl FromStr for SegmentName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be the name of a segment, TENANT.YYYY-MM-DD.UUID";
        let mut parts = text.rsplitn(3, '.');
        let (id, day, tenant) = (parts.next(), parts.next(), parts.next());
        let name = Self {
            tenant: tenant.and_then(|text| text.parse().ok()).ok_or(RULE)?,
            day: day.and_then(|text| text.parse().ok()).ok_or(RULE)?,
            id: id.and_then(|text| text.parse().ok()).ok_or(RULE)?,
        };
        // A UUID can be written in other ways; all else reads back only from how it is shown.
        let is_simple = |id: &str| id.len() == 32 && !id.bytes().any(|byte| byte.is_ascii_uppercase());
        match id.is_some_and(is_simple) {
            true => Ok(name),
            false => Err(RULE),
        }
    }
}

/// Where an archived session's events are: `rows` of the segment's events file from row `first_row` on, counted from
/// zero, in `(timestamp, seq, eventId)` order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    pub segment: SegmentName,
    pub first_row: u64,
    pub rows: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_that_of_utc() {
        let day = |text: &str| Day::of(text.parse().unwrap()).to_string();
        assert_eq!(day("2026-09-01T23:59:59.999Z"), "2026-09-01");
        assert_eq!(day("2026-09-01T23:30:00-01:00"), "2026-09-02");
        assert_eq!(day("1969-12-31T23:59:59.999Z"), "1969-12-31");
        assert_eq!(day("0000-01-01T00:00:00Z"), "0000-01-01");
        assert_eq!(day("9999-12-31T23:59:59Z"), "9999-12-31");
        let parsed: Day = "2026-02-28".parse().unwrap();
        assert_eq!(parsed.start().to_string(), "2026-02-28T00:00:00.000Z");
        for bad in [
            "2026-02-29",
            "2026-2-1",
            "",
            "2026-02-28T",
            "2026/02/28",
            "2026-13-01",
            "2026-00-01",
            "+026-02-28",
            "002026-02-28",
            "2026-02-2é",
        ] {
            assert!(bad.parse::<Day>().is_err(), "{bad}");
        }
    }

    /// What a name reads as is what it is written as, so no two names are one place.
    #[test]
    fn a_day_and_a_segments_name_have_one_spelling() {
        let day = "2026-09-01";
        let name = SegmentName::new(Tenant::default(), day.parse().unwrap()).to_string();
        for good in [day, &name] {
            for at in 0..good.len() {
                for other in 0..=0x7f_u8 {
                    let text = format!("{}{}{}", &good[..at], char::from(other), &good[at + 1..]);
                    let day = text.parse::<Day>().map(|day| day.to_string());
                    let name = text.parse::<SegmentName>().map(|name| name.to_string());
                    assert!(day.is_err() || day.as_ref() == Ok(&text), "{text:?}: {day:?}");
                    assert!(name.is_err() || name.as_ref() == Ok(&text), "{text:?}: {name:?}");
                }
            }
        }
    }

    #[test]
    fn a_segments_name_reads_back() {
        let day: Day = "2026-09-01".parse().unwrap();
        let name = SegmentName::new("a.b~c".parse().unwrap(), day);
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert!(!name.is_owed_marker());
        let owed = SegmentName::owed_marker();
        assert_eq!(owed.to_string().parse(), Ok(owed.clone()));
        assert!(owed.is_owed_marker() && owed.begun_at() < name.begun_at());
        assert!(name.to_string().starts_with("a.b~c.2026-09-01."));
        for bad in [
            "",
            "default",
            "default.2026-09-01",
            "default.2026-09-01.x",
            ".2026-09-01.0198c0de7d1a70008000000000000001",
            "default.2026-09-01.0198C0DE7D1A70008000000000000001",
        ] {
            assert!(bad.parse::<SegmentName>().is_err(), "{bad}");
        }
    }
}
