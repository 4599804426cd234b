//! What a provider is told: the context plan of one turn.

pub mod assemble;

pub use assemble::{
    ContextBudgetExceeded, ContextRequest, Plan, PlanMessage, Role, assemble, join_instructions,
};
