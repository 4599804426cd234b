//! Buckets, periods, and the row keys that an instant selects (QUOTA-7 to QUOTA-9).

use schemars::JsonSchema;
use serde::Serialize;

use crate::time::{Date, Timestamp};

/// A class of spending that has its own limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Bucket {
    /// All spending of the user.
    Total,
    /// Spending of premium turns only.
    TierPremium,
}

impl Bucket {
    pub const ALL: [Self; 2] = [Self::Total, Self::TierPremium];

    /// The value in `quota_usage.bucket`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::TierPremium => "tier:premium",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bucket| bucket.as_str() == text)
    }
}

/// The time over which spending is added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A UTC calendar day.
    Daily,
    /// A UTC calendar month.
    Monthly,
}

impl Period {
    pub const ALL: [Self; 2] = [Self::Daily, Self::Monthly];

    /// The value in `quota_usage.period_type` and in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Monthly => "monthly",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.as_str() == text)
    }

    /// `quota_usage.period_start` of the period that holds `at` (QUOTA-7).
    pub fn start(self, at: Timestamp) -> Date {
        match self {
            Self::Daily => at.date(),
            Self::Monthly => at.date().first_of_month(),
        }
    }

    /// When the period that holds `at` ends (QUOTA-8).
    pub fn next_reset(self, at: Timestamp) -> Timestamp {
        match self {
            Self::Daily => at.date().next_day().midnight(),
            Self::Monthly => at.date().first_of_next_month().midnight(),
        }
    }
}

/// Both period keys of one instant; a turn's come from its `started_at`
/// (QUOTA-54).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeriodKeys {
    pub daily: Date,
    pub monthly: Date,
}

impl PeriodKeys {
    pub fn at(at: Timestamp) -> Self {
        Self {
            daily: Period::Daily.start(at),
            monthly: Period::Monthly.start(at),
        }
    }

    pub const fn of(self, period: Period) -> Date {
        match period {
            Period::Daily => self.daily,
            Period::Monthly => self.monthly,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// QUOTA-7
    #[test]
    fn keys_turn_one_second_after_the_last_of_the_month() {
        let keys = PeriodKeys::at(at("2026-02-28T23:59:59Z"));
        assert_eq!(keys.of(Period::Daily).to_string(), "2026-02-28");
        assert_eq!(keys.of(Period::Monthly).to_string(), "2026-02-01");
        let keys = PeriodKeys::at(at("2026-03-01T00:00:00Z"));
        assert_eq!(keys.of(Period::Daily).to_string(), "2026-03-01");
        assert_eq!(keys.of(Period::Monthly).to_string(), "2026-03-01");
    }

    /// QUOTA-8
    #[test]
    fn resets_are_the_next_midnight_and_the_next_first_of_the_month() {
        let now = at("2026-12-31T12:00:00Z");
        assert_eq!(Period::Daily.next_reset(now), at("2027-01-01T00:00:00Z"));
        assert_eq!(Period::Monthly.next_reset(now), at("2027-01-01T00:00:00Z"));
        let midnight = at("2026-02-10T00:00:00Z");
        assert_eq!(
            Period::Daily.next_reset(midnight),
            at("2026-02-11T00:00:00Z")
        );
        assert_eq!(
            Period::Monthly.next_reset(midnight),
            at("2026-03-01T00:00:00Z")
        );
    }

    #[test]
    fn texts_round_trip() {
        for bucket in Bucket::ALL {
            assert_eq!(Bucket::parse(bucket.as_str()), Some(bucket));
        }
        for period in Period::ALL {
            assert_eq!(Period::parse(period.as_str()), Some(period));
        }
    }
}
