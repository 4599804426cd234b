//! The files of the repository that may cite rules.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::workspace;

/// Directories to search, and single files.
const ROOTS: [&str; 13] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    "Cargo.toml",
    "benches",
    "charts",
    "crates",
    "crds",
    "dataplane",
    "docs",
    "operator",
    "tests",
    "xtask",
];

const EXTENSIONS: [&str; 7] = ["md", "rs", "sql", "toml", "tpl", "yaml", "yml"];

/// Citations in the examples of this program do not count.
const EXAMPLES: &str = "xtask/src/specification/";

/// How a file counts for the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Code,
    Test,
    /// Checked, but not listed in the index.
    Document,
}

/// A file with its path from the root of the workspace.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// All files, ordered by path.
pub(super) fn read(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut files = Vec::new();
    for name in ROOTS {
        workspace::find_files(&root.join(name), &EXTENSIONS, &mut files)?;
    }
    files.sort();
    let sources = files.into_iter().map(|file| read_file(root, &file));
    let is_kept = |source: &Source| !source.path.starts_with(EXAMPLES);
    sources
        .filter(|source| source.as_ref().map_or(true, is_kept))
        .collect()
}

fn read_file(root: &Path, file: &Path) -> anyhow::Result<Source> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let path = file.strip_prefix(root).unwrap_or(file);
    let path = path.to_string_lossy().replace('\\', "/");
    Ok(Source {
        kind: kind(&path),
        path,
        text,
    })
}

fn kind(path: &str) -> Kind {
    let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    if extension == "md" {
        Kind::Document
    } else if directories.split('/').any(|directory| directory == "tests")
        || stem == "tests"
        || stem.ends_with("_tests")
    {
        Kind::Test
    } else {
        Kind::Code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_code_by_their_paths() {
        for path in [
            "tests/tests/blackbox/limits.rs",
            "dataplane/src/http/filter_tests.rs",
            "crates/core/src/quota/preflight/tests.rs",
        ] {
            assert_eq!(kind(path), Kind::Test, "{path}");
        }
        assert_eq!(kind("dataplane/src/http/chats.rs"), Kind::Code);
        assert_eq!(kind("charts/minichat/templates/_pod.tpl"), Kind::Code);
        assert_eq!(kind("tests/README.md"), Kind::Document);
    }
}
