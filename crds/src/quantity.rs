//! Credits as Kubernetes quantities (D18): `100`, `"2500m"`, `"750u"`, exactly
//! converted to micro-credits.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount of credits in micro-credits, 0 to 10¹⁸.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credits(i64);

/// The largest amount: 10¹² credits.
const MAX_MICRO: i128 = 1_000_000_000_000_000_000;
const MICRO_PER_CREDIT: i64 = 1_000_000;

/// Why a text is no amount of credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a known suffix.
    #[error("must be a quantity such as \"100\", \"2500m\" or \"750u\"")]
    Syntax,
    /// Smaller steps than a micro-credit.
    #[error(
        "must not be finer than a micro-credit; write at most six decimals, or a suffix m or u"
    )]
    TooFine,
    /// Less than 0.
    #[error("must not be negative")]
    Negative,
    /// More than 10¹² credits.
    #[error("must be at most 1T")]
    TooLarge,
}

impl Credits {
    /// `credits` whole credits, at most 10¹².
    pub const fn whole(credits: u32) -> Self {
        // A u32 of credits is far below the largest amount.
        Self(credits as i64 * MICRO_PER_CREDIT)
    }

    /// The amount in micro-credits.
    pub const fn micro(self) -> i64 {
        self.0
    }

    /// Reads a decimal number with an optional suffix `n`, `u`, `m`, `k`, `M`,
    /// `G` or `T`. Never rounds.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, exponent) = split_suffix(text);
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let only_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if !only_digits(whole) || !only_digits(fraction) || whole.len() + fraction.len() == 0 {
            return Err(QuantityError::Syntax);
        }
        // Twenty digits on either side decide every amount in range.
        if whole.trim_start_matches('0').len() > 20 {
            return Err(if negative {
                QuantityError::Negative
            } else {
                QuantityError::TooLarge
            });
        }
        let fraction = fraction.trim_end_matches('0');
        let decimals = u32::try_from(fraction.len()).map_err(|_| QuantityError::TooFine)?;
        let Some(power) = (exponent + 6)
            .checked_sub_unsigned(decimals)
            .filter(|p| *p >= 0)
        else {
            return whole_steps(whole, fraction, exponent, negative);
        };
        let mantissa = parse_digits(whole, fraction)?;
        let micro = 10_i128
            .checked_pow(power.unsigned_abs())
            .and_then(|factor| mantissa.checked_mul(factor))
            .ok_or(QuantityError::TooLarge)?;
        bounded(micro, negative)
    }
}

/// An amount whose last digit is finer than a micro-credit: exact only when the
/// digits beyond are zeros, as in `1000n`.
fn whole_steps(
    whole: &str,
    fraction: &str,
    exponent: i32,
    negative: bool,
) -> Result<Credits, QuantityError> {
    if !fraction.is_empty() {
        return Err(QuantityError::TooFine);
    }
    let divisor = 10_i128.pow((exponent + 6).unsigned_abs());
    let mantissa = parse_digits(whole, "")?;
    if mantissa % divisor != 0 {
        return Err(QuantityError::TooFine);
    }
    bounded(mantissa / divisor, negative)
}

fn parse_digits(whole: &str, fraction: &str) -> Result<i128, QuantityError> {
    if fraction.len() > 18 {
        return Err(QuantityError::TooFine);
    }
    let digits = format!("0{whole}{fraction}");
    digits.parse().map_err(|_| QuantityError::TooLarge)
}

fn bounded(micro: i128, negative: bool) -> Result<Credits, QuantityError> {
    if negative && micro != 0 {
        return Err(QuantityError::Negative);
    }
    if micro > MAX_MICRO {
        return Err(QuantityError::TooLarge);
    }
    i64::try_from(micro)
        .map(Credits)
        .map_err(|_| QuantityError::TooLarge)
}

/// The number and the power of ten of its suffix.
fn split_suffix(text: &str) -> (&str, i32) {
    const SUFFIXES: [(char, i32); 7] = [
        ('n', -9),
        ('u', -6),
        ('m', -3),
        ('k', 3),
        ('M', 6),
        ('G', 9),
        ('T', 12),
    ];
    SUFFIXES
        .into_iter()
        .find_map(|(suffix, exponent)| Some((text.strip_suffix(suffix)?, exponent)))
        .unwrap_or((text, 0))
}

impl fmt::Display for Credits {
    /// The shortest form: whole credits, else with suffix `m`, else `u`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % MICRO_PER_CREDIT == 0 => write!(f, "{}", n / MICRO_PER_CREDIT),
            n if n % 1000 == 0 => write!(f, "{}m", n / 1000),
            n => write!(f, "{n}u"),
        }
    }
}

impl Serialize for Credits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Credits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Whole(i64),
            Text(String),
        }
        let parsed = match Written::deserialize(deserializer)? {
            Written::Whole(n) => Self::parse(&n.to_string()),
            Written::Text(text) => Self::parse(&text),
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Credits {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Credits".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": "^[+-]?[0-9]{1,18}([.][0-9]{1,18})?[numkMGT]?$",
            "x-kubernetes-validations": [
                {
                    "rule": "type(self) == int ? self >= 0 && self <= 1000000000000 : isQuantity(self) && !quantity(self).isLessThan(quantity('0')) && !quantity(self).isGreaterThan(quantity('1T'))",
                    "message": "must be 0 to 1T credits; write a quantity such as \"100\", \"2500m\" or \"750u\""
                },
                {
                    "rule": "type(self) == int || !self.matches('n$|[.][0-9]{7}|[.][0-9]{4,}m|[.][0-9]*u')",
                    "message": "must not be finer than a micro-credit; write at most six decimals, three with the suffix m and none with u"
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// D18
    #[test]
    fn written_forms_are_read_exactly() {
        for (text, micro) in [
            ("100", 100_000_000),
            ("2500m", 2_500_000),
            ("750u", 750),
            ("0", 0),
            ("-0", 0),
            ("+1", 1_000_000),
            ("0.000001", 1),
            (".5", 500_000),
            ("5.", 5_000_000),
            ("1.5k", 1_500_000_000),
            ("1000n", 1),
            ("0.1000m", 100),
            ("1T", 1_000_000_000_000_000_000),
            ("00000000000000000000001", 1_000_000),
        ] {
            assert_eq!(
                Credits::parse(text).map(Credits::micro),
                Ok(micro),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, error) in [
            ("", QuantityError::Syntax),
            (".", QuantityError::Syntax),
            ("m", QuantityError::Syntax),
            ("1e3", QuantityError::Syntax),
            ("1Ki", QuantityError::Syntax),
            ("1 ", QuantityError::Syntax),
            ("--1", QuantityError::Syntax),
            ("-1u", QuantityError::Negative),
            ("1n", QuantityError::TooFine),
            ("0.0000001", QuantityError::TooFine),
            ("0.5u", QuantityError::TooFine),
            ("1.000001T", QuantityError::TooLarge),
            (
                "99999999999999999999999999999999999999999",
                QuantityError::TooLarge,
            ),
        ] {
            assert_eq!(Credits::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn writing_and_reading_back_changes_nothing(micro in 0..=1_000_000_000_000_000_000_i64) {
            let credits = Credits(micro);
            prop_assert_eq!(Credits::parse(&credits.to_string()), Ok(credits));
            let json = serde_json::to_string(&credits).unwrap();
            prop_assert_eq!(serde_json::from_str::<Credits>(&json).unwrap(), credits);
        }

        #[test]
        fn a_suffix_only_moves_the_point(whole in 0..1_000_000_u32, thousandths in 0..1000_u32) {
            let decimal = format!("{whole}.{thousandths:03}");
            let milli = format!("{}m", u64::from(whole) * 1000 + u64::from(thousandths));
            let micro = format!("{}u", (u64::from(whole) * 1000 + u64::from(thousandths)) * 1000);
            prop_assert_eq!(Credits::parse(&decimal), Credits::parse(&milli));
            prop_assert_eq!(Credits::parse(&decimal), Credits::parse(&micro));
            let thousands = format!("{}.{:03}k", whole / 1000, whole % 1000);
            prop_assert_eq!(Credits::parse(&thousands), Credits::parse(&whole.to_string()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,50}") {
            let _ = Credits::parse(&text);
        }
    }
}
