//! The operator: custom resources in, rendered Secrets and status out.
//!
//! Two loops (K8S-11). The *render loop* turns a tenant, its quotas and its
//! Secrets into the rendered Secret that the pool's pods watch. The *object
//! loop* writes status and events, asks the pods whether they run what was
//! rendered, and cleans up. Both read the same caches, decide from what they
//! see now, and write only what differs, so that either may run at any time.
//! Beside them the pool's jobs are followed: their counts go to the metrics, their
//! failures to events and to the tenants' status.

mod admin;
mod backoff;
mod cache;
mod chat_quota;
mod chat_tenant;
mod condition;
mod context;
mod event;
mod garbage;
mod handlers;
mod index;
mod issuers;
mod jobs;
mod later;
mod looks;
mod managed;
mod numbers;
mod ownership;
mod pool;
mod propagation;
mod queue;
mod run;
mod secret_lookup;
mod settings;
mod watch;
mod write;

pub use run::{Running, start};
pub use settings::{Format, Settings, Watchdog};
