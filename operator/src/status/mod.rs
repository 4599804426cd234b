//! Conditions and events, and the health of the pool's jobs.

mod condition;
mod event;
mod jobs_health;

pub(crate) use condition::{Reason, Type, Verdict, conditions, find, merged, stalled};
pub(crate) use event::{EventNote, changes, publish};
pub(crate) use jobs_health::{JobsHealth, LastRun};
