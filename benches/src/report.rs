//! Writes the figures as CSV, as a Markdown page and to the terminal.

use std::fmt::{self, Write as _};

use crate::goals::{Judgement, Verdict};
use crate::samples::{Measure, Samples, Spread};
use crate::subject::Subject;

/// The code and the machine that were measured.
#[derive(Debug)]
pub struct Machine {
    /// Commit of the measured code.
    pub commit: String,
    /// Model name of the processor.
    pub processor: String,
    /// Logical processors.
    pub cores: usize,
    /// Rounds that count and rounds that were left out.
    pub rounds: u32,
    /// Rounds left out because the machine was not quiet.
    pub dropped: u32,
}

/// One row per figure: round, subject, measure, value.
pub fn csv(samples: &Samples) -> String {
    let mut text = String::from("round,subject,measure,value\n");
    for sample in samples.all() {
        let (subject, measure) = (sample.subject.name(), sample.measure.name());
        line(
            &mut text,
            format_args!("{},{subject},{measure},{:.3}", sample.round, sample.value),
        );
    }
    text
}

/// The page `docs/benchmarks.md`.
pub fn markdown(machine: &Machine, judgements: &[Judgement], samples: &Samples) -> String {
    let mut page = String::from(PAGE_HEAD);
    let Machine {
        commit,
        processor,
        cores,
        rounds,
        dropped,
    } = machine;
    line(
        &mut page,
        format_args!(
            "Commit `{commit}`, {processor}, {cores} logical processors, {rounds} rounds ({dropped} left out)."
        ),
    );
    page.push_str(
        "\n## Goals\n\n| Id | Goal | Median | Min–max | Verdict |\n|---|---|---|---|---|\n",
    );
    for judgement in judgements {
        let Judgement {
            id,
            goal,
            figure,
            unit,
            verdict,
        } = judgement;
        let (median, range) = match figure {
            Some(spread) => (format!("{} {unit}", number(spread.median)), range(*spread)),
            None => ("–".to_owned(), "–".to_owned()),
        };
        line(
            &mut page,
            format_args!("| {id} | {goal} | {median} | {range} | {verdict} |"),
        );
    }
    page.push_str("\n## Figures\n\nMedian (min–max) over the rounds.\n\n");
    page.push_str(&figures(samples));
    page.push_str(PAGE_METHOD);
    page
}

/// The sections of the existing page that other benchmarks write. They are the page's
/// last sections.
pub fn of_other_benchmarks(page: &str) -> &str {
    let begins = ["\n## Directories\n", "\n## Operator\n"];
    let begin = begins.iter().filter_map(|heading| page.find(heading)).min();
    begin.map_or("", |at| &page[at..])
}

/// One line per goal.
pub fn terminal(judgements: &[Judgement]) -> String {
    let mut text = String::new();
    for judgement in judgements {
        let figure = judgement.figure.map_or_else(
            || "not measured".to_owned(),
            |spread| {
                format!(
                    "{} {} ({})",
                    number(spread.median),
                    judgement.unit,
                    range(spread)
                )
            },
        );
        line(
            &mut text,
            format_args!(
                "{:<12} {} {}: {figure}",
                judgement.verdict.to_string(),
                judgement.id,
                judgement.goal
            ),
        );
    }
    text
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stretch => "pass+",
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Unmeasured => "not measured",
        })
    }
}

/// The table of all measures and subjects.
pub fn figures(samples: &Samples) -> String {
    let measured = |subject: &Subject| {
        Measure::ALL
            .iter()
            .any(|&m| samples.spread(*subject, m).is_some())
    };
    let subjects: Vec<Subject> = Subject::ALL.into_iter().filter(measured).collect();
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name()).collect();
    let mut table = format!(
        "| Measure | {} |\n|---{}|\n",
        names.join(" | "),
        "|---".repeat(names.len())
    );
    for measure in Measure::ALL {
        let cells: Vec<String> = subjects
            .iter()
            .map(|&subject| {
                let spread = samples.spread(subject, measure);
                spread.map_or_else(
                    || "–".to_owned(),
                    |s| format!("{} ({})", number(s.median), range(s)),
                )
            })
            .collect();
        line(
            &mut table,
            format_args!("| {} | {} |", measure.title(), cells.join(" | ")),
        );
    }
    table
}

fn line(text: &mut String, arguments: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn range(spread: Spread) -> String {
    format!("{}–{}", number(spread.min), number(spread.max))
}

/// Three significant digits; more are not meaningful on a shared machine.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

const PAGE_HEAD: &str = "<!-- @generated by `cargo xtask bench`; do not edit -->

# Benchmarks

This page compares four ways to a scripted provider: minichat, nginx with `proxy_buffering off` (N), a bare hyper relay
(H, `benches/src/bare_relay.rs`) and a direct connection. Absolute figures differ from machine to machine, so compare
figures of one table only. [benchmarks.csv](benchmarks.csv) has all rounds.

";

const PAGE_METHOD: &str = "
## Method

- Release build with durable accounting: SQLite with `synchronous=FULL`, PostgreSQL with Debian's defaults. So every
  turn waits for its commits. Each stream has its own chat, created before the measurement.
- Every round starts all subjects anew on loopback and measures them one after the other, in a rotating order.
  *Added* is subject minus direct in the same round. A round counts only if the p99 of direct is below twice its
  median and the load generator uses less than 80 % of a core.
- The run fails if an answer is incomplete, out of order, or does not end with exactly one successful terminal event.
- First token: one kept-alive client, answers of one token, a provider that answers at once. 200 streams: answers of
  100 chunks, 20 ms apart; the clients start over two seconds. Each chunk contains the time of the provider's
  monotonic clock, so its latency is one-way. Turns: 32 clients, answers of one token. Unpaced: 4 clients, answers of
  2,000 chunks.
- CPU is the processor time of the subject's process (user and system, 10 ms resolution). nginx runs as one process
  without workers. PostgreSQL's processor time is not included in the data plane's.
- RSS per open stream is the growth of resident memory while 200 streams are open (largest value minus the value
  before), divided by 200.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::judge;
    use crate::samples::Sample;

    fn samples() -> Samples {
        let mut samples = Samples::default();
        for (round, value) in [(1, 3_000.0), (2, 3_100.0)] {
            let (subject, measure) = (Subject::Sqlite, Measure::TurnsPerCpuSecond);
            samples.push(Sample {
                round,
                subject,
                measure,
                value,
            });
        }
        samples
    }

    #[test]
    fn csv_has_one_row_per_figure() {
        let text = csv(&samples());
        assert_eq!(
            text.lines().nth(1),
            Some("1,minichat-sqlite,turns_per_cpu_second,3000.000")
        );
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn the_page_shows_median_range_and_verdict_of_a_goal() {
        let machine = Machine {
            commit: "abc".to_owned(),
            processor: "test".to_owned(),
            cores: 2,
            rounds: 2,
            dropped: 0,
        };
        let page = markdown(&machine, &judge(&samples()), &samples());
        assert!(
            page.contains("(stretch 6,000) | 3050 turns | 3000–3100 | pass |"),
            "{page}"
        );
        assert!(page.contains("| – | – | not measured |"));
    }
}
