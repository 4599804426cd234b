//! Measures the delivery of events to webhooks: the time from the commit of an event until its receiver has it, and what
//! the healthy tenants notice while every fifth sink is sick and one of three processes is killed every two seconds
//! (G23, PLAT-30 to PLAT-42). `cargo xtask bench --events` builds what it needs, optimised.
#![expect(clippy::print_stdout, reason = "the results of a command line program")]

mod ledger;
mod load;
mod pods;
mod receiver;
mod report;
mod scene;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use minichat_tests::database::DatabaseKind;
use minichat_tests::figures::replace_section;

use report::Report;
use scene::{Plan, Scene};

#[derive(Parser, Debug)]
struct Arguments {
    /// Directory of the optimised programs
    #[arg(long)]
    programs: PathBuf,
    /// Tenants of the runs with kills
    #[arg(long, default_value_t = 200)]
    tenants: usize,
    /// Turns of a run with kills; each leaves two events
    #[arg(long, default_value_t = 50_000)]
    turns: usize,
    /// Turns in a second
    #[arg(long, default_value_t = 250)]
    rate: usize,
    /// Page whose section about events is replaced
    #[arg(long)]
    page: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    for database in [DatabaseKind::Sqlite, DatabaseKind::Postgres] {
        let plan = Plan {
            database,
            processes: 1,
            tenants: 20,
            turns: 4_000,
            rate: 200,
            sick: false,
            kill_every: None,
        };
        report.lag(
            &plan,
            Scene::open(&arguments.programs, plan).await?.run().await?,
        );
    }
    for sick in [false, true] {
        let plan = Plan {
            database: DatabaseKind::Postgres,
            processes: 3,
            tenants: arguments.tenants,
            turns: arguments.turns,
            rate: arguments.rate,
            sick,
            kill_every: Some(Duration::from_secs(2)),
        };
        report.kills(
            &plan,
            Scene::open(&arguments.programs, plan).await?.run().await?,
        );
    }
    let (text, is_met) = report.finish();
    println!("{text}");
    if let Some(page) = &arguments.page {
        replace_section(page, "Events", &text)?;
    }
    anyhow::ensure!(
        is_met,
        "events were lost, repeated under another key, or out of order"
    );
    Ok(())
}
