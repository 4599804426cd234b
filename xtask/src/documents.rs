//! Checks that the paths in the documents of the repository exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use regex::Regex;

use crate::workspace;

const DOCUMENTS: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"];

/// Fails if a document names a path that does not exist.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = workspace::root();
    let tree = Tree::read(root)?;
    let mut faults = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document))
            .with_context(|| format!("cannot read {document}"))?;
        for (line, fault) in tree.faults(&text)? {
            faults.push(format!("{document}:{line}: {fault}"));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("paths in documents:\n{}", faults.join("\n"))
}

/// The files and directories of the repository, by their paths from its root.
struct Tree(BTreeSet<String>);

impl Tree {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        let is_skipped = |name: &str| name == ".git" || name == "target";
        workspace::walk(root, is_skipped, &mut |file| {
            let path = file.strip_prefix(root).unwrap_or(file);
            files.push(path.to_string_lossy().into_owned());
        })?;
        Ok(Self::new(files))
    }

    fn new(files: impl IntoIterator<Item = String>) -> Self {
        let mut paths = BTreeSet::new();
        for file in files {
            let directories = file.match_indices('/').map(|(end, _)| &file[..end]);
            paths.extend(directories.map(str::to_owned));
            paths.insert(file);
        }
        Self(paths)
    }

    /// The lines of `text` that name a missing path, and what is wrong.
    fn faults(&self, text: &str) -> anyhow::Result<Vec<(usize, String)>> {
        let code = Regex::new(r"`([0-9A-Za-z_.-]+(?:/[0-9A-Za-z_.-]+)*/?)`")?;
        let link = Regex::new(r"\]\(([0-9A-Za-z_./-]+)(?:#[^)]*)?\)")?;
        let mut faults = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let named = code.captures_iter(line).map(|found| found.extract().1);
            for [path] in named.filter(|[path]| self.is_path(path)) {
                if !self.has(path) {
                    faults.push((number, format!("`{path}` does not exist")));
                }
            }
            for (_, [path]) in link.captures_iter(line).map(|found| found.extract()) {
                if !self.0.contains(path.trim_end_matches('/')) {
                    faults.push((
                        number,
                        format!("the link leads to {path}, which does not exist"),
                    ));
                }
            }
        }
        Ok(faults)
    }

    /// Whether a text in backticks is a path of the repository: it ends in `.rs`
    /// or `/`, or begins with a directory of the root.
    fn is_path(&self, text: &str) -> bool {
        let is_of_root = |(first, _): (&str, &str)| self.0.contains(first);
        let is_rust = Path::new(text)
            .extension()
            .is_some_and(|extension| extension == "rs");
        is_rust || text.ends_with('/') || text.split_once('/').is_some_and(is_of_root)
    }

    /// Whether `path` exists. A path that does not begin at the root may be the end
    /// of another one, such as `turn/relay.rs` below `dataplane/src`.
    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let first = path.split('/').next().unwrap_or(path);
        let is_end = |other: &String| {
            let rest = other.strip_suffix(path);
            rest.is_some_and(|rest| rest.ends_with('/'))
        };
        self.0.contains(path) || !self.0.contains(first) && self.0.iter().any(is_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let files = [
            "README.md",
            "crates/core/src/ids.rs",
            "dataplane/src/turn/relay.rs",
        ];
        Tree::new(files.map(str::to_owned))
    }

    #[test]
    fn existing_paths_are_accepted_from_the_root_and_as_the_end_of_a_path() {
        let text = "`crates/core/src/ids.rs`, `crates/core`, `dataplane/`, `turn/relay.rs`, `relay.rs`, \
                    `turn/` and [this](README.md#status), [that](https://example.com/a.rs)";
        assert_eq!(tree().faults(text).unwrap(), []);
    }

    #[test]
    fn a_missing_path_is_a_fault_with_its_line() {
        let text = "`crates/core/src/gone.rs`\n`crates/gone/`, `crates/core/docs`\n`core/ids.rs`, `elay.rs`\n[a](b.md)";
        let expected = [
            (1, "`crates/core/src/gone.rs` does not exist"),
            (2, "`crates/gone/` does not exist"),
            (2, "`crates/core/docs` does not exist"),
            (3, "`core/ids.rs` does not exist"),
            (3, "`elay.rs` does not exist"),
            (4, "the link leads to b.md, which does not exist"),
        ];
        let expected = expected.map(|(line, fault)| (line, fault.to_owned()));
        assert_eq!(tree().faults(text).unwrap(), expected);
    }

    #[test]
    fn other_code_is_no_path() {
        let text = "`namespace/name`, `sha256`, `minichat.dev/source`, `2001:db8::/32`, `cargo xtask check`";
        assert_eq!(tree().faults(text).unwrap(), []);
    }
}
