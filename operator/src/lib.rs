//! The operator: custom resources in, rendered Secrets and status out.
//!
//! Two loops (K8S-11). The *render loop* decides what a tenant gets: it turns the tenant,
//! its quotas and its Secrets into the rendered Secret that the pool's pods watch. The
//! *object loop* takes that decision, asks the pods whether they run what was rendered,
//! and writes status and events. Both write only what differs, so either may run at any
//! time. Beside them, one controller deletes rendered Secrets that no tenant needs, one
//! writes the status of quotas, one makes and repairs the pool's `CronJobs`, and one follows their
//! Jobs: it adds their counts to the metrics and reports their failures as events and in the
//! tenants' status. One asks the pods how the sinks of tenants fare.
//!
//! The modules below stand in reading order: a change comes from the API server through
//! [`caches`], [`event_handlers`] enqueue the objects that it concerns, [`work`] decides
//! when each is reconciled, [`controllers`] call the reconcile functions, and those write
//! through [`writer`]. [`state`] is what they remember. No module imports one that imports
//! it, however indirectly (`cargo xtask check-deps`).

// The process.
mod admin;
mod run;
mod settings;
// From the API server to the queues.
mod caches;
mod event_handlers;
mod work;
// The reconcile functions.
mod chat_quota;
mod chat_tenant;
mod controllers;
mod cron_jobs;
mod garbage;
mod jobs;
mod sinks;
// What they use.
mod context;
mod failures;
mod issuers;
mod managed;
mod manifests;
mod pool;
mod secret_lookup;
mod state;
mod status;
mod tenant;
mod termination;
mod writer;

pub use run::{Running, start};
pub use settings::{Format, Settings, Watchdog};
