//! Instants with microsecond precision (D23), UTC dates, and the clock that
//! everything but the outermost layer receives as an argument.

use std::borrow::Cow;
use std::fmt;

use jiff::civil;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An instant in microseconds since 1970-01-01T00:00:00Z. Memory, SQLite and
/// PostgreSQL have the same precision, so cursors may compare instants for equality.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

/// A UTC calendar date: the key of a quota period (QUOTA-7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Date(civil::Date);

const MICROS_PER_SECOND: i64 = 1_000_000;

impl Timestamp {
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This instant moved by `micros` microseconds, saturating.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        self.plus_micros(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// The UTC calendar date of this instant.
    pub fn date(self) -> Date {
        Date(self.to_jiff().to_zoned(jiff::tz::TimeZone::UTC).date())
    }

    fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl Date {
    /// Day 1 of this date's month: the key of the monthly period.
    #[must_use]
    pub fn first_of_month(self) -> Self {
        Self(self.0.first_of_month())
    }

    #[must_use]
    pub fn next_day(self) -> Self {
        Self(self.0.tomorrow().unwrap_or(civil::Date::MAX))
    }

    /// Day 1 of the month after this date's.
    #[must_use]
    pub fn first_of_next_month(self) -> Self {
        Self(self.0.last_of_month()).next_day()
    }

    /// 00:00 UTC of this date.
    pub fn midnight(self) -> Timestamp {
        let seconds = self
            .0
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map_or(0, |zoned| zoned.timestamp().as_second());
        Timestamp(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Days since 1970-01-01.
    pub fn days_since_epoch(self) -> i32 {
        let days = self.midnight().0.div_euclid(86_400 * MICROS_PER_SECOND);
        i32::try_from(days).unwrap_or(i32::MAX)
    }

    pub fn from_days_since_epoch(days: i32) -> Self {
        Timestamp(i64::from(days) * 86_400 * MICROS_PER_SECOND).date()
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with `Z` (API-3).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_jiff().fmt(f)
    }
}

impl fmt::Display for Date {
    /// `YYYY-MM-DD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text that is not an RFC 3339 instant, or not a date.
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 instant or date: {0}")]
pub struct ParseTimeError(String);

impl std::str::FromStr for Timestamp {
    type Err = ParseTimeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_microsecond()))
            .map_err(|_| ParseTimeError(s.to_owned()))
    }
}

impl std::str::FromStr for Date {
    type Err = ParseTimeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse()
            .map(Self)
            .map_err(|_| ParseTimeError(s.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Date {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// The source of the current time.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The system clock, truncated to microseconds (PLAT-2).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_turn_at_midnight_utc() {
        let last: Timestamp = "2026-02-28T23:59:59Z".parse().unwrap();
        assert_eq!(last.date().to_string(), "2026-02-28");
        assert_eq!(last.date().first_of_month().to_string(), "2026-02-01");
        let next = last.plus_seconds(1);
        assert_eq!(next.date().to_string(), "2026-03-01");
        assert_eq!(next.date().first_of_month().to_string(), "2026-03-01");
        assert_eq!(last.date().first_of_next_month().midnight(), next);
    }

    #[test]
    fn text_round_trips_with_microseconds() {
        let t = Timestamp::from_micros(1_772_292_609_000_001);
        assert!(t.to_string().ends_with('Z'));
        assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
        let d: Date = "2024-02-29".parse().unwrap();
        assert_eq!(Date::from_days_since_epoch(d.days_since_epoch()), d);
    }
}
