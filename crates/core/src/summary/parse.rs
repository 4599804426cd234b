//! What is kept of a summarizing model's answer (CONT-136).

/// Longest summary in bytes, whatever its reader has room for.
pub const MAX_SUMMARY_BYTES: usize = 32 * 1024;

const ANALYSIS: (&str, &str) = ("<analysis>", "</analysis>");
const SUMMARY: (&str, &str) = ("<summary>", "</summary>");
/// Beginnings of blocks that were not understood.
const FRAGMENTS: [&str; 2] = ["<analysis", "<summary"];

/// The summary in `answer`, cut to `max_bytes`; empty if there is none. Reading a
/// summary again changes nothing.
pub fn parse(answer: &str, max_bytes: usize) -> String {
    let without_analysis = match block(answer, ANALYSIS) {
        Some((before, _, after)) => format!("{before}{after}"),
        None => answer.to_owned(),
    };
    let text = match block(&without_analysis, SUMMARY) {
        Some((_, inside, _)) => inside,
        None => &without_analysis,
    };
    if FRAGMENTS.iter().any(|fragment| text.contains(fragment)) {
        return String::new();
    }
    bounded(collapsed(text.trim()), max_bytes)
}

/// Tokens of a summary, for people: what the provider counted, else an estimate.
pub fn token_estimate(summary: &str, output_tokens: u64) -> u32 {
    let tokens = match output_tokens {
        0 => (summary.len() as u64).div_ceil(4),
        counted => counted,
    };
    u32::try_from(tokens).map_or(i32::MAX as u32, |tokens| tokens.min(i32::MAX as u32))
}

/// What is before, inside and after the first block between two tags.
fn block<'a>(text: &'a str, (begin, end): (&str, &str)) -> Option<(&'a str, &'a str, &'a str)> {
    let (before, rest) = text.split_once(begin)?;
    let (inside, after) = rest.split_once(end)?;
    Some((before, inside, after))
}

/// With at most two line feeds in a row.
fn collapsed(text: &str) -> String {
    let mut collapsed = String::with_capacity(text.len());
    let mut feeds = 0;
    for c in text.chars() {
        feeds = if c == '\n' { feeds + 1 } else { 0 };
        if feeds <= 2 {
            collapsed.push(c);
        }
    }
    collapsed
}

fn bounded(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let mut end = max_bytes;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.truncate(text.trim_end().len());
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CONT-136
    #[test]
    fn only_the_summary_is_kept() {
        let rows = [
            ("<analysis>a</analysis><summary> s </summary>", "s"),
            ("x <summary>s\n\n\n\nt</summary> y", "s\n\nt"),
            ("<analysis>a</analysis>\nplain", "plain"),
            ("plain", "plain"),
            ("<summary>half", ""),
            ("<analysis>half", ""),
            ("<analysis>a</analysis><analysis>b</analysis>c", ""),
            ("<summary>a <summary>b</summary>", ""),
            ("<ana<analysis>x</analysis>lysis>", ""),
            ("<summary></summary>", ""),
            ("<analysis>only</analysis>", ""),
            ("", ""),
        ];
        for (answer, expected) in rows {
            assert_eq!(parse(answer, MAX_SUMMARY_BYTES), expected, "{answer:?}");
        }
    }

    #[test]
    fn tokens_are_counted_or_estimated_and_fit_their_column() {
        assert_eq!(token_estimate("12345", 0), 2);
        assert_eq!(token_estimate("12345", 7), 7);
        assert_eq!(token_estimate("", u64::MAX), i32::MAX as u32);
    }

    fn answers() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("<analysis>".to_owned()),
            Just("</analysis>".to_owned()),
            Just("<summary>".to_owned()),
            Just("</summary>".to_owned()),
            Just("<summ".to_owned()),
            Just("ary>".to_owned()),
            Just("\n".to_owned()),
            Just(" \u{2003}".to_owned()),
            Just("é".repeat(20_000)),
            ".{0,8}",
        ];
        let pieces = proptest::collection::vec(piece, 0..24).prop_map(|all| all.concat());
        let bytes = proptest::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        prop_oneof![pieces, bytes]
    }

    proptest! {
        /// CONT-136
        #[test]
        fn any_answer_gives_a_bounded_summary_that_stays_as_it_is(
            answer in answers(),
            most in prop_oneof![0_usize..100, Just(MAX_SUMMARY_BYTES)],
        ) {
            let summary = parse(&answer, most);
            prop_assert!(summary.len() <= most);
            prop_assert_eq!(summary.trim(), &summary);
            prop_assert!(!summary.contains("\n\n\n"));
            for fragment in FRAGMENTS {
                prop_assert!(!summary.contains(fragment));
            }
            prop_assert_eq!(parse(&summary, most), summary);
        }
    }
}
