//! `cargo xtask test`: runs every test, on SQLite and PostgreSQL, on an API server and on a node.

use std::io::{self, BufRead, BufReader};
use std::process::Stdio;
use std::thread;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use minichat_cluster::packages::Package;

use crate::cluster::{Clusters, may_run};
use crate::postgres::{Durability, Postgres};
use crate::process::Running;
use crate::{aimock, llmsim, schemathesis, upload_clients, webhooks, workspace};

/// The test binary of `minichat-tests` that needs `PgBouncer`.
const BEHIND_POOLER: &str = "blackbox";

#[derive(Args)]
pub(crate) struct Options {
    /// Arguments for `cargo test`, such as `-p minichat-store` or a part of a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let schemathesis = may_run(&options.arguments, schemathesis::SUITE)
        .then(schemathesis::ensure)
        .transpose()?;
    let aimock = may_run(&options.arguments, aimock::SUITE)
        .then(aimock::ensure)
        .transpose()?;
    let llmsim = may_run(&options.arguments, llmsim::SUITE)
        .then(llmsim::ensure)
        .transpose()?;
    let receivers = may_run(&options.arguments, webhooks::SUITE)
        .then(webhooks::ensure)
        .transpose()?;
    let clients = may_run(&options.arguments, upload_clients::SUITE)
        .then(upload_clients::ensure)
        .transpose()?;
    if may_run(&options.arguments, "operator") {
        // Runs the health check for Argo CD in the docs.
        Package::new("lua5.1", "lua5.1").ensure(Vec::new)?;
    }
    if may_run(&options.arguments, BEHIND_POOLER) {
        Package::new("pgbouncer", "pgbouncer").ensure(Vec::new)?;
    }
    // The node first, because the database listens on one of its addresses.
    let clusters = Clusters::for_tests(&options.arguments)?;
    let postgres = Postgres::start(Durability::Volatile, clusters.reach())?;
    let mut command = workspace::cargo();
    command.args(["test", "--no-fail-fast"]);
    if !options
        .arguments
        .iter()
        .any(|argument| argument.starts_with("-p"))
    {
        command.arg("--workspace");
    }
    command.args(&options.arguments);
    command
        .envs(postgres.environment())
        .envs(clusters.environment())
        .envs(schemathesis.map(|program| (schemathesis::PROGRAM, program)))
        .envs(aimock.map(|program| (aimock::PROGRAM, program)))
        .envs(llmsim.map(|program| (llmsim::PROGRAM, program)))
        .envs(receivers.map(|python| (webhooks::PYTHON, python)))
        .envs(clients.unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut tests = Running::start("cargo test", &mut command)?;
    let output = tests
        .child()
        .stdout
        .take()
        .context("cargo test has no output")?;
    // Read in another thread, so that an interrupt is noticed while a test is silent.
    let reader = thread::spawn(move || print_and_count(BufReader::new(output)));
    let status = tests.wait()?;
    let totals = reader
        .join()
        .map_err(|_| anyhow!("reading the output failed"))??;
    drop(postgres);
    clusters.stop()?;
    println!("{} passed, {} failed", totals.passed, totals.failed);
    if !status.success() {
        bail!("cargo test failed ({status})");
    }
    Ok(())
}

fn print_and_count(output: impl BufRead) -> io::Result<Totals> {
    let mut totals = Totals::default();
    for line in output.lines() {
        let line = line?;
        totals.count(&line);
        println!("{line}");
    }
    Ok(totals)
}

/// Sums over all test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
}

impl Totals {
    fn count(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number_before = |word: &str| -> u64 {
            let before = result.split(word).next().unwrap_or_default().trim_end();
            before
                .rsplit(' ')
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default()
        };
        self.passed += number_before("passed");
        self.failed += number_before("failed;");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_over_all_binaries() {
        let mut totals = Totals::default();
        totals.count("running 3 tests");
        totals.count("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        totals.count("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s");
        assert_eq!(
            totals,
            Totals {
                passed: 15,
                failed: 2
            }
        );
    }
}
