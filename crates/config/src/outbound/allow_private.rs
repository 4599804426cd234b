//! `outbound.allow_private`: which loopback and private addresses providers,
//! issuers and sinks of tenants may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::address::{AddressClass, carried};
use super::literal::literal;
use super::refusal::{Refusal, RefusalReason};
use crate::process::IpNetwork;

/// Maximum number of entries in a list.
const MAX_ENTRIES: usize = 64;

/// Maximum length of a host name (RFC 1035).
const MAX_NAME: usize = 253;

/// Networks and host names whose loopback and private addresses may be called.
///
/// * A network allows the addresses in it, and names that resolve to them.
/// * A name allows the private addresses to which it and the names below it
///   resolve. A name with a leading dot allows only the names below it.
/// * Only a network can allow loopback addresses, because the owner of a name may
///   let it resolve to any address.
/// * No entry allows an address of a class that is never called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowPrivate {
    networks: Vec<IpNetwork>,
    names: Vec<Name>,
}

/// A host name of the list, in lower case, with the dots around it taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    text: String,
    only_below: bool,
}

/// An invalid entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Neither a network nor a name.
    #[error(
        "`{0}` is neither a network such as `10.0.0.0/8` nor a host name such as `.models.svc.cluster.local`"
    )]
    Unreadable(String),
    /// A network without private addresses, which needs no entry.
    #[error(
        "`{0}` has no private address: public ones need no entry, and link-local and reserved ones are never called"
    )]
    NothingPrivate(String),
    /// The list is too long.
    #[error("must have at most {MAX_ENTRIES} entries")]
    TooMany,
}

impl AllowPrivate {
    /// No loopback and no private address.
    pub const NOTHING: Self = Self {
        networks: Vec::new(),
        names: Vec::new(),
    };

    /// Every loopback and private address, for development.
    pub fn everything() -> Self {
        Self {
            networks: private_networks().collect(),
            names: Vec::new(),
        }
    }

    /// Reads the entries of a list and skips empty ones.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, EntryError> {
        let mut list = Self::default();
        for entry in entries {
            let entry = entry.trim();
            if entry.is_empty() {
                continue;
            }
            if let Ok(network) = entry.parse::<IpNetwork>() {
                if !private_networks().any(|private| private.overlaps(&network)) {
                    return Err(EntryError::NothingPrivate(entry.to_owned()));
                }
                list.networks.push(network);
            } else {
                let name = Name::parse(entry);
                let name = name.ok_or_else(|| EntryError::Unreadable(entry.to_owned()))?;
                list.names.push(name);
            }
        }
        if list.networks.len() + list.names.len() > MAX_ENTRIES {
            return Err(EntryError::TooMany);
        }
        Ok(list)
    }

    /// Whether `address`, to which `host` was resolved, may be called. The connector
    /// checks the address to which it then connects.
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refusal> {
        let class = AddressClass::of(address);
        let is_allowed = match class {
            AddressClass::Public => true,
            AddressClass::Loopback => self.allows_network_of(address),
            AddressClass::Private => self.allows_network_of(address) || self.allows_name(host),
            _ => false,
        };
        let refuse = || Refusal::new(host, RefusalReason::Address(address, class));
        is_allowed.then_some(()).ok_or_else(refuse)
    }

    /// Checks `host` without resolving it. Refuses an address that may not be called,
    /// and a name of the cluster or the local network if no entry allows it. A name
    /// that passes is checked again when it has been resolved.
    pub fn check_host(&self, host: &str) -> Result<(), Refusal> {
        if let Some(address) = literal(host) {
            return self.check_address(host, address);
        }
        let name = normalized(host);
        let refuse = |reason| Err(Refusal::new(host, reason));
        if METADATA_NAMES.contains(&name.as_str()) {
            return refuse(RefusalReason::MetadataName);
        }
        let is_reachable = if is_below(&name, "localhost") {
            self.networks.iter().any(may_hold_loopback)
        } else if is_local(&name) {
            self.networks.iter().any(may_hold_private) || self.allows_name(host)
        } else {
            true
        };
        if is_reachable {
            Ok(())
        } else {
            refuse(RefusalReason::LocalName)
        }
    }

    fn allows_network_of(&self, address: IpAddr) -> bool {
        let address = carried(address);
        self.networks.iter().any(|it| it.contains(address))
    }

    fn allows_name(&self, host: &str) -> bool {
        if literal(host).is_some() {
            return false;
        }
        let host = normalized(host);
        self.names.iter().any(|name| name.covers(&host))
    }
}

impl FromStr for AllowPrivate {
    type Err = EntryError;

    /// Entries separated by commas.
    fn from_str(list: &str) -> Result<Self, EntryError> {
        Self::parse(list.split(','))
    }
}

impl Name {
    fn parse(entry: &str) -> Option<Self> {
        let text = entry.strip_prefix('.').unwrap_or(entry);
        let name = normalized(text);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let is_name = name.len() <= MAX_NAME && name.split('.').all(is_label);
        // It looks like an address, so it is a misspelt one.
        (is_name && literal(&name).is_none()).then_some(Self {
            only_below: text.len() < entry.len(),
            text: name,
        })
    }

    fn covers(&self, host: &str) -> bool {
        let covers = |text: &str| is_below(host, text) && !(self.only_below && host == text);
        // In a pod, the DNS search list makes `a.b.svc` mean `a.b.svc.cluster.local`.
        // A cluster with another domain needs an entry for each of the two.
        let short = self.text.strip_suffix(".cluster.local");
        let short = short.filter(|short| is_below(short, "svc"));
        covers(&self.text) || short.is_some_and(covers)
    }
}

/// Names of metadata services. They resolve to addresses that are never called.
const METADATA_NAMES: [&str; 2] = ["metadata.google.internal", "metadata.goog"];

/// Domains that no public resolver knows.
const LOCAL_DOMAINS: [&str; 6] = [
    "svc",
    "cluster.local",
    "local",
    "internal",
    "home.arpa",
    "localdomain",
];

/// Whether `name` belongs to the cluster or the local network: it is below a domain
/// that no public resolver knows, or it has no dot, so that only a search list can
/// resolve it.
fn is_local(name: &str) -> bool {
    !name.contains('.') || LOCAL_DOMAINS.iter().any(|domain| is_below(name, domain))
}

/// Whether `name` is `domain` or ends in it.
fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn normalized(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn private_networks() -> impl Iterator<Item = IpNetwork> {
    let v4 = |a, b, bits| IpNetwork::new(Ipv4Addr::new(a, b, 0, 0).into(), bits);
    [
        v4(127, 0, 8),
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(192, 168, 16),
        v4(100, 64, 10),
        IpNetwork::new(Ipv6Addr::LOCALHOST.into(), 128),
        IpNetwork::new(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), 7),
        IpNetwork::new(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0).into(), 48),
    ]
    .into_iter()
    .flatten()
}

fn may_hold_loopback(network: &IpNetwork) -> bool {
    let mut private = private_networks().filter(IpNetwork::is_loopback);
    private.any(|loopback| loopback.overlaps(network))
}

fn may_hold_private(network: &IpNetwork) -> bool {
    let mut private = private_networks().filter(|it| !it.is_loopback());
    private.any(|private| private.overlaps(network))
}
