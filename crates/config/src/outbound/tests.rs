//! Classes of addresses, and the addresses that a list allows (D48).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn allow(list: &str) -> AllowPrivate {
    list.parse().unwrap()
}

/// Addresses of each class, at both ends of their ranges, in every form.
const CLASSES: &[(AddressClass, &[&str])] = &[
    (
        AddressClass::Public,
        &[
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "168.63.129.15",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:200::",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "::ffff:1.1.1.1",
        ],
    ),
    (
        AddressClass::Loopback,
        &[
            "127.0.0.1",
            "127.255.255.255",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ],
    ),
    (
        AddressClass::Private,
        &[
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.168.0.0",
            "100.64.0.0",
            "100.127.255.255",
            "fc00::",
            "fdff::1",
            "::ffff:10.96.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::",
            "64:ff9b:1::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
        ],
    ),
    (
        AddressClass::LinkLocal,
        &[
            "169.254.0.0",
            "169.254.169.254",
            "169.254.170.2",
            "fe80::1",
            "febf::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "64:ff9b:1::169.254.169.254",
        ],
    ),
    (
        AddressClass::Metadata,
        &[
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:42::42",
            "64:ff9b::168.63.129.16",
            "::ffff:100.100.100.200",
        ],
    ),
    (
        AddressClass::Unspecified,
        &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "64:ff9b::"],
    ),
    (
        AddressClass::Multicast,
        &[
            "224.0.0.1",
            "239.255.255.255",
            "ff02::1",
            "::ffff:224.0.0.1",
        ],
    ),
    (
        AddressClass::Broadcast,
        &["255.255.255.255", "::ffff:255.255.255.255"],
    ),
    (
        AddressClass::Reserved,
        &[
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "240.0.0.1",
            "255.255.255.254",
            "::2",
            "::10.0.0.1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "3fff::1",
            "4000::1",
            "fec0::1",
            "5f00::1",
        ],
    ),
];

#[test]
fn every_kind_is_told_in_every_disguise() {
    for (class, addresses) in CLASSES {
        for address in *addresses {
            assert_eq!(AddressClass::of(ip(address)), *class, "{address}");
        }
    }
}

/// D48: only loopback and private addresses can be allowed at all.
#[test]
fn nothing_allows_what_is_never_called() {
    let all = allow("0.0.0.0/0, ::/0, example.com, internal, local, svc.cluster.local");
    let nothing = AllowPrivate::NOTHING;
    for (class, addresses) in CLASSES {
        for address in *addresses {
            let address = ip(address);
            let can_be = class.can_be_allowed() || *class == AddressClass::Public;
            for host in [address.to_string().as_str(), "models.internal"] {
                assert_eq!(
                    all.check_address(host, address).is_ok(),
                    can_be,
                    "{address}"
                );
                let is_public = *class == AddressClass::Public;
                assert_eq!(
                    nothing.check_address(host, address).is_ok(),
                    is_public,
                    "{address}"
                );
            }
        }
    }
}

#[test]
fn everything_private_is_what_developers_get() {
    let everything = AllowPrivate::everything();
    for (class, addresses) in CLASSES {
        for address in *addresses {
            let is_allowed = everything.check_address("host", ip(address)).is_ok();
            assert_eq!(
                is_allowed,
                class.can_be_allowed() || *class == AddressClass::Public,
                "{address}"
            );
        }
    }
    for host in [
        "localhost",
        "scripted-provider",
        "a.b.svc",
        "models.internal",
    ] {
        assert_eq!(everything.check_host(host), Ok(()));
    }
}

#[test]
fn a_network_allows_its_addresses_in_every_disguise_and_no_other() {
    let list = allow("10.1.0.0/16,fd12::/16,127.0.0.1");
    for allowed in [
        "10.1.255.255",
        "::ffff:10.1.0.1",
        "64:ff9b::10.1.0.1",
        "2002:a01:1::",
        "fd12::1",
        "127.0.0.1",
    ] {
        assert_eq!(
            list.check_address("models.example.com", ip(allowed)),
            Ok(()),
            "{allowed}"
        );
    }
    for refused in ["10.2.0.1", "127.0.0.2", "::1", "fd13::1", "192.168.0.1"] {
        assert!(
            list.check_address("models.example.com", ip(refused))
                .is_err(),
            "{refused}"
        );
    }
}

/// A name is allowed by its name, an address by the address only, and loopback
/// by networks only.
#[test]
fn a_name_allows_the_private_addresses_that_it_resolves_to() {
    let list = allow("models.internal, .team.svc.cluster.local");
    let private = ip("10.96.0.7");
    for allowed in [
        "models.internal",
        "MODELS.internal.",
        "vllm.models.internal",
        "vllm.team.svc.cluster.local",
        "vllm.team.svc",
        "a.vllm.team.svc.",
    ] {
        assert_eq!(list.check_address(allowed, private), Ok(()), "{allowed}");
        assert_eq!(list.check_host(allowed), Ok(()), "{allowed}");
        for never in ["127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254"] {
            assert!(
                list.check_address(allowed, ip(never)).is_err(),
                "{allowed} at {never}"
            );
        }
    }
    for entry in [
        ".svc.corp.example",
        "team.svc.corp.example",
        ".svc.cluster.local.example",
        ".xsvc.cluster.local",
    ] {
        let list = allow(entry);
        for service in [
            "kubernetes.default.svc",
            "vllm.team.svc",
            "team.svc",
            "a.xsvc",
        ] {
            let refused = list.check_address(service, private);
            assert!(refused.is_err(), "{entry} for {service}");
        }
    }
    for refused in [
        "models.internal.example.com",
        "xmodels.internal",
        "team.svc.cluster.local",
        "team.svc",
        "vllm.other.svc.cluster.local",
        "vllm.other.svc",
        "vllm.team",
        "10.96.0.7",
    ] {
        assert!(list.check_address(refused, private).is_err(), "{refused}");
    }
}

#[test]
fn what_cannot_be_reached_is_known_from_its_spelling() {
    let nothing = AllowPrivate::NOTHING;
    for refused in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "[::1]",
        "::1",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "10.0.0.5",
        "0xa9fea9fe",
        "[fe80::1%25eth0]",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "vllm",
        "vllm.models.svc",
        "vllm.models.svc.cluster.local",
        "models.internal",
        "nas.local",
        "metadata.google.internal",
    ] {
        assert!(nothing.check_host(refused).is_err(), "{refused}");
    }
    for passed in [
        "api.openai.com",
        "1.1.1.1",
        "[2606:4700::1111]",
        "localhost.example.com",
        "internal.example.com",
        "256.1.1.1.example.com",
        "svc.example.com",
    ] {
        assert_eq!(nothing.check_host(passed), Ok(()), "{passed}");
    }
    // If any private network is allowed, a local name may resolve into it. The
    // address is checked when the connection is opened.
    assert_eq!(allow("10.0.0.0/8").check_host("vllm.models.svc"), Ok(()));
    assert!(allow("10.0.0.0/8").check_host("localhost").is_err());
    assert!(allow("127.0.0.0/8").check_host("vllm.models.svc").is_err());
    assert_eq!(allow("127.0.0.0/8").check_host("localhost"), Ok(()));
    assert!(
        allow("0.0.0.0/0")
            .check_host("metadata.google.internal")
            .is_err()
    );
}

#[test]
fn a_refusal_says_what_to_write() {
    let nothing = AllowPrivate::NOTHING;
    let said = |refused: Result<(), Refusal>| refused.unwrap_err().to_string();
    assert_eq!(
        said(nothing.check_host("10.0.0.5")),
        "10.0.0.5 is a private address, which may not be called: write another one, or have \
         `10.0.0.5` added to outbound.allow_private (in the chart outbound.allowPrivate)"
    );
    assert_eq!(
        said(nothing.check_address("models.example.com", ip("10.0.0.5"))),
        "models.example.com resolves to 10.0.0.5, a private address, which may not be called: \
         write another one, or have `models.example.com` or `10.0.0.5` added to \
         outbound.allow_private (in the chart outbound.allowPrivate)"
    );
    assert_eq!(
        said(nothing.check_host("vLLM.models.svc")),
        "vLLM.models.svc is a name of the cluster or of the local network, which may not be \
         called: write another one, or have `vllm.models.svc` added to outbound.allow_private \
         (in the chart outbound.allowPrivate)"
    );
    assert_eq!(
        said(nothing.check_host("0xa9fea9fe")),
        "0xa9fea9fe is a link-local address, which is never called: write the address of another \
         server"
    );
}

/// The entry that a refusal proposes allows the refused host.
#[test]
fn the_proposed_entry_helps() {
    for (host, address) in [
        ("10.0.0.5", "10.0.0.5"),
        ("0x7f.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[64:ff9b::10.0.0.1]", "64:ff9b::10.0.0.1"),
        ("vllm", "10.0.0.5"),
        ("vllm.models.svc", "10.0.0.5"),
        ("models.example.com", "fd12::1"),
        ("models.example.com", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
    ] {
        let check = |list: &AllowPrivate| {
            list.check_host(host)
                .and_then(|()| list.check_address(host, ip(address)))
        };
        let refusal = check(&AllowPrivate::NOTHING).unwrap_err().to_string();
        let proposed: Vec<_> = refusal.split('`').skip(1).step_by(2).collect();
        assert!(!proposed.is_empty(), "{refusal}");
        for entry in proposed {
            assert_eq!(check(&allow(entry)), Ok(()), "{host}: {entry}");
        }
    }
}

#[test]
fn entries_that_are_none_are_refused_with_their_text() {
    for (wrong, part) in [
        ("10.0.0.0/33", "neither a network"),
        ("http://models.internal", "neither a network"),
        ("models.internal:8000", "neither a network"),
        ("*.svc.cluster.local", "neither a network"),
        ("..svc", "neither a network"),
        (".", "neither a network"),
        ("10.0.0", "neither a network"),
        ("169.254.169.254", "has no private address"),
        ("8.8.8.0/24", "has no private address"),
        ("fe80::/10", "has no private address"),
    ] {
        let error = wrong.parse::<AllowPrivate>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(wrong), "{error}");
    }
    assert_eq!(allow(" , "), AllowPrivate::NOTHING);
    assert_eq!(
        vec!["10.0.0.1"; 65].join(",").parse::<AllowPrivate>(),
        Err(EntryError::TooMany)
    );
}

/// Every spelling of an IPv4 address that resolvers understand.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let bits = address.to_bits();
    vec![
        format!("{a}.{b}.{c}.{d}"),
        format!("{bits}"),
        format!("{bits:#x}"),
        format!("{bits:#X}"),
        format!("0{bits:o}"),
        format!("{a}.{}", bits & 0xff_ffff),
        format!("{a:#x}.0{b:o}.{}", bits & 0xffff),
        format!("0{a:o}.{b}.{c:#x}.{d}."),
        format!("[::ffff:{a}.{b}.{c}.{d}]"),
    ]
}

proptest! {
    #[test]
    fn every_spelling_of_an_address_is_that_address(bits: u32) {
        let address = Ipv4Addr::from_bits(bits);
        for spelling in spellings(address) {
            let read = literal(&spelling).map(|read| read.to_canonical());
            prop_assert_eq!(read, Some(IpAddr::V4(address)), "{}", spelling);
        }
    }

    #[test]
    fn whatever_carries_an_ipv4_address_is_judged_as_that(bits: u32, list in "(10|172|192)\\.[0-9]{1,2}\\.0\\.0/[0-9]") {
        let plain = Ipv4Addr::from_bits(bits);
        let list = list.parse::<AllowPrivate>().unwrap_or_default();
        let low = u128::from(bits);
        let disguises = [
            Ipv6Addr::from_bits(0xffff_0000_0000 | low),
            Ipv6Addr::from_bits(0x64_ff9b << 96 | low),
            Ipv6Addr::from_bits(0x2002 << 112 | low << 80),
        ];
        let expected = list.check_address("host", plain.into()).is_ok();
        for disguise in disguises {
            prop_assert_eq!(AddressClass::of(disguise.into()), AddressClass::of(plain.into()));
            prop_assert_eq!(list.check_address("host", disguise.into()).is_ok(), expected);
        }
    }

    /// No list allows more than loopback and private addresses, and every
    /// spelling of an address is checked as the address.
    #[test]
    fn no_list_allows_more_than_private_addresses(
        bits: u128, small: bool,
        entries in proptest::collection::vec("[0-9a-f.:]{1,12}/[0-9]{1,3}|[a-z.]{1,12}", 0..8),
    ) {
        let address: IpAddr = if small {
            Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).unwrap()).into()
        } else {
            Ipv6Addr::from_bits(bits).into()
        };
        let good = entries.iter().filter(|entry| entry.parse::<AllowPrivate>().is_ok());
        let list = AllowPrivate::parse(good.map(String::as_str)).unwrap();
        let class = AddressClass::of(address);
        if list.check_address("a.b", address).is_ok() {
            prop_assert!(class == AddressClass::Public || class.can_be_allowed());
        }
        let spelt = address.to_string();
        prop_assert_eq!(list.check_host(&spelt), list.check_address(&spelt, address));
    }

    #[test]
    fn no_host_panics(host in ".{0,40}", list in ".{0,40}") {
        let list = list.parse::<AllowPrivate>().unwrap_or_default();
        let _ = list.check_host(&host);
        let _ = literal(&host);
    }
}
