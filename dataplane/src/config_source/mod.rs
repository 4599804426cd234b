//! Sources of tenants, and the state of each tenant.
//!
//! * `manifests`: a directory of custom resources, which are rendered here.
//! * `directory`: a directory of rendered tenants, such as a sidecar writes.
//! * `kubernetes`: the rendered Secrets of a pool, watched in the cluster.

mod configz;
mod directory;
mod examine;
mod files;
mod folder;
mod issuers;
mod kubernetes;
mod loader;
mod manifests;
mod policy_versions;
mod rendered;
mod settling;
mod source;
mod tenant_states;
mod tenants;

#[cfg(test)]
mod directory_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod rendered_tests;
#[cfg(test)]
mod tests;

pub use configz::{Configz, ContestedIssuer, SinkState, SinkStates, State, Status, TenantStatus};
pub use examine::{Examined, examine};
pub use issuers::{Listing, SharedIssuer};
pub use policy_versions::{OwnedByAnother, PolicyError, StoredPolicyVersions};
pub use source::ConfigSource;
pub use tenants::{NotServed, TenantRuntime, Tenants};
