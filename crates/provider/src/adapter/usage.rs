//! Token counts, as providers report them. If a count is not a whole number
//! from 0 to 2^40, the usage is unknown. So a sum of counts cannot overflow
//! (D42).

use minichat_core::turn::Usage;

use super::json::{members, members_of};

/// The names that a protocol uses for the counts.
pub(crate) struct Vocabulary {
    input: &'static str,
    output: &'static str,
    input_details: &'static str,
    output_details: &'static str,
}

/// PLAT-113
pub(crate) const RESPONSES: Vocabulary = Vocabulary {
    input: "input_tokens",
    output: "output_tokens",
    input_details: "input_tokens_details",
    output_details: "output_tokens_details",
};

/// PLAT-114
pub(crate) const CHAT_COMPLETIONS: Vocabulary = Vocabulary {
    input: "prompt_tokens",
    output: "completion_tokens",
    input_details: "prompt_tokens_details",
    output_details: "completion_tokens_details",
};

impl Vocabulary {
    /// Reads the usage object `json`; `None` if it is unknown (D26). A count
    /// that is left out is 0 (QUOTA-57).
    pub(super) fn read(&self, json: &str) -> Option<Usage> {
        let names = [
            self.input,
            self.output,
            self.input_details,
            self.output_details,
        ];
        let [input, output, input_details, output_details] = members(json, names).ok()?;
        let [cached] = members_of(input_details, ["cached_tokens"]);
        let [reasoning] = members_of(output_details, ["reasoning_tokens"]);
        Some(Usage {
            input_tokens: count(input)?,
            output_tokens: count(output)?,
            cache_read_input_tokens: count(cached)?,
            cache_write_input_tokens: 0,
            reasoning_tokens: count(reasoning)?,
        })
    }
}

fn count(json: Option<&str>) -> Option<u64> {
    let Some(json) = json else {
        return Some(0);
    };
    json.parse().ok().filter(|count| *count <= Usage::MAX_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D42, QUOTA-57
    #[test]
    fn every_count_is_within_bounds_or_the_usage_is_unknown() {
        let known = |json: &str| RESPONSES.read(json);
        let input = |input_tokens| Usage {
            input_tokens,
            ..Usage::default()
        };
        assert_eq!(known("{}"), Some(Usage::default()));
        assert_eq!(known(r#"{"input_tokens":null}"#), Some(Usage::default()));
        assert_eq!(known(r#"{"input_tokens":7}"#), Some(input(7)));
        let most = r#"{"input_tokens":1099511627776}"#;
        assert_eq!(known(most), Some(input(1 << 40)));
        let wrong = [
            "1099511627777",
            "9223372036854775807",
            "18446744073709551615",
            "18446744073709551616",
            "1e99999",
            "-1",
            "-0",
            "9.0",
            "1e2",
            "\"9\"",
            "true",
            "[]",
            "{}",
        ];
        for wrong in wrong {
            for json in [
                format!(r#"{{"input_tokens":{wrong},"output_tokens":1}}"#),
                format!(r#"{{"input_tokens":1,"output_tokens":{wrong}}}"#),
                format!(
                    r#"{{"input_tokens":1,"input_tokens_details":{{"cached_tokens":{wrong}}}}}"#
                ),
                format!(
                    r#"{{"input_tokens":1,"output_tokens_details":{{"reasoning_tokens":{wrong}}}}}"#
                ),
            ] {
                assert_eq!(known(&json), None, "{json}");
            }
        }
        for json in ["7", "\"many\"", "[]", "false"] {
            assert_eq!(known(json), None, "{json}");
        }
    }
}
