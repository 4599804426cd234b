//! Finds credentials of any provider by their form.

use super::{CREDENTIAL, Match, is_id_char, run};

/// Prefixes of API keys of well-known providers.
const KEY_PREFIXES: [&str; 12] = [
    "sk-", "sk_", "pk-", "pk_", "gsk_", "xai-", "hf_", "AIza", "ghp_", "pplx-", "nvapi-", "AKIA",
];

/// Minimum number of characters of a key after its prefix.
const SHORTEST_KEY: usize = 10;

/// A key with a known prefix, which the provider may have masked with `*`; the
/// parts of an `Authorization` header; a JSON Web Token.
pub(super) fn marked(rest: &str) -> Match {
    let len = key(rest)
        .or_else(|| authorization(rest))
        .or_else(|| token(rest));
    len.map(|len| (len, CREDENTIAL))
}

fn key(rest: &str) -> Option<usize> {
    KEY_PREFIXES.into_iter().find_map(|prefix| {
        let key = rest.strip_prefix(prefix)?;
        let len = run(key, |c| is_id_char(c) || c == '*');
        (len >= SHORTEST_KEY).then_some(len + prefix.len())
    })
}

/// `Bearer` and a token, or `Basic` and text that does not look like a word.
fn authorization(rest: &str) -> Option<usize> {
    let (bearer, token) = rest.split_at_checked(6)?;
    if bearer.eq_ignore_ascii_case("bearer") {
        return after_space(token, |_| true).map(|len| len + 6);
    }
    let (basic, token) = rest.split_at_checked(5)?;
    if basic.eq_ignore_ascii_case("basic") {
        let is_encoded = |token: &str| {
            token.len() >= 8
                && token
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+/=-_".contains(c))
                && token
                    .contains(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '=')
        };
        return after_space(token, is_encoded).map(|len| len + 5);
    }
    None
}

/// Bytes of the white space and the word that follows it, if it is `accepted`.
fn after_space(text: &str, accepted: impl Fn(&str) -> bool) -> Option<usize> {
    let space = run(text, char::is_whitespace);
    let word = &text[space..];
    let len = run(word, |c| !c.is_whitespace());
    (space > 0 && len > 0 && accepted(&word[..len])).then_some(space + len)
}

fn token(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("eyJ")?;
    let len = run(body, |c| is_id_char(c) || c == '.');
    (len >= SHORTEST_KEY).then_some(len + 3)
}

/// A word that a provider has partly masked: `abcd****wxyz`.
pub(super) fn starred(rest: &str) -> Match {
    let len = run(rest, |c| is_id_char(c) || c == '*');
    let word = &rest[..len];
    (word.contains("***") && word.contains(is_id_char)).then_some((len, CREDENTIAL))
}
