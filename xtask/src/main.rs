//! `cargo xtask`: the commands for working with this repository, such as tests, checks and benchmarks.
#![expect(
    clippy::print_stdout,
    reason = "a command line program speaks on its output"
)]

mod aimock;
mod bench;
mod check;
mod cluster;
mod deny;
mod dependencies;
mod faults;
mod foreign;
mod generate;
mod images;
mod postgres;
mod process;
mod python_tool;
mod quickstart;
mod schemathesis;
mod specification;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a scripted provider and the data plane, stream one answer, keep running
    Quickstart(quickstart::Options),
    /// Run every test, on a PostgreSQL and a Kubernetes that it starts itself
    Test(test::Options),
    /// Formatting, lints, documentation, generated files, dependency rules
    Check,
    /// Write the generated files
    Generate(generate::Options),
    /// Report dependencies that break the rules
    CheckDeps,
    /// Start or stop a real Kubernetes on this machine
    Cluster(cluster::Options),
    /// Build the images of the Dockerfile without Docker
    Images,
    /// Make database and process fail under 200 streams and write docs/faults.md
    Faults(faults::Options),
    /// Run the side-by-side benchmark and write docs/benchmarks.md
    Bench(bench::Options),
    /// Test the data plane against a third-party proxy and write docs/foreign-providers.md
    Foreign(foreign::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    process::watch_for_interrupts()?;
    match command {
        Command::Quickstart(options) => quickstart::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Check => check::run(),
        Command::Generate(options) => generate::run(&options),
        Command::CheckDeps => dependencies::run(),
        Command::Cluster(options) => cluster::run(&options),
        Command::Images => images::run(),
        Command::Faults(options) => faults::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Foreign(options) => foreign::run(&options),
    }
}
