//! The parts of a provider request that a tenant chooses: the header of its
//! credential and the path (D48). Neither may change where the request goes, where
//! its body ends, or who seems to have sent it.

/// Headers that may not carry a credential, in lower case: headers of the connection,
/// of framing and of routing, headers that claim another sender, and headers that
/// minichat sets itself. `*` at the end stands for any rest.
pub const REFUSED_HEADERS: &[&str] = &[
    "accept",
    "accept-*",
    "alt-used",
    "baggage",
    "connection",
    "content-*",
    "cookie",
    "cookie2",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-*",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-*",
    "range",
    "referer",
    "sec-*",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-client-request-id",
    "x-forwarded-*",
    "x-http-method-override",
    "x-original-*",
    "x-real-ip",
    "x-rewrite-url",
];

/// Whether `name` is a header name (a token of RFC 9110).
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether the header `name` may carry a credential.
pub fn may_carry_credential(name: &str) -> bool {
    !is_listed(name, REFUSED_HEADERS)
}

/// Whether the header `name` is in `list`, whose entries are in lower case.
pub(super) fn is_listed(name: &str, list: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *entry,
    })
}

/// Whether `path` is an absolute path with an optional query (RFC 3986). It may
/// contain `{model}`. It may not begin with two slashes, which some parsers read as a
/// host.
pub fn is_api_path(path: &str) -> bool {
    let is_plain = path
        .replace("{model}", "")
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&b));
    path.starts_with('/') && !path.starts_with("//") && is_plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_header_of_the_connection_of_framing_or_of_routing_carries_a_credential() {
        for refused in [
            "Host",
            "HOST",
            "Connection",
            "Keep-Alive",
            "Content-Length",
            "content-type",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Forwarded",
            "X-Forwarded-For",
            "x-forwarded-host",
            "Via",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Cookie",
            "X-Real-IP",
            "Accept",
            "Accept-Encoding",
        ] {
            assert!(
                is_header_name(refused) && !may_carry_credential(refused),
                "{refused}"
            );
        }
        for allowed in [
            "Authorization",
            "api-key",
            "x-api-key",
            "Ocp-Apim-Subscription-Key",
            "X-Auth-Token",
            "hostname",
            "contents",
            "x.key",
            "X_Key",
        ] {
            assert!(
                is_header_name(allowed) && may_carry_credential(allowed),
                "{allowed}"
            );
        }
        for none in ["", "api key", "key:", "key\r\nHost", "schlüssel", "key\0"] {
            assert!(!is_header_name(none), "{none}");
        }
    }

    /// PLAT-101
    #[test]
    fn a_path_leads_nowhere_else() {
        for good in [
            "/",
            "/v1/responses",
            "/openai/deployments/{model}/responses?api-version=2026-01-01",
            "/models/{model}@20260101:stream",
            "/a//b",
            "/a%20b",
        ] {
            assert!(is_api_path(good), "{good}");
        }
        for bad in [
            "",
            "v1",
            "//evil.example/v1",
            "///",
            "/\\evil.example",
            "\\",
            "/v1\r\nHost: evil",
            "/v1 HTTP/1.1",
            "http://evil.example/",
            "@evil.example",
            "/a#b",
            "/ä",
            "/{models}",
            "/a\0",
            "*",
            "?a",
        ] {
            assert!(!is_api_path(bad), "{bad}");
        }
    }
}
