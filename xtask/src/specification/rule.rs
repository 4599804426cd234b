//! Ids of rules and decisions, and their definitions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use regex::Regex;

/// Prefixes of the chapters, in order. Decisions come last.
pub(super) const PREFIXES: [&str; 6] = ["API", "TURN", "QUOTA", "CONT", "PLAT", "K8S"];

/// `API-12`, or the decision `D36`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RuleId {
    /// Index into [`PREFIXES`]; its length means a decision.
    chapter: usize,
    number: u32,
}

impl RuleId {
    pub(super) fn parse(prefix: &str, number: &str) -> Option<Self> {
        let chapter = match prefix {
            "D" => PREFIXES.len(),
            prefix => PREFIXES.iter().position(|known| *known == prefix)?,
        };
        let number = number.parse().ok()?;
        Some(Self { chapter, number })
    }

    /// All ids from this one to `last`, which must be in the same chapter and
    /// not lower.
    pub(super) fn up_to(self, last: Self) -> Option<impl Iterator<Item = Self>> {
        let Self { chapter, number } = self;
        (last.chapter == chapter && number <= last.number)
            .then(|| (number..=last.number).map(move |number| Self { chapter, number }))
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PREFIXES.get(self.chapter) {
            Some(prefix) => write!(f, "{prefix}-{}", self.number),
            None => write!(f, "D{}", self.number),
        }
    }
}

/// A rule as its chapter defines it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    pub(super) chapter: &'static str,
    /// `P1`, `P2, not built`, `P1, client rule`, `void`; empty for a decision.
    pub(super) mark: String,
    pub(super) about: String,
    /// Anchor of the heading above it.
    pub(super) anchor: String,
}

impl Rule {
    pub(super) fn is_built(&self) -> bool {
        !self.mark.ends_with("not built") && self.mark != "void"
    }

    /// Whether code has to hold it today: a rule for clients binds none.
    pub(super) fn is_built_p1(&self) -> bool {
        matches!(self.mark.as_str(), "P1" | "P1, partly built")
    }
}

/// All rules of the specification by id.
pub(super) type Rules = BTreeMap<RuleId, Rule>;

/// Reads one chapter into `rules` and adds errors to `faults`. Returns the
/// anchors of its headings.
pub(super) fn read_chapter(
    chapter: &'static str,
    text: &str,
    rules: &mut Rules,
    faults: &mut Vec<String>,
) -> anyhow::Result<BTreeSet<String>> {
    let begins = Regex::new(r"^(?:- )?\*\*([A-Z0-9]+)-([0-9]+)")?;
    let defines = Regex::new(
        r"^(?:- )?\*\*[A-Z0-9]+-[0-9]+\*\* \[(P[12](?:, (?:(?:not|partly) built|client rule))?|void)\] (.*)$",
    )?;
    let decides = Regex::new(r"^\| D([0-9]+) \| (.*?) \|")?;
    let mut anchors = Anchors::default();
    for (number, line) in (1..).zip(text.lines()) {
        anchors.pass(line);
        let (id, mark, text) = if let Some(found) = begins.captures(line) {
            let Some(id) = RuleId::parse(&found[1], &found[2]) else {
                continue;
            };
            let Some(found) = defines.captures(line) else {
                faults.push(format!(
                    "docs/specification/{chapter}:{number}: a definition has the form `**{id}** [P1] text`"
                ));
                continue;
            };
            (id, found[1].to_owned(), found[2].to_owned())
        } else if let Some(found) = decides.captures(line) {
            let Some(id) = RuleId::parse("D", &found[1]) else {
                continue;
            };
            (id, String::new(), found[2].to_owned())
        } else {
            continue;
        };
        let rule = Rule {
            chapter,
            mark,
            about: summary(&text),
            anchor: anchors.current.clone(),
        };
        if let Some(other) = rules.insert(id, rule) {
            faults.push(format!(
                "docs/specification/{chapter}:{number}: {id} is defined in {} as well",
                other.chapter
            ));
        }
    }
    Ok(anchors.all)
}

/// Maximum length of a rule's summary in characters.
const SUMMARY: usize = 90;

/// The summary of a rule: its first sentence, or the first words if that is too
/// long.
fn summary(text: &str) -> String {
    // `*Not built: …*` precedes the text.
    let text = text
        .strip_prefix("*Not built")
        .and_then(|rest| rest.split_once(".* "))
        .map_or(text, |(_, text)| text);
    // Removes bold marks and the escapes of table cells.
    let text = text.replace("**", "").replace("\\|", "|");
    let sentence = match text.find(". ").or_else(|| text.find(": ")) {
        Some(end) => &text[..end],
        None => text.trim_end_matches(['.', ':']),
    };
    let mut short: String = sentence.chars().take(SUMMARY).collect();
    if short.len() < sentence.len() {
        short.truncate(short.rfind(' ').unwrap_or(short.len()));
    }
    // An unpaired backtick would turn the following text into code.
    if short.matches('`').count() % 2 == 1 {
        short.truncate(short.rfind('`').unwrap_or_default());
    }
    let short = short.trim_end();
    if short.len() < sentence.len() {
        format!("{short} …")
    } else {
        short.to_owned()
    }
}

/// Anchors of headings, as GitHub computes them.
#[derive(Default)]
struct Anchors {
    current: String,
    all: BTreeSet<String>,
}

impl Anchors {
    fn pass(&mut self, line: &str) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            return;
        }
        let slug: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut others = 0;
        while !self.all.insert(anchor.clone()) {
            others += 1;
            anchor = format!("{slug}-{others}");
        }
        self.current = anchor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Rules, Vec<String>) {
        let (mut rules, mut faults) = (Rules::new(), Vec::new());
        read_chapter("01-api.md", text, &mut rules, &mut faults).unwrap();
        (rules, faults)
    }

    fn id(number: u32) -> RuleId {
        RuleId { chapter: 0, number }
    }

    #[test]
    fn a_rule_is_a_line_that_begins_with_its_id_and_mark() {
        let text = "# 1. A\n\n## 2. Base path, `/v1`\n\n- **API-1** [P1] Base path. Rest of API-2.\n\
                    **API-2** [P1, partly built] *Not built: half.* The `a` | rest: more\n\
                    \n### Base path, /v1\n- **API-3** [void] (D40)\n| D36 | Ids | x |\n";
        let (rules, faults) = read(text);
        assert_eq!(faults, Vec::<String>::new());
        let first = &rules[&id(1)];
        assert_eq!(
            (first.mark.as_str(), first.about.as_str()),
            ("P1", "Base path")
        );
        assert_eq!(first.anchor, "2-base-path-v1");
        assert_eq!(rules[&id(2)].about, "The `a` | rest");
        assert!(rules[&id(2)].is_built_p1() && !rules[&id(3)].is_built_p1());
        assert_eq!(rules[&id(3)].anchor, "base-path-v1");
        let client = &read("**API-4** [P1, client rule] wait\n").0[&id(4)];
        assert!(client.is_built() && !client.is_built_p1());
        let decision = RuleId::parse("D", "36").unwrap();
        assert_eq!(rules[&decision].about, "Ids");
    }

    #[test]
    fn other_forms_and_second_definitions_are_faults() {
        let (rules, faults) =
            read("- **API-1 [P1]** a\n**API-2** [P3] b\n**API-3** [P2] c\n**API-3** [P2] d\n");
        assert_eq!(rules.len(), 1);
        assert_eq!(
            faults,
            [
                "docs/specification/01-api.md:1: a definition has the form `**API-1** [P1] text`",
                "docs/specification/01-api.md:2: a definition has the form `**API-2** [P1] text`",
                "docs/specification/01-api.md:4: API-3 is defined in 01-api.md as well",
            ]
        );
    }

    #[test]
    fn equal_headings_have_anchors_of_their_own() {
        let (rules, _) = read("## A b\n**API-1** [P1] x\n## A b\n**API-2** [P1] y\n");
        assert_eq!(rules[&id(1)].anchor, "a-b");
        assert_eq!(rules[&id(2)].anchor, "a-b-1");
    }

    #[test]
    fn a_summary_is_short_and_cuts_no_code() {
        let long = format!("{} `a b`. c", "word ".repeat(17).trim_end());
        assert_eq!(summary("One. Two."), "One");
        assert_eq!(summary("**Title**: rest"), "Title");
        assert_eq!(summary("Ends in a colon:"), "Ends in a colon");
        assert_eq!(summary(r"`a \| b` is. c"), "`a | b` is");
        let cut = summary(&long);
        assert!(cut.ends_with(" …") || !cut.contains('…'), "{cut}");
        assert_eq!(cut.matches('`').count() % 2, 0, "{cut}");
    }
}
