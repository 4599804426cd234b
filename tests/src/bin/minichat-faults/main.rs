//! Shows what 200 streams notice when the database or the process fails. `cargo xtask faults` builds what it needs and
//! keeps the table in `docs/faults.md`.
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

mod faults;
mod load;
mod packets;
mod processes;
mod readiness;
mod report;
mod scene;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use faults::Fault;
use minichat_tests::books::check_books;
use report::{Outcome, table};
use scene::Scene;

/// Duration of normal load before a fault and after its recovery.
const STEADY: Duration = Duration::from_secs(4);

#[derive(Parser)]
struct Arguments {
    /// Path of the data plane's program
    #[arg(long)]
    dataplane: PathBuf,
    /// Directory of `initdb`, `pg_ctl` and `postgres`
    #[arg(long)]
    postgres: PathBuf,
    /// Number of users that read one stream after the other
    #[arg(long, default_value_t = 200)]
    streams: usize,
    /// Run only the lines whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Directory for the logs of the data planes, one file per line
    #[arg(long)]
    logs: PathBuf,
    /// File for the table
    #[arg(long)]
    out: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    processes::adopt_orphans()?;
    // From here on, a signal ends the program only after everything is cleaned up.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let outcome = tokio::select! {
        outcome = run(&arguments) => outcome,
        _ = interrupt.recv() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
        _ = hang_up.recv() => Err(anyhow!("hung up")),
    };
    let ended = processes::all_ended().await;
    outcome.and(ended)
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let chosen = arguments.only.as_deref().unwrap_or_default();
    let mut outcomes = Vec::new();
    for fault in Fault::ALL {
        if fault.name().contains(chosen) {
            println!("{} …", fault.name());
            let outcome = line(arguments, fault).await;
            processes::all_ended().await?;
            outcomes.push(outcome.with_context(|| fault.name().to_owned())?);
        }
    }
    let table = table(&outcomes, arguments.streams);
    println!("\n{table}");
    if let Some(path) = &arguments.out {
        std::fs::write(path, report::document(&table))?;
    }
    let failed = outcomes.iter().filter(|it| !it.faults().is_empty()).count();
    if outcomes.is_empty() || failed > 0 {
        bail!(
            "{failed} of {} lines are not as they must be; what the data planes logged lies in {}",
            outcomes.len(),
            arguments.logs.display()
        );
    }
    Ok(())
}

/// Streams, causes the fault, repairs it, and checks the result.
async fn line(arguments: &Arguments, fault: Fault) -> anyhow::Result<Outcome> {
    let mut scene = Scene::open(arguments, fault).await?;
    let users = scene.load(arguments.streams).await?;
    let observer = scene.observe();
    tokio::time::sleep(STEADY).await;
    let struck = fault.strike(&mut scene).await?;
    scene.until_ready().await?;
    tokio::time::sleep(STEADY).await;
    let log = users.stop().await;
    let readiness = observer.stop().await?;
    let before_watchdog = scene.rows().await?;
    scene.end_orphans().await?;
    let outcome = Outcome {
        fault,
        struck,
        log,
        readiness,
        before_watchdog,
        after_watchdog: scene.rows().await?,
        books: check_books(&scene.database).await.err(),
    };
    scene.close().await?;
    Ok(outcome)
}
