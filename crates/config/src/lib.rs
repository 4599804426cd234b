//! Configuration: what an operator or a manifest writes (raw form) becomes a
//! validated form that the rest of the program can trust. Every fault of a
//! document is reported at once, with the path of the field.
//!
//! * [`tenant`]: one tenant's document, as rendered from its custom resources.
//! * [`process`]: the settings of one process, from a file and the environment.

pub mod canonical;
pub mod fault;
pub mod issuer;
pub mod outbound;
pub mod postgres_url;
pub mod process;
pub mod secret;
pub mod tenant;
pub mod yaml;

pub use fault::{Fault, Faults};
pub use issuer::Issuer;
pub use outbound::AllowPrivate;
pub use postgres_url::PostgresUrl;
pub use process::ProcessConfig;
pub use secret::{Credentials, Secret};
pub use tenant::{Model, Provider, ProviderKind, TenantConfig};
