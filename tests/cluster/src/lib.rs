//! A real Kubernetes on this machine, for the suites and for people.
//!
//! There are two tiers. The *API tier* is etcd, the API server and the controller
//! manager: ordinary processes of whoever starts them, as many instances as one
//! likes. The *node tier* adds a node that runs pods; it belongs to root on Linux
//! and exists once per machine, since it owns a bridge and firewall tables.
//!
//! Nothing is imitated: the programs are built from the sources of Kubernetes,
//! pinned by the Go modules beside this crate, once into a cache. Every process
//! is owned by a pid file, so that a start can clean up after a run that was
//! killed, and no process is ever ended by its name.

pub mod api;
pub mod audit;
mod command;
pub mod helm;
pub mod image;
mod kubeconfig;
pub mod kubectl;
pub mod node;
mod package_user;
pub mod packages;
mod pki;
mod processes;
pub mod programs;
pub mod state;
pub mod steps;
mod wait;

pub use api::{ApiTier, OwnedApiTier};
pub use audit::Write;
pub use helm::Helm;
pub use kubectl::Kubectl;
pub use node::NodeTier;
pub use package_user::PackageUser;
pub use steps::{Step, Steps};

/// Kubeconfig of the cluster that the suites of the node tier use: one's own, or the one of this machine.
pub const KUBECONFIG: &str = "MINICHAT_TEST_KUBECONFIG";
/// Directory of the API tier that the suites share.
pub const API_TIER: &str = "MINICHAT_TEST_API_TIER";
