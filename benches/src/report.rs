//! Writes the figures as CSV, as a Markdown page and to the terminal.

use std::fmt::{self, Write as _};

use crate::goals::{Judgement, Judgements, Verdict};
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
pub fn markdown(machine: &Machine, judgements: &Judgements, samples: &Samples) -> String {
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
    page.push_str(&goals(judgements));
    page.push_str("\n## Figures\n\nMedian (min–max) over the rounds.\n\n");
    page.push_str(&figures(samples));
    if !samples.one_user_waits.is_empty() {
        page.push_str(WAITS_HEAD);
        page.push_str(&samples.one_user_waits.table());
    }
    page.push_str(PAGE_METHOD);
    page
}

/// The table of goals, with a column for the earlier commit if it was measured.
fn goals(judgements: &Judgements) -> String {
    let has_before = judgements.pairs().any(|(_, before)| before.is_some());
    let (head, rule) = if has_before {
        (" Before |", "---|")
    } else {
        ("", "")
    };
    let mut table = format!(
        "\n## Goals\n\n| Id | Goal |{head} Median | Min–max | Verdict |\n|---|---|{rule}---|---|---|\n"
    );
    for (judgement, before) in judgements.pairs() {
        let Judgement {
            id,
            goal,
            figure,
            unit,
            verdict,
        } = judgement;
        let median = |figure: Option<Spread>| {
            figure.map_or_else(
                || "–".to_owned(),
                |spread| format!("{} {unit}", number(spread.median)),
            )
        };
        let before = if has_before {
            format!(" {} |", median(before.and_then(|before| before.figure)))
        } else {
            String::new()
        };
        let range = figure.map_or_else(|| "–".to_owned(), range);
        line(
            &mut table,
            format_args!(
                "| {id} | {goal} |{before} {} | {range} | {verdict} |",
                median(*figure)
            ),
        );
    }
    table
}

/// The sections of the existing page that other benchmarks write. They are the page's
/// last sections.
pub fn of_other_benchmarks(page: &str) -> &str {
    let begins = ["\n## Directories\n", "\n## Operator\n"];
    let begin = begins.iter().filter_map(|heading| page.find(heading)).min();
    begin.map_or("", |at| &page[at..])
}

/// The page with another text in the section `## <title>`, which is added if it is not there.
pub fn with_section(page: &str, title: &str, body: &str) -> String {
    let heading = format!("\n## {title}\n");
    let begin = page.find(&heading).unwrap_or(page.len());
    let rest = page.get(begin + heading.len()..).unwrap_or_default();
    let end = rest.find("\n## ").map_or("", |at| &rest[at..]);
    let before = page[..begin].trim_end();
    format!("{before}\n{heading}\n{}\n{end}", body.trim_end())
}

/// One line per goal.
pub fn terminal(judgements: &Judgements) -> String {
    let mut text = String::new();
    for (judgement, before) in judgements.pairs() {
        let shown = |figure: Option<Spread>| {
            figure.map_or_else(
                || "not measured".to_owned(),
                |spread| {
                    format!(
                        "{} {} ({})",
                        number(spread.median),
                        judgement.unit,
                        range(spread)
                    )
                },
            )
        };
        let before = before.map_or_else(String::new, |before| {
            format!("; before {}", shown(before.figure))
        });
        line(
            &mut text,
            format_args!(
                "{:<12} {} {}: {}{before}",
                judgement.verdict.to_string(),
                judgement.id,
                judgement.goal,
                shown(judgement.figure)
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

pub(crate) fn range(spread: Spread) -> String {
    format!("{}–{}", number(spread.min), number(spread.max))
}

/// Three significant digits; more are not meaningful on a shared machine.
pub(crate) fn number(value: f64) -> String {
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

const WAITS_HEAD: &str = "
## Waits

What the sessions of PostgreSQL do while 32 clients of one user run turns, a hundred times a second
(`pg_stat_activity`). A session in a transaction holds its locks while it waits for its client.

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
- One client is one user; all other runs have 1,000 users, each of whom had a turn before, unless they say *one user*.
- `pgbench` runs its default script on the same server, after the turns: `-M prepared -c 10`, scale 10.
- *minichat-remote* reaches PostgreSQL through a network (`benches/src/network.rs`): each chunk is handed on 0.5 ms after
  it came, in both directions, and chunks do not wait for one another. A round trip is counted when the data plane says
  something after the server has answered.
- *before-…* are the same subjects with the data plane of an earlier commit, measured in the same rounds.
- CPU is the processor time of the subject's process (user and system, 10 ms resolution). nginx runs as one process
  without workers. PostgreSQL's processor time is not included in the data plane's.
- RSS per open stream is the growth of resident memory while 200 streams are open (largest value minus the value
  before), divided by 200.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Sample;

    fn samples() -> Samples {
        let mut samples = Samples::default();
        for (round, subject, value) in [
            (1, Subject::Sqlite, 20_000.0),
            (2, Subject::Sqlite, 21_000.0),
            (2, Subject::SqliteBefore, 40_000.0),
        ] {
            samples.push(Sample {
                round,
                subject,
                measure: Measure::IdleRssKilobytes,
                value,
            });
        }
        samples
    }

    #[test]
    fn a_section_is_replaced_where_it_stands_and_added_where_it_does_not() {
        let page = "# Page\n\n## A\n\nold\n\n## B\n\nkept\n";
        let replaced = with_section(page, "A", "new\n");
        assert_eq!(replaced, "# Page\n\n## A\n\nnew\n\n## B\n\nkept\n");
        let added = with_section(&replaced, "C", "new");
        assert_eq!(added, format!("{replaced}\n## C\n\nnew\n"));
    }

    #[test]
    fn csv_has_one_row_per_figure() {
        let text = csv(&samples());
        assert_eq!(
            text.lines().nth(1),
            Some("1,minichat-sqlite,idle_rss_kb,20000.000")
        );
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn the_page_shows_before_median_range_and_verdict_of_a_goal() {
        let machine = Machine {
            commit: "abc".to_owned(),
            processor: "test".to_owned(),
            cores: 2,
            rounds: 2,
            dropped: 0,
        };
        let page = markdown(&machine, &Judgements::of(&samples()), &samples());
        assert!(
            page.contains("(stretch 15 MB) | 40.0 MB | 20.5 MB | 20.0–21.0 | pass |"),
            "{page}"
        );
        assert!(page.contains("| – | – | – | not measured |"));
        let mut alone = Samples::default();
        let all = samples();
        let current = all.all().iter().filter(|it| it.subject == Subject::Sqlite);
        current.for_each(|sample| alone.push(*sample));
        let page = markdown(&machine, &Judgements::of(&alone), &alone);
        assert!(page.contains("(stretch 15 MB) | 20.5 MB |"), "{page}");
        assert!(page.contains("| – | – | not measured |"));
    }
}
