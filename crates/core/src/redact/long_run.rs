//! `long_base64_like`

use std::borrow::Cow;

use super::{Edit, is_base64, line_break, run};

const REPLACEMENT: &str = "…[TRUNCATED_LONG_TOKEN]";

/// Longer runs are replaced.
const LONGEST: usize = 200;

/// Encoders write lines of 64 or 76 characters.
const SHORTEST_LINE: usize = 60;

/// Runs of base64, also in lines. Rules of one character are left.
pub(super) fn long_tokens(text: &str) -> Cow<'_, str> {
    let mut edit = Edit::new(text);
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let start = at + run(rest, |c| !is_base64(c));
        let (len, characters) = long_run(&text[start..]);
        at = start + len;
        let run = &text[start..at];
        if characters > LONGEST && run.contains(|c: char| c.is_ascii_alphanumeric()) {
            edit.replace(start, at, REPLACEMENT);
        }
    }
    edit.finish()
}

/// The bytes of a run, and how many characters of base64 are in it. Full lines after
/// it belong to it, and a shorter one at their end.
fn long_run(text: &str) -> (usize, usize) {
    let first = run(text, is_base64);
    let (mut len, mut characters) = (first, first);
    let mut is_last = first == 0;
    while !is_last {
        let line_break = line_break(&text[len..]);
        let next = &text[len + line_break..];
        let line = run(next, is_base64);
        let is_whole = !next[line..].starts_with(|c: char| c == ' ' || c.is_alphanumeric());
        is_last = line < SHORTEST_LINE;
        let is_next = line_break > 0 && line > 0 && is_whole;
        if !is_next || first < SHORTEST_LINE || is_last && len == first {
            break;
        }
        len += line_break + line;
        characters += line;
    }
    // A list of hashes is none.
    let is_hex = |c: char| c.is_ascii_hexdigit() || "\r\n\\rn".contains(c);
    if text[..len].chars().all(is_hex) {
        (len, first)
    } else if text[first..len].chars().all(is_hex) {
        (first, first)
    } else {
        (len, characters)
    }
}
