//! Thread summaries (CONT-130 to CONT-141): when one is due, what the summarizing
//! model is told, and what is kept of its answer.

mod parse;
mod prompt;

pub use parse::{MAX_SUMMARY_BYTES, parse, token_estimate};
pub use prompt::{
    PREAMBLE, Prompt, SYSTEM_PROMPT, droppable, is_context_length_error, with_preamble,
};

/// How full the context of a turn was (CONT-10). All values are tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextUse {
    pub estimated_tokens: u64,
    /// `input_budget` of CONT-8.
    pub input_budget: u64,
    /// Whether a message of the window was left out.
    pub messages_truncated: bool,
}

/// Whether a completed turn asks for a summary (CONT-131).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    Never,
    /// If the chat has no summary yet.
    WithoutSummary,
    Always,
}

impl ContextUse {
    pub const fn trigger(self, threshold_pct: u32) -> Trigger {
        if self.messages_truncated {
            return Trigger::Always;
        }
        let threshold = self.input_budget.saturating_mul(threshold_pct as u64) / 100;
        if threshold > 0 && self.estimated_tokens >= threshold {
            Trigger::WithoutSummary
        } else {
            Trigger::Never
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CONT-131
    #[test]
    fn a_summary_is_due_at_the_threshold_and_whenever_messages_were_left_out() {
        let used = |estimated_tokens, input_budget, messages_truncated| ContextUse {
            estimated_tokens,
            input_budget,
            messages_truncated,
        };
        let rows = [
            (used(79, 100, false), Trigger::Never),
            (used(80, 100, false), Trigger::WithoutSummary),
            (used(80, 101, false), Trigger::WithoutSummary),
            (used(0, 100, true), Trigger::Always),
            (used(0, 0, false), Trigger::Never),
            (used(5, 1, false), Trigger::Never),
            (used(u64::MAX, u64::MAX, false), Trigger::WithoutSummary),
        ];
        for (used, expected) in rows {
            assert_eq!(used.trigger(80), expected, "{used:?}");
        }
    }
}
