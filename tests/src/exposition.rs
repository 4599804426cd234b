//! Reads the Prometheus text format, version 0.0.4, strictly.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// Type by family name.
    pub types: BTreeMap<String, String>,
    /// Help text by family name.
    pub helps: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

/// One line of a scrape.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    fn matches(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let has = |(key, value): &(&str, &str)| self.labels.get(*key).is_some_and(|v| v == value);
        self.name == name && labels.iter().all(has)
    }
}

impl Scrape {
    /// Parses `text`. An invalid line is an error, and so is a series that
    /// occurs twice.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("a TYPE without a type")?;
                let earlier = scrape.types.insert(name.to_owned(), kind.to_owned());
                ensure!(earlier.is_none(), "two families are called {name}");
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                scrape.helps.insert(name.to_owned(), help.to_owned());
            } else if !line.starts_with('#') {
                let sample = parse_sample(line).with_context(|| format!("in line {line:?}"))?;
                let twice = scrape
                    .samples
                    .iter()
                    .any(|other| other.name == sample.name && other.labels == sample.labels);
                ensure!(!twice, "a series occurs twice: {line}");
                scrape.samples.push(sample);
            }
        }
        Ok(scrape)
    }

    /// The sum of all series called `name` that have `labels`; 0 if there is
    /// none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.matches(name, labels))
            .map(|sample| sample.value)
            .sum()
    }

    /// The same as a whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<usize> {
        let sum = self.sum(name, labels);
        // An empty sum of floats is -0.
        let text = (sum + 0.0).to_string();
        text.parse()
            .with_context(|| format!("{name} counts {text}"))
    }

    /// Whether a series called `name` has `labels`.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.samples
            .iter()
            .any(|sample| sample.matches(name, labels))
    }

    /// The series whose value is greater than in `earlier`, with the increase.
    /// Buckets are left out.
    pub fn increases(&self, earlier: &Self) -> Vec<(String, f64)> {
        let mut moved = Vec::new();
        for sample in &self.samples {
            let before = earlier
                .samples
                .iter()
                .find(|other| other.name == sample.name && other.labels == sample.labels)
                .map_or(0.0, |other| other.value);
            if sample.value > before && !sample.labels.contains_key("le") {
                moved.push((series(sample), sample.value - before));
            }
        }
        moved
    }
}

/// `name{key="value",…}` with the keys in order.
fn series(sample: &Sample) -> String {
    let labels: Vec<String> = sample
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if labels.is_empty() {
        return sample.name.clone();
    }
    format!("{}{{{}}}", sample.name, labels.join(","))
}

fn parse_sample(line: &str) -> anyhow::Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = match rest.trim() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().context("not a number")?,
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The labels after `{`, and what follows `}`.
fn parse_labels(mut rest: &str) -> anyhow::Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (key, value) = rest.split_once("=\"").context("a label without a value")?;
        let (value, after) = parse_label_value(value)?;
        ensure!(
            labels.insert(key.to_owned(), value).is_none(),
            "the label {key} occurs twice"
        );
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// A label value up to its closing quote, and what follows.
fn parse_label_value(text: &str) -> anyhow::Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[index + 1..])),
            '\\' => match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some(escaped @ ('"' | '\\')) => value.push(escaped),
                other => bail!("unknown escape {other:?}"),
            },
            _ => value.push(c),
        }
    }
    bail!("a label value without an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_types_and_escapes_are_read() {
        let scrape = Scrape::parse(concat!(
            "# HELP a_total What a is.\n",
            "# TYPE a_total counter\n",
            "a_total{x=\"1\",y=\"q\\\"\\\\\\n\"} 3\n",
            "a_total{x=\"2\",y=\"\"} 4\n",
            "b_bucket{le=\"+Inf\"} +Inf\n",
            "c 1e3\n",
        ))
        .unwrap();
        assert_eq!(scrape.types["a_total"], "counter");
        assert_eq!(scrape.samples[0].labels["y"], "q\"\\\n");
        assert!((scrape.sum("a_total", &[]) - 7.0).abs() < f64::EPSILON);
        assert!((scrape.sum("a_total", &[("x", "2")]) - 4.0).abs() < f64::EPSILON);
        assert!(!scrape.has("a_total", &[("x", "3")]));
        assert!((scrape.sum("c", &[]) - 1000.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_repeated_series_and_a_broken_line_are_refused() {
        for text in ["a 1\na 2\n", "a{x=\"1\" 2\n", "a{x=1} 2\n", "a\n", "a x\n"] {
            assert!(Scrape::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn increases_name_the_series_that_moved() {
        let before = Scrape::parse("a{x=\"1\"} 1\nb 2\n").unwrap();
        let after = Scrape::parse("a{x=\"1\"} 3\nb 2\nc 1\nd_bucket{le=\"1\"} 9\n").unwrap();
        let moved = after.increases(&before);
        assert_eq!(
            moved,
            [("a{x=\"1\"}".to_owned(), 2.0), ("c".to_owned(), 1.0)]
        );
    }
}
