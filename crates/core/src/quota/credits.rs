//! The one conversion from tokens to micro-credits (QUOTA-1 to QUOTA-6).

use super::policy::Pricing;

/// The largest token count that is priced (QUOTA-4).
pub const MAX_TOKENS: u64 = 10_000_000;
/// The largest multiplier, in micro-credits per 1,000,000 tokens (QUOTA-4). The
/// smallest is 0: a free model (D25).
pub const MAX_MULTIPLIER_MICRO: u64 = 10_000_000_000;

const TOKENS_PER_MULTIPLIER: u64 = 1_000_000;

/// A token count or a multiplier exceeds the bounds of QUOTA-4.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreditsOutOfBounds {
    #[error("{0} tokens are more than {MAX_TOKENS}")]
    Tokens(u64),
    #[error("a multiplier of {0} is more than {MAX_MULTIPLIER_MICRO}")]
    Multiplier(u64),
}

/// The price in micro-credits of `input_tokens` and `output_tokens`, each
/// component rounded up on its own (QUOTA-3).
pub fn credits(
    input_tokens: u64,
    output_tokens: u64,
    pricing: Pricing,
) -> Result<i64, CreditsOutOfBounds> {
    let input = component(input_tokens, pricing.input_multiplier_micro)?;
    let output = component(output_tokens, pricing.output_multiplier_micro)?;
    Ok(input + output)
}

/// The result is at most 10¹¹, because the product is at most 10¹⁷.
fn component(tokens: u64, multiplier_micro: u64) -> Result<i64, CreditsOutOfBounds> {
    if tokens > MAX_TOKENS {
        return Err(CreditsOutOfBounds::Tokens(tokens));
    }
    if multiplier_micro > MAX_MULTIPLIER_MICRO {
        return Err(CreditsOutOfBounds::Multiplier(multiplier_micro));
    }
    let price = (tokens * multiplier_micro).div_ceil(TOKENS_PER_MULTIPLIER);
    i64::try_from(price).map_err(|_| CreditsOutOfBounds::Tokens(tokens))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pricing(input_multiplier_micro: u64, output_multiplier_micro: u64) -> Pricing {
        Pricing {
            input_multiplier_micro,
            output_multiplier_micro,
        }
    }

    /// QUOTA-2
    #[test]
    fn a_multiplier_of_one_million_is_one_micro_credit_per_token() {
        assert_eq!(credits(1234, 5, pricing(1_000_000, 1_000_000)), Ok(1239));
    }

    /// QUOTA-3
    #[test]
    fn each_component_is_rounded_up_on_its_own() {
        assert_eq!(credits(7, 1, pricing(333_333, 1_500_000)), Ok(5));
        assert_eq!(credits(1, 1, pricing(1, 1)), Ok(2));
        assert_eq!(credits(0, 0, pricing(3_000_000, 15_000_000)), Ok(0));
    }

    /// QUOTA-4
    #[test]
    fn bounds_are_inclusive() {
        let dearest = pricing(MAX_MULTIPLIER_MICRO, MAX_MULTIPLIER_MICRO);
        assert_eq!(
            credits(MAX_TOKENS, MAX_TOKENS, dearest),
            Ok(200_000_000_000)
        );
        assert_eq!(
            credits(0, MAX_TOKENS + 1, dearest),
            Err(CreditsOutOfBounds::Tokens(MAX_TOKENS + 1))
        );
        assert_eq!(
            credits(0, 0, pricing(MAX_MULTIPLIER_MICRO + 1, 0)),
            Err(CreditsOutOfBounds::Multiplier(MAX_MULTIPLIER_MICRO + 1))
        );
    }

    /// D25
    #[test]
    fn a_multiplier_of_zero_is_free() {
        assert_eq!(credits(MAX_TOKENS, MAX_TOKENS, pricing(0, 0)), Ok(0));
    }

    proptest! {
        /// QUOTA-3, against the definition in wider arithmetic.
        #[test]
        fn matches_the_definition(
            input in 0..=MAX_TOKENS,
            output in 0..=MAX_TOKENS,
            im in 0..=MAX_MULTIPLIER_MICRO,
            om in 0..=MAX_MULTIPLIER_MICRO,
        ) {
            let exact = |tokens: u64, multiplier: u64| {
                let product = u128::from(tokens) * u128::from(multiplier);
                product / 1_000_000 + u128::from(product % 1_000_000 != 0)
            };
            let expected = exact(input, im) + exact(output, om);
            let actual = credits(input, output, pricing(im, om)).unwrap();
            prop_assert_eq!(u128::try_from(actual).unwrap(), expected);
        }

        #[test]
        fn never_overflows(input: u64, output: u64, im: u64, om: u64) {
            let in_bounds = input.max(output) <= MAX_TOKENS && im.max(om) <= MAX_MULTIPLIER_MICRO;
            prop_assert_eq!(credits(input, output, pricing(im, om)).is_ok(), in_bounds);
        }
    }
}
