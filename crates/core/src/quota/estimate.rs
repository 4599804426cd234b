//! How many tokens a request may need, before any provider has counted them
//! (QUOTA-35 to QUOTA-43, CONT-7). Always rounded up (D24).

use serde::{Deserialize, Serialize};

/// A model's parameters for estimates. All are token counts, except bytes per
/// token and the margin, which is in per cent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EstimationBudgets {
    /// At least 1.
    pub bytes_per_token_conservative: u32,
    pub fixed_overhead_tokens: u32,
    /// 0 to 1000.
    pub safety_margin_pct: u32,
    /// At least 1.
    pub image_token_budget: u32,
    /// For file search.
    pub tool_surcharge_tokens: u32,
    pub web_search_surcharge_tokens: u32,
    pub code_interpreter_surcharge_tokens: u32,
    /// 1 to the model's `max_output_tokens`.
    pub minimal_generation_floor: u32,
}

impl Default for EstimationBudgets {
    fn default() -> Self {
        Self {
            bytes_per_token_conservative: 4,
            fixed_overhead_tokens: 100,
            safety_margin_pct: 10,
            image_token_budget: 1000,
            tool_surcharge_tokens: 500,
            web_search_surcharge_tokens: 500,
            code_interpreter_surcharge_tokens: 1000,
            minimal_generation_floor: 50,
        }
    }
}

/// The tools in the provider request, if a candidate model is used (QUOTA-38).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OfferedTools {
    pub web_search: bool,
    pub file_search: bool,
    pub code_interpreter: bool,
}

impl EstimationBudgets {
    /// The tokens of one text of `bytes` UTF-8 bytes: the `text` of QUOTA-35
    /// and the cost of CONT-7. Saturates.
    pub fn text_tokens(&self, bytes: u64) -> u64 {
        let base = bytes
            .div_ceil(u64::from(self.bytes_per_token_conservative.max(1)))
            .saturating_add(u64::from(self.fixed_overhead_tokens));
        base.saturating_mul(100 + u64::from(self.safety_margin_pct))
            .div_ceil(100)
    }

    /// The flat tokens of `count` images (CONT-7).
    pub fn image_tokens(&self, count: u32) -> u64 {
        u64::from(count) * u64::from(self.image_token_budget)
    }

    /// The surcharges of the offered tools, once per turn (QUOTA-38).
    pub fn tool_tokens(&self, offered: OfferedTools) -> u64 {
        let charge = |offered: bool, tokens: u32| if offered { u64::from(tokens) } else { 0 };
        charge(offered.file_search, self.tool_surcharge_tokens)
            + charge(offered.web_search, self.web_search_surcharge_tokens)
            + charge(
                offered.code_interpreter,
                self.code_interpreter_surcharge_tokens,
            )
    }
}

/// The size of one request for one candidate model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// Bytes of the message, and of the instructions when no earlier usage
    /// covers them (QUOTA-36).
    pub utf8_bytes: u64,
    /// Input and output tokens of the newest assistant message (QUOTA-37).
    pub prior_context_tokens: u64,
    pub images: u32,
    pub offered: OfferedTools,
}

/// `estimated_input_tokens` of QUOTA-35. Saturates.
pub fn estimated_input_tokens(budgets: &EstimationBudgets, demand: Demand) -> u64 {
    budgets
        .text_tokens(demand.utf8_bytes)
        .saturating_add(budgets.image_tokens(demand.images))
        .saturating_add(budgets.tool_tokens(demand.offered))
        .saturating_add(demand.prior_context_tokens)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn estimate(demand: Demand) -> u64 {
        estimated_input_tokens(&EstimationBudgets::default(), demand)
    }

    /// QUOTA-35, the examples of the rule.
    #[test]
    fn examples_with_the_default_budgets() {
        let text = |utf8_bytes| Demand {
            utf8_bytes,
            ..Demand::default()
        };
        assert_eq!(estimate(text(4000)), 1210);
        assert_eq!(estimate(text(0)), 110);
        let tools = Demand {
            images: 2,
            offered: OfferedTools {
                web_search: true,
                file_search: true,
                code_interpreter: false,
            },
            ..text(4000)
        };
        assert_eq!(estimate(tools), 4210);
        let code = Demand {
            offered: OfferedTools {
                code_interpreter: true,
                ..OfferedTools::default()
            },
            ..text(0)
        };
        assert_eq!(estimate(code), 1110);
    }

    /// CONT-7, D24
    #[test]
    fn text_is_always_rounded_up() {
        let budgets = EstimationBudgets::default();
        assert_eq!(budgets.text_tokens(0), 110);
        assert_eq!(budgets.text_tokens(1), 112);
        assert_eq!(budgets.text_tokens(400), 220);
    }

    /// QUOTA-37
    #[test]
    fn prior_context_is_added_as_it_is() {
        let demand = Demand {
            utf8_bytes: 4000,
            prior_context_tokens: 32,
            ..Demand::default()
        };
        assert_eq!(estimate(demand), 1242);
    }

    #[test]
    fn a_missing_field_takes_its_default() {
        let budgets: EstimationBudgets =
            serde_json::from_str(r#"{"safety_margin_pct":25}"#).unwrap();
        assert_eq!(
            budgets,
            EstimationBudgets {
                safety_margin_pct: 25,
                ..EstimationBudgets::default()
            }
        );
    }

    proptest! {
        #[test]
        fn never_panics_and_grows_with_the_text(
            bytes: u64, more: u64, bpt: u32, overhead: u32, margin: u32,
        ) {
            let budgets = EstimationBudgets {
                bytes_per_token_conservative: bpt,
                fixed_overhead_tokens: overhead,
                safety_margin_pct: margin,
                ..EstimationBudgets::default()
            };
            let longer = bytes.saturating_add(more);
            prop_assert!(budgets.text_tokens(bytes) <= budgets.text_tokens(longer));
        }
    }
}
