//! One OpenTelemetry instrument for each family of a table of the catalogue.

use std::borrow::Cow;

use minichat_metrics::catalogue::{Family, Kind, OTHER, Row};
use minichat_metrics::{Label, Recorder};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider, UpDownCounter};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::capped_ids::{CappedIds, Limits};

enum Instrument {
    Counter(Counter<u64>),
    UpDown(UpDownCounter<i64>),
    Gauge(Gauge<u64>),
    Histogram(Histogram<f64>),
}

/// The instruments by family; families of other tables have none.
pub(super) struct Instruments {
    by_family: Vec<Option<Instrument>>,
    ids: CappedIds,
}

impl Instruments {
    pub(super) fn new(
        rows: &[&'static Row],
        provider: &SdkMeterProvider,
        prefix: &str,
        limits: Limits,
    ) -> Self {
        let meter = provider.meter("minichat");
        let mut by_family: Vec<_> = (0..Family::COUNT).map(|_| None).collect();
        for row in rows {
            by_family[row.family as usize] = Some(create(&meter, prefix, row));
        }
        let instruments = Self {
            by_family,
            ids: CappedIds::new(limits),
        };
        instruments.start_at_zero(rows);
        instruments
    }

    /// Makes every counter with closed labels, and every gauge, present from
    /// the start, so that alerts see 0 instead of nothing (PLAT-55).
    fn start_at_zero(&self, rows: &[&Row]) {
        for row in rows {
            for set in row.label_sets().unwrap_or_default() {
                let labels: Vec<_> = set.into_iter().map(Label::Closed).collect();
                match row.kind {
                    Kind::Counter => self.add(row.family, &labels, 0),
                    Kind::UpDown => self.shift(row.family, 0),
                    Kind::Gauge => self.set(row.family, &labels, 0),
                    Kind::Histogram(_) => {}
                }
            }
        }
    }

    fn instrument(&self, family: Family) -> Option<&Instrument> {
        self.by_family[family as usize].as_ref()
    }

    fn attributes(&self, family: Family, labels: &[Label<'_>]) -> Vec<KeyValue> {
        let keys = family.row().labels.iter().map(|key| key.name);
        let mut open = self.open_values(labels).into_iter().flatten();
        keys.zip(labels)
            .map(|(key, label)| match label {
                Label::Closed(value) => KeyValue::new(key, *value),
                Label::Open(_) => KeyValue::new(key, open.next().unwrap_or(OTHER.into())),
            })
            .collect()
    }

    /// The capped values of the open labels: a model alone, or a provider and
    /// a model.
    fn open_values(&self, labels: &[Label<'_>]) -> [Option<opentelemetry::StringValue>; 2] {
        let mut open = labels.iter().filter_map(|label| match label {
            Label::Open(value) => Some(*value),
            Label::Closed(_) => None,
        });
        match (open.next(), open.next()) {
            (Some(provider), Some(model)) => {
                let (provider, model) = self.ids.pair(provider, model);
                [Some(provider), Some(model)]
            }
            (Some(model), None) => [Some(self.ids.model(model)), None],
            (None, _) => [None, None],
        }
    }
}

/// Names carry no `_total` and instruments no unit: the exporter would append
/// both (PLAT-52).
fn create(meter: &Meter, prefix: &str, row: &'static Row) -> Instrument {
    let name: Cow<'static, str> = format!("{prefix}_{}", row.name).into();
    let help = row.help();
    match row.kind {
        Kind::Counter => {
            Instrument::Counter(meter.u64_counter(name).with_description(help).build())
        }
        Kind::UpDown => Instrument::UpDown(
            meter
                .i64_up_down_counter(name)
                .with_description(help)
                .build(),
        ),
        Kind::Gauge => Instrument::Gauge(meter.u64_gauge(name).with_description(help).build()),
        Kind::Histogram(buckets) => {
            let histogram = meter.f64_histogram(name).with_description(help);
            let bounds = buckets.bounds.to_vec();
            Instrument::Histogram(histogram.with_boundaries(bounds).build())
        }
    }
}

/// Ignores a recording that does not match the family's kind, and a family of another
/// table, because a recording never fails (PLAT-50). The port's own tests catch such
/// calls.
impl Recorder for Instruments {
    fn add(&self, family: Family, labels: &[Label<'_>], increment: u64) {
        if let Some(Instrument::Counter(counter)) = self.instrument(family) {
            counter.add(increment, &self.attributes(family, labels));
        }
    }

    fn shift(&self, family: Family, step: i64) {
        if let Some(Instrument::UpDown(gauge)) = self.instrument(family) {
            gauge.add(step, &[]);
        }
    }

    fn set(&self, family: Family, labels: &[Label<'_>], value: u64) {
        if let Some(Instrument::Gauge(gauge)) = self.instrument(family) {
            gauge.record(value, &self.attributes(family, labels));
        }
    }

    fn observe(&self, family: Family, labels: &[Label<'_>], value: f64) {
        if let Some(Instrument::Histogram(histogram)) = self.instrument(family) {
            histogram.record(value, &self.attributes(family, labels));
        }
    }
}
