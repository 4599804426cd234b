//! `openai_api_key` and `aws_access_key_id`

use std::borrow::Cow;

use super::field::end_before_name;
use super::{Edit, find, is_base64url, run};

const OPENAI: &str = "sk-";

/// Shorter words are names, such as those of locales and of libraries.
const SHORTEST_KEY: usize = 8;

/// A part of a key that no word looks like.
const SHORTEST_RANDOM: usize = 16;

/// How much of a word is searched for one.
const SEARCHED: usize = 256;

const AWS: &str = "AKIA";
const AWS_LENGTH: usize = 20;

/// `sk-` and a key. Inside a word, such as `task-`, the key must look random.
pub(super) fn openai_keys(text: &str) -> Cow<'_, str> {
    let mut edit = Edit::new(text);
    let mut at = 0;
    while let Some(start) = find(text, at, OPENAI) {
        at = start + OPENAI.len();
        let key = &text[at..];
        let searched = &key[..key.floor_char_boundary(SEARCHED)];
        let searched = &searched[..run(searched, is_base64url)];
        let is_word = !text[..start].ends_with(|c: char| c.is_ascii_alphanumeric());
        if has_random_part(searched)
            || searched.len() >= SHORTEST_KEY && (is_word || ends_with_aws_key(&text[..start]))
        {
            let end = end_before_name(text, at, at + run(key, is_base64url));
            if end > at {
                at = end;
                edit.replace(start, at, "[REDACTED_OPENAI_KEY]");
            }
        }
    }
    edit.finish()
}

fn has_random_part(key: &str) -> bool {
    key.split(['-', '_']).any(|part| {
        part.len() >= SHORTEST_RANDOM
            && part.contains(|c: char| c.is_ascii_digit())
            && part.contains(|c: char| c.is_ascii_alphabetic())
    })
}

/// Then the key begins a word as soon as that one is replaced.
fn ends_with_aws_key(text: &str) -> bool {
    let start = text.len().checked_sub(AWS_LENGTH);
    let last = start.and_then(|start| text.get(start..));
    last.is_some_and(|last| aws_key_id(last).is_some())
}

pub(super) fn aws_key_ids(text: &str) -> Cow<'_, str> {
    let mut edit = Edit::new(text);
    let mut at = 0;
    while let Some(start) = find(text, at, AWS) {
        at = start + 1;
        if let Some(len) = aws_key_id(&text[start..]) {
            at = start + len;
            edit.replace(start, at, "[REDACTED_AWS_ACCESS_KEY_ID]");
        }
    }
    edit.finish()
}

/// `AKIA` and 16 capital letters or digits.
fn aws_key_id(text: &str) -> Option<usize> {
    let id = text.get(..AWS_LENGTH)?;
    let is_id = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    (id.starts_with(AWS) && id.chars().all(is_id)).then_some(AWS_LENGTH)
}
