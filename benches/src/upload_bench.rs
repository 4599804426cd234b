//! `minichat-upload-bench`: measures what uploads cost and writes the section about it. `cargo xtask bench --uploads`
//! builds what it needs.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "progress and results of a command line program"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use minichat_benches::subject::{Setup, Subject};
use minichat_benches::uploads::{self, Kind};
use minichat_benches::{interrupt, report};

#[derive(Parser)]
struct Arguments {
    /// Rounds to measure, each of about 40 seconds.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Page whose section about uploads is replaced; without it the figures are only printed.
    #[arg(long)]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    interrupt::watch()?;
    let program = std::env::current_exe()?;
    let binaries = program.parent().context("this program has no directory")?;
    let setup = Setup {
        binaries: binaries.to_owned(),
        postgres: None,
        before: None,
        subjects: vec![Subject::Sqlite],
    };
    let mut figures = Vec::new();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for kind in Kind::ALL {
            let measured = uploads::measure(round, kind, &setup)
                .with_context(|| format!("{kind:?} in round {round}"))?;
            eprintln!("{measured:?}");
            figures.push(measured);
        }
    }
    let section = uploads::section(&figures);
    println!("{section}");
    if let Some(page) = &arguments.page {
        write_section(page, &section)?;
    }
    Ok(())
}

fn write_section(page: &Path, section: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(page)?;
    Ok(fs::write(
        page,
        report::with_section(&text, "Uploads", section),
    )?)
}
