//! The specification in `docs/specification`: its rules, the files that cite
//! them, and the index of both. Citing a rule that does not exist is an error.

mod citation;
mod index;
mod rule;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use regex::Regex;

use self::citation::{Citation, Parser};
use self::index::Index;
use self::rule::{Rule, RuleId, Rules};
use self::sources::{Kind, Source};
use crate::workspace;

const DIRECTORY: &str = "docs/specification";
const INDEX: &str = "docs/specification/rules.md";

/// The chapters, followed by the page of decisions.
const CHAPTERS: [&str; 7] = [
    "01-api.md",
    "02-turns.md",
    "03-quota.md",
    "04-content.md",
    "05-platform.md",
    "06-kubernetes.md",
    "README.md",
];

/// Writes the index. With `is_check`, fails if it is stale.
pub(crate) fn run(is_check: bool) -> anyhow::Result<()> {
    let root = workspace::root();
    let path = root.join(INDEX);
    let page = page(root)?;
    if fs::read_to_string(&path).ok().as_ref() == Some(&page) {
        return Ok(());
    }
    if is_check {
        bail!("stale: {INDEX}; run `cargo xtask generate` and commit the result");
    }
    fs::write(&path, page).with_context(|| format!("cannot write {INDEX}"))?;
    println!("{INDEX}");
    Ok(())
}

fn page(root: &Path) -> anyhow::Result<String> {
    let mut faults = Vec::new();
    let Chapters { rules, titles } = chapters(root, &mut faults)?;
    let index = cited(&rules, &sources::read(root)?, &mut faults)?;
    if !faults.is_empty() {
        bail!("the specification:\n{}", faults.join("\n"));
    }
    Ok(index::page(&rules, &index, &titles))
}

struct Chapters {
    rules: Rules,
    /// File and title of each chapter.
    titles: Vec<(&'static str, String)>,
}

fn chapters(root: &Path, faults: &mut Vec<String>) -> anyhow::Result<Chapters> {
    let mut rules = Rules::new();
    let (mut titles, mut texts, mut anchors) = (Vec::new(), Vec::new(), BTreeMap::new());
    for chapter in CHAPTERS {
        let path = root.join(DIRECTORY).join(chapter);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let title = text.lines().find_map(|line| line.strip_prefix("# "));
        let title = match chapter {
            "README.md" => "Decisions",
            _ => title.unwrap_or(chapter),
        };
        titles.push((chapter, title.to_owned()));
        anchors.insert(
            chapter,
            rule::read_chapter(chapter, &text, &mut rules, faults)?,
        );
        texts.push((chapter, text));
    }
    for (chapter, text) in &texts {
        faults.extend(dead_links(chapter, text, &anchors)?);
    }
    Ok(Chapters { rules, titles })
}

/// Links to headings that do not exist.
fn dead_links(
    chapter: &str,
    text: &str,
    anchors: &BTreeMap<&str, BTreeSet<String>>,
) -> anyhow::Result<Vec<String>> {
    let link = Regex::new(r"\]\(([0-9a-zA-Z-]+\.md)#([^)]+)\)")?;
    let mut dead = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for found in link.captures_iter(line) {
            let is_there = |anchors: &BTreeSet<String>| anchors.contains(&found[2]);
            if !anchors.get(&found[1]).is_some_and(is_there) {
                let (file, anchor) = (&found[1], &found[2]);
                dead.push(format!(
                    "{DIRECTORY}/{chapter}:{number}: {file} has no heading `#{anchor}`"
                ));
            }
        }
    }
    Ok(dead)
}

/// Which files cite which rule. Citing a missing rule is a fault.
fn cited(rules: &Rules, sources: &[Source], faults: &mut Vec<String>) -> anyhow::Result<Index> {
    let parser = Parser::new()?;
    let mut index = Index::new();
    for source in sources.iter().filter(|source| source.path != INDEX) {
        for (line, text) in parser.shortened(&source.text) {
            faults.push(format!(
                "{}:{line}: `{text}` hides rules; write each id in full, or a range as `API-1 to API-3`",
                source.path
            ));
        }
        for citation in parser.citations(&source.text) {
            let ids = match ids(rules, &citation) {
                Ok(ids) => ids,
                Err(fault) => {
                    faults.push(format!("{}:{}: {fault}", source.path, citation.line));
                    continue;
                }
            };
            for id in ids {
                let cited = index.entry(id).or_default();
                let files = match source.kind {
                    Kind::Document => continue,
                    Kind::Test => &mut cited.tests,
                    Kind::Code if citation.is_in_tests => &mut cited.tests,
                    Kind::Code => &mut cited.code,
                };
                files.insert(source.path.clone());
            }
        }
    }
    Ok(index)
}

/// The rules that a citation names. Both ends of a range must exist. Missing
/// numbers in between are skipped, and so are rules that are not built.
fn ids(rules: &Rules, citation: &Citation) -> Result<Vec<RuleId>, String> {
    let Citation { first, last, .. } = *citation;
    let last = last.unwrap_or(first);
    if let Some(unknown) = [first, last].iter().find(|id| !rules.contains_key(id)) {
        return Err(format!("{unknown} is no rule of {DIRECTORY}"));
    }
    let range = first
        .up_to(last)
        .ok_or_else(|| format!("{first} to {last} is no range"))?;
    let is_meant =
        |id: &RuleId| *id == first || *id == last || rules.get(id).is_some_and(Rule::is_built);
    Ok(range.filter(is_meant).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, kind: Kind, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            kind,
            text: text.to_owned(),
        }
    }

    fn rules() -> Rules {
        let (mut rules, mut faults) = (Rules::new(), Vec::new());
        let text =
            "**API-1** [P1] a\n**API-2** [P1, not built] -\n**API-3** [P1] b\n**TURN-1** [P1] c\n";
        rule::read_chapter("01-api.md", text, &mut rules, &mut faults).unwrap();
        rules
    }

    #[test]
    fn a_citation_of_no_rule_is_a_fault_with_its_place() {
        let unknown = "//! API-1\n//! API-99, D99\n// API-3 to API-1\n";
        let sources = [source("a.rs", Kind::Code, unknown)];
        let mut faults = Vec::new();
        cited(&rules(), &sources, &mut faults).unwrap();
        assert_eq!(
            faults,
            [
                "a.rs:2: API-99 is no rule of docs/specification",
                "a.rs:2: D99 is no rule of docs/specification",
                "a.rs:3: API-3 to API-1 is no range",
            ]
        );
    }

    #[test]
    fn a_link_to_no_heading_is_a_fault() {
        let anchors = BTreeMap::from([("01-api.md", BTreeSet::from(["1-base".to_owned()]))]);
        let text = "[API-1](01-api.md#1-base)\n[a](01-api.md#2), [b](09-x.md#1-base)";
        assert_eq!(
            dead_links("README.md", text, &anchors).unwrap(),
            [
                "docs/specification/README.md:2: 01-api.md has no heading `#2`",
                "docs/specification/README.md:2: 09-x.md has no heading `#1-base`",
            ]
        );
    }

    #[test]
    fn a_shortened_citation_is_a_fault() {
        let sources = [source("a.rs", Kind::Code, "// API-1, 3")];
        let mut faults = Vec::new();
        cited(&rules(), &sources, &mut faults).unwrap();
        let expected =
            "a.rs:1: `API-1, 3` hides rules; write each id in full, or a range as `API-1 to API-3`";
        assert_eq!(faults, [expected]);
    }

    #[test]
    fn code_and_tests_are_kept_apart() {
        let inline = "// API-1 to API-3\n#[cfg(test)]\nmod tests {\n// TURN-1\n";
        let sources = [
            source("a.rs", Kind::Code, inline),
            source("tests/b.rs", Kind::Test, "// API-3"),
            source("c.md", Kind::Document, "API-1"),
        ];
        let mut faults = Vec::new();
        let index = cited(&rules(), &sources, &mut faults).unwrap();
        assert_eq!(faults, Vec::<String>::new());
        let files = |prefix, number| {
            let cited = &index[&RuleId::parse(prefix, number).unwrap()];
            let list = |set: &BTreeSet<String>| -> Vec<String> { set.iter().cloned().collect() };
            (list(&cited.code), list(&cited.tests))
        };
        assert_eq!(files("API", "1"), (vec!["a.rs".into()], vec![]));
        assert!(!index.contains_key(&RuleId::parse("API", "2").unwrap()));
        let both = (vec!["a.rs".into()], vec!["tests/b.rs".into()]);
        assert_eq!(files("API", "3"), both);
        assert_eq!(files("TURN", "1"), (vec![], vec!["a.rs".into()]));
    }
}
