//! `minichat-bench`: runs the side-by-side benchmark and writes its report. `cargo xtask bench` builds what it needs.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "progress and results of a command line program"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;
use minichat_benches::cpu::processor_model;
use minichat_benches::goals::Judgements;
use minichat_benches::interrupt;
use minichat_benches::postgres::Postgres;
use minichat_benches::report::{self, Machine};
use minichat_benches::round::{self, Load, Part};
use minichat_benches::samples::{Measure, Samples};
use minichat_benches::subject::{Setup, Subject};

#[derive(Parser)]
struct Arguments {
    /// Rounds to measure.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Put a smaller load on the subjects: enough to see a regression.
    #[arg(long)]
    short: bool,
    /// Subjects to measure; all of them if absent (PostgreSQL only with its URL).
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Parts of the load to put on them: first-token, streams, turns, one-user, bursts, leaving; all of them if absent.
    #[arg(long, value_delimiter = ',', value_parser = part, conflicts_with = "out")]
    parts: Vec<Part>,
    /// Any database of the server for the data planes on PostgreSQL, on which databases may be created:
    /// `postgres://USER@ADDRESS:PORT/NAME`.
    #[arg(long, env = "MINICHAT_BENCH_POSTGRES_URL")]
    postgres_url: Option<String>,
    /// Directory of `psql` and `pgbench`; by default they are on the path.
    #[arg(long, value_name = "DIR")]
    postgres_programs: Option<PathBuf>,
    /// The program of an earlier commit's data plane, to be measured beside the current one.
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Directory for benchmarks.md and benchmarks.csv; without it the figures are only printed.
    #[arg(long)]
    out: Option<PathBuf>,
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
    let setup = setup(arguments)?;
    let load = if arguments.short {
        Load::SHORT
    } else {
        Load::FULL
    };
    let parts = match arguments.parts.as_slice() {
        [] => &Part::ALL,
        chosen => chosen,
    };
    let mut samples = Samples::default();
    for number in 1..=arguments.rounds {
        eprintln!("round {number} of {}", arguments.rounds);
        round::measure(number, &setup, &load, parts, &mut samples)?;
    }
    let dropped = drop_noisy_rounds(&mut samples, arguments.rounds);
    let judgements = Judgements::of(&samples);
    println!("{}", report::figures(&samples));
    print!("{}", report::terminal(&judgements));
    if !samples.one_user_waits.is_empty() {
        println!(
            "\nOne user's turns on PostgreSQL:\n{}",
            samples.one_user_waits.table()
        );
    }
    if dropped > 0 {
        println!(
            "{dropped} of {} rounds were left out: the machine was not quiet",
            arguments.rounds
        );
    }
    if let Some(directory) = &arguments.out {
        let machine = machine(arguments.rounds - dropped, dropped)?;
        fs::write(directory.join("benchmarks.csv"), report::csv(&samples))?;
        let page = directory.join("benchmarks.md");
        let before = fs::read_to_string(&page).unwrap_or_default();
        let mut text = report::markdown(&machine, &judgements, &samples);
        text.push_str(report::of_other_benchmarks(&before));
        fs::write(page, text)?;
    }
    Ok(())
}

fn part(name: &str) -> Result<Part, String> {
    Part::ALL
        .into_iter()
        .find(|part| part.name() == name)
        .ok_or_else(|| format!("expected one of {}", Part::ALL.map(Part::name).join(", ")))
}

fn setup(arguments: &Arguments) -> anyhow::Result<Setup> {
    let program = std::env::current_exe()?;
    let binaries = program
        .parent()
        .context("this program has no directory")?
        .to_owned();
    let programs = arguments.postgres_programs.clone();
    let postgres = arguments.postgres_url.as_deref();
    let postgres = postgres
        .map(|url| Postgres::new(url, programs))
        .transpose()?;
    let before = arguments.before.clone();
    let is_possible = |subject: &Subject| {
        (postgres.is_some() || !subject.is_on_postgres())
            && (before.is_some() || subject.after().is_none())
    };
    let wanted = |subject: &Subject| {
        if arguments.subjects.is_empty() {
            is_possible(subject)
        } else {
            arguments.subjects.iter().any(|name| name == subject.name())
        }
    };
    let subjects: Vec<_> = Subject::ALL.into_iter().filter(wanted).collect();
    ensure!(!subjects.is_empty(), "none of --subjects is one");
    Ok(Setup {
        binaries,
        postgres,
        before,
        subjects,
    })
}

/// Leaves out rounds in which the machine, not the subject, decided: direct's own p99 doubled, or the load
/// generator had no processor time left. Returns how many.
fn drop_noisy_rounds(samples: &mut Samples, rounds: u32) -> u32 {
    const SATURATED_PERCENT: f64 = 80.0;
    let Some(usual) = samples.spread(Subject::Direct, Measure::ChunkP99Micros) else {
        return 0;
    };
    let is_noisy = |samples: &Samples, round: u32| {
        let direct = samples.get(round, Subject::Direct, Measure::ChunkP99Micros);
        let saturated = Subject::ALL.into_iter().any(|subject| {
            samples
                .get(round, subject, Measure::GeneratorPercent)
                .is_some_and(|v| v > SATURATED_PERCENT)
        });
        saturated || direct.is_some_and(|p99| p99 > 2.0 * usual.median)
    };
    let noisy: Vec<u32> = (1..=rounds)
        .filter(|&round| is_noisy(samples, round))
        .collect();
    for &round in &noisy {
        samples.drop_round(round);
    }
    u32::try_from(noisy.len()).unwrap_or(u32::MAX)
}

fn machine(rounds: u32, dropped: u32) -> anyhow::Result<Machine> {
    let commit = Command::new("git")
        .args(["log", "-1", "--format=%h of %cs"])
        .output()?;
    Ok(Machine {
        commit: String::from_utf8_lossy(&commit.stdout).trim().to_owned(),
        processor: processor_model(),
        cores: std::thread::available_parallelism()?.get(),
        rounds,
        dropped,
    })
}
