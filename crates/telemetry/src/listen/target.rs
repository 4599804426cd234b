//! Normalises the path of a request.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// Decodes percent-encoded characters that need no encoding in a path: letters, digits,
/// `-`, `.`, `_` and `~`, which mean the same either way (RFC 3986 section 6.2.2.2),
/// and `:`, which has no special meaning in a path. Everything else stays encoded, so
/// that no segment is split and nothing is decoded twice.
pub(super) fn normalize(uri: &mut Uri) {
    if !uri.path().contains('%') {
        return;
    }
    let mut text = decoded(uri.path());
    if text == uri.path() {
        return;
    }
    if let Some(query) = uri.query() {
        text.push('?');
        text.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    // Characters that need no encoding cannot make the path invalid.
    if let Ok(path) = PathAndQuery::try_from(text) {
        parts.path_and_query = Some(path);
        if let Ok(normalized) = Uri::from_parts(parts) {
            *uri = normalized;
        }
    }
}

fn decoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let encoded = &rest[at + 1..];
        if let Some(character) = encoded.get(..2).and_then(plain) {
            text.push(character);
            rest = &encoded[2..];
        } else {
            text.push('%');
            rest = encoded;
        }
    }
    text.push_str(rest);
    text
}

/// The character that two hexadecimal digits encode, if it needs no encoding.
fn plain(digits: &str) -> Option<char> {
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    let is_plain = byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    is_plain.then_some(char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_no_encoding_is_decoded() {
        for (given, normal) in [
            ("/a/messages%3Astream", "/a/messages:stream"),
            ("/a/messages%3astream?b=%3A", "/a/messages:stream?b=%3A"),
            ("/%63h%61ts%7E", "/chats~"),
            ("/a%2Fb%25%33%41%20%C3%A4", "/a%2Fb%253A%20%C3%A4"),
            ("/a%+1%3", "/a%+1%3"),
            ("http://a:1/%61?x", "http://a:1/a?x"),
        ] {
            let mut uri: Uri = given.parse().unwrap();
            normalize(&mut uri);
            assert_eq!(uri.to_string(), normal);
        }
    }
}
