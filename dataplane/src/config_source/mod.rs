//! Where tenants come from, and the registry of those that are served.

mod policy_versions;
mod tenants;

pub use policy_versions::StoredPolicyVersions;
pub use tenants::{TenantRuntime, Tenants};
