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
    content: String,
}

/// The one list of generated files. `docs/benchmarks.md` is not among them: `cargo xtask bench` measures it.
fn files() -> anyhow::Result<Vec<Generated>> {
    let mut files = vec![
        Generated {
            path: "docs/metrics.md",
            content: minichat_metrics::catalogue::markdown("mini_chat"),
        },
        Generated {
            path: "docs/configuration.md",
            content: minichat_config::process::reference::markdown(),
        },
    ];
    let resources = minichat_crds::generate::files()?;
    files.extend(resources.into_iter().map(|file| Generated {
        path: file.path,
        content: file.content,
    }));
    Ok(files)
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.check { check() } else { write() }
}

/// Fails when a committed file is not what the code generates.
pub(crate) fn check() -> anyhow::Result<()> {
    let files = files()?;
    let stale: Vec<&str> = files
        .iter()
        .filter(|file| file.is_stale())
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
    for file in files()?.iter().filter(|file| file.is_stale()) {
        let path = workspace::root().join(file.path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, &file.content).with_context(|| format!("cannot write {}", file.path))?;
        println!("{}", file.path);
    }
    Ok(())
}

impl Generated {
    fn is_stale(&self) -> bool {
        fs::read_to_string(workspace::root().join(self.path))
            .ok()
            .as_ref()
            != Some(&self.content)
    }
}
