//! The custom resources of minichat: their types, the rules that the API server
//! and a laptop apply alike, and the rendering into a tenant's configuration.
//!
//! * [`chat_tenant`], [`chat_quota`]: the types; the manifests under
//!   `crds/manifests` are generated from them.
//! * [`validation`]: what the API server does to an object before it is stored:
//!   defaults, schema and CEL rules, with the same messages (K8S-4).
//! * [`mod@render`]: resources and Secrets to one tenant's configuration, pure.
//! * [`rendered_secret`]: the Secret in which a rendered tenant travels from the
//!   operator to the data plane, written and read in one place (K8S-20).
//! * [`manifests`]: a directory of YAML files to rendered tenants.

pub mod cases;
pub mod chat_quota;
pub mod chat_tenant;
pub mod generate;
pub mod manifests;
pub mod quantity;
mod reference;
pub mod render;
pub mod rendered_secret;
mod revision;
pub mod status;
pub mod validation;

pub use chat_quota::{ChatQuota, ChatQuotaSpec};
pub use chat_tenant::{ChatTenant, ChatTenantSpec};
pub use manifests::Manifests;
pub use quantity::Credits;
pub use render::{RenderSettings, Rendered, render};
pub use rendered_secret::RenderedTenant;
pub use revision::Revisions;

/// API group of every kind.
pub const GROUP: &str = "minichat.dev";
/// The only version.
pub const VERSION: &str = "v1alpha1";
