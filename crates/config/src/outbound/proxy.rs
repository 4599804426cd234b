//! `outbound.proxy` and `outbound.no_proxy`: proxies for outgoing calls (D47).

use crate::process::IpNetwork;
use crate::secret::Secret;

/// The proxy for each scheme, and the destinations that are called without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Proxy for `http://` addresses: an `http://` or `https://` URL, with a user and
    /// a password if the proxy needs them.
    pub http: Option<Secret>,
    /// Proxy for `https://` addresses, in the same form.
    pub https: Option<Secret>,
    /// Networks, host names (including all names below them), or `*`, separated by
    /// commas.
    pub bypass: String,
}

/// Whether `text` is the URL of a proxy: scheme, host, port, optionally a user, no
/// path.
pub(crate) fn is_proxy_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else { return false };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, authority) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(user, authority)| (Some(user), authority));
    let user_is_plain = |user: &str| {
        user.bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/?#@[]\\\"<>^`{|}".contains(&byte))
    };
    let after_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[after_host..].find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(after_host + colon);
            (host, port[1..].parse().unwrap_or(0))
        }
        None => (authority, 80_u16),
    };
    let host_is_plain = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    user.is_none_or(user_is_plain) && host_is_plain && port != 0
}

/// Whether `entry` is a valid entry of `outbound.no_proxy`.
pub(crate) fn is_bypass_entry(entry: &str) -> bool {
    let name = entry.strip_prefix('.').unwrap_or(entry);
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    entry == "*" || entry.parse::<IpNetwork>().is_ok() || is_name
}
