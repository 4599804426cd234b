//! States and outcomes of a turn. A turn is one user message and the attempt to
//! answer it.

mod outcome;
mod state;

pub use outcome::{
    BillingOutcome, IncompleteReason, Outcome, SettlementMethod, TurnErrorCode, Usage, billing,
};
pub use state::TurnState;
