//! How a turn ended, and how it is billed (TURN-31, TURN-39, TURN-40).

use serde::Serialize;

use super::TurnState;

/// Token counts that a provider reported. The last three are subsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_input_tokens: u64,
    pub cache_write_input_tokens: u64,
    pub reasoning_tokens: u64,
}

impl Usage {
    /// The largest count that is accepted. Sums of such counts never overflow
    /// (D42).
    pub const MAX_COUNT: u64 = 1 << 40;

    /// The usage of both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cache_read_input_tokens: self
                .cache_read_input_tokens
                .saturating_add(other.cache_read_input_tokens),
            cache_write_input_tokens: self
                .cache_write_input_tokens
                .saturating_add(other.cache_write_input_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
        }
    }

    /// All-zero usage counts as not reported (QUOTA-57).
    pub fn known(self) -> Option<Self> {
        (self.input_tokens > 0 || self.output_tokens > 0).then_some(self)
    }
}

/// The closed set of `chat_turns.error_code` (TURN-39).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TurnErrorCode {
    ProviderError,
    ProviderTimeout,
    RateLimited,
    WebSearchCallsExceeded,
    CodeInterpreterCallsExceeded,
    MessagePersistenceFailed,
    InternalError,
    ContextLengthExceeded,
    ValidationError,
    InputTooLong,
    OrphanTimeout,
}

impl TurnErrorCode {
    pub const ALL: [Self; 11] = [
        Self::ProviderError,
        Self::ProviderTimeout,
        Self::RateLimited,
        Self::WebSearchCallsExceeded,
        Self::CodeInterpreterCallsExceeded,
        Self::MessagePersistenceFailed,
        Self::InternalError,
        Self::ContextLengthExceeded,
        Self::ValidationError,
        Self::InputTooLong,
        Self::OrphanTimeout,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProviderError => "provider_error",
            Self::ProviderTimeout => "provider_timeout",
            Self::RateLimited => "rate_limited",
            Self::WebSearchCallsExceeded => "web_search_calls_exceeded",
            Self::CodeInterpreterCallsExceeded => "code_interpreter_calls_exceeded",
            Self::MessagePersistenceFailed => "message_persistence_failed",
            Self::InternalError => "internal_error",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::ValidationError => "validation_error",
            Self::InputTooLong => "input_too_long",
            Self::OrphanTimeout => "orphan_timeout",
        }
    }

    /// Whether the failure happened before the provider was called. The reserve
    /// of such a turn is always released.
    const fn precedes_provider(self) -> bool {
        matches!(
            self,
            Self::ContextLengthExceeded | Self::ValidationError | Self::InputTooLong
        )
    }
}

/// Why a provider stopped early (TURN-30).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum IncompleteReason {
    MaxTokens,
    ContentFilter,
    Other,
}

impl IncompleteReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::ContentFilter => "content_filter",
            Self::Other => "other",
        }
    }

    /// Maps the reasons of providers to the three reasons of the API.
    pub fn from_provider(text: &str) -> Self {
        match text {
            "max_output_tokens" | "max_tokens" | "length" => Self::MaxTokens,
            "content_filter" => Self::ContentFilter,
            _ => Self::Other,
        }
    }
}

/// How an open turn ended. Finalization needs nothing else from the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The provider finished the answer, or ended it early (`Some`).
    Completed(Option<IncompleteReason>),
    Failed(TurnErrorCode),
    /// The client disconnected or requested a stop, or the process drains.
    Cancelled,
}

impl Outcome {
    pub const fn state(self) -> TurnState {
        match self {
            Self::Completed(_) => TurnState::Completed,
            Self::Failed(_) => TurnState::Failed,
            Self::Cancelled => TurnState::Cancelled,
        }
    }

    pub const fn error_code(self) -> Option<TurnErrorCode> {
        match self {
            Self::Failed(code) => Some(code),
            Self::Completed(_) | Self::Cancelled => None,
        }
    }

    pub const fn incomplete(self) -> Option<IncompleteReason> {
        match self {
            Self::Completed(reason) => reason,
            Self::Failed(_) | Self::Cancelled => None,
        }
    }
}

/// The billing outcome of a turn (QUOTA-67).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum BillingOutcome {
    Completed,
    Failed,
    Aborted,
}

impl BillingOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// How the charge is computed: from the provider's usage, or from the reserve, or
/// there is no charge because the provider was never called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum SettlementMethod {
    Actual,
    Estimated,
    Released,
}

impl SettlementMethod {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Actual => "actual",
            Self::Estimated => "estimated",
            Self::Released => "released",
        }
    }
}

/// The table of TURN-40. `usage_known` is [`Usage::known`]. A watchdog passes
/// `provider_started = true`, because it cannot know.
pub const fn billing(
    outcome: Outcome,
    provider_started: bool,
    usage_known: bool,
) -> (BillingOutcome, SettlementMethod) {
    use SettlementMethod::{Actual, Estimated, Released};
    let by_usage = if usage_known { Actual } else { Estimated };
    match outcome {
        Outcome::Completed(_) => (BillingOutcome::Completed, by_usage),
        Outcome::Failed(TurnErrorCode::OrphanTimeout) => (BillingOutcome::Aborted, Estimated),
        Outcome::Failed(code) if code.precedes_provider() || !provider_started => {
            (BillingOutcome::Failed, Released)
        }
        Outcome::Failed(_) => (BillingOutcome::Failed, by_usage),
        Outcome::Cancelled if !provider_started => (BillingOutcome::Aborted, Released),
        Outcome::Cancelled => (BillingOutcome::Aborted, by_usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn billing_follows_the_table_of_turn_40() {
        use BillingOutcome::{Aborted, Completed, Failed};
        use SettlementMethod::{Actual, Estimated, Released};
        let failed = Outcome::Failed(TurnErrorCode::ProviderError);
        let early = Outcome::Failed(TurnErrorCode::ContextLengthExceeded);
        let orphan = Outcome::Failed(TurnErrorCode::OrphanTimeout);
        let truncated = Outcome::Completed(Some(IncompleteReason::MaxTokens));
        let rows = [
            (Outcome::Completed(None), true, true, Completed, Actual),
            (Outcome::Completed(None), true, false, Completed, Estimated),
            (truncated, true, true, Completed, Actual),
            (early, true, true, Failed, Released),
            (failed, false, false, Failed, Released),
            (failed, true, true, Failed, Actual),
            (failed, true, false, Failed, Estimated),
            (orphan, true, true, Aborted, Estimated),
            (orphan, false, false, Aborted, Estimated),
            (Outcome::Cancelled, true, true, Aborted, Actual),
            (Outcome::Cancelled, true, false, Aborted, Estimated),
            (Outcome::Cancelled, false, false, Aborted, Released),
        ];
        for (outcome, started, known, billed, method) in rows {
            assert_eq!(
                billing(outcome, started, known),
                (billed, method),
                "{outcome:?} started={started} known={known}"
            );
        }
    }
}
