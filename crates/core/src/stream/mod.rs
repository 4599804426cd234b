//! The server-sent events that clients receive: their types, encoding and order.

pub mod event;
pub mod grammar;
mod json;
mod tool;

pub use event::{
    DeltaKind, Done, DoneUsage, QuotaDecision, StreamErrorCode, StreamEvent, StreamStarted,
    ThreadSummaryApplied,
};
pub use grammar::{EventKind, Grammar, Phase};
pub use tool::{Citation, CitationSource, Span, ToolDetails, ToolEvent, ToolPhase};
