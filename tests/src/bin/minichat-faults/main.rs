//! What becomes of 200 streams when the database or the process fails: `cargo xtask faults` builds what it needs and
//! keeps the table in `docs/faults.md`.
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

mod faults;
mod load;
mod pooler;
mod probe;
mod report;
mod scene;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;

use faults::Fault;
use report::{Outcome, table};
use scene::Scene;

/// How long everybody streams before a fault, and after the recovery from it.
const STEADY: Duration = Duration::from_secs(4);

#[derive(Parser)]
struct Arguments {
    /// The data plane's program
    #[arg(long)]
    dataplane: PathBuf,
    /// Directory of `initdb`, `pg_ctl` and `postgres`
    #[arg(long)]
    postgres: PathBuf,
    /// Users that send, each one stream after the other
    #[arg(long, default_value_t = 200)]
    streams: usize,
    /// Only the lines whose name holds this
    #[arg(long)]
    only: Option<String>,
    /// Where the table is written
    #[arg(long)]
    out: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tokio::select! {
        outcome = run(&arguments) => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let chosen = arguments.only.as_deref().unwrap_or_default();
    let mut outcomes = Vec::new();
    for fault in Fault::ALL {
        if fault.name().contains(chosen) {
            println!("{} …", fault.name());
            let outcome = line(arguments, fault).await;
            outcomes.push(outcome.with_context(|| fault.name().to_owned())?);
        }
    }
    let table = table(&outcomes, arguments.streams);
    println!("\n{table}");
    if let Some(path) = &arguments.out {
        std::fs::write(path, report::document(&table))?;
    }
    let failed = outcomes.iter().filter(|it| !it.is_right()).count();
    if outcomes.is_empty() || failed > 0 {
        bail!(
            "{failed} of {} lines are not as they must be",
            outcomes.len()
        );
    }
    Ok(())
}

/// Streams, breaks something, repairs it, and looks what is left.
async fn line(arguments: &Arguments, fault: Fault) -> anyhow::Result<Outcome> {
    let mut scene = Scene::open(arguments, fault).await?;
    let users = scene.load(arguments.streams).await?;
    let probes = scene.probe();
    tokio::time::sleep(STEADY).await;
    fault.strike(&mut scene).await?;
    scene.until_ready().await?;
    tokio::time::sleep(STEADY).await;
    let probes = probes.stop().await?;
    let sent = users.stop().await?;
    let left_for_watchdog = scene.running().await?;
    scene.end_orphans().await?;
    let outcome = Outcome {
        fault,
        running: scene.running().await?,
        not_stored: sent.not_stored(&scene.stored().await?),
        sent,
        left_for_watchdog,
        probes,
    };
    scene.close().await?;
    Ok(outcome)
}
