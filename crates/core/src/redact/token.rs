//! `bearer_token` and `jwt`

use std::borrow::Cow;

use memchr::memchr2_iter;

use super::field::end_before_name;
use super::{Edit, find, is_base64url, run};

const BEARER: &str = "bearer";

/// A word of this length after `bearer` is no word of a language.
const LONG_WORD: usize = 16;

/// How every JSON object begins in base64.
const OBJECT: &str = "eyJ";

/// The shortest encoded object with a member.
const SHORTEST_HEADER: usize = 10;

/// `Bearer` and a token. Written in lower case it may be the noun, so that then the
/// token must look like one, or follow the name of the header.
pub(super) fn bearer_tokens(text: &str) -> Cow<'_, str> {
    let mut edit = Edit::new(text);
    let mut done = 0;
    for start in memchr2_iter(b'b', b'B', text.as_bytes()) {
        let end = start + BEARER.len();
        let word = text.get(start..end);
        if start < done || !word.is_some_and(|it| it.eq_ignore_ascii_case(BEARER)) {
            continue;
        }
        let Some((token, len)) = token_after(&text[end..]) else {
            continue;
        };
        let word = &text[end + token..end + token + len];
        if text[start..].starts_with('B') || looks_generated(word) || is_header(&text[..start]) {
            done = end + token + len;
            edit.replace(start, done, "Bearer [REDACTED]");
        }
    }
    edit.finish()
}

/// Where the token begins after `Bearer`, and its length.
fn token_after(text: &str) -> Option<(usize, usize)> {
    let space = space(text);
    if space == 0 {
        return None;
    }
    let quotes = run(&text[space..], |c| matches!(c, '"' | '\'' | '\\'));
    let start = space + quotes;
    let rest = &text[start..];
    let is_start = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let is_end = |c: char| c.is_whitespace() || "\"'<>(){}[],;\\&".contains(c);
    let word = &rest[..run(rest, |c| !is_end(c))];
    let token = word.trim_end_matches(['.', ':', '!', '?']);
    let len = end_before_name(rest, 0, end_before_scheme(rest, token));
    (len > 0 && token.starts_with(is_start)).then_some((start, len))
}

/// Bytes of a token without the next `Bearer` behind it.
pub(super) fn end_before_scheme(text: &str, token: &str) -> usize {
    let start = token.len().saturating_sub(BEARER.len());
    let is_scheme = token
        .get(start..)
        .is_some_and(|it| it.eq_ignore_ascii_case(BEARER));
    if is_scheme && space(&text[token.len()..]) > 0 {
        start
    } else {
        token.len()
    }
}

/// Blanks, also escaped as in a URL, and a line break if the line is continued.
fn space(text: &str) -> usize {
    let mut len = 0;
    loop {
        let rest = &text[len..];
        let found = ["%20", "\r\n ", "\r\n\t", "\n ", "\n\t", " ", "\t"];
        let found = found.into_iter().find(|it| rest.starts_with(it));
        let Some(found) = found else {
            return len;
        };
        len += found.len();
    }
}

fn looks_generated(token: &str) -> bool {
    let has_capital = token.chars().skip(1).any(|c| c.is_ascii_uppercase());
    let is_special = |c: char| c.is_ascii_digit() || "_~+/=|".contains(c);
    token.len() >= LONG_WORD || has_capital || token.contains(is_special)
}

/// Whether a text ends with the name of the header and its separator.
fn is_header(before: &str) -> bool {
    const NAME: &str = "authorization";
    let is_between = |c: char| c.is_ascii_whitespace() || "\"'\\:=".contains(c);
    let name = before.trim_end_matches(is_between);
    let start = name.len().checked_sub(NAME.len());
    name.len() < before.len()
        && start
            .and_then(|start| name.get(start..))
            .is_some_and(|it| it.eq_ignore_ascii_case(NAME))
}

/// Three or more parts in base64, joined by dots, of which the first is a JSON
/// object. A token that is not signed ends with an empty part.
pub(super) fn json_web_tokens(text: &str) -> Cow<'_, str> {
    let mut edit = Edit::new(text);
    let mut at = 0;
    while let Some(start) = find(text, at, OBJECT) {
        let len = run(&text[start..], |c| is_base64url(c) || c == '.');
        for (from, to) in tokens_in(&text[start..start + len]) {
            let (from, to) = (start + from, start + to);
            edit.replace(from, end_before_name(text, from, to), "[REDACTED_JWT]");
        }
        at = start + len;
    }
    edit.finish()
}

/// The tokens in a word of base64 parts and dots.
fn tokens_in(word: &str) -> Vec<(usize, usize)> {
    let mut parts: Vec<(usize, &str)> = Vec::new();
    let mut at = 0;
    for part in word.split('.') {
        parts.push((at, part));
        at += part.len() + 1;
    }
    let mut found = Vec::new();
    let mut parts = parts.as_slice();
    while let [(start, first), rest @ ..] = parts {
        parts = rest;
        let header = first
            .find(OBJECT)
            .filter(|at| first.len() - at >= SHORTEST_HEADER);
        let Some(header) = header else {
            continue;
        };
        let more = rest.iter().take_while(|(_, part)| !part.is_empty()).count();
        let is_unsigned = more == 1 && rest.len() > 1 && rest[0].1.starts_with(OBJECT);
        if more >= 2 || is_unsigned {
            let (last, part) = rest[more - 1];
            found.push((start + header, last + part.len()));
            parts = &rest[more..];
        }
    }
    found
}
