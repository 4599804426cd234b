//! Classifies IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The class of an address, which decides whether the address may be called.
///
/// An IPv6 address that contains an IPv4 address (mapped, NAT64, 6to4) is in the
/// class of that IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// An address on the Internet.
    Public,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// RFC 1918, `100.64.0.0/10`, `fc00::/7`: private networks, such as those of pods
    /// and Services.
    Private,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// A cloud's metadata service, from which machines get their credentials.
    Metadata,
    /// `0.0.0.0/8`, `::`: this host.
    Unspecified,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// Reserved: documentation, benchmarks, protocols, unassigned.
    Reserved,
}

/// Metadata services outside the link-local ranges: Alibaba, Azure.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// Metadata services among the private addresses: AWS (metadata, DNS and pod
/// identity), Google, Scaleway; and the bits that count.
const METADATA_V6: [(Ipv6Addr, u32); 3] = [
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128),
];

/// What IANA reserves: protocol assignments, documentation, the relays of 6to4,
/// benchmarks, and class E.
const RESERVED_V4: [(Ipv4Addr, u32); 7] = [
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The same within `2000::/3`: protocol assignments, of which Teredo is one, and
/// documentation.
const RESERVED_V6: [(Ipv6Addr, u32); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// NAT64 with a local prefix (RFC 8215).
const LOCAL_NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);
const SIX_TO_FOUR: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

impl AddressClass {
    /// The class of `address`.
    pub fn of(address: IpAddr) -> Self {
        match carried(address) {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Whether `outbound.allow_private` can allow it.
    pub const fn can_be_allowed(self) -> bool {
        matches!(self, Self::Loopback | Self::Private)
    }

    /// The name of the class, for messages and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The IPv4 address to which a translator would send packets for `address`, or
/// `address` itself if there is none.
pub fn carried(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else {
        return address.to_canonical();
    };
    if is_in_v6(v6, NAT64) {
        return IpAddr::V4(last_32_bits(v6));
    }
    if is_in_v6(v6, SIX_TO_FOUR) {
        let [_, high, low, ..] = v6.segments();
        return IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    }
    IpAddr::V6(v6)
}

fn of_v4(address: Ipv4Addr) -> AddressClass {
    let shared = (Ipv4Addr::new(100, 64, 0, 0), 10);
    if METADATA_V4.contains(&address) {
        AddressClass::Metadata
    } else if address.octets()[0] == 0 {
        AddressClass::Unspecified
    } else if address.is_loopback() {
        AddressClass::Loopback
    } else if address.is_link_local() {
        AddressClass::LinkLocal
    } else if address.is_private() || is_in_v4(address, shared) {
        AddressClass::Private
    } else if address.is_multicast() {
        AddressClass::Multicast
    } else if address.is_broadcast() {
        AddressClass::Broadcast
    } else if RESERVED_V4.iter().any(|range| is_in_v4(address, *range)) {
        AddressClass::Reserved
    } else {
        AddressClass::Public
    }
}

fn of_v6(address: Ipv6Addr) -> AddressClass {
    if METADATA_V6.iter().any(|range| is_in_v6(address, *range)) {
        AddressClass::Metadata
    } else if address.is_unspecified() {
        AddressClass::Unspecified
    } else if address.is_loopback() {
        AddressClass::Loopback
    } else if address.is_unicast_link_local() {
        AddressClass::LinkLocal
    } else if address.is_unique_local() {
        AddressClass::Private
    } else if address.is_multicast() {
        AddressClass::Multicast
    } else if is_in_v6(address, LOCAL_NAT64) {
        of_local_nat64(address)
    } else if is_in_v6(address, GLOBAL_V6)
        && !RESERVED_V6.iter().any(|range| is_in_v6(address, *range))
    {
        AddressClass::Public
    } else {
        AddressClass::Reserved
    }
}

/// Only the network itself knows where such an address leads. If the contained
/// address must never be called, neither may this one; otherwise it counts as
/// private.
fn of_local_nat64(address: Ipv6Addr) -> AddressClass {
    match of_v4(last_32_bits(address)) {
        AddressClass::Public | AddressClass::Loopback | AddressClass::Private => {
            AddressClass::Private
        }
        never => never,
    }
}

fn last_32_bits(address: Ipv6Addr) -> Ipv4Addr {
    let [.., high, low] = address.segments();
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

fn is_in_v4(address: Ipv4Addr, (network, bits): (Ipv4Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
}

fn is_in_v6(address: Ipv6Addr, (network, bits): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
}
