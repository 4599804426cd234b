//! `azure_api_key`, `api_key_fields` and `password_fields`: values after a name, as
//! in headers, queries, JSON, YAML and programs.

use std::borrow::Cow;

use memchr::memchr2;

use super::{Edit, run};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Azure,
    ApiKey,
    Password,
}

/// Names in lower case, each before those that it ends with. Longer names that end
/// with one of them, such as `db_password`, are covered.
const NAMES: [(Kind, &str); 15] = [
    (Kind::ApiKey, "x-api-key"),
    (Kind::ApiKey, "x_api_key"),
    (Kind::ApiKey, "api_key"),
    (Kind::ApiKey, "apikey"),
    (Kind::ApiKey, "client_secret"),
    (Kind::ApiKey, "client-secret"),
    (Kind::ApiKey, "clientsecret"),
    (Kind::ApiKey, "access_token"),
    (Kind::ApiKey, "access-token"),
    (Kind::ApiKey, "accesstoken"),
    (Kind::ApiKey, "refresh_token"),
    (Kind::ApiKey, "refresh-token"),
    (Kind::ApiKey, "refreshtoken"),
    (Kind::Azure, "api-key"),
    (Kind::Azure, "ocp-apim-subscription-key"),
];
const PASSWORD: &str = "password";

/// Words that may stand before a value, as in `Authorization`.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

pub(super) fn azure_keys(text: &str) -> Cow<'_, str> {
    values(text, Kind::Azure, "[REDACTED_AZURE_KEY]")
}

pub(super) fn api_keys(text: &str) -> Cow<'_, str> {
    values(text, Kind::ApiKey, "[REDACTED]")
}

pub(super) fn passwords(text: &str) -> Cow<'_, str> {
    values(text, Kind::Password, "[REDACTED]")
}

fn values<'t>(text: &'t str, kind: Kind, replacement: &str) -> Cow<'t, str> {
    let mut edit = Edit::new(text);
    let mut at = 0;
    while let Some(found) = memchr2(b'=', b':', &text.as_bytes()[at..]) {
        let separator = at + found;
        at = separator + 1;
        if !matches!(name_before(&text[..separator]), Some((it, _)) if it == kind) {
            continue;
        }
        let mut after = at;
        while let Some((start, end)) = value(text, after) {
            edit.replace(start, end, replacement);
            at = end;
            // The type of a variable stands before its value.
            let Some(next) = text[end..].trim_start_matches(is_blank).strip_prefix('=') else {
                break;
            };
            after = text.len() - next.len();
        }
    }
    edit.finish()
}

/// The end of a secret that lies from `start` to `end`, without the name of a field
/// that stands directly behind it.
pub(super) fn end_before_name(text: &str, start: usize, end: usize) -> usize {
    let secret = &text[start..end];
    if let Some(name) = secret.strip_suffix(is_separator) {
        return name_before(name).map_or(end, |(_, name)| start + name);
    }
    let after = text[end..].trim_start_matches(|c| is_quote(c) || c == '\\');
    if !after.trim_start_matches(is_blank).starts_with(is_separator) {
        return end;
    }
    name_before(secret).map_or(end, |(_, name)| start + name)
}

/// The name that a text ends with, also in quotes or before blanks, and where it
/// begins.
fn name_before(text: &str) -> Option<(Kind, usize)> {
    let text = text.trim_end_matches(is_blank);
    let name = match text.strip_suffix(is_quote) {
        Some(name) => name.trim_end_matches('\\'),
        None => text,
    };
    let begin = |it: &str| {
        let start = name.len().checked_sub(it.len())?;
        name.get(start..)?.eq_ignore_ascii_case(it).then_some(start)
    };
    let passwords = [(Kind::Password, PASSWORD)];
    let mut names = passwords.iter().chain(&NAMES);
    names.find_map(|(kind, it)| Some((*kind, begin(it)?)))
}

/// The value after a separator, without its quotes.
fn value(text: &str, after: usize) -> Option<(usize, usize)> {
    let rest = &text[after..];
    // `==`, `:=` and `=>`
    let rest = rest.strip_prefix(['=', '>']).unwrap_or(rest);
    let mut rest = rest.trim_start_matches(is_blank);
    let after_blanks = text[..text.len() - rest.len()].ends_with(is_blank);
    let next = after_space(rest);
    if next.trim_start_matches('\\').starts_with(is_quote) {
        rest = next;
    }
    if let Some(inner) = rest.strip_prefix(['[', '(']).map(str::trim_start)
        && inner.trim_start_matches('\\').starts_with(is_quote)
    {
        rest = inner;
    }
    let start = text.len() - rest.len();
    let (from, to) = if rest.trim_start_matches('\\').starts_with(is_quote) {
        quoted(rest)?
    } else {
        plain(rest, after_blanks)?
    };
    Some((start + from, start + to))
}

/// A text after white space and after line breaks that are written with escapes, as
/// between name and value of JSON in JSON.
fn after_space(text: &str) -> &str {
    let mut rest = text;
    loop {
        let next = rest.trim_start();
        let escape = next.trim_start_matches('\\');
        if escape.len() == next.len() || !escape.starts_with(['r', 'n', 't']) {
            return next;
        }
        rest = &escape[1..];
    }
}

/// The content of quotes, which may be escaped as those of JSON in JSON are. It ends
/// with its line at the latest.
fn quoted(text: &str) -> Option<(usize, usize)> {
    let escapes = run(text, |c| c == '\\');
    let quote = text[escapes..].chars().next().filter(|c| is_quote(*c))?;
    let open = escapes + quote.len_utf8();
    let content = &text[open..];
    let content = &content[..closing(content, quote, escapes)];
    let after = text[open + content.len()..].trim_start_matches('\\');
    let is_name = after
        .strip_prefix(quote)
        .is_some_and(|after| after.trim_start_matches(is_blank).starts_with(is_separator));
    let end = open + content.len();
    // Another field: its own separator is found later.
    let inner = content.trim_end_matches(is_blank);
    let field = match inner.strip_suffix(is_separator) {
        Some(name) => name_before(name),
        None if is_name => name_before(inner),
        None => None,
    };
    let end = field.map_or(end, |(_, start)| open + start);
    (end > open).then_some((open, end))
}

/// Where a quote closes that was opened with `escapes` backslashes before it. Inside,
/// it has more of them.
fn closing(content: &str, quote: char, escapes: usize) -> usize {
    let mut at = 0;
    loop {
        let rest = &content[at..];
        let Some(found) = rest.find([quote, '\r', '\n']) else {
            return content.len();
        };
        let end = at + found;
        if !rest[found..].starts_with(quote) {
            return end;
        }
        let before = &content[at..end];
        let backslashes = before.len() - before.trim_end_matches('\\').len();
        if backslashes <= escapes {
            return end - backslashes;
        }
        at = end + 1;
    }
}

/// A value without quotes: to the next white space, quote or `&`, without what closes
/// around it. A field that begins within it ends it. After blanks, `&` may begin a
/// type.
fn plain(text: &str, after_blanks: bool) -> Option<(usize, usize)> {
    let head = match scheme(text) {
        0 => usize::from(after_blanks && text.starts_with('&')),
        scheme => scheme,
    };
    let (end, field) = word(text, head);
    if let Some(start) = field {
        return (start > 0).then_some((0, start));
    }
    let value = &text[..end];
    // `b"…"`, `String::from("…")`
    let is_prefix =
        value.ends_with(['(', '[']) || end <= 2 && value.chars().all(|c| c.is_ascii_alphabetic());
    if is_prefix && text[end..].starts_with(is_quote) {
        let (from, to) = quoted(&text[end..])?;
        return Some((end + from, end + to));
    }
    let end = trimmed(value);
    (end > 0).then_some((0, end))
}

/// Bytes of a scheme and the blanks after it.
fn scheme(text: &str) -> usize {
    let found = SCHEMES.into_iter().find(|scheme| {
        let start = text.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let len = found.map_or(0, str::len);
    match run(&text[len..], is_blank) {
        0 => 0,
        blanks => len + blanks,
    }
}

/// Where a value ends, and where a field begins within it or with its end.
fn word(text: &str, head: usize) -> (usize, Option<usize>) {
    let start_of_name = |end: usize| name_before(&text[..end]).map(|(_, start)| start);
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < head) {
        if is_separator(c) {
            if let Some(start) = start_of_name(at) {
                return (at, Some(start));
            }
        } else if c.is_whitespace() || matches!(c, '"' | '`' | '&') {
            let after = text[at..].trim_start_matches(['"', '`']);
            let is_name = after.trim_start_matches(is_blank).starts_with(is_separator);
            return (at, start_of_name(at).filter(|_| is_name));
        }
    }
    (text.len(), None)
}

/// Bytes of a value without punctuation and closing brackets at its end.
fn trimmed(value: &str) -> usize {
    const PAIRS: [(char, char); 4] = [('(', ')'), ('[', ']'), ('{', '}'), ('<', '>')];
    let mut unopened = PAIRS.map(|(open, close)| {
        let closed = value.matches(close).count();
        closed.saturating_sub(value.matches(open).count())
    });
    let mut kept = value;
    while let Some(last) = kept.chars().next_back() {
        let pair = PAIRS.iter().position(|(_, close)| *close == last);
        match pair {
            Some(pair) if unopened[pair] > 0 => unopened[pair] -= 1,
            None if ",;.'\\".contains(last) => {}
            _ => break,
        }
        kept = &kept[..kept.len() - last.len_utf8()];
    }
    // An opening bracket alone is none.
    if kept.chars().all(|c| "([{<".contains(c)) {
        return 0;
    }
    kept.len()
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

const fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '`')
}

const fn is_separator(c: char) -> bool {
    matches!(c, '=' | ':')
}
