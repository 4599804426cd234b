//! Where tenants come from, and the registry of those that are served.
//!
//! * `manifests`: a directory of custom resources, rendered here.
//! * `directory`: a directory of rendered tenants, as a sidecar has them.
//! * `kubernetes`: the rendered Secrets of a pool, watched in the cluster.

mod directory;
mod examine;
mod files;
mod folder;
mod issuers;
mod kubernetes;
mod loader;
mod manifests;
mod policy_versions;
mod registry;
mod rendered;
mod settling;
mod source;
mod status;
mod tenants;

#[cfg(test)]
mod directory_tests;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod rendered_tests;
#[cfg(test)]
mod tests;

pub use examine::{Examined, examine};
pub use issuers::{Listing, SharedIssuer};
pub use policy_versions::{OwnedByAnother, PolicyError, StoredPolicyVersions};
pub use source::ConfigSource;
pub use status::{Configz, Entry, State, Status};
pub use tenants::{TenantRuntime, Tenants};
