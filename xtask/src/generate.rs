//! `cargo xtask generate`: writes the committed files that are generated from code.
//! The index of the specification is written here, because it needs no compiled code. The program `xtask-generate`
//! writes the others; it links the code that they describe. It is built with the features of the whole workspace, so
//! that nothing is compiled twice and `cargo xtask` itself builds quickly.

use std::process::Command;

use clap::Args;

use crate::{process, specification, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing; fail if a file is stale
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    specification::run(options.check)?;
    let build = [
        "build",
        "--quiet",
        "--workspace",
        "--locked",
        "--bin",
        "xtask-generate",
    ];
    process::run("cargo build", workspace::cargo().args(build))?;
    let mut command = Command::new(workspace::target().join("debug/xtask-generate"));
    command.current_dir(workspace::root());
    if options.check {
        command.arg("--check");
    }
    process::run("generating", &mut command)
}

/// Fails if a committed file differs from what the code generates.
pub(crate) fn check() -> anyhow::Result<()> {
    run(&Options { check: true })
}
