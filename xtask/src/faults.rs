//! `cargo xtask faults`: makes database and process fail in every known way under 200 streams.

use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use minichat_cluster::packages::Package;

use crate::postgres::debian_directories;
use crate::{process, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Run only the lines whose name contains this, such as `disk`; write nothing
    #[arg(long)]
    only: Option<String>,
    /// Use another number of streams; write nothing
    #[arg(long)]
    streams: Option<usize>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let initdb = Package::new("initdb", "postgresql").ensure(debian_directories)?;
    Package::new("pgbouncer", "pgbouncer").ensure(Vec::new)?;
    Package::new("nft", "nftables").ensure(Vec::new)?;
    let programs = ["minichat-faults", "minichat-dataplane-under-test"];
    let build = ["build", "--workspace", "--locked"];
    let bins = programs.iter().flat_map(|program| ["--bin", program]);
    process::run("cargo build", workspace::cargo().args(build).args(bins))?;
    let binaries = workspace::target().join("debug");
    let mut command = Command::new(binaries.join(programs[0]));
    command.current_dir(workspace::root());
    command.arg("--dataplane").arg(binaries.join(programs[1]));
    let directory = initdb
        .parent()
        .context("the path of initdb has no directory")?;
    command.arg("--postgres").arg(directory);
    command
        .arg("--logs")
        .arg(workspace::target().join("faults"));
    let is_whole = options.only.is_none() && options.streams.is_none();
    if let Some(only) = &options.only {
        command.arg("--only").arg(only);
    }
    if let Some(streams) = options.streams {
        command.arg("--streams").arg(streams.to_string());
    }
    if is_whole {
        command.args(["--out", "docs/faults.md"]);
    }
    process::run("the faults", &mut command)
}
