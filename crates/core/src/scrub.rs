//! Removes from provider texts what clients must not see (D10, CONT-39,
//! PLAT-117, TURN-23).

use std::borrow::Cow;

/// Prefixes of provider-issued identifiers; `-` or `_` and the id follow.
const ID_PREFIXES: [&str; 13] = [
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

const PROVIDER_ID: &str = "[provider_id]";
const URL: &str = "[url]";
const CREDENTIAL: &str = "[credential]";

/// For clients: replaces identifiers, URLs and credentials. Texts that have
/// none are borrowed. Scrubbing twice is scrubbing once.
pub fn scrub(text: &str) -> Cow<'_, str> {
    replace(text, |rest| {
        credential(rest)
            .map(|len| (len, CREDENTIAL))
            .or_else(|| url(rest).map(|len| (len, URL)))
            .or_else(|| provider_id(rest).map(|len| (len, PROVIDER_ID)))
    })
}

/// For `chat_turns.error_detail`: replaces credentials and keeps the rest
/// (PLAT-117).
pub fn scrub_credentials(text: &str) -> Cow<'_, str> {
    replace(text, |rest| credential(rest).map(|len| (len, CREDENTIAL)))
}

/// Replaces every leftmost match of `find`, which says how many bytes at the
/// start of its argument to replace by what.
fn replace(text: &str, find: impl Fn(&str) -> Option<(usize, &'static str)>) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some((len, replacement)) = find(rest) {
            out.push_str(&text[copied..at]);
            out.push_str(replacement);
            at += len;
            copied = at;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// `sk-` and at least ten characters of a key, which providers may have masked
/// with `*`; or `Bearer` and a token.
fn credential(rest: &str) -> Option<usize> {
    if let Some(key) = rest.strip_prefix("sk-") {
        let len = run(key, |c| is_id_char(c) || c == '*');
        return (len >= 10).then_some(len + 3);
    }
    let (scheme, token) = rest.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let space = run(token, char::is_whitespace);
    let len = run(&token[space..], |c| !c.is_whitespace());
    (space > 0 && len > 0).then_some(6 + space + len)
}

/// `http://` or `https://` and what follows, up to a space, a quote or an angle
/// bracket.
fn url(rest: &str) -> Option<usize> {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| {
        rest.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })?;
    let len = run(&rest[scheme.len()..], |c| {
        !c.is_whitespace() && !matches!(c, '"' | '<' | '>' | '`')
    });
    (len > 0).then_some(scheme.len() + len)
}

fn provider_id(rest: &str) -> Option<usize> {
    ID_PREFIXES.into_iter().find_map(|prefix| {
        let id = rest.strip_prefix(prefix)?.strip_prefix(['-', '_'])?;
        let len = run(id, is_id_char);
        (len > 0).then_some(prefix.len() + 1 + len)
    })
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Bytes of the longest start of `text` whose characters all satisfy `accept`.
fn run(text: &str, accept: impl Fn(char) -> bool) -> usize {
    text.find(|c| !accept(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CONT-39, PLAT-117, TURN-23
    #[test]
    fn identifiers_urls_and_credentials_are_replaced() {
        let cases = [
            ("no resp_abc here", "no [provider_id] here"),
            ("batch_4, call_9-x", "[provider_id], [provider_id]"),
            ("(file-AbC_1)", "([provider_id])"),
            ("\\nresp_abc", "\\n[provider_id]"),
            ("see https://a.b/c?d=e for more", "see [url] for more"),
            (r#"{"url":"HTTP://x"}"#, r#"{"url":"[url]"}"#),
            ("key sk-abcdefghij.", "key [credential]."),
            ("key sk-proj-abcdef", "key [credential]"),
            ("key sk-ab****yz12", "key [credential]"),
            ("sk-short", "sk-short"),
            (
                "Authorization: Bearer x.y.z now",
                "Authorization: [credential] now",
            ),
            ("Bearer ", "Bearer "),
            ("resp_", "resp_"),
            ("https://", "https://"),
        ];
        for (text, expected) in cases {
            assert_eq!(scrub(text), expected);
        }
    }

    /// CONT-39, PLAT-117
    #[test]
    fn every_prefix_is_known_with_both_separators() {
        for prefix in ID_PREFIXES {
            for separator in ['-', '_'] {
                let text = format!("at {prefix}{separator}1a_B-2 end");
                assert_eq!(scrub(&text), "at [provider_id] end");
            }
        }
    }

    /// PLAT-117
    #[test]
    fn error_details_keep_identifiers_but_not_credentials() {
        let text = "resp_1 at https://h/ refused sk-0123456789";
        assert_eq!(
            scrub_credentials(text),
            "resp_1 at https://h/ refused [credential]"
        );
    }

    #[test]
    fn clean_text_is_borrowed() {
        assert!(matches!(scrub("nothing to hide, größe"), Cow::Borrowed(_)));
    }

    fn fragments() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "resp_",
            "file-",
            "sk-",
            "Bearer ",
            "bearer",
            "https://",
            "http://",
            "[url]",
            "[provider_id]",
            "[credential]",
            "abcdefghijk",
            "-",
            "_",
            " ",
            "\"",
            "é",
            "\u{a0}",
        ]);
        let fragment = prop_oneof![known.prop_map(str::to_owned), any::<String>()];
        prop::collection::vec(fragment, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn scrubbing_twice_is_scrubbing_once(text in fragments()) {
            let once = scrub(&text).into_owned();
            prop_assert_eq!(scrub(&once), once.as_str());
        }

        #[test]
        fn no_identifier_survives_any_surroundings(
            before in any::<String>(),
            prefix in prop::sample::select(ID_PREFIXES.to_vec()),
            id in "[A-Za-z0-9]{12}",
            after in any::<String>(),
        ) {
            let text = format!("{before}{prefix}_{id}{after}");
            prop_assert!(!scrub(&text).contains(&id) || before.contains(&id) || after.contains(&id));
        }
    }
}
