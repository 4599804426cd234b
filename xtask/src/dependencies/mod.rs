//! `cargo xtask check-deps`: which crate may import which (ARCHITECTURE.md).
//! The tables are in [`rules`]. A crate that is missing from them is a violation too. `deny.toml` restricts heavy
//! dependencies as well, but cannot distinguish the crates of this workspace. [`rooms`] checks the top modules of the
//! two big crates in the same way.

mod graph;
mod rooms;
mod rules;

use anyhow::{Context as _, bail};

use crate::workspace;
use graph::Graph;

pub(crate) fn run() -> anyhow::Result<()> {
    let arguments = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--all-features",
    ];
    let output = workspace::cargo().args(arguments).output()?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let graph = Graph::parse(&output.stdout).context("cargo metadata has an unknown form")?;
    let mut violations = rules::violations(&graph);
    violations.extend(rooms::violations(workspace::root())?);
    if !violations.is_empty() {
        bail!(
            "dependency rules are broken:\n  {}",
            violations.join("\n  ")
        );
    }
    Ok(())
}
