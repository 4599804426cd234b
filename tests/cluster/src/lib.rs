//! A real Kubernetes on this machine, for test suites and for people.
//! There are two tiers. The *API tier* is etcd, the API server and the controller manager. These are ordinary
//! processes, and any user can start several instances. The *node tier* adds a node that runs pods. It needs root on
//! Linux and exists once per machine, because it owns a bridge and firewall tables.
//! Nothing is imitated. The programs are built once, into a cache, from the Kubernetes sources that the Go modules
//! beside this crate pin. Every process has a pid file, so that a start can clean up after a run that was killed. No
//! process is ever ended by its name.

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
pub mod pki;
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
pub use pki::Authority;
pub use steps::{Step, Steps};

/// Kubeconfig of the cluster for suites of the node tier: a cluster of your own, or the one on this machine.
pub const KUBECONFIG: &str = "MINICHAT_TEST_KUBECONFIG";
/// Directory of the API tier that the suites share.
pub const API_TIER: &str = "MINICHAT_TEST_API_TIER";
