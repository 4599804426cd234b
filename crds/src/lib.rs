//! The custom resources of minichat: their types, the rules that the API server
//! and a laptop apply alike, and the rendering into a tenant's configuration.
//!
//! * [`chat_tenant`], [`chat_quota`]: the types; the manifests under
//!   `crds/manifests` are generated from them.
//! * [`admit`]: what the API server does to an object before it is stored:
//!   defaults, schema and CEL rules, with the same messages (K8S-4).
//! * [`mod@render`]: resources and Secrets to one tenant's configuration, pure.
//! * [`manifests`]: a directory of YAML files to rendered tenants.

pub mod admit;
pub mod cases;
pub mod chat_quota;
pub mod chat_tenant;
pub mod generate;
pub mod manifests;
pub mod quantity;
mod reference;
pub mod render;
pub mod status;

pub use chat_quota::{ChatQuota, ChatQuotaSpec};
pub use chat_tenant::{ChatTenant, ChatTenantSpec};
pub use manifests::Manifests;
pub use quantity::Credits;
pub use render::{RenderSettings, Rendered, render};

/// API group of every kind.
pub const GROUP: &str = "minichat.dev";
/// The only version.
pub const VERSION: &str = "v1alpha1";
