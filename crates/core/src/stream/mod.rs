//! The SSE contract with clients: events, their bytes and their order.

pub mod event;
pub mod grammar;
mod json;

pub use event::{
    DeltaKind, Done, DoneUsage, QuotaDecision, StreamErrorCode, StreamEvent, StreamStarted,
};
pub use grammar::{EventKind, Grammar, Phase};
