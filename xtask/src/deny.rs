//! Licences, sources and bans of the whole dependency graph, by cargo-deny and `deny.toml`.

use std::path::PathBuf;

use crate::{process, workspace};

/// Pinned, so that the result changes only with a commit.
const VERSION: &str = "0.20.2";

pub(crate) fn run() -> anyhow::Result<()> {
    let deny = ensure_installed()?;
    let mut command = std::process::Command::new(deny);
    command.current_dir(workspace::root());
    command.args([
        "--all-features",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    process::run("cargo deny", &mut command)
}

/// Builds cargo-deny once per target directory, without optimisation: it runs for only a second, so optimising it would
/// cost more time than it saves.
fn ensure_installed() -> anyhow::Result<PathBuf> {
    let root = workspace::target()
        .join("tools")
        .join(format!("cargo-deny-{VERSION}"));
    let binary = root.join("bin/cargo-deny");
    if !binary.is_file() {
        println!("installing cargo-deny {VERSION} into {}", root.display());
        let mut command = workspace::cargo();
        command.args([
            "install",
            "cargo-deny",
            "--version",
            VERSION,
            "--locked",
            "--debug",
            "--quiet",
            "--root",
        ]);
        command.arg(&root).env_remove("CARGO_TARGET_DIR");
        process::run("cargo install", &mut command)?;
    }
    Ok(binary)
}
