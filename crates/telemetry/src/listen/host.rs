//! The `Host` header of a request (RFC 9112 section 3.2).

use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Version};

/// Why the `Host` of a request is refused with 400.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    #[error("is missing; send exactly one")]
    Missing,
    #[error("is there more than once; send exactly one")]
    Repeated,
    #[error("must be a host name or an address with an optional port, or empty")]
    Malformed,
}

/// Checks that a request has exactly one `Host`; only HTTP/1.0 may omit it. The value
/// does not matter, because everything is served under every name.
pub fn check_host(version: Version, headers: &HeaderMap) -> Result<(), HostError> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err(HostError::Missing),
        (Some(_), Some(_)) => Err(HostError::Repeated),
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(HostError::Malformed),
    }
}

fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else {
        return false;
    };
    let is_authority = text.parse::<Authority>().is_ok() && !text.contains('@');
    text.is_empty() || is_authority
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, hosts: &[&'static str]) -> Result<(), HostError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        check_host(version, &headers)
    }

    #[test]
    fn a_request_has_one_host() {
        for host in ["a", "a.example:80", "127.0.0.1", "[::1]:8080", ""] {
            assert_eq!(check(Version::HTTP_11, &[host]), Ok(()), "{host}");
        }
        for host in ["a b", "a/b", "me@a", "a,b c", "http://a"] {
            let refused = check(Version::HTTP_11, &[host]);
            assert_eq!(refused, Err(HostError::Malformed), "{host}");
        }
        assert_eq!(check(Version::HTTP_11, &[]), Err(HostError::Missing));
        assert_eq!(check(Version::HTTP_10, &[]), Ok(()));
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(check(version, &["a", "a"]), Err(HostError::Repeated));
        }
    }
}
