//! What sessions of PostgreSQL wait for, sampled.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Fewer sessions than this, on average, are not shown.
const WORTH_SHOWING: f64 = 0.05;

/// Sessions in each wait, summed over all samples.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Waits {
    samples: u32,
    sessions: BTreeMap<String, u32>,
}

impl Waits {
    /// Reads lines `state|wait|sessions`. One without a state begins a sample, other lines are nothing.
    pub(crate) fn parse(text: &str) -> Self {
        let mut waits = Self::default();
        for line in text.lines() {
            let mut fields = line.split('|');
            let (Some(state), Some(wait), Some(count)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Ok(count) = count.parse::<u32>() else {
                continue;
            };
            if state.is_empty() {
                waits.samples += count;
            } else {
                *waits.sessions.entry(name(state, wait)).or_default() += count;
            }
        }
        waits
    }

    /// Whether nothing was sampled.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Adds the samples of another run.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        for (wait, sessions) in &other.sessions {
            *self.sessions.entry(wait.clone()).or_default() += sessions;
        }
    }

    /// Sessions in each wait on average, most first.
    pub fn averages(&self) -> Vec<(&str, f64)> {
        let samples = f64::from(self.samples.max(1));
        let mut averages: Vec<_> = self
            .sessions
            .iter()
            .map(|(wait, sessions)| (wait.as_str(), f64::from(*sessions) / samples))
            .filter(|(_, average)| *average >= WORTH_SHOWING)
            .collect();
        averages.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        averages
    }

    /// A table in Markdown.
    pub fn table(&self) -> String {
        let mut table = String::from("| A session | Sessions on average |\n|---|---|\n");
        for (wait, average) in self.averages() {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {wait} | {average:.2} |");
        }
        table
    }
}

fn name(state: &str, wait: &str) -> String {
    if wait == "running" {
        "runs, or waits for a processor".to_owned()
    } else if state == "active" {
        format!("waits for `{wait}`")
    } else {
        format!("is {state} and waits for its client (`{wait}`)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_averaged_over_samples() {
        let text = "||1\nactive|Lock:transactionid|8\nidle in transaction|Client:ClientRead|1\n\
            \n||1\nactive|Lock:transactionid|6\nactive|running|1\n";
        let mut waits = Waits::parse(text);
        let lock = ("waits for `Lock:transactionid`", 7.0);
        assert_eq!(waits.averages()[0], lock);
        assert_eq!(waits.averages().len(), 3);
        waits.add(&Waits::parse(text));
        assert_eq!(waits.averages()[0], lock);
        assert!(Waits::parse("no row\n").is_empty());
    }
}
