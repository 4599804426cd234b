//! Where a connection leads.

use minichat_config::tenant::{Provider, Scheme};

/// Connections to one origin are interchangeable, whichever tenant, provider
/// or credential they served.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Origin {
    pub(super) is_tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    pub(super) fn of(provider: &Provider) -> Self {
        Self {
            is_tls: provider.scheme == Scheme::Https,
            host: provider.host.clone(),
            port: provider.port,
        }
    }

    /// The host without the brackets of an IPv6 address.
    pub(super) fn bare_host(&self) -> &str {
        self.host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&self.host)
    }
}
