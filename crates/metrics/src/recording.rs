//! A test double that stores every recording, for assertions.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::catalogue::{CATALOGUE, Family, Kind, OPERATOR};
use crate::recorder::{Label, Recorder};

/// Family name without prefix and `_total`, then label values in the order of
/// the catalogue.
type Key = (&'static str, Vec<String>);

/// Remembers recordings for assertions:
///
/// ```
/// use minichat_metrics::{Metrics, RecordingMetrics};
///
/// let metrics = RecordingMetrics::default();
/// metrics.stream_started("openai", "gpt");
/// assert_eq!(metrics.counter("stream_started", &["openai", "gpt"]), 1);
/// assert_eq!(metrics.counter_sum("stream_started"), 1);
/// ```
///
/// # Panics
/// Methods panic if the catalogue has no family with the given name. Otherwise they
/// would always return zero.
#[derive(Default, Debug)]
pub struct RecordingMetrics {
    recordings: Mutex<Recordings>,
}

#[derive(Default, Debug)]
struct Recordings {
    counters: BTreeMap<Key, u64>,
    gauges: BTreeMap<Key, i64>,
    observations: BTreeMap<Key, Vec<f64>>,
}

impl RecordingMetrics {
    /// The counter of exactly these label values; 0 if never recorded.
    pub fn counter(&self, name: &str, labels: &[&str]) -> u64 {
        let key = key_of(name, labels);
        self.lock().counters.get(&key).copied().unwrap_or(0)
    }

    /// The counter summed over all label values.
    pub fn counter_sum(&self, name: &str) -> u64 {
        let known = known_name(name);
        let recordings = self.lock();
        let of_family = recordings.counters.iter().filter(|(key, _)| key.0 == known);
        of_family.map(|(_, value)| value).sum()
    }

    /// The gauge of exactly these label values; 0 if never recorded.
    pub fn gauge(&self, name: &str, labels: &[&str]) -> i64 {
        let key = key_of(name, labels);
        self.lock().gauges.get(&key).copied().unwrap_or(0)
    }

    /// The observations of exactly these label values, in order of arrival.
    pub fn observations(&self, name: &str, labels: &[&str]) -> Vec<f64> {
        let key = key_of(name, labels);
        let recordings = self.lock();
        recordings
            .observations
            .get(&key)
            .cloned()
            .unwrap_or_default()
    }

    /// Names of the families with at least one recording, sorted.
    pub fn recorded_families(&self) -> Vec<&'static str> {
        let recordings = self.lock();
        let counters = recordings.counters.keys();
        let gauges = recordings.gauges.keys();
        let histograms = recordings.observations.keys();
        let mut names: Vec<_> = counters
            .chain(gauges)
            .chain(histograms)
            .map(|k| k.0)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn lock(&self) -> MutexGuard<'_, Recordings> {
        // Each recording is one map operation, so a panicking test leaves no partial
        // state.
        self.recordings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn known_name(name: &str) -> &'static str {
    let mut rows = CATALOGUE.iter().chain(&OPERATOR);
    let row = rows.find(|row| row.name == name);
    assert!(row.is_some(), "the catalogue has no family `{name}`");
    row.map_or("", |row| row.name)
}

fn key_of(name: &str, labels: &[&str]) -> Key {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    (known_name(name), labels)
}

fn key(family: Family, labels: &[Label<'_>]) -> Key {
    let row = family.row();
    assert_eq!(
        row.labels.len(),
        labels.len(),
        "labels of {} are {:?}",
        row.name,
        row.labels
    );
    for (label, value) in row.labels.iter().zip(labels) {
        if let Some(values) = label.values {
            assert!(values.contains(&value.as_str()), "{}={value:?}", label.name);
        }
    }
    let labels = labels.iter().map(|label| label.as_str().to_owned());
    (row.name, labels.collect())
}

impl Recorder for RecordingMetrics {
    fn add(&self, family: Family, labels: &[Label<'_>], increment: u64) {
        assert_eq!(family.row().kind, Kind::Counter);
        *self.lock().counters.entry(key(family, labels)).or_default() += increment;
    }

    fn shift(&self, family: Family, step: i64) {
        assert_eq!(family.row().kind, Kind::UpDown);
        *self.lock().gauges.entry(key(family, &[])).or_default() += step;
    }

    fn set(&self, family: Family, labels: &[Label<'_>], value: u64) {
        assert_eq!(family.row().kind, Kind::Gauge);
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.lock().gauges.insert(key(family, labels), value);
    }

    fn observe(&self, family: Family, labels: &[Label<'_>], value: f64) {
        assert!(matches!(family.row().kind, Kind::Histogram(_)));
        let mut recordings = self.lock();
        let observations = recordings.observations.entry(key(family, labels));
        observations.or_default().push(value);
    }
}

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
