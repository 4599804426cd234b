//! What objects are told: conditions, events, and how the pool's jobs fare.

mod condition;
mod event;
mod jobs_health;

pub(crate) use condition::{Reason, Type, Verdict, conditions, find, merged, stalled};
pub(crate) use event::{EventNote, changes, publish};
pub(crate) use jobs_health::{JobsHealth, LastRun};
