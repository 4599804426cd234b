//! The section about uploads in `docs/benchmarks.md`.

use std::fmt::Write as _;

use super::{Figures, Kind};
use crate::report::{number, range};
use crate::samples::Spread;

/// How much memory ten documents may take, in MiB.
const MEMORY: f64 = 16.0;
/// The same of ten images: their files, of 5 MiB at most, and the largest image that is decoded, besides what
/// documents take.
const MEMORY_OF_IMAGES: f64 = MEMORY + 10.0 * 5.0 + 32.0;
/// How much longer a chunk may take beside uploads.
const LATENCY: f64 = 1.2;

const HEAD: &str = "\
Measured by `cargo xtask bench --uploads`: a data plane on SQLite, whose provider reads files and drops them, in a process
of its own. Ten clients upload at once, beside 20 streams with a chunk every 20 ms. *Documents*: each client sends a text
of 25 MiB in 8 s. *Images*: each sends five PNGs of 5 MB in 8 s, one after the other, and each gets a thumbnail.
*Rush*: each sends three texts of 25 MiB as fast as they are taken, which leaves no processor idle. Every run has a data
plane of its own, which has served streams before. Memory is the peak of its resident memory minus that before the
uploads. Latencies are compared with those of the same streams without uploads on the same process, before or after them,
in turns.
";

/// One goal and whether it is reached.
#[derive(Debug)]
pub struct Goal {
    /// What is to be reached.
    pub text: String,
    /// The figure, if it was measured.
    pub figure: Option<f64>,
    /// The most that it may be.
    pub bound: f64,
    /// Its unit.
    pub unit: &'static str,
}

impl Goal {
    /// Whether the figure is within its bound.
    pub fn is_met(&self) -> bool {
        self.figure.is_some_and(|figure| figure <= self.bound)
    }
}

/// The goals. Of memory the largest figure of all rounds counts, of latencies the median.
pub fn goals(all: &[Figures]) -> Vec<Goal> {
    let of = |kinds: &'static [Kind]| all.iter().filter(move |it| kinds.contains(&it.kind));
    let memory = |kinds| Spread::of(of(kinds).map(megabytes)).map(|spread| spread.max);
    let latency = |kinds| Spread::of(of(kinds).map(ratio)).map(|spread| spread.median);
    let missing = of(&[Kind::Images])
        .map(|it| it.files - it.thumbnails)
        .sum::<usize>();
    let missing = u32::try_from(missing).ok().map(f64::from);
    let goal = |text: String, figure, bound, unit| Goal {
        text,
        figure,
        bound,
        unit,
    };
    vec![
        goal(
            format!("memory for ten documents at once, < {MEMORY} MiB"),
            memory(&[Kind::Documents, Kind::Rush]),
            MEMORY,
            "MiB at most",
        ),
        goal(
            format!("memory for ten images at once, < {MEMORY_OF_IMAGES} MiB"),
            memory(&[Kind::Images]),
            MEMORY_OF_IMAGES,
            "MiB at most",
        ),
        goal(
            format!("chunk latency p99 beside documents, ≤ {LATENCY} × that without"),
            latency(&[Kind::Documents]),
            LATENCY,
            "×",
        ),
        goal(
            format!("chunk latency p99 beside images, ≤ {LATENCY} × that without"),
            latency(&[Kind::Images]),
            LATENCY,
            "×",
        ),
        goal(
            "images without a thumbnail, 0".to_owned(),
            missing,
            0.0,
            "images",
        ),
    ]
}

/// The section of the page.
pub fn section(all: &[Figures]) -> String {
    let mut text = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n| Goal (G24) | Figure | Verdict |\n|---|---|---|");
    for goal in goals(all) {
        let figure = goal.figure.map_or_else(|| "–".to_owned(), number);
        let verdict = if goal.is_met() { "met" } else { "missed" };
        let (text_of_goal, unit) = (&goal.text, goal.unit);
        let _ = writeln!(text, "| {text_of_goal} | {figure} {unit} | {verdict} |");
    }
    let _ = writeln!(
        text,
        "\nMedian (min–max) over the rounds; processor time in percent of a core.\n\n\
         | Measure | documents | images | rush |\n|---|---|---|---|"
    );
    for (title, figure) in ROWS {
        let cells = Kind::ALL.map(|kind| {
            let values = all.iter().filter(|it| it.kind == kind).map(figure);
            Spread::of(values).map_or_else(
                || "–".to_owned(),
                |spread| format!("{} ({})", number(spread.median), range(spread)),
            )
        });
        let _ = writeln!(text, "| {title} | {} |", cells.join(" | "));
    }
    text
}

type Row = (&'static str, fn(&Figures) -> f64);

const ROWS: [Row; 8] = [
    ("memory (MiB)", megabytes),
    ("chunk latency p99 without uploads (µs)", |it| it.quiet_p99),
    ("chunk latency p99 beside uploads (µs)", |it| it.p99),
    ("the same as a ratio", ratio),
    ("time for all files (s)", |it| it.seconds),
    ("data plane (%)", |it| it.dataplane_percent),
    ("provider (%)", |it| it.provider_percent),
    ("load generator (%)", |it| it.generator_percent),
];

fn megabytes(figures: &Figures) -> f64 {
    figures.growth_bytes / 1024.0 / 1024.0
}

fn ratio(figures: &Figures) -> f64 {
    figures.p99 / figures.quiet_p99
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(kind: Kind, megabytes: f64, p99: f64) -> Figures {
        Figures {
            kind,
            files: 50,
            thumbnails: 50,
            seconds: 8.0,
            growth_bytes: megabytes * 1024.0 * 1024.0,
            quiet_p99: 1_000.0,
            p99,
            dataplane_percent: 1.0,
            provider_percent: 1.0,
            generator_percent: 1.0,
        }
    }

    #[test]
    fn the_largest_memory_and_the_median_latency_decide() {
        let met = |all: &[Figures]| -> Vec<bool> { goals(all).iter().map(Goal::is_met).collect() };
        let documents = |megabytes, p99| figures(Kind::Documents, megabytes, p99);
        let images = figures(Kind::Images, 98.0, 1_200.0);
        let good = [
            documents(16.0, 1_100.0),
            documents(15.0, 1_200.0),
            documents(1.0, 9_000.0),
            images,
        ];
        assert_eq!(met(&good), [true; 5]);
        let bad = [
            documents(16.1, 1_100.0),
            documents(1.0, 1_300.0),
            documents(1.0, 1_201.0),
            Figures {
                thumbnails: 49,
                ..images
            },
        ];
        assert_eq!(met(&bad), [false, true, false, true, false]);
        let rush = figures(Kind::Rush, 17.0, 1.0);
        assert!(!goals(&[good.as_slice(), &[rush]].concat())[0].is_met());
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let page = section(&[figures(Kind::Rush, 3.0, 2_000.0)]);
        assert!(page.contains("× that without | – × | missed |"), "{page}");
        assert!(
            page.contains("| the same as a ratio | – | – | 2.00 (2.00–2.00) |"),
            "{page}"
        );
    }
}
