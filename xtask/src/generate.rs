//! `cargo xtask generate`: files that are made from code and committed.
//!
//! The index of the specification is made here, since it needs no code. The rest is done by the program
//! `xtask-generate`, which links what it describes. It is built with the features of
//! the whole workspace, so that nothing is compiled twice, and `cargo xtask` itself stays quick to build.

use std::process::Command;

use clap::Args;

use crate::{process, specification, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing, fail when a file is stale
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

/// Fails when a committed file is not what the code generates.
pub(crate) fn check() -> anyhow::Result<()> {
    run(&Options { check: true })
}
