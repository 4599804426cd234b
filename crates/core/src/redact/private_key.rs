//! `pem_private_key`

use std::borrow::Cow;

use super::field::end_before_name;
use super::token::end_before_scheme;
use super::{Edit, find, line_break, run};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const REPLACEMENT: &str = "[REDACTED_PRIVATE_KEY]";

/// How the lines before a key begin.
const HEADERS: [&str; 4] = ["Proc-Type:", "DEK-Info:", "Version:", "Comment:"];

/// A word of a key that is written in one line, with spaces for line breaks.
const SHORTEST_LINE: usize = 24;

/// A block to its END line. A block without one ends with the last line that looks
/// like a part of a key.
pub(super) fn private_keys(text: &str) -> Cow<'_, str> {
    let mut edit = Edit::new(text);
    let mut at = 0;
    // Whether there is an END line at or after `at`.
    let mut has_end = true;
    while let Some(start) = find(text, at, BEGIN) {
        at = start + BEGIN.len();
        let Some(label) = private_key_label(&text[at..]) else {
            continue;
        };
        let body = at + label;
        let end = if has_end { end_line(text, body) } else { None };
        has_end = end.is_some();
        at = end.unwrap_or_else(|| {
            let rest = &text[body..];
            let end = end_before_scheme(rest, &rest[..key_lines(rest)]);
            end_before_name(text, body, body + end)
        });
        edit.replace(start, at, REPLACEMENT);
    }
    edit.finish()
}

/// The end of the next END line.
fn end_line(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at = find(text, at, END)? + END.len();
        if let Some(label) = private_key_label(&text[at..]) {
            return Some(at + label);
        }
    }
}

/// Bytes of `RSA PRIVATE KEY-----` or the like.
fn private_key_label(text: &str) -> Option<usize> {
    let len = run(text, |c| {
        c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' '
    });
    let is_label = text[..len].contains("PRIVATE KEY") && text[len..].starts_with(DASHES);
    is_label.then_some(len + DASHES.len())
}

/// Bytes of the lines after a BEGIN line that belong to the key.
fn key_lines(text: &str) -> usize {
    let (mut len, mut at) = (0, 0);
    loop {
        let line = KeyLine::of(&text[at..]);
        if line.key > 0 {
            len = at + line.key;
        }
        let Some(all) = line.all else {
            return len;
        };
        at += all;
        let line_break = line_break(&text[at..]);
        if line_break == 0 {
            return len;
        }
        at += line_break;
    }
}

/// Keys are written in the standard alphabet.
const fn is_standard(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

/// A line that may belong to a key.
struct KeyLine {
    /// Bytes to the end of its last word of a key.
    key: usize,
    /// Bytes of the line, if there is nothing else in it.
    all: Option<usize>,
}

impl KeyLine {
    fn of(text: &str) -> Self {
        let is_margin = |c: char| matches!(c, ' ' | '\t' | '"' | '\'' | '>' | '|' | ',');
        let is_end = |at: usize| at == text.len() || line_break(&text[at..]) > 0;
        let mut at = run(text, is_margin);
        if HEADERS.iter().any(|header| text[at..].starts_with(header)) {
            let all = run(text, |c| !matches!(c, '\n' | '\r' | '\\'));
            return Self {
                key: all,
                all: Some(all),
            };
        }
        let mut key = 0;
        loop {
            let word = run(&text[at..], is_standard);
            let end = at + word;
            at = end + run(&text[end..], is_margin);
            if is_end(at) {
                let key = if word > 0 { end } else { key };
                return Self { key, all: Some(at) };
            }
            // A word that goes on may be another secret.
            if word < SHORTEST_LINE || at == end {
                return Self { key, all: None };
            }
            key = end;
        }
    }
}
