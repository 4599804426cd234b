//! `cargo xtask bench`: builds everything optimised and runs the side-by-side benchmark of `benches/`.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use minichat_cluster::packages::Package;

use crate::cluster::Clusters;
use crate::postgres::{Durability, Postgres, Reach};
use crate::{process, workspace};

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each flag of the command is one"
)]
pub(crate) struct Options {
    /// Run few rounds with a small load and write nothing: enough to see a regression
    #[arg(long)]
    short: bool,
    /// Measure how fast a change of a manifest reaches the pods of a cluster
    #[arg(long, conflicts_with_all = ["short", "rounds"])]
    cluster: bool,
    /// Measure the operator with 1,000 tenants, and with 8,000 large Secrets, and write its section of docs/benchmarks.md
    #[arg(long, conflicts_with_all = ["short", "rounds", "cluster"])]
    scale: bool,
    /// Measure a directory of up to 10,000 manifests and write its section of docs/benchmarks.md
    #[arg(long, conflicts_with_all = ["short", "rounds", "cluster", "scale"])]
    directory: bool,
    /// Measure how events reach webhooks, also beside sick receivers and while processes are killed, and write its
    /// section of docs/benchmarks.md
    #[arg(long, conflicts_with_all = ["short", "rounds", "cluster", "scale", "directory"])]
    events: bool,
    /// Measure memory and streams while files are uploaded, and write the section of docs/benchmarks.md about it
    #[arg(long, conflicts_with_all = ["short", "cluster", "scale", "directory", "events"])]
    uploads: bool,
    /// Number of tenants, for `--scale`
    #[arg(long, requires = "scale")]
    tenants: Option<usize>,
    /// Rounds to measure
    #[arg(long)]
    rounds: Option<u32>,
    /// Parts of the load to measure, for `--short`: first-token, streams, turns, one-user, bursts, leaving
    #[arg(long, requires = "short", value_delimiter = ',')]
    parts: Vec<String>,
    /// Subjects to measure, for `--short`, such as direct,minichat-postgres
    #[arg(long, requires = "short", value_delimiter = ',')]
    subjects: Vec<String>,
    /// Measure the data plane of this commit in the same rounds
    #[arg(long, value_name = "COMMIT", conflicts_with_all = ["cluster", "scale", "directory", "events", "uploads"])]
    before: Option<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.cluster {
        return run_on_cluster();
    }
    if options.scale {
        return run_at_scale(options.tenants);
    }
    if options.directory {
        return run_on_directory();
    }
    if options.events {
        return run_with_events();
    }
    if options.uploads {
        return run_with_uploads(options.rounds);
    }
    let before = options.before.as_deref().map(build_before).transpose()?;
    let programs = build_optimised()?;
    Package::new("nginx", "nginx-light").ensure(Vec::new)?;
    let postgres = Postgres::start(Durability::Durable, Reach::Loopback)?;
    let mut command = Command::new(programs.join("minichat-bench"));
    command
        .current_dir(workspace::root())
        .arg("--postgres-url")
        .arg(postgres.url())
        .arg("--postgres-programs")
        .arg(postgres.programs());
    if let Some(before) = before {
        command.arg("--before").arg(before);
    }
    let rounds = options.rounds.unwrap_or(if options.short { 2 } else { 5 });
    command.arg("--rounds").arg(rounds.to_string());
    if options.short {
        command.arg("--short");
        if !options.parts.is_empty() {
            command.arg("--parts").arg(options.parts.join(","));
        }
        if !options.subjects.is_empty() {
            command.arg("--subjects").arg(options.subjects.join(","));
        }
    } else {
        command.args(["--out", "docs"]);
    }
    process::run("the benchmark", &mut command)
}

fn benchmarks_page() -> PathBuf {
    workspace::root().join("docs/benchmarks.md")
}

/// Measures the operator, built optimised. Writes the page only with the default number of tenants.
fn run_at_scale(tenants: Option<usize>) -> anyhow::Result<()> {
    let programs = build_optimised()?;
    let mut command = benchmark("minichat-scale-bench")?;
    command.arg("--programs").arg(programs);
    match tenants {
        Some(tenants) => command.arg("--tenants").arg(tenants.to_string()),
        None => command.arg("--page").arg(benchmarks_page()),
    };
    process::run("the benchmark", &mut command)
}

/// Measures the data plane, built optimised, on directories of manifests.
fn run_on_directory() -> anyhow::Result<()> {
    let programs = build_optimised()?;
    let mut command = benchmark("minichat-directory-bench")?;
    command.arg("--programs").arg(programs).arg("--page");
    command.arg(benchmarks_page());
    process::run("the benchmark", &mut command)
}

/// Measures the delivery of events by data planes, built optimised, on a durable PostgreSQL and on SQLite.
fn run_with_events() -> anyhow::Result<()> {
    let programs = build_optimised()?;
    let mut command = benchmark("minichat-event-bench")?;
    let postgres = Postgres::start(Durability::Durable, Reach::Loopback)?;
    command.envs(postgres.environment());
    command.arg("--programs").arg(programs).arg("--page");
    command.arg(benchmarks_page());
    process::run("the benchmark", &mut command)
}

/// Measures a data plane, built optimised, to which files are uploaded. Writes the page only with the default number of
/// rounds.
fn run_with_uploads(rounds: Option<u32>) -> anyhow::Result<()> {
    let programs = build_optimised()?;
    let mut command = Command::new(programs.join("minichat-upload-bench"));
    match rounds {
        Some(rounds) => command.arg("--rounds").arg(rounds.to_string()),
        None => command.arg("--page").arg(benchmarks_page()),
    };
    process::run("the benchmark", &mut command)
}

/// Builds the optimised programs and returns their directory. All benchmarks build the same packages, because another
/// selection of packages would change the features of dependencies and compile them again.
fn build_optimised() -> anyhow::Result<PathBuf> {
    let build = ["build", "--release", "--locked", "--bins"];
    let packages = [
        "minichat-benches",
        "minichat-dataplane",
        "minichat-operator",
        "minichat-scripted-provider",
    ];
    let packages = packages.iter().flat_map(|package| ["-p", package]);
    process::run("cargo build", workspace::cargo().args(build).args(packages))?;
    Ok(workspace::target().join("release"))
}

/// Builds the data plane of an earlier commit from a worktree that is removed again, and returns the program.
fn build_before(commit: &str) -> anyhow::Result<PathBuf> {
    let directory = workspace::target().join("before");
    let (source, target) = (directory.join("source"), directory.join("target"));
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(workspace::root())
            .args(arguments)
            .arg(&source);
        git
    };
    if source.exists() {
        process::run("git", &mut git(&["worktree", "remove", "--force"]))?;
    }
    let mut add = git(&["worktree", "add", "--quiet", "--force", "--detach"]);
    process::run("git", add.arg(commit))?;
    let mut cargo = workspace::cargo();
    cargo
        .current_dir(&source)
        .args(["build", "--release", "--locked", "-p", "minichat-dataplane"])
        .env("CARGO_TARGET_DIR", &target);
    let outcome = process::run("cargo build", &mut cargo);
    process::run("git", &mut git(&["worktree", "remove", "--force"]))?;
    outcome?;
    Ok(target.join("release/minichat-dataplane"))
}

/// A benchmark of `minichat-tests`, built.
fn benchmark(name: &str) -> anyhow::Result<Command> {
    let build = ["build", "--workspace", "--locked", "--bin", name];
    process::run("cargo build", workspace::cargo().args(build))?;
    Ok(Command::new(workspace::target().join("debug").join(name)))
}

/// Measures on the node of this machine, and prints the figures.
fn run_on_cluster() -> anyhow::Result<()> {
    let mut command = benchmark("minichat-delivery-bench")?;
    let cluster = Clusters::with_node()?;
    let postgres = Postgres::start(Durability::Durable, cluster.reach())?;
    command.envs(cluster.environment());
    command.envs(postgres.environment());
    let measured = process::run("the benchmark", &mut command);
    drop(postgres);
    cluster.stop()?;
    measured
}
