//! The server-sent events that clients receive: their types, encoding and order.

pub mod event;
pub mod grammar;
mod json;

pub use event::{
    DeltaKind, Done, DoneUsage, QuotaDecision, StreamErrorCode, StreamEvent, StreamStarted,
};
pub use grammar::{EventKind, Grammar, Phase};
