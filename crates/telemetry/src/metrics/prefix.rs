//! The prefix of all series (PLAT-51).

use minichat_metrics::catalogue::{CATALOGUE, DEFAULT_PREFIX, OPERATOR};

use super::MetricsError;

/// The SDK silently drops instruments with longer names.
const MAX_INSTRUMENT_NAME: usize = 255;

/// Trims `text` and checks it; empty means the default.
pub(super) fn parse(text: &str) -> Result<&str, MetricsError> {
    let prefix = text.trim();
    if prefix.is_empty() {
        return Ok(DEFAULT_PREFIX);
    }
    let begins_with_letter = prefix.starts_with(|c: char| c.is_ascii_alphabetic());
    let only_allowed = prefix
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !begins_with_letter || !only_allowed {
        return Err(MetricsError::InvalidPrefix(prefix.to_owned()));
    }
    let rows = CATALOGUE.iter().chain(&OPERATOR);
    let longest = rows.map(|row| row.name.len()).max();
    if prefix.len() + 1 + longest.unwrap_or(0) > MAX_INSTRUMENT_NAME {
        return Err(MetricsError::LongPrefix(prefix.to_owned()));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PLAT-51
    #[test]
    fn prefix_is_trimmed_and_empty_means_the_default() {
        assert_eq!(parse("").unwrap(), "mini_chat");
        assert_eq!(parse(" \t").unwrap(), "mini_chat");
        assert_eq!(parse(" acme_Chat2 ").unwrap(), "acme_Chat2");
    }

    /// PLAT-51
    #[test]
    fn prefix_that_the_sdk_would_drop_is_refused() {
        for text in ["1a", "_a", "a-b", "a:b", "a b", "é", "aé"] {
            assert!(
                matches!(parse(text), Err(MetricsError::InvalidPrefix(_))),
                "{text}"
            );
        }
        let long = "a".repeat(250);
        assert!(matches!(parse(&long), Err(MetricsError::LongPrefix(_))));
    }
}
