//! The metrics of a job, as a text that outlives the job (K8S-44).
//!
//! Prometheus cannot scrape a process that runs for a second. So a job records its
//! metrics in [`JobMetrics`] and writes a [`JobReport`] when it ends. Another process
//! reads the report and records its contents in its own metrics. The counters and
//! buckets are then the same as if that process had recorded them itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::catalogue::{CATALOGUE, Family, Kind, OTHER, Row};
use crate::recorder::{Label, Recorder};

/// Maximum size of a termination message in Kubernetes, in bytes.
pub const MAX_BYTES: usize = 4096;

/// Maximum size of totals, in bytes. Kubernetes allows 262,144 for all annotations of an object.
const MAX_TOTALS_BYTES: usize = 65_536;

/// Maximum number of observations in a report, more than any job makes. They are
/// recorded one by one.
const MAX_OBSERVATIONS: u64 = 1_000_000;

type Labels = Vec<String>;

/// The index of each bucket, its count and its sum.
type Buckets = Vec<(usize, u64, f64)>;

/// A family's name and its label values in the order of the catalogue.
type Key = (String, Labels);

/// Records the metrics of a job for its report.
#[derive(Default, Debug)]
pub struct JobMetrics {
    counts: Mutex<Counts>,
}

#[derive(Default, Clone, Debug)]
struct Counts {
    counters: BTreeMap<Key, u64>,
    gauges: BTreeMap<Key, u64>,
    histograms: BTreeMap<Key, BTreeMap<usize, Bucket>>,
}

/// The observations of one bucket, in the family's unit.
#[derive(Default, Clone, Copy, Debug)]
struct Bucket {
    count: u64,
    sum: f64,
}

/// The increments, last values and observations of one run. As text it has at most
/// [`MAX_BYTES`].
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobReport {
    /// Which job.
    pub job: String,
    #[serde(default)]
    counters: Vec<(String, Labels, u64)>,
    #[serde(default)]
    gauges: Vec<(String, Labels, u64)>,
    #[serde(default)]
    histograms: Vec<(String, Labels, Buckets)>,
}

/// The text is not a report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("not the report of a job: {0}")]
    Form(#[from] serde_json::Error),
    #[error("the report of a job counts more observations than {MAX_OBSERVATIONS}")]
    TooMany,
}

impl JobMetrics {
    /// Everything that `job` has recorded so far.
    pub fn report(&self, job: &str) -> JobReport {
        let counts = self.lock().clone();
        let report = JobReport::new(job, &counts);
        if report.to_json().len() <= MAX_BYTES {
            return report;
        }
        JobReport::new(job, &counts.cut_to(MAX_BYTES, job))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Each recording is one map operation, so a panic leaves no partial state.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder for JobMetrics {
    fn add(&self, family: Family, labels: &[Label<'_>], increment: u64) {
        *self.lock().counters.entry(key(family, labels)).or_default() += increment;
    }

    /// Up-down gauges are not reported: they lose their meaning when the process ends.
    fn shift(&self, _: Family, _: i64) {}

    fn set(&self, family: Family, labels: &[Label<'_>], value: u64) {
        self.lock().gauges.insert(key(family, labels), value);
    }

    fn observe(&self, family: Family, labels: &[Label<'_>], value: f64) {
        let place = bounds(family.row()).partition_point(|bound| *bound < value);
        let mut counts = self.lock();
        let buckets = counts.histograms.entry(key(family, labels)).or_default();
        let bucket = buckets.entry(place).or_default();
        bucket.count += 1;
        bucket.sum += value;
    }
}

impl Counts {
    /// The same report with fewer distinct ids of models and providers. The rarest are
    /// added to `other` (PLAT-54), so that no count is lost.
    fn cut_to(&self, bytes: usize, job: &str) -> Self {
        let mut cut = self.clone();
        cut.counters.clear();
        let (mut open, closed): (Vec<_>, Vec<_>) = self
            .counters
            .iter()
            .partition(|((family, _), _)| row(family).is_some_and(has_open_label));
        for (key, count) in closed {
            cut.counters.insert(key.clone(), *count);
        }
        for ((family, labels), count) in &open {
            let folded = row(family).map_or_else(Labels::new, |row| fold(row, labels));
            *cut.counters.entry((family.clone(), folded)).or_default() += *count;
        }
        open.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut size = JobReport::new(job, &cut).to_json().len();
        for ((family, labels), count) in open {
            let entry = serde_json::to_string(&(family, labels, count));
            size += entry.map_or(bytes, |text| text.len() + 1);
            if size > bytes {
                break;
            }
            let folded = row(family).map_or_else(Labels::new, |row| fold(row, labels));
            if folded == *labels {
                continue;
            }
            if let Some(rest) = cut.counters.get_mut(&(family.clone(), folded)) {
                *rest -= count;
            }
            cut.counters
                .insert((family.clone(), labels.clone()), *count);
        }
        cut
    }
}

impl JobReport {
    fn new(job: &str, counts: &Counts) -> Self {
        let of = |((family, labels), value): (&Key, &u64)| (family.clone(), labels.clone(), *value);
        Self {
            job: job.to_owned(),
            counters: counts
                .counters
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(of)
                .collect(),
            gauges: counts.gauges.iter().map(of).collect(),
            histograms: counts
                .histograms
                .iter()
                .map(|((family, labels), buckets)| {
                    let buckets = buckets
                        .iter()
                        .map(|(place, bucket)| (*place, bucket.count, bucket.sum))
                        .collect();
                    (family.clone(), labels.clone(), buckets)
                })
                .collect(),
        }
    }

    /// Whether it has a counter. Observations alone are no counts.
    pub fn has_counts(&self) -> bool {
        !self.counters.is_empty()
    }

    /// The counters of both added up, without gauges and histograms: running totals. As text they
    /// have at most 64 KiB; counts of the rarest models and providers are added to `other`.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        let mut sums = Counts::default();
        for (family, labels, count) in self.counters.iter().chain(&more.counters) {
            let sum = sums.counters.entry((family.clone(), labels.clone()));
            let sum = sum.or_default();
            *sum = sum.saturating_add(*count);
        }
        let totals = Self::new(&more.job, &sums);
        if totals.to_json().len() <= MAX_TOTALS_BYTES {
            return totals;
        }
        Self::new(&more.job, &sums.cut_to(MAX_TOTALS_BYTES, &more.job))
    }

    /// One line.
    pub fn to_json(&self) -> String {
        // Strings and finite numbers always are JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the text of a report; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, ReportError> {
        let report: Self = serde_json::from_str(text)?;
        let buckets = report.histograms.iter().flat_map(|(_, _, buckets)| buckets);
        let observations = buckets.fold(0_u64, |sum, (_, count, _)| sum.saturating_add(*count));
        if observations > MAX_OBSERVATIONS {
            return Err(ReportError::TooMany);
        }
        Ok(report)
    }

    /// The counter called `family`, without prefix and `_total`, summed over all
    /// label values.
    pub fn count(&self, family: &str) -> u64 {
        let of_family = self.counters.iter().filter(|(name, _, _)| name == family);
        of_family.map(|(_, _, count)| count).sum()
    }

    /// Every family in the report, without prefix and `_total`.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        let counters = self.counters.iter().map(|(name, _, _)| name);
        let gauges = self.gauges.iter().map(|(name, _, _)| name);
        let histograms = self.histograms.iter().map(|(name, _, _)| name);
        counters.chain(gauges).chain(histograms).map(String::as_str)
    }

    /// Records the contents of the report. Families that only another release knows are
    /// ignored.
    pub(crate) fn replay(&self, recorder: &(impl Recorder + ?Sized)) {
        for (name, labels, count) in &self.counters {
            if let Some((row, labels)) = known(name, labels, |kind| kind == Kind::Counter) {
                recorder.add(row.family, &labels, *count);
            }
        }
        for (name, labels, value) in &self.gauges {
            if let Some((row, labels)) = known(name, labels, |kind| kind == Kind::Gauge) {
                recorder.set(row.family, &labels, *value);
            }
        }
        for (name, labels, buckets) in &self.histograms {
            let is_histogram = |kind| matches!(kind, Kind::Histogram(_));
            if let Some((row, labels)) = known(name, labels, is_histogram) {
                for (place, count, sum) in buckets {
                    let value = representative(bounds(row), *place, *count, *sum);
                    for _ in 0..*count {
                        recorder.observe(row.family, &labels, value);
                    }
                }
            }
        }
    }
}

/// The mean of a bucket, limited to the bucket's bounds despite rounding.
#[expect(clippy::cast_precision_loss, reason = "parsing bounds the count")]
fn representative(bounds: &[f64], place: usize, count: u64, sum: f64) -> f64 {
    let mean = sum / count.max(1) as f64;
    let above = place.checked_sub(1).and_then(|below| bounds.get(below));
    let mean = above.map_or(mean, |below| mean.max(below.next_up()));
    bounds.get(place).map_or(mean, |bound| mean.min(*bound))
}

fn key(family: Family, labels: &[Label<'_>]) -> Key {
    let labels = labels.iter().map(|label| label.as_str().to_owned());
    (family.row().name.to_owned(), labels.collect())
}

fn row(name: &str) -> Option<&'static Row> {
    CATALOGUE.iter().find(|row| row.name == name)
}

fn bounds(row: &Row) -> &'static [f64] {
    match row.kind {
        Kind::Histogram(buckets) => buckets.bounds,
        Kind::Counter | Kind::UpDown | Kind::Gauge => &[],
    }
}

fn has_open_label(row: &Row) -> bool {
    row.labels.iter().any(|label| label.values.is_none())
}

fn fold(row: &Row, labels: &[String]) -> Labels {
    let keys = row.labels.iter().zip(labels);
    keys.map(|(key, value)| match key.values {
        Some(_) => value.clone(),
        None => OTHER.to_owned(),
    })
    .collect()
}

/// The row and the labels of a reported series, if this release has them.
fn known<'a>(
    name: &str,
    labels: &'a [String],
    is_kind: impl Fn(Kind) -> bool,
) -> Option<(&'static Row, Vec<Label<'a>>)> {
    let row = row(name).filter(|row| is_kind(row.kind) && row.labels.len() == labels.len())?;
    let values = row.labels.iter().zip(labels);
    let labels = values.map(|(key, value)| match key.values {
        None => Some(Label::Open(value)),
        Some(set) => {
            let find = |wanted: &str| set.iter().find(|known| **known == wanted);
            find(value)
                .or_else(|| find(OTHER))
                .map(|known| Label::Closed(known))
        }
    });
    Some((row, labels.collect::<Option<_>>()?))
}

#[cfg(test)]
#[path = "job_report_tests.rs"]
mod tests;
