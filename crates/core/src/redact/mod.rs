//! Removes secrets that users pasted into prompts, and models repeated, from the
//! texts of audit events (PLAT-86). Each class of the specification is one pass
//! over the text, and the passes run in its order. It is best effort: a secret is
//! recognised by its form or by the name before it. Where a form is ambiguous, too
//! much is removed rather than too little.
//!
//! Every pass takes time in proportion to the text, whatever the text is.

mod field;
mod key;
mod long_run;
mod private_key;
mod token;

#[cfg(test)]
mod canary_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

/// How many bytes of a field are kept.
pub const MAX_FIELD_BYTES: usize = 8192;

/// Ends a field that was cut.
pub const TRUNCATED: &str = "…[TRUNCATED]";

/// How much of a long text is searched. If the first part becomes shorter than a
/// field by what is removed from it, the second is tried. What comes after it is
/// dropped unread.
const SEARCHED: [usize; 2] = [64 << 10, 1 << 20];

/// How far before its end a part of a text may be cut, in search of white space.
const WORD: usize = 4096;

/// Bytes before the end of a part that may belong to a secret of which the part
/// has only the beginning.
const MARGIN: usize = 1024;

type Pass = fn(&str) -> Cow<'_, str>;

const PASSES: [Pass; 9] = [
    private_key::private_keys,
    token::bearer_tokens,
    token::json_web_tokens,
    key::openai_keys,
    key::aws_key_ids,
    field::azure_keys,
    field::api_keys,
    field::passwords,
    long_run::long_tokens,
];

/// Replaces every secret of the nine classes. A text without one is borrowed. The
/// function is idempotent.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut redacted = Cow::Borrowed(text);
    for pass in PASSES {
        let changed = match pass(&redacted) {
            Cow::Owned(changed) => changed,
            Cow::Borrowed(_) => continue,
        };
        redacted = Cow::Owned(changed);
    }
    redacted
}

/// A text as a field of an event: redacted, then cut to `max` bytes, with
/// [`TRUNCATED`] after the cut.
pub fn field(text: &str, max: usize) -> String {
    let [first, second] = SEARCHED.map(|len| len.max(max));
    let mut part = beginning(text, first);
    let mut redacted = redact(part);
    if part.len() < text.len() && redacted.len() <= max + MARGIN {
        part = beginning(text, second);
        redacted = redact(part);
    }
    cut(&redacted, max, part.len() < text.len())
}

/// The beginning of a text, at most `len` bytes; in a longer text it ends where a
/// word does, so that no secret is cut in two.
fn beginning(text: &str, len: usize) -> &str {
    if text.len() <= len {
        return text;
    }
    let part = &text[..text.floor_char_boundary(len)];
    let words = part.trim_end_matches(|c: char| !c.is_whitespace());
    if part.len() - words.len() < WORD {
        words
    } else {
        part
    }
}

fn cut(text: &str, max: usize, has_more: bool) -> String {
    if text.len() <= max && !has_more {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(max)];
    format!("{kept}{TRUNCATED}")
}

/// A text of which parts are replaced, from left to right.
struct Edit<'t> {
    text: &'t str,
    out: String,
    copied: usize,
}

impl<'t> Edit<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            out: String::new(),
            copied: 0,
        }
    }

    /// Replaces the bytes from `start` to `end`, which lie after those that were
    /// replaced before.
    fn replace(&mut self, start: usize, end: usize, replacement: &str) {
        self.out.push_str(&self.text[self.copied..start]);
        self.out.push_str(replacement);
        self.copied = end;
    }

    fn finish(mut self) -> Cow<'t, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.out.push_str(&self.text[self.copied..]);
        Cow::Owned(self.out)
    }
}

/// Where `needle` begins in `text` at or after `from`.
fn find(text: &str, from: usize, needle: &str) -> Option<usize> {
    let found = memchr::memmem::find(&text.as_bytes()[from..], needle.as_bytes());
    found.map(|at| from + at)
}

/// Bytes of the longest start of `text` whose characters all satisfy `accept`.
fn run(text: &str, accept: impl Fn(char) -> bool) -> usize {
    text.find(|c| !accept(c)).unwrap_or(text.len())
}

/// Bytes of a line break at the start of `text`, also of one that is written with
/// escapes, as in JSON.
fn line_break(text: &str) -> usize {
    const BREAKS: [&str; 5] = ["\r\n", "\n", "\r", "\\r\\n", "\\n"];
    let found = BREAKS.into_iter().find(|it| text.starts_with(it));
    found.map_or(0, str::len)
}

/// Base64 in both alphabets, without padding.
const fn is_base64url(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

const fn is_base64(c: char) -> bool {
    is_base64url(c) || matches!(c, '+' | '/' | '=')
}
