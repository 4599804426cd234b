//! IP addresses in place of a host name, in every spelling that a resolver
//! accepts.

use std::net::{IpAddr, Ipv4Addr};

/// The address that `host` spells: IPv6 with or without brackets, and IPv4 as
/// `inet_aton` reads it, so that `2130706433`, `0x7f.1` and `0177.0.0.1` are
/// `127.0.0.1`. `None` for a name.
pub fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if bare.contains(':') {
        // A zone does not change the class of an address.
        let address = bare.split('%').next().unwrap_or(bare);
        return address.parse().ok().map(IpAddr::V6);
    }
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    ipv4(bare).map(IpAddr::V4)
}

/// One to four numbers. The last one fills the remaining bytes.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, bytes) = parts.split_last()?;
    if bytes.len() > 3 || bytes.iter().any(|byte| *byte > 255) {
        return None;
    }
    let free_bits = 8 * (4 - u32::try_from(bytes.len()).ok()?);
    if free_bits < 32 && last >> free_bits != 0 {
        return None;
    }
    let high = bytes.iter().fold(0, |bits, byte| bits << 8 | byte);
    let high = high.checked_shl(free_bits).unwrap_or(0);
    Some(Ipv4Addr::from_bits(high | last))
}

/// Decimal, octal after `0`, hexadecimal after `0x`.
fn number(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match (hex, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_number
        .then(|| u32::from_str_radix(digits, radix).ok())
        .flatten()
}
