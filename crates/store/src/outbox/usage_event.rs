//! What this crate and the books read of a stored usage event (QUOTA-86).

use std::borrow::Cow;

use minichat_core::{Date, Timestamp, UserId};
use serde::Deserialize;
use uuid::Uuid;

/// A usage event.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct UsageEvent {
    #[serde(default)]
    user_id: Option<UserId>,
    #[serde(default)]
    system_task_type: Option<String>,
    pub effective_model: String,
    #[serde(default)]
    reserve_day: Option<Date>,
    timestamp: Timestamp,
    pub committed_credits_micro: u64,
    #[serde(default)]
    usage: Option<UsageTokens>,
    #[serde(default)]
    pub web_search_calls: u64,
    #[serde(default)]
    pub code_interpreter_calls: u64,
}

/// The tokens of a usage event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub(super) struct UsageTokens {
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, default)]
    event_type: Option<Cow<'a, str>>,
}

impl UsageEvent {
    /// Reads a payload. `None`: it is another event. Usage events are told by their
    /// type, because their queue may have had another name.
    pub fn read(payload: &str) -> Result<Option<Self>, serde_json::Error> {
        let typed: Typed<'_> = serde_json::from_str(payload)?;
        if typed.event_type.as_deref() == Some("usage_snapshot") {
            serde_json::from_str(payload).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Whether it is of a task of the system (QUOTA-96), which belongs to no turn and to
    /// no user, and is no part of the books.
    pub fn is_of_system(&self) -> bool {
        self.system_task_type.is_some()
    }

    /// The nil id: no user.
    pub fn user(&self) -> UserId {
        self.user_id.unwrap_or(UserId(Uuid::nil()))
    }

    /// The day to which the credits were booked; older releases did not write it.
    pub fn day(&self) -> Date {
        self.reserve_day.unwrap_or_else(|| self.timestamp.date())
    }

    /// Zeros if the provider reported none.
    pub(super) fn tokens(&self) -> UsageTokens {
        self.usage.unwrap_or_default()
    }
}
