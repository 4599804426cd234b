//! Removes from provider texts what clients must not see: identifiers, hosts,
//! accounts and credentials that a provider issued (API-5, D10, CONT-39,
//! PLAT-117, TURN-23). Shapes that the specification names are found anywhere;
//! others where a word begins.

mod host;
mod issued;
mod secret;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

/// Replaces an identifier.
pub const PROVIDER_ID: &str = "[provider_id]";
/// Replaces a URL.
pub const URL: &str = "[url]";
/// Replaces the name or the address of a host.
pub const HOST: &str = "[host]";
/// Replaces an e-mail address.
pub const EMAIL: &str = "[email]";
/// Replaces a credential.
pub const CREDENTIAL: &str = "[credential]";

/// How many bytes at the start of a text to replace, and the replacement.
type Match = Option<(usize, &'static str)>;

/// Replaces identifiers, addresses and credentials, for texts that clients see. A
/// text without them is borrowed. The function is idempotent.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let mut scrubbed = replace(text, anything);
    // A replacement may expose the beginning of another word.
    while let Cow::Owned(again) = replace(&scrubbed, anything) {
        scrubbed = Cow::Owned(again);
    }
    scrubbed
}

fn anything(before: Option<char>, rest: &str) -> Match {
    let anywhere = secret::marked(rest)
        .or_else(|| host::web_url(rest))
        .or_else(|| issued::prefixed(rest));
    anywhere.or_else(|| {
        let is_start = !before.is_some_and(continues_word);
        is_start.then(|| word(before, rest)).flatten()
    })
}

/// Finds what is searched for only at the beginning of a word.
fn word(before: Option<char>, rest: &str) -> Match {
    secret::starred(rest)
        .or_else(|| host::url(rest))
        .or_else(|| host::email(rest))
        .or_else(|| host::address(rest))
        .or_else(|| host::name(rest))
        .or_else(|| issued::likely(before, rest))
}

/// Replaces only credentials, for `chat_turns.error_detail` and logs (PLAT-117).
pub fn scrub_credentials(text: &str) -> Cow<'_, str> {
    replace(text, |_, rest| secret::marked(rest))
}

/// Replaces every leftmost match of `find`, which is given the character before
/// and the rest of the text.
fn replace(text: &str, find: impl Fn(Option<char>, &str) -> Match) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut before = None;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some((len, replacement)) = find(before, rest) {
            out.push_str(&text[copied..at]);
            out.push_str(replacement);
            at += len;
            copied = at;
            before = replacement.chars().next_back();
        } else {
            before = rest.chars().next();
            at += before.map_or(1, char::len_utf8);
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn continues_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '@')
}

/// Bytes of the longest start of `text` whose characters all satisfy `accept`.
fn run(text: &str, accept: impl Fn(char) -> bool) -> usize {
    text.find(|c| !accept(c)).unwrap_or(text.len())
}
