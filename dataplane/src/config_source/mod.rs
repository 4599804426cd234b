//! Where tenants come from, and the registry of those that are served.

mod loader;
mod manifests;
mod policy_versions;
mod status;
mod tenants;

#[cfg(test)]
mod tests;

pub use manifests::ManifestsSource;
pub use policy_versions::StoredPolicyVersions;
pub use status::{Configz, Entry, State, Status};
pub use tenants::{TenantRuntime, Tenants};
