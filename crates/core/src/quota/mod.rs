//! Quota arithmetic: what a turn may cost, whether its user can afford it, and
//! what it costs in the end.
//!
//! A *credit* is 1,000,000 micro-credits. A *bucket* is what spending counts
//! towards, a *period* is how long it counts, and a *cell* is one bucket in one
//! period. A *reserve* is taken from every cell of the turn's tier before the
//! provider is called, and is replaced by the committed charge when the turn
//! ends.

pub mod credits;
pub mod estimate;
pub mod period;
pub mod policy;
pub mod preflight;
pub mod settle;
pub mod status;

pub use credits::{CreditsOutOfBounds, credits};
pub use estimate::EstimationBudgets;
pub use period::{Bucket, Period, PeriodKeys};
pub use policy::{
    KillSwitches, Limits, Policy, PolicyModel, Pricing, Tier, TierLimits, ToolQuotas, ToolSupport,
};
pub use preflight::{
    Cell, Cells, Decision, DowngradeReason, InputTooLong, QuotaScope, RequestFacts, Reserve,
    check_message_length, preflight,
};
pub use settle::{Settlement, settle};
pub use status::{QuotaStatus, QuotaWarning, status};
