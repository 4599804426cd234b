//! Conditions and events, and the health of the pool's jobs and of tenants' sinks.

mod condition;
mod event;
mod jobs_health;
mod sink_report;
mod sinks_health;

pub(crate) use condition::{Reason, Type, Verdict, conditions, find, merged, stalled};
pub(crate) use event::{EventNote, changes, publish};
pub(crate) use jobs_health::{JobsHealth, LastRun};
pub(crate) use sink_report::{SinkReport, SinkReports};
pub(crate) use sinks_health::{SinksHealth, SinksVerdict, has_sinks, sinks_verdict};
