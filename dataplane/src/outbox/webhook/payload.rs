//! The members of stored events that are needed to send them.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::size;

/// A stored event. Unknown members are ignored (PLAT-40).
pub(super) struct Payload<'a> {
    /// The text that is sent.
    pub(super) text: Cow<'a, str>,
    pub(super) members: Members,
}

#[derive(Debug, Deserialize)]
pub(super) struct Members {
    pub(super) event_type: String,
    /// `type` of an audit event (PLAT-81).
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) timestamp: Option<String>,
    #[serde(default)]
    pub(super) turn_id: Option<String>,
    #[serde(default)]
    pub(super) trace_id: Option<String>,
    #[serde(default)]
    prompt: Option<IgnoredAny>,
    #[serde(default)]
    response: Option<IgnoredAny>,
    #[serde(default)]
    attachments: Option<IgnoredAny>,
}

impl<'a> Payload<'a> {
    /// Reads a stored event and makes it small enough to be sent (PLAT-87). An
    /// error is permanent (QUOTA-95); it does not quote the event.
    pub(super) fn read(stored: &'a str) -> Result<Self, String> {
        let text = size::fit(stored)?;
        let members = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
        Ok(Self { text, members })
    }

    /// The event as a part of another document, byte for byte.
    pub(super) fn raw(&self) -> Result<&RawValue, String> {
        serde_json::from_str(&self.text).map_err(|error| unreadable(&error))
    }

    /// Whether the event contains text or names of a user.
    pub(super) fn has_content(&self) -> bool {
        let Members {
            prompt,
            response,
            attachments,
            ..
        } = &self.members;
        prompt.is_some() || response.is_some() || attachments.is_some()
    }
}

/// The parser's message is dropped, because it may quote the event.
pub(super) fn unreadable(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let what = error.classify();
    format!("the stored event cannot be read: {what:?} error at line {line} column {column}")
}
