//! The Prometheus exporter. Only this file uses its crate.

use std::collections::HashMap;

use minichat_metrics::catalogue::Row;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::{Registry, TextEncoder};

use super::MetricsError;

/// The page that Prometheus scrapes.
#[derive(Clone)]
pub struct Exposition {
    registry: Registry,
    /// Dropping the last provider would shut the exporter down.
    _provider: SdkMeterProvider,
}

impl Exposition {
    /// The content type of `render`.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4";

    /// All series as Prometheus text.
    pub fn render(&self) -> String {
        // The encoder refuses only malformed families, which the exporter
        // does not build.
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| {
                tracing::error!(%error, "metrics cannot be rendered");
                String::new()
            })
    }
}

/// Starts the exporter without scope labels and `target_info` (PLAT-53).
/// `label_sets` is the maximum number of label sets of a family. The SDK would merge
/// further ones into an overflow series, which must never appear (PLAT-54).
pub(super) fn start(
    rows: &[&Row],
    label_sets: impl Fn(&Row) -> usize,
    prefix: &str,
) -> Result<(SdkMeterProvider, Exposition), MetricsError> {
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_target_info()
        .scope_info_enabled(false)
        .build()?;
    let limits: HashMap<String, usize> = rows
        .iter()
        .map(|row| (format!("{prefix}_{}", row.name), label_sets(row)))
        .collect();
    let limit_label_sets = move |instrument: &Instrument| {
        let limit = limits.get(instrument.name())?;
        Stream::builder()
            .with_cardinality_limit(*limit)
            .build()
            .ok()
    };
    let provider = SdkMeterProvider::builder()
        .with_resource(Resource::builder_empty().build())
        .with_view(limit_label_sets)
        .with_reader(exporter)
        .build();
    let exposition = Exposition {
        registry,
        _provider: provider.clone(),
    };
    Ok((provider, exposition))
}
