//! Finds citations of rules in code, tests and documents: `API-12`, `D36`, and
//! ranges such as `API-50 to API-55`, which cite every rule in them.

use regex::Regex;

use super::rule::{PREFIXES, RuleId};

/// A place that cites a rule or a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Citation {
    pub(super) first: RuleId,
    /// The end of a range.
    pub(super) last: Option<RuleId>,
    /// Counted from 1.
    pub(super) line: usize,
    /// Whether it is in the `#[cfg(test)]` module of a Rust file.
    pub(super) is_in_tests: bool,
}

/// Finds citations in a text.
pub(super) struct Parser {
    pattern: Regex,
    short: Regex,
}

impl Parser {
    pub(super) fn new() -> anyhow::Result<Self> {
        let rule = format!("({})-([0-9]+)", PREFIXES.join("|"));
        // A range may be broken over lines of a comment.
        let pattern = Regex::new(&format!(
            r"(?-u:\b){rule}(?-u:\b)(?:[ \t\r\n]+(?://[/!]?[ ])?to[ \t\r\n]+(?:[ ]*//[/!]?[ ])?{rule}(?-u:\b))?|(?-u:\b)D([1-9][0-9]?)(?-u:\b)"
        ))?;
        // A number after a rule, as in `API-1, 2` or `API-1..3`, would not be
        // recognised.
        let short = Regex::new(&format!(
            r"(?-u:\b){rule}(?:,|\.\.|…|–|/| to)[ ]?[0-9]+(?-u:\b)"
        ))?;
        Ok(Self { pattern, short })
    }

    /// Shortened citations with their lines. They would be missed.
    pub(super) fn shortened<'a>(&self, text: &'a str) -> Vec<(usize, &'a str)> {
        let found = self.short.find_iter(text);
        found
            .map(|found| {
                (
                    1 + text[..found.start()].matches('\n').count(),
                    found.as_str(),
                )
            })
            .collect()
    }

    pub(super) fn citations(&self, text: &str) -> Vec<Citation> {
        let tests_begin = start_of_tests(text).unwrap_or(text.len());
        let mut line = 1;
        let mut at = 0;
        let mut citations = Vec::new();
        for found in self.pattern.captures_iter(text) {
            let group = |index: usize| found.get(index).map(|part| part.as_str());
            let start = found.get(0).map_or(0, |whole| whole.start());
            line += text[at..start].matches('\n').count();
            at = start;
            let first = match (group(1), group(2), group(5)) {
                (Some(prefix), Some(number), _) => RuleId::parse(prefix, number),
                (_, _, Some(number)) => RuleId::parse("D", number),
                _ => None,
            };
            let last = group(3).zip(group(4));
            let last = last.and_then(|(prefix, number)| RuleId::parse(prefix, number));
            citations.extend(first.map(|first| Citation {
                first,
                last,
                line,
                is_in_tests: start >= tests_begin,
            }));
        }
        citations
    }
}

/// The line at which the tests of a Rust file begin, if it contains tests.
fn start_of_tests(text: &str) -> Option<usize> {
    text.match_indices("#[cfg(test)]\n")
        .find(|(at, attribute)| {
            let next = text[at + attribute.len()..]
                .lines()
                .find(|line| !line.trim_start().starts_with("#["));
            next.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
        })
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let parser = Parser::new().unwrap();
        let citations = parser.citations(text).into_iter();
        citations
            .map(|citation| match citation.last {
                Some(last) => format!("{}: {}..{last}", citation.line, citation.first),
                None => format!("{}: {}", citation.line, citation.first),
            })
            .collect()
    }

    #[test]
    fn rules_and_decisions_are_found_with_their_lines() {
        assert_eq!(
            found("/// API-12, `TURN-2`; D36.\n\n// (K8S-50, D1)\n"),
            ["1: API-12", "1: TURN-2", "1: D36", "3: K8S-50", "3: D1"]
        );
    }

    #[test]
    fn a_range_may_be_broken_over_lines_of_a_comment() {
        assert_eq!(
            found("//! (API-50 to API-55)\n    /// PLAT-1\n    /// to PLAT-3, PLAT-4 to\n"),
            ["1: API-50..API-55", "2: PLAT-1..PLAT-3", "3: PLAT-4"]
        );
    }

    #[test]
    fn numbers_behind_a_rule_are_shortened_citations() {
        let parser = Parser::new().unwrap();
        let text = "(API-1, 2)\nAPI-3..5, TURN-1/2, D1, 2 API-7, TURN-2: 30, PLAT-1 to 4";
        assert_eq!(
            parser.shortened(text),
            [
                (1, "API-1, 2"),
                (2, "API-3..5"),
                (2, "TURN-1/2"),
                (2, "PLAT-1 to 4")
            ]
        );
    }

    #[test]
    fn what_only_looks_like_a_rule_is_none() {
        assert_eq!(
            found("UTF-8, RFC-12, XAPI-1, D0, D100, 3D7 SD1 \"API-\" -D"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn tests_within_a_file_begin_at_their_module() {
        let text = "// API-1\n#[cfg(test)]\nuse x;\n// API-2\n#[cfg(test)]\n#[path = \"a\"]\nmod tests {\n// API-3\n";
        let parser = Parser::new().unwrap();
        let citations = parser.citations(text);
        let in_tests: Vec<bool> = citations.iter().map(|found| found.is_in_tests).collect();
        assert_eq!(in_tests, [false, false, true]);
    }
}
