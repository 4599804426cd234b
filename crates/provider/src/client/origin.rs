//! The destination of a connection.

use http::Uri;
use minichat_config::tenant::{Provider, Scheme};

/// A destination. Connections to one origin are interchangeable, whichever
/// tenant, provider or credential used them before.
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

    /// The origin of `uri`; `None` unless it is an `http` or `https` URL. A
    /// user name in it is dropped.
    pub(super) fn of_uri(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let implied = if is_tls { 443 } else { 80 };
        Some(Self {
            is_tls,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(implied),
        })
    }

    /// `host:port`.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host without the brackets of an IPv6 address.
    pub(super) fn bare_host(&self) -> &str {
        self.host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&self.host)
    }
}
