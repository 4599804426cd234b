//! Where calls may go, and by which way (D47, D48): the settings `outbound.*` of
//! a process, and the rules of addresses behind them.
//!
//! Providers and issuers are addresses that tenants write. What a tenant names
//! is checked twice: as it is written, when its manifest is rendered, and as it
//! is resolved, at the socket, so that no answer of DNS changes it in between.

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

/// `outbound.*`: whom tenants may have called, whom those are believed to be,
/// and the way there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Loopback and private addresses that tenants may have called.
    pub allow_private: AllowPrivate,
    /// Certificates in PEM that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// By whom calls go out.
    pub proxies: Proxies,
}
