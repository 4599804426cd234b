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
mod documents;
mod faults;
mod foreign;
mod generate;
mod images;
mod llmsim;
mod node_tool;
mod postgres;
mod process;
mod python_tool;
mod quickstart;
mod schemathesis;
mod specification;
mod test;
mod upload_clients;
mod webhooks;
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
    /// Start the data plane and a scripted provider, stream one answer, and keep running
    Quickstart(quickstart::Options),
    /// Run every test, on a PostgreSQL and a Kubernetes that it starts
    Test(test::Options),
    /// Check formatting, lints, documentation, generated files, dependency rules and licences
    Check,
    /// Write the generated files: docs, charts, CRDs, index of rules
    Generate(generate::Options),
    /// Report imports between crates and rooms that ARCHITECTURE.md forbids
    CheckDeps,
    /// Start, show or stop a real Kubernetes on this machine
    Cluster(cluster::Options),
    /// Build the container images without Docker
    Images,
    /// Make database and process fail under 200 streams; write docs/faults.md
    Faults(faults::Options),
    /// Measure minichat beside nginx and a bare relay; write docs/benchmarks.md
    Bench(bench::Options),
    /// Test data plane and scripted provider against third-party programs; write docs/foreign-providers.md
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
