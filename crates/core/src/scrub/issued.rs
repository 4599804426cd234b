//! Finds identifiers that a provider issued, of answers, requests, files,
//! organisations, projects and accounts.

use super::{Match, PROVIDER_ID, is_id_char, run};

/// Prefixes that the specification names; `-` or `_` and the id follow.
pub(super) const PREFIXES: [&str; 13] = [
    "resp",
    "chatcmpl",
    "cmpl",
    "msg",
    "batch",
    "file",
    "assistant",
    "vs",
    "req",
    "run",
    "thread",
    "call",
    "cntr",
];

/// Prefixes of other identifiers. Plain words begin with them too, so the part
/// after the prefix must look generated.
pub(super) const LIKELY_PREFIXES: [&str; 26] = [
    "org",
    "organization",
    "proj",
    "project",
    "acct",
    "account",
    "user",
    "team",
    "ws",
    "workspace",
    "tenant",
    "sub",
    "customer",
    "cus",
    "sess",
    "session",
    "key",
    "asst",
    "ft",
    "ftjob",
    "gen",
    "rs",
    "fc",
    "evt",
    "toolu",
    "deployment",
];

/// Minimum number of characters after a prefix that looks generated.
const SHORTEST_AFTER_PREFIX: usize = 6;

/// Minimum number of letters and digits of a generated identifier without a prefix,
/// and of digits in an account number.
const SHORTEST_MIXED: usize = 12;
const SHORTEST_NUMBER: usize = 9;

/// An identifier with a prefix that the specification names.
pub(super) fn prefixed(rest: &str) -> Match {
    let len = PREFIXES.into_iter().find_map(|prefix| {
        let id = rest.strip_prefix(prefix)?.strip_prefix(['-', '_'])?;
        let len = run(id, is_id_char);
        (len > 0).then_some(prefix.len() + 1 + len)
    });
    len.map(|len| (len, PROVIDER_ID))
}

/// A word that looks generated: by its prefix, as a UUID, as a long number, or as a
/// random mixture of letters and digits.
pub(super) fn likely(before: Option<char>, rest: &str) -> Match {
    let len = run(rest, is_id_char);
    let word = rest[..len].trim_end_matches('-');
    let is_amount = before.is_some_and(|c| matches!(c, '$' | '.' | ','));
    let is_id = has_likely_prefix(word)
        || is_uuid(word)
        || word.split(['-', '_']).any(is_mixed)
        || (is_number(word) && !is_amount);
    is_id.then_some((word.len(), PROVIDER_ID))
}

fn has_likely_prefix(word: &str) -> bool {
    let Some((prefix, id)) = word.split_once(['-', '_']) else {
        return false;
    };
    LIKELY_PREFIXES.contains(&prefix)
        && id.len() >= SHORTEST_AFTER_PREFIX
        && id.contains(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase())
}

fn is_uuid(word: &str) -> bool {
    let lengths = word.split('-').map(|part| {
        let is_hex = part.chars().all(|c| c.is_ascii_hexdigit());
        is_hex.then_some(part.len())
    });
    lengths.eq([8, 4, 4, 4, 12].map(Some))
}

fn is_mixed(part: &str) -> bool {
    let digits = part.chars().filter(char::is_ascii_digit).count();
    part.len() >= SHORTEST_MIXED && digits >= 2 && digits < part.len()
}

fn is_number(word: &str) -> bool {
    word.len() >= SHORTEST_NUMBER && word.chars().all(|c| c.is_ascii_digit())
}
