//! Addresses that a tenant writes as one URL: webhooks.

use std::fmt;

use super::provider::Scheme;
use super::request_line;

/// Longest URL in bytes.
const MAX_BYTES: usize = 2048;

/// An `http` or `https` URL, taken apart as a provider's address is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    /// Plain or encrypted.
    pub scheme: Scheme,
    /// Host name or address; an IPv6 address is in brackets.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
    /// Path, at least `/`, and query.
    pub path_and_query: String,
}

/// What a URL must look like, for messages.
pub(super) const WRITE: &str = "must be a URL of at most 2048 bytes such as `https://billing.example.com/minichat`, with neither a user name nor a fragment; write other characters as `%20`";

impl HttpUrl {
    /// Reads `url`. `None` if it is none of these.
    pub fn parse(url: &str) -> Option<Self> {
        if url.len() > MAX_BYTES {
            return None;
        }
        let (scheme, rest) = match url.strip_prefix("http://") {
            Some(rest) => (Scheme::Http, rest),
            None => (Scheme::Https, url.strip_prefix("https://")?),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = host_and_port(authority, scheme)?;
        let path_and_query = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        };
        // Braces are for the paths of providers.
        let is_target = request_line::is_api_path(&path_and_query) && !target.contains('{');
        is_target.then(|| Self {
            scheme,
            host: host.to_owned(),
            port,
            path_and_query,
        })
    }

    /// `host:port`, the port left out where the scheme implies it: the `Host` header.
    pub fn authority(&self) -> String {
        self.scheme.authority(&self.host, self.port)
    }
}

/// For messages and logs: without the query, which may hold a key.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme, self.authority())
    }
}

fn host_and_port(authority: &str, scheme: Scheme) -> Option<(&str, u16)> {
    // In an IPv6 address colons stand before the closing bracket.
    let after_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[after_host..].find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(after_host + colon);
            let digits = &port[1..];
            let is_number = digits.bytes().all(|b| b.is_ascii_digit());
            (host, is_number.then_some(digits)?.parse().ok()?)
        }
        None => (authority, scheme.default_port()),
    };
    (port != 0 && is_host(host)).then_some((host, port))
}

/// A name, or an address; one of IPv6 is in brackets.
fn is_host(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (url, host, port, path, authority) in [
            ("https://a.example", "a.example", 443, "/", "a.example"),
            ("https://a.example/", "a.example", 443, "/", "a.example"),
            ("http://a:80/x", "a", 80, "/x", "a"),
            (
                "https://10.0.0.1:8443/x/y?z=1&u=%20",
                "10.0.0.1",
                8443,
                "/x/y?z=1&u=%20",
                "10.0.0.1:8443",
            ),
            ("https://a?k=v", "a", 443, "/?k=v", "a"),
            ("http://[::1]:1/x", "[::1]", 1, "/x", "[::1]:1"),
        ] {
            let parsed = HttpUrl::parse(url).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{url}");
            assert_eq!(parsed.path_and_query, path, "{url}");
            assert_eq!(parsed.authority(), authority, "{url}");
        }
    }

    /// D48: nothing in a URL leads elsewhere than its host says.
    #[test]
    fn what_is_no_plain_url_is_refused() {
        let long = format!("https://a.example/{}", "x".repeat(MAX_BYTES));
        for url in [
            "",
            "a.example",
            "ftp://a.example",
            "HTTPS://a.example",
            "https://",
            "https:///x",
            "https://:443/x",
            "https://a:0/x",
            "https://a:/x",
            "https://a:+1/x",
            "https://a:65536",
            "https://user@a.example/x",
            "https://user:pass@a.example/x",
            "https://a.example//x",
            "https://a.example/x#y",
            "https://a.example#y",
            "https://a.example/x y",
            "https://a.example/x\r\nHost: b",
            "https://a.example\\@b/x",
            "https://a.example/{model}",
            "https://ä.example",
            "https://[::1/x",
            "https://[x]/",
            "https://a[::1]/",
            long.as_str(),
        ] {
            assert_eq!(HttpUrl::parse(url), None, "{url}");
        }
    }

    /// PLAT-165
    #[test]
    fn a_url_is_shown_without_its_query() {
        let url = HttpUrl::parse("https://a.example:8443/hook?sig=abc").unwrap();
        assert_eq!(url.to_string(), "https://a.example:8443/hook");
    }
}
