//! `cargo xtask bench`: builds everything optimised and runs the side-by-side benchmark of `benches/`.

use std::process::Command;

use clap::Args;

use crate::postgres::{Durability, Postgres};
use crate::{packages, process, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Few rounds of a small load, and nothing is written: enough to see a regression
    #[arg(long)]
    short: bool,
    /// Rounds to measure
    #[arg(long)]
    rounds: Option<u32>,
    /// Parts of the load to measure, for `--short`: first-token, streams, turns, bursts
    #[arg(long, requires = "short", value_delimiter = ',')]
    parts: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let build = ["build", "--release", "--locked", "--bins"];
    let packages = [
        "-p",
        "minichat-benches",
        "-p",
        "minichat-dataplane",
        "-p",
        "minichat-tests",
    ];
    process::run("cargo build", workspace::cargo().args(build).args(packages))?;
    packages::ensure("nginx", "nginx-light", Vec::new)?;
    let postgres = Postgres::start(Durability::Durable)?;
    let mut command = Command::new(workspace::target().join("release/minichat-bench"));
    command
        .current_dir(workspace::root())
        .arg("--postgres-url")
        .arg(postgres.url());
    let rounds = options.rounds.unwrap_or(if options.short { 2 } else { 5 });
    command.arg("--rounds").arg(rounds.to_string());
    if options.short {
        command.arg("--short");
        if !options.parts.is_empty() {
            command.arg("--parts").arg(options.parts.join(","));
        }
    } else {
        command.args(["--out", "docs"]);
    }
    process::run("the benchmark", &mut command)
}
