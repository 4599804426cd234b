//! Prints the results, and writes them as a table into `docs/benchmarks.md`.
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

use std::fmt::Write as _;
use std::path::Path;

use minichat_tests::child::Memory;
use minichat_tests::figures::{replace_section, verdict};

const ABOUT: &str = "Measured by `cargo xtask bench --scale`: one operator on an API server without nodes, beside one process of the pool on
SQLite. Times run from the write of the object to the write that a watch shows.

| Measure | Figure | Goal | Verdict |
|---|---|---|---|
";

/// The goal of a figure, such as `≤ 6`.
pub(crate) struct Goal {
    text: String,
    is_met: bool,
}

impl Goal {
    pub(crate) fn new(text: &str, is_met: bool) -> Self {
        Self {
            text: text.to_owned(),
            is_met,
        }
    }
}

/// The lines so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: String,
}

impl Report {
    /// Prints a figure and adds it to the table.
    pub(crate) fn row(&mut self, what: &str, figure: &str, goal: Option<Goal>) {
        let (text, verdict) = goal.map_or(("–".to_owned(), "–"), |goal| {
            (goal.text, verdict(goal.is_met))
        });
        println!("{what}: {figure} (goal {text}: {verdict})");
        // A String takes everything.
        let _ = writeln!(self.rows, "| {what} | {figure} | {text} | {verdict} |");
    }

    /// Current and peak memory; the peak must stay below `goal` MiB.
    pub(crate) fn memory(&mut self, what: &str, memory: &Memory, goal: u64) {
        let (now, peak) = (memory.resident >> 20, memory.peak >> 20);
        let is_met = memory.peak < goal << 20;
        let goal = Goal::new(&format!("< {goal} MiB"), is_met);
        let figure = format!("{now} MiB, {peak} MiB at most");
        self.row(what, &figure, Some(goal));
    }

    /// Writes its section of `page`.
    pub(crate) fn write(&self, page: &Path) -> anyhow::Result<()> {
        replace_section(page, "Operator", &format!("{ABOUT}{}", self.rows))
    }
}
