//! The context plan of one turn: the messages that are sent to the provider.

pub mod assemble;

pub use assemble::{
    ContextBudgetExceeded, ContextRequest, Plan, PlanMessage, Role, assemble, join_instructions,
};
