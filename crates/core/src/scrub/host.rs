//! Finds locations of a provider in a text: URLs, host names, IP addresses and
//! e-mail addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{EMAIL, HOST, Match, URL, is_id_char, run};

/// Last labels by which a name is recognised as a host. Other dotted names, such as
/// `messages.content`, are more likely names of parameters.
const TOP_LABELS: [&str; 42] = [
    "ai",
    "app",
    "arpa",
    "at",
    "biz",
    "ch",
    "cloud",
    "cluster",
    "cn",
    "co",
    "com",
    "corp",
    "de",
    "dev",
    "edu",
    "eu",
    "example",
    "fr",
    "gov",
    "home",
    "info",
    "internal",
    "intranet",
    "invalid",
    "io",
    "jp",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "me",
    "net",
    "nl",
    "online",
    "org",
    "site",
    "svc",
    "tech",
    "test",
    "uk",
    "us",
    "xyz",
];

/// `http://` or `https://` and what follows.
pub(super) fn web_url(rest: &str) -> Match {
    let scheme = ["https", "http"].into_iter().find(|scheme| {
        let start = rest.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })?;
    after_scheme(rest, scheme.len())
}

/// Any scheme, `://` and what follows.
pub(super) fn url(rest: &str) -> Match {
    let scheme = run(rest, |c| {
        c.is_ascii_alphanumeric() || matches!(c, '+' | '-')
    });
    if scheme > 0 {
        after_scheme(rest, scheme)
    } else {
        None
    }
}

/// Up to a space, a quote or an angle bracket.
fn after_scheme(rest: &str, scheme: usize) -> Match {
    let address = rest[scheme..].strip_prefix("://")?;
    let len = run(address, |c| {
        !c.is_whitespace() && !matches!(c, '"' | '<' | '>' | '`')
    });
    (len > 0).then_some((scheme + 3 + len, URL))
}

/// `name@host`
pub(super) fn email(rest: &str) -> Match {
    let name = run(rest, |c| is_id_char(c) || matches!(c, '.' | '+' | '%'));
    let host = rest[name..].strip_prefix('@')?;
    let len = run(host, |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '-')
    });
    let host = host[..len].trim_end_matches(['.', '-']);
    (name > 0 && host.contains('.')).then_some((name + 1 + host.len(), EMAIL))
}

/// An IP address, with or without brackets, port and path.
pub(super) fn address(rest: &str) -> Match {
    let bracket = rest.len() - rest.trim_start_matches('[').len();
    let inner = &rest[bracket..];
    let len = run(inner, |c| c.is_ascii_hexdigit() || matches!(c, '.' | ':'));
    if bracket > 0 {
        let after = inner[len..].strip_prefix(']')?;
        inner[..len].parse::<IpAddr>().ok()?;
        return Some((bracket + len + 1 + port_and_path(after), HOST));
    }
    let word = inner[..len].trim_end_matches(['.', ':']);
    let v4 = run(word, |c| c.is_ascii_digit() || c == '.');
    if word[..v4].parse::<Ipv4Addr>().is_ok() {
        return ends_at(inner, v4).then(|| (v4 + port_and_path(&inner[v4..]), HOST));
    }
    let is_v6 = word.parse::<Ipv6Addr>().is_ok() && word.contains(|c: char| c.is_ascii_digit());
    (is_v6 && ends_at(inner, word.len())).then_some((word.len(), HOST))
}

/// A name that ends like a host's, or that has a port.
pub(super) fn name(rest: &str) -> Match {
    let len = run(rest, |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '-')
    });
    let name = rest[..len].trim_end_matches(['.', '-']);
    let after = &rest[name.len()..];
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !ends_at(rest, name.len()) {
        return None;
    }
    let labels: Vec<&str> = name.split('.').collect();
    let last = labels
        .last()
        .map(|label| label.to_ascii_lowercase())
        .unwrap_or_default();
    let is_host = match labels.len() {
        1 => last == "localhost" || is_named_like_a_machine(name) && has_port(after),
        _ => TOP_LABELS.contains(&last.as_str()) || has_port(after),
    };
    is_host.then(|| (name.len() + port_and_path(after), HOST))
}

/// Whether the label looks like a machine's name, such as `gpu-01`.
fn is_named_like_a_machine(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.contains(|c: char| c == '-' || c.is_ascii_digit())
}

fn has_port(after: &str) -> bool {
    port(after) > 0
}

/// Bytes of `:` and a port.
fn port(after: &str) -> usize {
    let digits = after
        .strip_prefix(':')
        .map_or(0, |port| run(port, |c| c.is_ascii_digit()));
    if (2..=5).contains(&digits) {
        digits + 1
    } else {
        0
    }
}

fn port_and_path(after: &str) -> usize {
    let port = port(after);
    let path = &after[port..];
    if path.starts_with('/') {
        let path = &path[..run(path, |c| !c.is_whitespace() && !"\"'<>`,)".contains(c))];
        port + path.trim_end_matches('.').len()
    } else {
        port
    }
}

/// Whether the word ends after `len` bytes of `text`.
fn ends_at(text: &str, len: usize) -> bool {
    !text[len..].starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-'))
}
