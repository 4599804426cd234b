//! The events of a stream and their encoding (API-131, API-140 to API-146).

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::grammar::EventKind;
use super::json;
use super::tool::{Citation, ToolEvent};
use crate::ids::{MessageId, RequestId};
use crate::quota::{DowngradeReason, QuotaWarning};
use crate::turn::{TurnErrorCode, Usage};

/// The comment that keeps a silent connection alive (API-141). Not an event.
pub const KEEP_ALIVE_COMMENT: &[u8] = b":\n\n";

/// One event, as the client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamEvent<'a> {
    StreamStarted(StreamStarted),
    Ping,
    Delta {
        kind: DeltaKind,
        text: Cow<'a, str>,
    },
    Tool(ToolEvent),
    /// The sources of the answer; at least one (API-144).
    Citations(Vec<Citation>),
    Done(Box<Done>),
    Error {
        code: StreamErrorCode,
        /// Already scrubbed (API-147).
        message: Cow<'a, str>,
    },
}

/// The first event of every stream (API-140).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct StreamStarted {
    pub request_id: RequestId,
    /// The id under which the answer will be stored.
    pub message_id: MessageId,
    /// `false` on a replay.
    pub is_new_turn: bool,
    /// Present if the thread summary is in the prompt; absent on a replay (CONT-11).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_summary_applied: Option<ThreadSummaryApplied>,
}

/// The thread summary in a prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct ThreadSummaryApplied {
    pub token_estimate: u32,
}

/// What a piece of text is (API-142).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DeltaKind {
    /// Part of the stored answer.
    Text,
    /// Streamed, never stored.
    Reasoning,
}

impl DeltaKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Reasoning => "reasoning",
        }
    }
}

/// The end of an answer, whole or cut at a limit (API-145).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct Done {
    /// `null` when the provider reported none (D26).
    pub usage: Option<DoneUsage>,
    pub effective_model: String,
    pub selected_model: String,
    #[serde(flatten)]
    pub quota_decision: QuotaDecision,
    /// Left out on a replay, and when the quota could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_warnings: Option<Vec<QuotaWarning>>,
}

/// The token counts that clients see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct DoneUsage {
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl From<Usage> for DoneUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
        }
    }
}

/// The quota members of `done`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(tag = "quota_decision", rename_all = "snake_case")]
pub enum QuotaDecision {
    Allow,
    Downgrade {
        /// The selected model.
        downgrade_from: String,
        /// Unknown on a replay (QUOTA-66).
        #[serde(skip_serializing_if = "Option::is_none")]
        downgrade_reason: Option<DowngradeReason>,
    },
}

/// The code of an `error` event (API-146, D22).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum StreamErrorCode {
    /// The same code as the turn's row.
    Turn(TurnErrorCode),
    /// The turn was stopped on request (D3).
    Cancelled,
    /// The stream ended without a terminal event of its turn (API-152).
    StreamInterrupted,
}

impl StreamErrorCode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Turn(code) => code.as_str(),
            Self::Cancelled => "cancelled",
            Self::StreamInterrupted => "stream_interrupted",
        }
    }
}

impl From<TurnErrorCode> for StreamErrorCode {
    fn from(code: TurnErrorCode) -> Self {
        Self::Turn(code)
    }
}

impl fmt::Display for StreamErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for DowngradeReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl StreamEvent<'_> {
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::StreamStarted(_) => EventKind::StreamStarted,
            Self::Ping => EventKind::Ping,
            Self::Delta { .. } => EventKind::Delta,
            Self::Tool(_) => EventKind::Tool,
            Self::Citations(_) => EventKind::Citations,
            Self::Done(_) => EventKind::Done,
            Self::Error { .. } => EventKind::Error,
        }
    }

    /// Appends the frame of this event to `out` (API-131).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::StreamStarted(started) => {
                out.extend_from_slice(b"event: stream_started\ndata: ");
                json::write_value(out, started);
                out.extend_from_slice(b"\n\n");
            }
            Self::Ping => out.extend_from_slice(b"event: ping\ndata: {}\n\n"),
            Self::Delta { kind, text } => encode_delta(out, *kind, text),
            Self::Tool(tool) => {
                out.extend_from_slice(b"event: tool\ndata: ");
                json::write_value(out, tool);
                out.extend_from_slice(b"\n\n");
            }
            Self::Citations(items) => {
                out.extend_from_slice(b"event: citations\ndata: {\"items\":");
                json::write_value(out, items);
                out.extend_from_slice(b"}\n\n");
            }
            Self::Done(done) => {
                out.extend_from_slice(b"event: done\ndata: ");
                json::write_value(out, done);
                out.extend_from_slice(b"\n\n");
            }
            Self::Error { code, message } => {
                out.extend_from_slice(b"event: error\ndata: {\"code\":\"");
                out.extend_from_slice(code.as_str().as_bytes());
                out.extend_from_slice(b"\",\"message\":");
                json::write_string(out, message);
                out.extend_from_slice(b"}\n\n");
            }
        }
    }
}

/// Appends the frame of one `delta`; the hot path, which needs no owned event.
pub fn encode_delta(out: &mut Vec<u8>, kind: DeltaKind, text: &str) {
    out.extend_from_slice(match kind {
        DeltaKind::Text => b"event: delta\ndata: {\"type\":\"text\",\"content\":".as_slice(),
        DeltaKind::Reasoning => b"event: delta\ndata: {\"type\":\"reasoning\",\"content\":",
    });
    json::write_string(out, text);
    out.extend_from_slice(b"}\n\n");
}

#[cfg(test)]
mod tests;
