//! The page with the results.

use std::fs;

use anyhow::Context as _;

use crate::workspace;

const HEAD: &str = "\
# Third-party providers, checks and clients

`cargo xtask foreign` writes this page. It runs third-party programs against the data plane and against the scripted
provider of the tests, in the versions that this repository pins. A row in bold failed.
";

pub(super) struct Page {
    text: String,
    failed: usize,
}

impl Page {
    pub(super) fn new() -> Self {
        Self {
            text: HEAD.to_owned(),
            failed: 0,
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// How many rows failed.
    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    /// Begins a section with its words and the head of its table.
    pub(super) fn section(&mut self, title: &str, words: &str, columns: &[&str]) {
        let rule = "---|".repeat(columns.len());
        for part in ["\n## ", title, "\n\n", words, "\n"] {
            self.text.push_str(part);
        }
        self.line(&columns.join(" | "));
        self.text.push('|');
        self.text.push_str(&rule);
        self.text.push('\n');
    }

    /// Adds a row; the error of a failed one is its last cell.
    pub(super) fn row(&mut self, cells: &[&str], result: anyhow::Result<String>) {
        let last = match result {
            Ok(words) => words,
            Err(error) => {
                self.failed += 1;
                format!("**{}**", one_cell(&format!("{error:#}")))
            }
        };
        self.line(&format!("{} | {last}", cells.join(" | ")));
    }

    fn line(&mut self, cells: &str) {
        for part in ["| ", cells, " |\n"] {
            self.text.push_str(part);
        }
    }
}

/// A text that stays within its cell of a table.
pub(super) fn one_cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// The first `length` characters of `text`.
pub(super) fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The line of the file `pins` that begins with `name==`.
pub(super) fn pin(pins: &str, name: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(workspace::root().join(pins))?;
    let mut lines = text.lines();
    let line = lines.find(|line| line.split("==").next() == Some(name));
    Ok(line
        .with_context(|| format!("{pins} does not pin {name}"))?
        .to_owned())
}
