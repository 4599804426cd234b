//! `cargo xtask generate`: files that are made from code and committed.

use std::fs;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::workspace;

#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing, fail when a file is stale
    #[arg(long)]
    check: bool,
}

struct Generated {
    path: &'static str,
    content: fn() -> String,
}

/// The one table of generated files. `docs/benchmarks.md` is not among them: `cargo xtask bench` measures it.
const FILES: &[Generated] = &[Generated {
    path: "docs/metrics.md",
    content: || minichat_metrics::catalogue::markdown("mini_chat"),
}];

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.check { check() } else { write() }
}

/// Fails when a committed file is not what the code generates.
pub(crate) fn check() -> anyhow::Result<()> {
    let stale: Vec<&str> = FILES
        .iter()
        .filter(|file| is_stale(file))
        .map(|file| file.path)
        .collect();
    if !stale.is_empty() {
        bail!(
            "stale: {}; run `cargo xtask generate` and commit the result",
            stale.join(", ")
        );
    }
    Ok(())
}

fn write() -> anyhow::Result<()> {
    for file in FILES.iter().filter(|file| is_stale(file)) {
        let path = workspace::root().join(file.path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, (file.content)())
            .with_context(|| format!("cannot write {}", file.path))?;
        println!("{}", file.path);
    }
    Ok(())
}

fn is_stale(file: &Generated) -> bool {
    fs::read_to_string(workspace::root().join(file.path))
        .ok()
        .as_deref()
        != Some(&(file.content)())
}
