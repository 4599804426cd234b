//! Where outgoing calls may go, and through which proxy (D47, D48): the settings
//! `outbound.*` of a process, and the rules for addresses.
//!
//! Tenants choose the addresses of providers, issuers and sinks. Each one is checked
//! twice: the host as written, when the manifest is rendered; and the resolved
//! address, when the connection is opened. So a changed DNS answer cannot bypass
//! the check. [`AllowPrivate`] refuses; [`address`] only says what kind an address is.

mod address;
mod allow_private;
mod literal;
pub(crate) mod proxy;
mod refusal;

#[cfg(test)]
mod tests;

pub use address::{AddressClass, carried};
pub use allow_private::{AllowPrivate, EntryError};
pub use literal::literal;
pub use proxy::Proxies;
pub use refusal::{Refusal, RefusalReason};

use std::path::PathBuf;

/// `outbound.*`: allowed addresses, trusted certificates and proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Loopback and private addresses that providers, issuers and sinks of tenants may have.
    pub allow_private: AllowPrivate,
    /// PEM file with certificate authorities, in addition to the public ones.
    pub ca_file: Option<PathBuf>,
    /// Proxies for outgoing calls.
    pub proxies: Proxies,
}
