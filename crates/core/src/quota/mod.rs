//! Quota arithmetic: what a turn may cost, whether its user has enough credits,
//! and what the turn is charged when it ends.
//!
//! * A *credit* is 1,000,000 micro-credits.
//! * A *bucket* is a class of spending that has its own limits: all spending, or
//!   spending on premium models.
//! * A *period* is a UTC day or a UTC month.
//! * A *cell* is one bucket in one period. It has one limit and one balance.
//! * A *reserve* is the amount that is deducted from every cell of the turn's
//!   tier before the provider is called. When the turn ends, the actual charge
//!   replaces it.

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
    KillSwitches, Limits, MostCalls, Policy, PolicyModel, Pricing, Tier, TierLimits, ToolQuotas,
    ToolSupport,
};
pub use preflight::{
    Cell, Cells, Decision, DowngradeReason, InputTooLong, QuotaScope, RequestFacts, Reserve,
    check_message_length, offered_tools, preflight,
};
pub use settle::{Settlement, settle};
pub use status::{QuotaStatus, QuotaWarning, status};
