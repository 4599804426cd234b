//! Why an address may not be called, and what to do about it.

use std::fmt;
use std::net::IpAddr;

use super::AddressClass;

/// A destination that may not be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The host as it was written.
    pub host: String,
    /// What is wrong with it.
    pub reason: RefusalReason,
}

/// What is wrong with a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalReason {
    /// The host is, or resolves to, an address of a class that may never be called, or
    /// only if an entry allows it.
    Address(IpAddr, AddressClass),
    /// The name belongs to the cluster or the local network, and no entry allows it.
    LocalName,
    /// The name is that of a cloud's metadata service.
    MetadataName,
    /// The process itself listens there.
    OwnListener(IpAddr, u16),
}

impl RefusalReason {
    /// The class of the address in one word, for logs.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Address(_, class) => class.as_str(),
            Self::LocalName => "local name",
            Self::MetadataName => AddressClass::Metadata.as_str(),
            Self::OwnListener(..) => "own listener",
        }
    }
}

impl Refusal {
    pub(super) fn new(host: &str, reason: RefusalReason) -> Self {
        let host = host.to_owned();
        Self { host, reason }
    }

    /// The refusal of an address on which the process itself listens.
    pub fn own_listener(host: &str, address: IpAddr, port: u16) -> Self {
        Self::new(host, RefusalReason::OwnListener(address, port))
    }

    /// The entry of `outbound.allow_private` that would allow the host, if there is one.
    fn entries(&self) -> Option<String> {
        match &self.reason {
            RefusalReason::Address(address, class) if class.can_be_allowed() => {
                let address = super::address::carried(*address);
                let is_private_name =
                    *class == AddressClass::Private && super::literal(&self.host).is_none();
                Some(if is_private_name {
                    format!("`{}` or `{address}`", plain(&self.host))
                } else {
                    format!("`{address}`")
                })
            }
            RefusalReason::LocalName if plain(&self.host) == "localhost" => {
                Some("`127.0.0.0/8`".to_owned())
            }
            RefusalReason::LocalName => Some(format!("`{}`", plain(&self.host))),
            _ => None,
        }
    }
}

/// The name in the form that entries have.
fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match &self.reason {
            RefusalReason::Address(address, class) => {
                let article = match class {
                    AddressClass::Unspecified => "an",
                    _ => "a",
                };
                if super::literal(host).is_some() {
                    write!(f, "{host} is {article} {class} address")?;
                } else {
                    write!(f, "{host} resolves to {address}, {article} {class} address")?;
                }
            }
            RefusalReason::LocalName => {
                write!(f, "{host} is a name of the cluster or of the local network")?;
            }
            RefusalReason::MetadataName => write!(f, "{host} is a cloud's metadata service")?,
            RefusalReason::OwnListener(address, port) => {
                write!(
                    f,
                    "{host} leads to {address}, port {port}, where this process itself listens"
                )?;
            }
        }
        match self.entries() {
            Some(entries) => write!(
                f,
                ", which may not be called: write another one, or have {entries} added to \
                 outbound.allow_private (in the chart outbound.allowPrivate)"
            ),
            None => f.write_str(", which is never called: write the address of another server"),
        }
    }
}

impl std::error::Error for Refusal {}
